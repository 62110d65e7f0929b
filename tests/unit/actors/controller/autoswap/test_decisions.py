"""Decisions as they are kept and explained, and who may decide, across restarts."""

import json
import math
from dataclasses import replace
from typing import get_args

import pytest

from hotswap_ray.actors.controller.autoswap.decisions import NEWS, DecisionLog, decision_doc
from hotswap_ray.core.autoswap.candidate_tests import CandidateTests
from hotswap_ray.core.autoswap.decide import Decision, DecisionReason, Settings
from hotswap_ray.core.autoswap.explain import CHANGES, REASONS, SENTENCES
from hotswap_ray.core.autoswap.view import Finding, inputs_of
from hotswap_ray.core.errors import InvalidRequest, NotFound, StoreError
from hotswap_ray.core.outcome import Outcome, RoutingDecision
from hotswap_ray.core.policies.selection import Arm
from tests.worlds.autoswap import (
    finding,
    look,
    once,
    settings,
    swap_by_itself,
    view_of,
)
from tests.worlds.controller import make_world
from tests.worlds.crash import restart
from tests.worlds.fakes import FakeClock
from tests.worlds.store import ScriptedStore


def undecided(**changes):
    """A decision not to, with the numbers of a test."""
    decision = Decision("t", "undecided", "testing", "a", "b", log_e=1.0, log_bar=3.0, samples=30)
    return Finding(replace(decision, **changes), {"mode": "on"})


# --- the log ---------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path):
    opened = ScriptedStore(f"sqlite:///{tmp_path}/s.sqlite")
    yield opened
    opened.close()


async def test_the_same_decision_not_to_is_kept_once_and_a_changed_one_again(store):
    log = DecisionLog(store, FakeClock())
    for samples in range(30, 40):  # numbers move; what was decided does not
        await log.add(undecided(samples=samples))
    assert log.current["t"].decision.samples == 39
    assert len(store.load_decisions("t")) == 1
    for changed in (
        {"reason": "few_samples"},
        {"model": "c"},
        {"success_alarm": True},
        {"active": "b", "model": "c"},
        {},
    ):
        await log.add(undecided(**changed))
    assert len(store.load_decisions("t")) == 6
    await log.add(undecided(task="u"))
    assert len(store.load_decisions()) == 7
    # News for operators is only that the active model succeeds too rarely.
    assert ["alarm" in row["doc"]["sentence"] for row in store.load_events()] == [True]


async def test_after_a_restart_it_is_not_kept_again(store):
    await DecisionLog(store, FakeClock()).add(undecided())
    heir = DecisionLog(store, FakeClock())
    await heir.load()
    await heir.add(undecided(samples=31))
    assert len(store.load_decisions("t")) == 1
    await heir.add(undecided(model="c"))
    assert len(store.load_decisions("t")) == 2


async def test_what_is_acted_on_is_always_kept(store):
    log = DecisionLog(store, FakeClock())
    for swap_id in ("auto-1", "auto-2"):
        await log.add(finding(), swap_id)
    assert [row["swap_id"] for row in store.load_decisions("t")] == ["auto-2", "auto-1"]
    events = [row["doc"] for row in store.load_events()]
    assert [event["swap_id"] for event in events] == ["auto-1", "auto-2"]
    assert events[0]["sentence"].startswith("t: b replaces a")


async def test_what_could_not_be_kept_is_kept_the_next_time(store):
    log = DecisionLog(store, FakeClock())
    store.refuses = True
    with pytest.raises(StoreError):
        await log.add(undecided())
    store.refuses = False
    await log.add(undecided())
    assert len(store.load_decisions("t")) == 1


@pytest.mark.parametrize("reason", get_args(DecisionReason))
async def test_every_decision_survives_json_with_all_its_numbers(store, reason):
    decision = replace(undecided().decision, action="promote", reason=reason, more=None)
    clock = FakeClock(5.0)
    await DecisionLog(store, clock).add(Finding(decision, {"models": [{"model": "a"}]}), "auto-1")
    (row,) = store.load_decisions("t")
    assert json.loads(json.dumps(row, allow_nan=False)) == row
    assert (row["id"] > 0, row["at_s"], row["swap_id"]) == (True, 5.0, "auto-1")
    assert {name: row[name] for name in NEWS} == {name: getattr(decision, name) for name in NEWS}
    assert row["sentence"].endswith(".")
    assert row["what_would_change"].endswith(".")
    assert reason in SENTENCES
    assert reason in CHANGES


