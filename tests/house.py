"""What the house looks like: its modules, their imports, and what `make house` prints."""

import ast
from functools import cache
from importlib.util import resolve_name
from pathlib import Path

PACKAGE = "hotswap_ray"
ROOT = Path(__file__).parents[1] / PACKAGE
MODULES = {
    ".".join((PACKAGE, *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(
        ".__init__"
    ): path
    for path in sorted(ROOT.rglob("*.py"))
}
MOST_LINES = 350
MOST_FILES = {"": 6, "actors": 4, "core": 4}
"""Files that may stand directly in a folder, beside its `__init__`: what has a name has a room."""


@cache
def tree(module):
    """The syntax tree of a module."""
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


@cache
def imports(module):
    """Every module named in an import anywhere in a file, functions included."""
    path = MODULES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    named = set()
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            named |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), package)
            below = {f"{base}.{alias.name}" for alias in node.names}
            named |= {name for name in below if name in MODULES} or {base}
    return frozenset(named)


def direct_files(folder):
    """Files that stand directly in a folder of the package, `__init__` aside."""
    return sorted(path.name for path in (ROOT / folder).glob("*.py") if path.stem != "__init__")


def lengths():
    """Lines of each module."""
    return {
        module: len(path.read_text(encoding="utf-8").splitlines())
        for module, path in MODULES.items()
    }


def broad_catches():
    """`module:function` of each handler that catches any exception, once for each handler."""
    caught = []
    for module in MODULES:
        for owner, node in _handlers(tree(module), ()):
            names = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            if any(
                name is None
                or (isinstance(name, ast.Name) and name.id in ("Exception", "BaseException"))
                for name in names
            ):
                caught.append(f"{module.removeprefix(f'{PACKAGE}.')}:{'.'.join(owner)}")
    return sorted(caught)


def _handlers(node, owner):
    for child in ast.iter_child_nodes(node):
        named = isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if isinstance(child, ast.ExceptHandler):
            yield owner, child
        yield from _handlers(child, (*owner, child.name) if named else owner)


def main():
    """Print the figures."""
    longest = sorted(lengths().items(), key=lambda item: -item[1])
    print(f"{len(MODULES)} files, {sum(lengths().values())} lines")
    for folder, most in MOST_FILES.items():
        print(f"directly in {PACKAGE}/{folder}: {len(direct_files(folder))} files (at most {most})")
    for module, lines in longest[:5]:
        print(f"{lines} lines (at most {MOST_LINES}): {module}")
    print(
        f"{len(broad_catches())} handlers catch any exception (each has its reason in test_layers)"
    )


if __name__ == "__main__":
    main()
