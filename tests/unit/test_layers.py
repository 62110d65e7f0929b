"""The house stays in order: imports point one way, files stay small, the front door is light."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house import (
    MODULES,
    MOST_FILES,
    MOST_LINES,
    PACKAGE,
    broad_catches,
    direct_files,
    imports,
    lengths,
    tree,
)

TESTS = Path(__file__).parents[1]
EVERYWHERE = "core.errors", "core.names", "core.outcome", "core.spec"
SWAPS = "actors.controller.models", "actors.controller.swaps"
ALLOWED: dict[str, tuple[str, ...]] = {
    # --- core: a package is a question
    "core.errors": (),
    "core.names": (),
    "core.proof": (),
    "core.policies": ("core.errors",),
    "core.swap": ("core.errors",),
    "core.spec": ("core.errors", "core.names", "core.policies", "core.swap"),
    "core.outcome": ("core.spec",),
    "core.rollout": ("core.proof", "core.spec"),
    "core.schedule": ("core.spec",),
    "core.answers": EVERYWHERE,
    "core.fit": (*EVERYWHERE, "core.answers.thinking"),
    "core.routing": EVERYWHERE,
    "core.evidence": (*EVERYWHERE, "core.policies"),
    "core.autoswap": (*EVERYWHERE, "core.policies", "core.proof", "core.evidence"),
    # --- what the core is fed from
    "engines": ("core",),
    "store": ("core",),
    "config": ("core", "engines"),
    "ports": (),
    # --- actors: a package is a process, and beside it what every process needs of Ray
    "actors.cluster": ("core", "engines"),
    "actors.replica": ("core", "engines"),
    "actors.learning": ("core", "store"),
    "actors.judge": ("core", "actors.cluster"),
    "actors.ingress": ("core", "config", "actors.cluster"),
    "actors.controller.models": ("core", "config", "store", "engines", "actors.cluster"),
    "actors.controller.swaps": (
        *("core", "config", "store", "engines", "actors.cluster"),
        "actors.controller.models",
    ),
    "actors.controller.ab_tests": ("core", "config", "store", "actors.cluster", *SWAPS),
    "actors.controller.autoswap": ("core", "config", "store", "actors.cluster", *SWAPS),
    "actors.controller.bench": (
        *("core", "config", "store", "actors.cluster"),
        "actors.controller.models",
    ),
    "actors.controller.schedules": ("core", "store", "actors.cluster", *SWAPS),
    "actors.controller.recovery": ("core", "config", "store", "actors.cluster", *SWAPS),
    "actors.controller.learning_port": (
        *("actors.controller.swaps", "actors.controller.autoswap"),
        *("actors.controller.bench", "actors.controller.schedules"),
    ),
    "actors.controller.calls": (
        *("core", "config", "store", *SWAPS),
        *("actors.controller.ab_tests", "actors.controller.autoswap"),
        *("actors.controller.bench", "actors.controller.schedules"),
    ),
    "actors.controller": ("core", "config", "store", "actors.cluster"),
    # --- who speaks with people and programs
    "web": ("core", "config", "actors.ingress"),
    "replay": ("core", "store"),
    "reports": ("core.errors",),
    "client": ("core", "config", "replay", "actors.cluster"),
    "testing": ("core", "engines"),
    # --- the roofs
    "app": ("core", "engines", "store", "config", "ports", "actors", "web"),
    "cli": ("core", "config", "replay", "reports", "client", "app"),
    "demo": ("core", "config", "reports", "ports", "app"),
}
"""Who may import whom; a room may import itself and everything under a name that it lists."""

CALENDAR = "core.spec.calendar"
"""The one module of the core that knows dates; it may not ask which one it is."""

MAY_CORE_IMPORT = {
    *(PACKAGE, "pydantic", "numpy", "river", "jsonschema", "referencing", "cronsim"),
    *sys.stdlib_module_names,
} - {"asyncio", "time", "socket", "subprocess", "threading", "os", "pathlib", "datetime"}
"""No clock, no outside world; chance comes as an argument."""

BROAD_CATCHES: dict[str, str] = {
    # --- the borders: recorded, and what is inside goes on
    "actors.cluster.background:outlived": "the border of all background work; it logs",
    "actors.controller.swaps.runner:SwapRunner._result": "an action may raise anything; the "
    "record says what, and the table decides",
    "actors.ingress.shadows:Shadows._run": "a copy has no client; its outcome is a failure",
    "actors.ingress.suspects:Suspects._is_over": "any answer but one is none; it logs",
    "actors.learning.log:LearningLog.flush_locked": "who waits for the commit hears of it",
    "demo.traffic:Traffic._client": "the tour counts every kind of loss, and shows it",
    "web.openai_api:OpenAIApi.__call__": "the HTTP border: logged, and the client is told",
    # --- code of others: raised again as an error of ours
    "actors.cluster.fleet:ServeFleet.call": "a replica of Serve may raise anything",
    "actors.cluster.fleet:_ask": "Ray's many errors",
    "cli.serve:_serve": "Ray raises plain exceptions when a node is late",
    "core.answers.checkers:_called": "a checker is code of others",
    "core.answers.checkers:find_checker": "so is the module that it is imported from",
    # --- a failure of a model: an outcome, and raised again where no other model can serve
    "actors.ingress.attempt:Forwarder.stream": "as in `whole`",
    "actors.ingress.attempt:Forwarder.whole": "it may be anything; the outcome is recorded",
    # --- undone before it goes on: raised again as it is
    "actors.controller.ab_tests.registry:ABTests.start": "a test that was not saved does not exist",
    "actors.controller.models.pool:ModelPool._bring_up": "what was started must not stay",
    "actors.controller.swaps.runner:SwapRunner.begin": "a swap that was not saved does not exist",
    "actors.ingress.router:Router._open": "the stream is closed",
    "client.link:ClusterLink._run": "Ctrl-C leaves no call behind",
    "store.database:Database.transaction": "what a transaction saw is forgotten",
}
"""Each handler that catches any exception, as `module:Owner.function`, and why it may."""


def under(name, place):
    """Whether a module is a place or lies in it."""
    return f"{name}.".startswith(f"{place}.")


def room(name):
    """The narrowest room of the table that a module lies in."""
    return max((place for place in ALLOWED if under(name, place)), key=len, default=None)


HOUSE = [
    name.removeprefix(f"{PACKAGE}.")
    for name, path in MODULES.items()
    if name != PACKAGE and (path.stem != "__init__" or imports(name))
]
"""Every module but the front door, whose loads are tested below, and the doors of packages."""
CORE = [name for name in HOUSE if under(name, "core")]


def imported(name):
    """What a module imports of the package."""
    inside = imports(f"{PACKAGE}.{name}")
    return {one.removeprefix(f"{PACKAGE}.") for one in inside if one.startswith(f"{PACKAGE}.")}


def test_every_module_has_a_room():
    assert [name for name in HOUSE if room(name) is None] == []


def test_imports_keep_to_the_table():
    wrong = [
        f"{name} -> {other}"
        for name in HOUSE
        for other in sorted(imported(name))
        if not under(other, room(name))
        and not any(under(other, place) for place in ALLOWED[room(name)])
    ]
    assert wrong == []


def test_no_process_imports_from_another():
    processes = ("replica", "learning", "judge", "ingress", "controller")
    wrong = [
        f"{name} -> {other}"
        for name in HOUSE
        for process in processes
        if under(name, f"actors.{process}")
        for other in sorted(imported(name))
        if other.startswith("actors.") and other.split(".")[1] not in (process, "cluster")
    ]
    assert wrong == []


def test_no_modules_import_each_other_in_a_circle():
    below = {name: {other for other in imported(name) if other in HOUSE} for name in HOUSE}
    graphlib.TopologicalSorter(below).prepare()  # a CycleError names the modules of the circle


def test_the_table_has_no_circle():
    above = {place: set(allowed) for place, allowed in ALLOWED.items()}

    def reach(place, trail=()):
        assert place not in trail, f"a circle: {' -> '.join((*trail, place))}"
        for name in above.get(place, ()):
            for other in [other for other in ALLOWED if under(other, name)] or [name]:
                if not under(place, other):
                    reach(other, (*trail, place))

    for place in ALLOWED:
        reach(place)


def test_every_permission_of_the_table_is_used():
    unused = [
        f"{place} -> {name}"
        for place, allowed in ALLOWED.items()
        for name in allowed
        if name not in EVERYWHERE
        and not any(
            under(other, name)
            for module in HOUSE
            if room(module) == place
            for other in imported(module)
        )
    ]
    assert unused == []


def test_core_has_no_clock_no_outside_world_and_few_libraries():
    wrong = [
        f"{name} -> {other}"
        for name in CORE
        for other in sorted({one.partition(".")[0] for one in imports(f"{PACKAGE}.{name}")})
        if other not in MAY_CORE_IMPORT and not (name == CALENDAR and other == "datetime")
    ]
    assert wrong == []


def test_the_calendar_does_not_ask_for_today():
    named = {
        node.attr
        for node in ast.walk(tree(f"{PACKAGE}.{CALENDAR}"))
        if isinstance(node, ast.Attribute)
    }
    assert not named & {"now", "today", "utcnow"}


def test_no_file_is_longer_than_350_lines():
    assert {module: n for module, n in lengths().items() if n > MOST_LINES} == {}


def test_what_has_a_name_has_a_room():
    crowded = {
        folder: direct_files(folder)
        for folder, most in MOST_FILES.items()
        if len(direct_files(folder)) > most
    }
    assert crowded == {}


def test_every_broad_catch_has_its_reason():
    assert broad_catches() == sorted(BROAD_CATCHES)


def test_only_the_composition_root_wraps_classes_for_ray():
    wraps = [
        f"{module}:{node.lineno}"
        for module in MODULES
        if module != f"{PACKAGE}.app"
        for node in ast.walk(tree(module))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and (node.value.id, node.attr) in (("ray", "remote"), ("serve", "deployment"))
    ]
    assert wraps == []


def test_importing_the_package_loads_neither_ray_nor_vllm():
    code = "import sys, hotswap_ray; print(sorted({'ray', 'vllm', 'xllamacpp'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("module", ["config", "store", "engines.base", "core.swap.phases"])
def test_what_needs_no_cluster_loads_no_ray(module):
    code = f"import sys, hotswap_ray.{module}; print('ray' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "False"


def test_no_test_module_imports_another():
    """What tests share lives in `tests/worlds/`."""
    wrong = []
    for path in sorted(TESTS.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = node.module if isinstance(node, ast.ImportFrom) else None
            if name and name.startswith("tests.") and ".test_" in name:
                wrong.append(f"{path.name}: {name}")
    assert wrong == []
