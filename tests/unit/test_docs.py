"""The documents stay true: what they name exists, and what exists is named."""

import ast
import re
from collections import Counter
from pathlib import Path

from hotswap_ray.core import errors
from hotswap_ray.core.swap.phases import Phase
from tests.house import MODULES, tree

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_every_relative_link_leads_somewhere():
    dead = [
        f"{page.name}: {link}"
        for page in PAGES
        for link in re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text())
        if not (page.parent / link).exists()
    ]
    assert dead == []


def test_every_file_of_the_project_that_a_page_names_exists():
    pattern = r"`((?:hotswap_ray|tests|benchmarks|deployments|docs)/[\w/.-]+)`"
    missing = [
        f"{page.name}: {name}"
        for page in PAGES
        for name in re.findall(pattern, page.read_text())
        if not (ROOT / name).exists()
    ]
    assert missing == []


def test_every_class_that_the_glossary_names_exists_once():
    named = re.findall(r"`([A-Z][A-Za-z]+)`", (ROOT / "docs" / "glossary.md").read_text())
    defined = Counter(
        node.name
        for module in MODULES
        for node in tree(module).body
        if isinstance(node, ast.ClassDef)
    )
    assert {name: defined[name] for name in named if defined[name] != 1} == {}


def test_no_two_classes_of_the_core_and_the_actors_share_a_name():
    defined = Counter(
        node.name
        for module in MODULES
        if module.startswith(("hotswap_ray.core.", "hotswap_ray.actors."))
        for node in tree(module).body
        if isinstance(node, ast.ClassDef)
    )
    assert [name for name, times in defined.items() if times > 1] == []


ROOMS = "|".join(
    path.name for path in (ROOT / "hotswap_ray").iterdir() if (path / "__init__.py").exists()
)


def test_every_room_and_file_of_the_package_that_a_page_names_exists():
    missing = [
        f"{page.name}: {name}"
        for page in PAGES
        for name in re.findall(rf"`((?:{ROOMS})/[\w/.-]*)`", page.read_text())
        if not (ROOT / "hotswap_ray" / name).exists()
    ]
    assert missing == []


def test_every_place_of_the_package_that_a_docstring_names_exists():
    missing = []
    for module, path in MODULES.items():
        for name in re.findall(rf"``((?:{ROOMS})[./][\w./]+)``", path.read_text()):
            place = name.removesuffix(".py").replace("/", ".")
            known = max(
                (one for one in MODULES if f"hotswap_ray.{place}.".startswith(f"{one}.")), key=len
            )
            rest = f"hotswap_ray.{place}".removeprefix(known).strip(".")
            if rest and f" {rest.partition('.')[0]}" not in MODULES[known].read_text():
                missing.append(f"{module}: {name}")
    assert missing == []


def test_every_make_target_that_a_page_names_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    named = {
        name
        for page in PAGES
        for name in re.findall(r"(?:^|`)make ([a-z][a-z-]+)", page.read_text(), re.M)
    }

    assert named - targets == set()


def test_the_error_tree_in_the_docstring_names_every_error_with_its_status():
    classes = [
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, errors.HotswapError)
    ]
    tree = errors.__doc__

    for error in classes:
        assert error.__name__ in tree
        if error is not errors.HotswapError and error.__subclasses__() == []:
            assert re.search(rf"{error.__name__}\s+{error.code}\s+{error.http_status}", tree), error


def test_the_architecture_page_explains_every_phase():
    page = (ROOT / "docs" / "architecture.md").read_text()

    assert [phase for phase in Phase if phase not in page] == []
