"""After a switch on real Ray under load: who turns bad goes back by itself, or later if told."""

import pytest

from tests.ray.conftest import wait_until
from tests.worlds.system import Talk

pytestmark = pytest.mark.ray
TASK = "zeta"
TURNS_BAD = {"failure_rate": 0.4, "seed": 796}  # its first 17 requests are answered


def test_a_model_that_turns_bad_after_the_switch_goes_back_and_no_client_noticed(system):
    assert system.serves(TASK) == "a"
    system.load("brittle", **TURNS_BAD)
    with Talk(system, TASK) as talk:
        wait_until(lambda: sum(map(len, talk.answers.values())) > 100, what="traffic before")
        record = system.controller("swap", TASK, "brittle", compatibility="warn", bake_s=300)
        ended = system.controller("wait", record["swap_id"], 120, timeout=150)
    assert ended["phase"] == "rolled_back", ended["error"]
    assert ended["error"].startswith("validation_failed: brittle after the switch: error_rate: ")
    assert system.serves(TASK) == "a"
    assert talk.failed == []
    answered = {model for answers in talk.answers.values() for _, model in answers}
    assert answered == {"a", "b", "brittle"}  # b is the fallback of what brittle failed
    bake = ended["facts"]["bake"]
    assert next(c for c in bake["checks"] if c["metric"] == "error_rate")["result"] == "failed"
    assert ended["facts"]["rollback_ms"] > 0
    journal = [row["phase"] for row in system.controller("journal", record["swap_id"])]
    assert journal[-3:] == ["baking", "rolling_back", "rolled_back"]


def test_a_task_goes_back_to_an_earlier_model_that_is_warm_in_one_commit(system):
    system.load("later")
    for model in ("b", "later"):
        assert system.swap(TASK, model)["phase"] == "succeeded"
    rows = {row["model"]: row for row in system.controller("generations", TASK)}
    assert rows["later"]["serves"]
    assert rows["a"]["warm"]  # a resident
    version = system.controller("status")["version"]
    with Talk(system, TASK) as talk:
        record = system.controller("rollback", TASK, to="a")
        ended = system.controller("wait", record["swap_id"], 60)
        serves, now = system.serves(TASK), system.controller("status")["version"]
    assert (ended["phase"], serves, talk.failed) == ("rolled_back", "a", [])
    assert now >= version + 1