def test_the_inputs_of_a_real_decision_are_numbers_that_json_has():
    """Before any swap the time since the last one is infinite; a test may prove a lot."""
    candidate_tests = CandidateTests("t", "a", Settings(cooldown_s=0))
    arms = [Arm("a", 0, belief=0.5), Arm("b", 40, belief=0.9), Arm("c", 0, belief=0.5)]
    for pairs in (0, 1, 40, 20_000):
        for _ in range(pairs):
            candidate_tests.pair("b", 1.0, 0.0)
        state = candidate_tests.state(0.0, arms)
        doc = decision_doc(
            Finding(candidate_tests.look(0.0, arms), inputs_of(state, candidate_tests.settings))
        )
        assert math.isfinite(doc["log_e"])
        assert json.loads(json.dumps(doc, allow_nan=False)) == doc


# --- settings --------------------------------------------------------------------------------


async def test_a_mode_that_was_set_outlasts_a_restart_until_it_is_the_files_again(tmp_path):
    world = await make_world(tmp_path, settings("advise"))
    assert (await world.controller.set_autoswap("t", "on"))["mode"] == "on"
    await world.controller.set_autoswap("u", "advise")
    heir = await restart(world)

    async def modes():
        tasks = (await heir.controller.status())["tasks"]
        return {name: task["autoswap"] for name, task in tasks.items()}

    assert await modes() == {"t": "on", "u": "advise"}
    assert await heir.controller.set_autoswap("t", "config") == {"task": "t", "mode": "advise"}
    assert await heir.controller.set_autoswap("u", "config") == {"task": "u", "mode": "off"}
    heir = await restart(heir)
    assert await modes() == {"t": "advise", "u": "off"}


async def test_a_setting_of_a_task_that_left_the_configuration_harms_nobody(tmp_path):
    world = await make_world(tmp_path, settings("off"))
    world.store.save_setting("autoswap:gone", {"mode": "on"})
    heir = await restart(world)
    assert set((await heir.controller.status())["tasks"]) == {"t", "u"}


async def test_nonsense_is_refused_and_a_mode_that_cannot_be_kept_is_not_taken(tmp_path):
    world = await make_world(tmp_path, settings("off"))
    with pytest.raises(InvalidRequest, match="use off, advise, on or config"):
        await world.controller.set_autoswap("t", "maybe")
    with pytest.raises(NotFound, match="nowhere"):
        await world.controller.set_autoswap("nowhere", "on")
    world.store.refuses = True
    with pytest.raises(StoreError):
        await world.controller.set_autoswap("t", "on")
    world.store.refuses = False
    assert (await world.controller.status())["tasks"]["t"]["autoswap"] == "off"
    assert world.learning.views is None


# --- why -------------------------------------------------------------------------------------


async def test_a_task_is_explained_before_the_first_look_and_after_it(tmp_path):
    world = await make_world(tmp_path, settings(look_s=600))
    before = await world.controller.explain("t")
    assert (before["kind"], before["model"], before["mode"]) == ("task", "a", "on")
    assert before["sentence"] == "t: a serves; no look yet."
    assert before["decisions"] == []
    world.learning.found = look(undecided(samples=7, more=120))
    await world.learning.nudge()
    await world.until(lambda: world.store.load_decisions("t"))
    world.learning.found = look(undecided(samples=8, more=110))
    await world.learning.nudge()
    await world.until(lambda: world.controller._decisions.current["t"].decision.samples == 8)
    now = await world.controller.explain("t")
    assert "on 8 comparisons" in now["sentence"]  # as of the last look, news or not
    assert now["what_would_change"] == "about 110 more comparisons like those so far."
    assert now["inputs"] == {"mode": "on"}
    assert "on 7 comparisons" in now["decisions"][0]["sentence"]


async def test_after_a_restart_a_task_is_explained_by_what_was_kept(tmp_path):
    world = await make_world(tmp_path, settings())
    world.learning.found = look(undecided(samples=7))
    await world.until(lambda: world.store.load_decisions("t"))
    world.config = settings(look_s=600)
    heir = await restart(world)
    assert "on 7 comparisons" in (await heir.controller.explain("t"))["sentence"]


async def test_what_was_decided_about_the_model_before_does_not_explain_the_one_that_serves(
    tmp_path,
):
    world = await make_world(tmp_path, settings(look_s=600))
    world.learning.found = once(undecided())
    await world.learning.nudge()
    await world.until(lambda: world.store.load_decisions("t"))
    await world.swap("t", "b")
    told_now = await world.controller.explain("t")
    assert told_now["sentence"] == "t: b serves; no look yet."
    assert told_now["inputs"] == {}


