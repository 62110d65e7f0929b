"""Whoever is told of a swap may be broken: the swap comes to its end all the same."""

import pytest

from hotswap_ray.core.swap.phases import Phase
from tests.worlds.controller import make_world, quick_polls


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    quick_polls(monkeypatch)


class BrokenWebhooks:
    """Raises before one phase, and after every one if so told."""

    def __init__(self, before=None, after=False):
        self._before, self._after = before, after

    async def before(self, swap):
        if swap.phase is self._before:
            raise RuntimeError("a defect before")

    def after(self, left, swap):
        if self._after:
            raise RuntimeError("a defect after")


async def test_metrics_and_webhooks_that_raise_do_not_stop_a_swap_and_are_logged(tmp_path, caplog):
    world = await make_world(tmp_path)

    def no_metrics(swap):
        raise KeyError("no such label")

    world.controller._on_swap_end = no_metrics
    world.controller._runner._webhooks = BrokenWebhooks(after=True)
    assert (await world.swap("t", "b", swap_id="s1"))["phase"] == "succeeded"
    assert world.model_of("t") == "b"
    await world.until(lambda: not world.controller._runner._tasks)
    assert "the end of swap s1: KeyError" in (await world.controller.status())["last_error"]
    logged = [record.getMessage() for record in caplog.records if record.exc_info]
    assert logged[-1] == "the end of swap s1 failed"
    assert set(logged[:-1]) == {"webhooks of swap s1 failed"}
    assert len(logged) == len(await world.controller.journal("s1"))


@pytest.mark.parametrize("phase", [Phase.REQUESTED, Phase.DRAINING, Phase.BAKING, Phase.RETIRING])
async def test_a_webhook_that_may_stop_nothing_stops_nothing_by_a_defect(tmp_path, phase):
    world = await make_world(tmp_path)
    world.controller._runner._webhooks = BrokenWebhooks(before=phase)
    assert (await world.swap("t", "b", swap_id="s1"))["phase"] == "succeeded"
    assert "webhooks of swap s1: RuntimeError" in world.controller._runner.last_error


@pytest.mark.parametrize("phase", [Phase.CHECKING, Phase.LOADING, Phase.CANARY, Phase.SWITCHING])
async def test_where_a_webhook_may_stop_a_swap_a_defect_ends_it_and_is_in_its_record(
    tmp_path, phase
):
    world = await make_world(tmp_path)
    world.controller._runner._webhooks = BrokenWebhooks(before=phase)
    record = await world.swap("t", "b", swap_id="s1")
    assert (record["phase"], record["error"]) == ("failed", "RuntimeError: a defect before")
    assert world.model_of("t") == "a"
    assert world.nothing_is_left_of("b")


async def test_a_webhook_that_is_broken_does_not_keep_a_swap_from_going_back(tmp_path):
    world = await make_world(tmp_path)
    world.fleet.scripts["b"].answer = "wrong"
    world.controller._runner._webhooks = BrokenWebhooks(before=Phase.RELEASING, after=True)
    assert (await world.swap("t", "b"))["phase"] == "failed"
    assert world.nothing_is_left_of("b")


async def test_an_action_that_raises_before_anything_began_ends_the_swap(tmp_path):
    world = await make_world(tmp_path)
    actions = world.controller._runner._actions

    class Broken:
        def action(self, phase):
            if phase is Phase.REQUESTED:
                raise RuntimeError("no action")
            return actions.action(phase)

    world.controller._runner._actions = Broken()
    record = await world.swap("t", "b")
    assert (record["phase"], record["error"]) == ("failed", "RuntimeError: no action")


@pytest.mark.parametrize("call", range(2, 13))
async def test_a_surprise_between_two_phases_is_outlived_and_the_swap_goes_on(tmp_path, call):
    world = await make_world(tmp_path)
    calls = iter(range(1, 1000))

    def clock():
        if next(calls) == call:
            raise OverflowError("no time")
        return world.clock()

    world.controller._runner._clock = clock
    assert (await world.swap("t", "b"))["phase"] == "succeeded"
    assert world.model_of("t") == "b"
