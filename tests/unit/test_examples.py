"""The files in deployments/ and the table of options say what the code does.

``python tests/unit/test_examples.py`` rewrites the comments of ``deployments/example.yaml``
and the tables of ``docs/configuration.md`` from the code.
"""

from __future__ import annotations

import re
import textwrap
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from hotswap_ray import config
from hotswap_ray.config import yaml as config_yaml
from hotswap_ray.config.docs import Option
from hotswap_ray.core.answers.checkers import score

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "deployments" / "example.yaml"
OPTIONS_PAGE = ROOT / "docs" / "configuration.md"
CONFIGURATIONS = sorted({*ROOT.glob("deployments/*.yaml")} - {ROOT / "deployments/serve.yaml"})
HOW = "run: python tests/unit/test_examples.py"


def options_by_key() -> dict[tuple[str, str], Option]:
    """Every option by (engine, path); the engine is empty for what all share."""
    found = {("", option.path): option for option in config.describe_options()}
    for engine, options in config.describe_engines().items():
        found |= {(engine, option.path): option for option in options}
    return found


def options_by_line(text: str) -> dict[int, tuple[tuple[str, str], Option]]:
    """The options that a file names, by the line where each is named first."""
    document = config_yaml.parse(text, {})
    assert not document.problems
    known, lines = options_by_key(), {}
    for path, line in sorted(document.lines.items(), key=lambda item: item[1]):
        generic = [str(part) if isinstance(part, str) else "[]" for part in path]
        engine = ""
        if len(path) > 1 and path[0] in ("models", "tasks", "schedules"):
            generic[1] = "<id>"
        if generic[:3] == ["models", "<id>", "options"] and len(path) > 3:
            engine = document.data["models"][path[1]]["engine"]
        key = (engine, ".".join(generic).replace(".[]", "[]"))
        if option := known.pop(key, None):
            lines[line] = (key, option)
    return lines


def with_comments(text: str) -> str:
    """The file with the comment that belongs above each option."""
    named, result = options_by_line(text), []
    for number, line in enumerate(text.splitlines(), 1):
        if number in named:
            while result and result[-1].lstrip().startswith("#"):
                result.pop()
            indent = " " * (len(line) - len(line.lstrip()))
            comment = textwrap.wrap(named[number][1].comment(), 96 - len(indent))
            result += [f"{indent}# {part}" for part in comment]
        result.append(line)
    return "\n".join(result) + "\n"


def with_tables(text: str) -> str:
    """The page with the tables that the code gives."""
    return re.sub(
        r"(<!-- options.*?-->\n).*(<!-- end of options -->)",
        lambda match: f"{match[1]}\n{config.markdown()}\n{match[2]}",
        text,
        flags=re.DOTALL,
    )


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: path.name)
def test_every_deployment_loads_without_any_variable_set(path: Path):
    loaded = config.load(path, {})
    assert loaded.server.host == "127.0.0.1"
    assert all(task.golden for task in loaded.tasks.values())


def test_the_example_names_every_option():
    named = {key for key, _ in options_by_line(EXAMPLE.read_text()).values()}
    assert options_by_key().keys() - named == set()


def test_the_example_says_what_each_option_means_with_unit_default_and_range():
    assert EXAMPLE.read_text() == with_comments(EXAMPLE.read_text()), HOW


def test_the_page_of_options_is_what_the_code_has():
    assert OPTIONS_PAGE.read_text() == with_tables(OPTIONS_PAGE.read_text()), HOW


def test_the_smallest_file_of_the_page_loads():
    block = re.search(r"```yaml\n(.*?)```", OPTIONS_PAGE.read_text(), re.DOTALL)
    assert block
    assert config.loads(block[1], env={}).default_task == "chat"


def test_the_quickstart_has_three_models_and_checks_that_tell_answers_apart():
    loaded = config.load(ROOT / "deployments" / "quickstart.yaml", {})
    assert {"fast", "balanced", "quality"} == loaded.models.keys()
    assert sum(model.resources.num_cpus for model in loaded.models.values()) <= 1
    for task in loaded.tasks.values():
        for golden in task.golden:
            word = golden.check.value.strip("^$").replace("\\s*", "")
            assert score(golden.check, f" {word}")
            assert not score(golden.check, " something else")
            assert golden.stop == ("\n",)


def test_serve_accepts_the_file_for_a_cluster_that_runs_already():
    from ray.serve.schema import ServeDeploySchema

    text = (ROOT / "deployments" / "serve.yaml").read_text()
    (application,) = ServeDeploySchema(**yaml.safe_load(text)).applications
    assert (application.name, application.route_prefix) == ("hotswap", "/")
    module, _, name = application.import_path.partition(":")
    assert callable(getattr(import_module(module), name))
    config.load(ROOT / application.args["config"], {})


def test_ray_accepts_the_cluster_file():
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(yaml.safe_load((ROOT / "cluster.yaml").read_text()))
    validate_config(prepared)
    for commands in ("head_start_ray_commands", "worker_start_ray_commands"):
        start = prepared[commands][-1]
        for flag in ("ENABLE_HA_PROXY=1", "THROUGHPUT_OPTIMIZED=1"):
            assert f"RAY_SERVE_{flag}" in start
        assert "RAY_worker_niceness=0" in start
        assert "ray start" in start


if __name__ == "__main__":
    EXAMPLE.write_text(with_comments(EXAMPLE.read_text()))
    OPTIONS_PAGE.write_text(with_tables(OPTIONS_PAGE.read_text()))
