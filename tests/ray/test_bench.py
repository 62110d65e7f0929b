"""`hotswap bench` on a running system: answers are judged, and count as evidence."""

import json
import re

import pytest
from typer.testing import CliRunner

from hotswap_ray import Arbiter
from hotswap_ray.cli import app

pytestmark = pytest.mark.ray

TASK = "epsilon"
GOLDEN = "\n".join(
    json.dumps({"prompt": f"what is {n}", "check": {"kind": "contains", "value": f"number {n}"}})
    for n in range(10)
)


def test_a_golden_set_tells_a_good_model_from_one_that_is_not_loaded_yet(system, tmp_path):
    golden, drawn = tmp_path / "golden.jsonl", tmp_path / "bench.svg"
    golden.write_text(GOLDEN)
    knows = {str(n): f"the number {n}" for n in range(10)}
    system.load("clever", knows=knows)
    system.load("guesser", knows=knows, accuracy=0.3, seed=3)
    system.controller("unload", "guesser")

    done = CliRunner().invoke(
        app,
        [
            "bench",
            "--task",
            TASK,
            "--model",
            "clever",
            "--model",
            "guesser",
            "--file",
            str(golden),
            "--plot",
            str(drawn),
            "--json",
        ],
    )

    assert done.exit_code == 0, done.output
    status = json.loads(done.stdout)
    assert (status["state"], status["done"], status["skipped"]) == ("done", 20, [])
    rows = {row["model"]: row for row in status["rows"]}
    assert rows["clever"]["quality"] == 1
    assert rows["guesser"]["quality"] < 0.7
    assert len(re.findall('id="dot:', drawn.read_text())) == 2
    with Arbiter.connect() as arbiter:
        seen = {row["model"]: row for row in arbiter.task_performance_summary(TASK)["models"]}
        states = {row["model"]: row["state"] for row in arbiter.status()["models"]}
    assert seen["clever"]["quality"] == 1
    assert seen["guesser"]["quality_count"] == 10
    assert (states["clever"], states["guesser"]) == ("ready", "unloaded")
    system.controller("unload", "clever")


def test_nothing_to_run_is_said_and_exits_with_1(system):
    done = CliRunner().invoke(app, ["bench", "--task", TASK])

    assert done.exit_code == 1
    assert f"skipped: {TASK}: the task has no golden prompts" in done.stdout
