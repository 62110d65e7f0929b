"""Before a swap it is said what to expect, after it what came: kept, compared, never in the way."""

from dataclasses import replace

import pytest

from hotswap_ray.core.errors import EngineUnavailable, NotFound
from hotswap_ray.core.evidence.cell import Evidence
from hotswap_ray.core.swap.phases import Phase, Swap
from tests.worlds.controller import ControllerWorld, make_config
from tests.worlds.fakes import MIB

SEEN = {"count": 60, "reward": "quality", "quality": 0.9, "judged": 50, "latency_ms": 20.0,
        "tokens_in": 100.0, "tokens_out": 20.0}  # fmt: skip


@pytest.fixture
async def world(tmp_path):
    made = ControllerWorld(tmp_path, make_config(models={"b": {"usd_per_million_tokens_out": 5}}))
    await made.start()
    cell = made.learning.cells["t", "b"] = Evidence("t", "b")
    cell.score([1.0, 0.8] * 40)
    return made


async def test_what_was_predicted_and_what_came_is_kept_and_compared(world):
    world.learning.seen = SEEN
    facts = (await world.swap("t", "b"))["facts"]
    assert facts["predicted"]["quality"]["mid"] == pytest.approx(0.9, abs=0.02)
    assert "load_s" not in facts["predicted"]  # never loaded before
    assert facts["actual"]["cost_usd"] == pytest.approx(100e-6)
    assert facts["actual"]["load_s"] >= 0
    said = await world.controller.calibration()
    assert said["quantities"]["quality"]["n"] == 1
    assert said["quantities"]["quality"]["inside"] == 1
    assert said["swaps"][0]["compared"]["quality"]["actual"] == 0.9


async def test_a_rollback_also_says_what_the_candidate_came_to(world):
    world.learning.seen = SEEN
    swap_id = await world.swap_until("baking", "t", "b", bake_s=60)
    world.clock.now_s += 30
    switched_s = world.clock.now_s - 30
    await world.controller.rollback("t")
    record = await world.controller.wait(swap_id, 10)
    assert record["phase"] == "rolled_back"
    assert record["facts"]["actual"]["quality"] == 0.9
    assert world.learning.asked_since_s == pytest.approx(switched_s, abs=1)


async def test_an_undo_of_a_swap_that_ended_predicts_nothing(world):
    world.learning.seen = SEEN
    await world.swap("t", "b")
    undone = await world.controller.rollback("t")
    record = await world.controller.wait(undone["swap_id"], 10)
    assert not {"predicted", "actual"} & set(record["facts"])


async def test_too_few_answers_are_no_actual(world):
    facts = (await world.swap("t", "b"))["facts"]
    assert "predicted" in facts
    assert "actual" not in facts
    assert await world.controller.calibration() == {"quantities": {}, "swaps": []}


@pytest.mark.parametrize("method", ["predict", "actual", "latency_p99"])
async def test_no_swap_is_lost_because_the_learnings_are_away(world, method, monkeypatch):
    async def away(*_):
        raise EngineUnavailable("the actor is being restarted")

    monkeypatch.setattr(world.learning, method, away)
    assert (await world.swap("t", "b"))["phase"] == "succeeded"


async def test_memory_and_load_time_are_predicted_from_earlier_loads(world):
    cold = await world.controller.predict("t", "b")
    assert (cold["load_s"], cold["memory_bytes"]) == (None, None)
    for number, (phase, load_s) in enumerate(
        [("validating", 4.0), ("validating", 6.0), ("", 90.0)]
    ):
        swap = Swap(f"s{number}", "t", "a", 1, "b", phase=Phase.FAILED, seconds={"loading": load_s})
        swap = replace(swap, seconds={**swap.seconds, phase: 1.0})  # the last one never came up
        world.store.save_swap(swap.with_facts(loaded_here=True, memory_bytes=MIB).to_doc())
    said = await world.controller.predict("t", "b")
    assert said["load_s"]["mid"] == pytest.approx(24**0.5, rel=1e-3)
    assert said["memory_bytes"]["mid"] == pytest.approx(MIB, rel=1e-3)
    await world.controller.load("b")
    assert (await world.controller.predict("t", "b"))["load_s"]["high"] == 0


async def test_a_prediction_tells_what_the_model_does_not_meet(tmp_path):
    tasks = {"t": {"model": "a", "requirements": {"context_tokens": 4096}}}
    models = {"a": {"context_tokens": 8192}}
    world = ControllerWorld(tmp_path, make_config(models, tasks))
    await world.start()
    said = await world.controller.predict("t", "b")
    assert said["accepted"] is False
    assert said["gaps"][0].startswith("error: context")
    assert said["quality"] is None
    for task, model in (("t", "nobody"), ("nothing", "b")):
        with pytest.raises(NotFound):
            await world.controller.predict(task, model)
