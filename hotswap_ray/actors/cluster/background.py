"""Work in the background: what fails there is logged, and loops go on.

An exception in a task that nobody awaits is lost. So everything that runs beside
the requests of a process begins here, behind one border that logs what it caught.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from tenacity import AsyncRetrying, retry_if_result
from tenacity.wait import wait_base

from hotswap_ray.core.errors import HotswapError

T = TypeVar("T")
Failed = Callable[[Exception], None]
Sleep = Callable[[float], Awaitable[None]]


def _ignore(error: Exception) -> None:
    """Do nothing besides the log."""


@contextmanager
def outlived(what: str, log: logging.Logger, failed: Failed = _ignore) -> Iterator[None]:
    """The border of background work: its caller goes on, whatever is raised inside.

    Args:
        what: Names the work in the log.
        log: Where a failure goes: one line for an error of ours, which says what is wrong; a
            traceback for any other, which is a defect.
        failed: Called with the error after it was logged, to show it elsewhere too.
    """
    try:
        yield
    except HotswapError as error:
        log.warning("%s: %s", what, error)
        failed(error)
    except Exception as error:
        log.exception("%s failed", what)
        failed(error)


async def outlast(
    step: Callable[[], Awaitable[None]],
    what: str,
    log: logging.Logger,
    wait: wait_base,
    failed: Failed = _ignore,
    sleep: Sleep = asyncio.sleep,
) -> None:
    """Do a step, again after each failure, until it comes to its end.

    Args:
        step: May be done again after it failed anywhere.
        what: Names the step in the log.
        log: See ``outlived``.
        wait: Pause after the n-th failure in a row.
        failed: See ``outlived``.
        sleep: How a pause is made; something may end it early.
    """

    async def is_done() -> bool:
        with outlived(what, log, failed):
            await step()
            return True
        return False

    retrying = AsyncRetrying(retry=retry_if_result(lambda done: not done), wait=wait, sleep=sleep)
    await retrying(is_done)


async def forever(
    step: Callable[[], Awaitable[None]],
    what: str,
    log: logging.Logger,
    wait: wait_base,
    failed: Failed = _ignore,
    sleep: Sleep = asyncio.sleep,
) -> None:
    """Do a step again and again; it waits itself while there is nothing to do. See ``outlast``."""
    while True:
        await outlast(step, what, log, wait, failed, sleep)


async def watched(
    work: Coroutine[Any, Any, T], watch: Callable[[], Awaitable[None]], every_s: float
) -> T:
    """The result of some work; a watch may end the work early.

    Args:
        work: What is done; cancelled, and waited for, when it must not go on.
        watch: Raises when it must not; called again and again.
        every_s: Seconds between two calls of it.
    """
    task = asyncio.ensure_future(work)
    try:
        while not task.done():
            await asyncio.wait({task}, timeout=every_s)
            if not task.done():
                await watch()
        return task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task})


class Tasks:
    """Tasks that nobody awaits, kept from being collected until they end.

    Args:
        log: Where their failures go.
    """

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def __iter__(self) -> Iterator[asyncio.Task[None]]:
        return iter(tuple(self._tasks))

    def spawn(self, work: Coroutine[Any, Any, None], what: str) -> asyncio.Task[None]:
        """Begin work; ``what`` names the task, and its failure in the log."""
        task = asyncio.create_task(work, name=what)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and isinstance(error := task.exception(), Exception):
            with outlived(task.get_name(), self._log):
                raise error
