"""YAML text to plain data, remembering the line of every key.

Parsing is PyYAML's safe loader; what is added here is what it lacks: duplicate keys are
refused, ``${NAME}`` and ``${NAME:-default}`` in values are replaced from the environment,
and each path keeps its line so that a later check can point at it. Why not ruamel.yaml:
``docs/adr/0005-yaml-stays-with-pyyaml.md``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

Path = tuple[str | int, ...]
MAX_NODES: Final = 100_000
_REFERENCE = re.compile(r"\$(?:\$\{|\{([^}]*)\})")
_NAME = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?", re.DOTALL)


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing that is wrong in a file.

    Attributes:
        line: Line in the file, 1 and up; 0 when the file as a whole is meant.
        where: Dotted path of the key; may be empty.
        text: What is wrong and, where known, what to do.
    """

    line: int
    where: str
    text: str

    def render(self, name: str) -> str:
        """The problem on one line, for example ``a.yaml:3: server.prt: unknown key``."""
        place = f"{name}:{self.line}" if self.line else name
        return ": ".join(part for part in (place, self.where, self.text) if part)


@dataclass
class Document:
    """Plain data of one file, the line of every path in it, and what is wrong so far."""

    data: Any = None
    lines: dict[Path, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def line(self, path: Path) -> int:
        """Line of ``path``, or of the closest parent that is in the file."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 0)

    def add(self, path: Path, text: str, line: int | None = None) -> None:
        """Note a problem at ``path``."""
        self.problems.append(Problem(line or self.line(path), dotted(path), text))


def dotted(path: Path) -> str:
    """Write a path the way a person would.

    >>> dotted(("tasks", "sum", "golden", 0, "check"))
    'tasks.sum.golden[0].check'
    """
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def parse(text: str, env: Mapping[str, str] | None) -> Document:
    """Read one YAML document.

    Args:
        text: The file's content.
        env: Variables that ``${NAME}`` may name; ``None`` leaves such text as it is.

    Returns:
        Data of dicts (keys are always strings), lists and scalars, with lines and problems.

    Example:
        >>> document = parse("server:\\n  port: ${PORT:-8000}\\n", {})
        >>> document.data, document.line(("server", "port"))
        ({'server': {'port': '8000'}}, 2)
    """
    document = Document()
    loader: yaml.SafeLoader | None = None
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is not None:
            document.data = _Reader(loader, document, env).value(node, (), ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 0
        hint = "; quote ${...} inside [] or {}" if "${" in _line_of(text, line) else ""
        document.add((), f"not valid YAML: {error.problem}{hint}", line)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        document.add((), f"not valid YAML: {error.reason}", line)
    except RecursionError:
        document.add((), "not valid YAML: nested too deep")
    finally:
        if loader is not None:
            loader.dispose()
    return document


def substitute(text: str, env: Mapping[str, str]) -> str:
    """Replace ``${NAME}`` and ``${NAME:-default}``; ``$${`` stands for ``${``.

    As in a shell, the default also replaces an empty variable.

    Raises:
        LookupError: A variable without default is not set, or a reference is malformed.

    >>> substitute("${A}-${B:-b}-$${C}", {"A": "a"})
    'a-b-${C}'
    """

    def replace(match: re.Match[str]) -> str:
        if match[1] is None:
            return "${"
        parts = _NAME.fullmatch(match[1])
        if parts is None:
            raise LookupError(f"malformed ${{{match[1]}}}; write ${{NAME}} or ${{NAME:-default}}")
        name, default = parts[1], parts[2]
        value = env.get(name)
        if value or default is None:
            if value is None:
                raise LookupError(
                    f"environment variable {name} is not set; set it or write ${{{name}:-default}}"
                )
            return value
        return str(default)

    return _REFERENCE.sub(replace, text)


def _line_of(text: str, line: int) -> str:
    return "".join(text.splitlines()[line - 1 : line])


@dataclass
class _Reader:
    """Turns nodes into data; ``value`` walks the tree once."""

    loader: yaml.SafeLoader
    document: Document
    env: Mapping[str, str] | None

    def value(self, node: yaml.Node, path: Path, parents: tuple[int, ...]) -> Any:
        line = node.start_mark.line + 1
        self.document.lines.setdefault(path, line)
        # Aliases make a small file a huge or an endless tree.
        if id(node) in parents or len(self.document.lines) > MAX_NODES:
            raise yaml.MarkedYAMLError(problem="too many aliases", problem_mark=node.start_mark)
        ancestors = (*parents, id(node))
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path, ancestors)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*path, i), ancestors) for i, item in enumerate(node.value)]
        # A replaced value stays text: a key of digits must not become a number, and fields
        # that are numbers read text anyway.
        try:
            text = node.value if self.env is None else substitute(node.value, self.env)
        except LookupError as error:
            self.document.add(path, str(error.args[0]), line)
            return node.value
        if text != node.value:
            return text
        try:
            return self.loader.construct_object(node)
        except (ValueError, LookupError, ArithmeticError, AttributeError):
            # What looks like a number or a date need not be one; PyYAML raises as it comes.
            kind = node.tag.rpartition(":")[2]
            self.document.add(path, f"is no valid {kind}; put it in quotes if it is text", line)
            return node.value

    def _mapping(
        self, node: yaml.MappingNode, path: Path, parents: tuple[int, ...]
    ) -> dict[str, Any]:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(
                    problem="a key must be text", problem_mark=key.start_mark
                )
            line = key.start_mark.line + 1
            if key.value in lines:
                first = lines[key.value]
                self.document.add((*path, key.value), f"duplicate key, first on line {first}", line)
            lines.setdefault(key.value, line)
        self.loader.flatten_mapping(node)
        result: dict[str, Any] = {}
        for key, child in node.value:
            child_path = (*path, key.value)
            self.document.lines[child_path] = key.start_mark.line + 1
            result[key.value] = self.value(child, child_path, parents)
        return result
