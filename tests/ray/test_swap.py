"""Swaps on a real Ray with simulated engines."""

import pytest

pytestmark = pytest.mark.ray


def test_a_swap_changes_the_model_that_answers_and_rollback_changes_it_back(system):
    before = system.chat("auto:beta")
    record = system.swap("beta", "b")
    after = system.chat("auto:beta")
    undo = system.controller("rollback", "beta")
    system.controller("wait", undo["swap_id"], 60)
    back = system.chat("auto:beta")

    assert record["phase"] == "succeeded"
    assert [r.headers["x-hotswap-model"] for r in (before, after, back)] == ["a", "b", "a"]
    assert [r.json()["model"] for r in (before, after, back)] == ["a", "b", "a"]


def test_a_model_that_the_configuration_does_not_have_is_loaded_swapped_to_and_retired(system):
    system.load("newcomer", seed=5)
    assert system.swap("gamma", "newcomer")["phase"] == "succeeded"
    assert system.chat("auto:gamma").json()["model"] == "newcomer"

    assert system.swap("gamma", "a")["phase"] == "succeeded"

    models = {row["model"]: row["state"] for row in system.controller("status")["models"]}
    assert models["newcomer"] == "unloaded"
