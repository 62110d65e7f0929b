"""The README's Python blocks run, and its YAML is a configuration."""

import re
from pathlib import Path

import pytest
import yaml

from hotswap_ray import config
from hotswap_ray.core.spec.autoswap import AutoswapSpec

README = (Path(__file__).parents[2] / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)


def test_the_yaml_of_the_readme_is_valid():
    settings = config.loads(blocks("yaml")[0], name="README.md")

    assert list(settings.models) == ["small", "large"]
    assert settings.default_task == "summarise"


def test_the_task_that_decides_by_itself_is_valid_beside_it():
    first, second = (yaml.safe_load(block) for block in blocks("yaml"))
    first["tasks"]["summarise"] |= second["tasks"]["summarise"]
    text = yaml.safe_dump(first).replace(
        "mypackage:is_faithful", "hotswap_ray.demo.fewshot:check_answer"
    )
    task = config.loads(text, name="README.md").tasks["summarise"]

    assert [check.kind for check in task.checks] == ["length", "refusal", "callable"]
    assert task.autoswap_with(AutoswapSpec()).mode == "advise"


@pytest.mark.ray
@pytest.mark.parametrize("code", blocks("python"), ids=lambda code: code.split()[1])
def test_a_python_block_of_the_readme_runs(code, system, capsys):
    # The reader's own names become those of the system under test.
    code = code.replace("http://127.0.0.1:8000", system.url).replace('"none"', '"test-key"')
    exec(code.replace("summarise", "alpha"), {})

    assert "simulated answer" in capsys.readouterr().out
