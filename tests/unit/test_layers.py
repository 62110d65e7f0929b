"""The house stays in order: imports point one way, files stay small, the front door is light."""

import ast
import subprocess
import sys
from importlib.util import resolve_name
from pathlib import Path

import pytest

import hotswap_ray

ROOT = Path(hotswap_ray.__file__).parent
MODULES = {
    ".".join(("hotswap_ray", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(
        ".__init__"
    ): path
    for path in sorted(ROOT.rglob("*.py"))
}

LAYERS = [
    {"core"},
    {"engines", "config", "store", "replay"},
    {"actors"},
    {"web"},
    {"app"},
    {"client", "cli"},
]
"""From the ground up: a module may import from its own layer and from those below."""

HELPERS = {
    "migrations": "store",
    "testing": "engines",
    "testing_policies": "core",
    "fewshot": "core",
    "golden_set": "config",
    "bench_report": "core",
    "ab_report": "core",
    "svg": "core",
    "ports": "engines",
}
"""Top-level modules that belong to a layer without being named after it."""

ROOF = len(LAYERS)
"""What uses the product as a stranger would: the tour."""

CALENDAR = "hotswap_ray.core.local_time"
"""The one module of the core that knows dates; it may not ask which one it is."""

MAY_CORE_IMPORT = {
    *("pydantic", "numpy", "river", "jsonschema", "referencing", "cronsim", "hotswap_ray")
}


def layer(module):
    """Height of a module; its own package has none."""
    parts = module.split(".")
    if len(parts) < 2:
        return None
    part = HELPERS.get(parts[1]) or parts[1].partition("_")[0]  # config_yaml is of config
    return next((height for height, names in enumerate(LAYERS) if part in names), ROOF)


def imports(module):
    """Every module named in an import anywhere in a file, functions included."""
    path = MODULES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), package)
            below = {f"{base}.{alias.name}" for alias in node.names}
            found |= {name for name in below if name in MODULES} or {base}
    return found


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_one_way(module):
    here = layer(module)
    if here is None:
        return  # the front door; what it loads is tested below
    wrong = {
        name
        for name in imports(module)
        if name.startswith("hotswap_ray") and (layer(name) or 0) > here
    }
    assert not wrong, f"{module} may not import {', '.join(sorted(wrong))}"


@pytest.mark.parametrize("module", [name for name in MODULES if layer(name) == 0])
def test_core_imports_only_the_standard_library_pydantic_and_itself(module):
    tops = {name.partition(".")[0] for name in imports(module)}
    assert tops <= {*sys.stdlib_module_names, *MAY_CORE_IMPORT}


@pytest.mark.parametrize("module", [name for name in MODULES if layer(name) == 0])
def test_core_has_no_clock_no_global_chance_and_no_outside_world(module):
    outside = {"asyncio", "time", "socket", "subprocess", "threading", "os", "pathlib", "datetime"}
    if module == CALENDAR:
        outside.remove("datetime")
        called = {
            node.attr
            for node in ast.walk(ast.parse(MODULES[module].read_text()))
            if isinstance(node, ast.Attribute)
        }
        assert not called & {"now", "today", "utcnow"}
    assert not outside & {name.partition(".")[0] for name in imports(module)}


@pytest.mark.parametrize("module", MODULES)
def test_no_file_is_longer_than_350_lines(module):
    assert len(MODULES[module].read_text(encoding="utf-8").splitlines()) <= 350


def test_only_the_composition_root_wraps_classes_for_ray():
    for module, path in MODULES.items():
        if module == "hotswap_ray.app":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            wraps = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
            if wraps and (node.value.id, node.attr) in (("ray", "remote"), ("serve", "deployment")):
                pytest.fail(f"{module}:{node.lineno} wraps a class; that is app.py's work")


def test_importing_the_package_loads_neither_ray_nor_vllm():
    code = "import sys, hotswap_ray; print(sorted({'ray', 'vllm', 'xllamacpp'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("module", ["config", "store", "engines.base", "core.swap"])
def test_what_needs_no_cluster_loads_no_ray(module):
    code = f"import sys, hotswap_ray.{module}; print('ray' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "False"
