"""What the learnings make of each way in which a request may end, also over a restart."""

import pytest

from hotswap_ray.core.outcome import NEUTRAL, Ending, Outcome
from tests.worlds.learning import LearningWorld

TO_BLAME = (Ending.FAILED, Ending.TIMED_OUT, Ending.REFUSAL)


@pytest.fixture
def world(store):
    return LearningWorld(store)


async def end(world, ending, count=1, task="t", model="b", decision="explore", status=400):
    """Requests that ended like this at a model."""
    batch = []
    for _ in range(count):
        world.number += 1
        request_id = f"ended-request-{world.number}"
        batch.append(
            Outcome(
                *(request_id, task, model, 1, decision, world.clock(), ending is Ending.OK, 10.0),
                ending=ending,
                status=0 if ending is Ending.OK else status,
            )
        )
    await world.actor.record(batch, f"ended-{world.number}")


async def row_of(world, model="b"):
    return next(row for row in await world.actor.learnings() if row["model"] == model)


@pytest.mark.parametrize("restarted", [False, True])
async def test_only_what_a_model_is_to_blame_for_lowers_its_success_and_all_is_counted(
    world, restarted
):
    await end(world, Ending.OK, 10)
    for ending in Ending:
        if ending is not Ending.OK:
            await end(world, ending)
    if restarted:
        world.restart()
    row = await row_of(world)
    assert row["count"] == 10 + len(TO_BLAME)
    assert row["success_rate"] == pytest.approx(10 / 13, abs=0.01)
    assert {row[ending.value] for ending in Ending if ending is not Ending.OK} == {1}


async def test_a_rollout_sees_refusals_and_not_what_nobody_is_to_blame_for(world):
    await end(world, Ending.OK, 3, decision="canary")
    await end(world, Ending.REFUSAL, 2, decision="canary")
    for ending in NEUTRAL:
        await end(world, ending, decision="canary")
    seen = (await world.actor.observed("t", ("b",), 0.0))["b"]
    assert list(seen.success) == [1, 1, 1, 0, 0]
    assert list(seen.refused) == [0, 0, 0, 1, 1]


async def test_a_candidate_that_refuses_loses_its_comparisons(world):
    await world.look()
    for _ in range(60):
        await world.see(None)
        await end(world, Ending.REFUSAL)
    (finding, *_) = (await world.look()).findings
    rows = {row["model"]: row for row in finding.inputs["models"]}
    assert rows["b"]["success_rate"] == 0
    assert rows["b"]["difference"] < 0


async def test_what_no_task_was_named_for_teaches_nothing_and_is_kept(world):
    await end(world, Ending.OK, 3, task="", decision="pinned")
    assert await world.actor.learnings() == []
    world.restart()
    assert await world.actor.learnings() == []
    assert len(await world.actor.outcomes()) == 3


async def test_the_ending_and_status_of_each_model_that_a_request_met_are_stored(world):
    at_s = world.clock()
    names = ("r-met-two-models", "t")
    await world.actor.record(
        [
            Outcome(*names, "b", 1, "canary", at_s, False, 5.0, ending=Ending.REFUSAL, status=400),
            Outcome(*names, "a", 1, "fallback", at_s + 1, True, 9.0),
        ],
        "two",
    )
    met = world.store.find_outcomes("r-met-two-models")
    assert [(o["model"], o["ending"], o["status"]) for o in met] == [
        ("b", "refusal", 400),
        ("a", None, 0),
    ]
