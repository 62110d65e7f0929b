"""A rollout on real Ray under load: conversations keep their model, a bad candidate is out."""

import pytest

from tests.ray.conftest import wait_until
from tests.worlds.system import Talk

pytestmark = pytest.mark.ray


def test_every_conversation_keeps_its_model_until_the_candidate_has_the_task(system):
    system.load("rising")
    with Talk(system, "beta") as talk:
        record = system.controller("swap", "beta", "rising", canary="25,60")
        ended = system.controller("wait", record["swap_id"], 120, timeout=150)
    assert (ended["phase"], ended["error"], talk.failed) == ("succeeded", "", [])
    assert ended["facts"]["canary"]["step"] == 2
    journal = system.controller("journal", record["swap_id"])
    switched_s = next(row["at_s"] for row in journal if row["phase"] == "switching")
    began_s = next(row["at_s"] for row in journal if row["phase"] == "canary")
    during = [{m for answered_s, m in a if answered_s < switched_s} for a in talk.answers.values()]
    assert [models for models in during if len(models) > 1] == []
    before = [m for a in talk.answers.values() for s, m in a if began_s < s < switched_s]
    assert 0.05 < before.count("rising") / len(before) < 0.7
    system.controller("rollback", "beta")
    wait_until(lambda: system.serves("beta") == "a", what="beta is given back")


def test_a_candidate_that_fails_is_out_and_no_client_noticed(system):
    system.load("shaky", failure_rate=0.4, seed=5)
    with Talk(system, "delta") as talk:
        record = system.controller("swap", "delta", "shaky", canary="30", compatibility="warn")
        ended = system.controller("wait", record["swap_id"], 120, timeout=150)
    assert ended["phase"] == "failed"
    assert "shaky at 30%: error_rate" in ended["error"]
    assert talk.failed == []
    assert system.serves("delta") == "a"
