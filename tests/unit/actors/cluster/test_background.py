"""Background work, which goes wrong."""

import asyncio
import gc
import logging

import pytest
from tenacity import wait_chain, wait_fixed, wait_none

from hotswap_ray.actors.cluster.background import Tasks, forever, outlast, outlived
from hotswap_ray.core.errors import StoreError

log = logging.getLogger("hotswap.test")


class Step:
    """Raises what it is given, one a call, then ends; ``None`` raises nothing."""

    def __init__(self, *errors):
        self._errors = list(errors)
        self.calls = 0

    async def __call__(self):
        self.calls += 1
        error = self._errors.pop(0) if self._errors else None
        if error is not None:
            raise error


class Pauses:
    """A sleep that takes no time; ends its task after so many."""

    def __init__(self, most=100):
        self.asked = []
        self._most = most

    async def __call__(self, seconds):
        self.asked.append(seconds)
        if len(self.asked) == self._most:
            raise asyncio.CancelledError
        await asyncio.sleep(0)


async def test_a_task_that_fails_is_logged_by_its_name_with_the_traceback_of_a_defect(caplog):
    async def work(error):
        raise error

    tasks = Tasks(log)
    one = tasks.spawn(work(StoreError("the disk is full")), "keep it")
    two = tasks.spawn(work(KeyError("x")), "look it up")
    assert {task.get_name() for task in tasks} == {"keep it", "look it up"}
    await asyncio.wait({one, two})
    kept, looked = caplog.records
    assert (kept.levelname, kept.getMessage()) == ("WARNING", "keep it: the disk is full")
    assert kept.exc_info is None
    assert (looked.levelname, looked.getMessage()) == ("ERROR", "look it up failed")
    assert looked.exc_info[0] is KeyError
    assert len(tasks) == 0


async def test_a_task_is_kept_until_it_ends_though_nobody_else_does():
    gate, ended = asyncio.Event(), asyncio.Event()

    async def work():
        await gate.wait()
        ended.set()

    tasks = Tasks(log)
    tasks.spawn(work(), "wait")
    await asyncio.sleep(0)
    gc.collect()
    assert len(tasks) == 1
    gate.set()
    async with asyncio.timeout(5):
        await ended.wait()


async def test_a_task_that_is_cancelled_ends_and_is_no_failure(caplog):
    tasks = Tasks(log)
    task = tasks.spawn(asyncio.Event().wait(), "wait")
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert caplog.records == []
    assert len(tasks) == 0


async def test_a_step_is_done_until_it_comes_to_its_end_with_longer_and_longer_pauses():
    step, pauses, failed = Step(OSError(), KeyError(), StoreError("no")), Pauses(), []
    wait = wait_chain(wait_fixed(1), wait_fixed(7))
    await outlast(step, "step", log, wait, failed.append, pauses)
    assert step.calls == 4
    assert pauses.asked == [1, 7, 7]
    assert [type(error) for error in failed] == [OSError, KeyError, StoreError]


async def test_a_loop_outlives_its_failures_and_counts_only_those_in_a_row():
    step, pauses = Step(KeyError(), None, OSError(), ValueError()), Pauses(3)
    wait = wait_chain(wait_fixed(1), wait_fixed(7))
    with pytest.raises(asyncio.CancelledError):
        await forever(step, "loop", log, wait, sleep=pauses)
    assert pauses.asked == [1, 1, 7]
    assert step.calls == 4


async def test_a_loop_ends_when_it_is_cancelled():
    async def step():
        await asyncio.Event().wait()

    loop = asyncio.create_task(forever(step, "loop", log, wait_none()))
    await asyncio.sleep(0)
    loop.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loop


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(), asyncio.CancelledError()])
def test_what_ends_a_process_or_a_task_is_not_outlived(error):
    with pytest.raises(type(error)), outlived("work", log):
        raise error