async def test_with_mode_off_a_swap_by_hand_is_known_at_once(tmp_path):
    world = await make_world(tmp_path, settings("off"))
    await world.swap("t", "b")
    await world.until(lambda: world.controller._decisions.current["t"].decision.active == "b")
    told_now = await world.controller.explain("t")
    assert told_now["sentence"] == "t: b stays; auto-swap is off."
    assert told_now["what_would_change"] == "mode on or advise."


async def test_a_swap_of_the_arbiter_is_explained_by_its_decision_and_its_end(tmp_path):
    world = await make_world(tmp_path, settings())
    world.learning.found = once(finding())
    record = await swap_by_itself(world)
    why = await world.controller.explain(record["swap_id"])
    assert (why["kind"], why["task"]) == ("swap", "t")
    assert why["sentence"].startswith("t: b replaces a, proven better by")
    assert why["sentence"].endswith(" It is succeeded.")
    assert why["inputs"]["golden"] == "1/1"
    assert [row["swap_id"] for row in why["decisions"]] == [record["swap_id"]]


async def test_a_swap_by_hand_is_explained_by_who_asked_and_how_it_went(tmp_path):
    world = await make_world(tmp_path, settings())
    await world.swap("t", "b", swap_id="good", requested_by="cli")
    world.fleet.scripts["c"].answer = "?"
    await world.swap("t", "c", swap_id="bad")
    good, bad = [await world.controller.explain(name) for name in ("good", "bad")]
    assert good["sentence"] == "t: cli asked for b in place of a. It is succeeded."
    assert bad["sentence"].startswith("t: operator asked for c in place of b. It is failed: ")
    assert good["decisions"] == bad["decisions"] == []


async def test_a_swap_that_was_taken_back_is_explained_by_the_decision_to_do_so(tmp_path):
    world = await make_world(tmp_path, settings(swap={"bake_s": 600}))
    world.learning.found = once(finding())
    record = await swap_by_itself(world, "baking")
    world.learning.found = once(finding("roll_back", "a", "worse_than_before", active="b"))
    await world.controller.wait(record["swap_id"], 10)
    why = await world.controller.explain(record["swap_id"])
    assert why["sentence"].endswith("It is rolled_back: rollback by autoswap.")
    assert [row["action"] for row in why["decisions"]] == ["promote", "roll_back"]


@pytest.mark.parametrize("word", [*RoutingDecision, "reported"])
async def test_a_request_is_explained_by_its_decision_and_what_was_known_then(tmp_path, word):
    world = await make_world(tmp_path, settings("off"))
    world.store.add_decision("t", 100.0, decision_doc(undecided(samples=7)))
    world.store.add_decision("t", 300.0, decision_doc(undecided(samples=9)))
    world.store.add_outcomes([Outcome("r1", "t", "b", 1, word, 200.0, True, 5.0)])
    why = await world.controller.explain("r1")
    assert (why["kind"], why["subject"], why["task"]) == ("request", "r1", "t")
    assert why["sentence"].startswith(f"b answered for t: {REASONS[word]}. At that time: t: ")
    assert "on 7 comparisons" in why["sentence"]
    assert (why["inputs"]["decision"], why["inputs"]["model"]) == (word, "b")


async def test_a_request_from_before_any_decision_is_explained_too(tmp_path):
    world = await make_world(tmp_path, settings("off"))
    world.store.add_outcomes([Outcome("r1", "t", "", 0, "reported", 2.0, True, 5.0)])
    why = await world.controller.explain("r1")
    assert why["sentence"].startswith("nobody answered for t: somebody reported work")
    assert why["decisions"] == []


async def test_what_is_neither_task_nor_swap_nor_request_is_not_found(tmp_path):
    world = await make_world(tmp_path, settings("off"))
    with pytest.raises(NotFound, match="'what' is no task, no swap and no request"):
        await world.controller.explain("what")
    assert len(await world.controller.decisions(limit=1)) == 1
    assert {row["task"] for row in await world.controller.decisions("t")} == {"t"}


async def test_a_look_sees_the_task_as_it_is_configured(tmp_path):
    asked = {"alpha": 0.01, "margin": 0.02, "equivalence": 0.1, "min_samples": 33}
    world = await make_world(tmp_path, settings(**asked, cooldown_s=7, unload=True))
    await world.until(lambda: world.learning.views)
    view = view_of(world)
    assert (view.settings.alpha, view.settings.min_samples) == (0.01, 33)
    assert (view.settings.cooldown_s, view.margin, view.equivalence) == (7.0, 0.02, 0.1)
    assert view.unload
    assert not view_of(world, "u").unload
