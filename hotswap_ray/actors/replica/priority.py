"""Lower CPU priority for a while: a model that loads must not slow those that serve."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import psutil


@contextmanager
def lowered_priority(nice: int) -> Iterator[bool]:
    """Run the block with this process, its threads and children, at a lower priority.

    Lowering is always allowed, raising again is not. Without that right (not root, or a
    container without ``CAP_SYS_NICE``) the priority stays: a model must not stay slow for
    ever because it loaded politely.

    Args:
        nice: Steps of niceness, 0..19, on top of what the process has.

    Yields:
        Whether the priority is lowered.
    """
    if nice == 0 or not _may_raise_again():
        yield False
        return
    own = os.getpriority(os.PRIO_PROCESS, 0)
    _set_nice(own + nice)
    try:
        yield True
    finally:
        _set_nice(own)  # threads that the block began have inherited the lower priority


def _may_raise_again() -> bool:
    """Whether the priority can be raised again; tried on a thread that ends, as no other test is
    right in every container.
    """

    def attempt() -> bool:
        thread = threading.get_native_id()
        nice = os.getpriority(os.PRIO_PROCESS, thread)
        try:
            os.setpriority(os.PRIO_PROCESS, thread, nice + 1)
            os.setpriority(os.PRIO_PROCESS, thread, nice)
        except OSError:
            return False
        return True

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(attempt).result()


def _set_nice(nice: int) -> None:
    """Set it for every thread of this process and of its children (vLLM's workers)."""
    own = psutil.Process()
    for process in (own, *own.children(recursive=True)):
        with suppress(psutil.NoSuchProcess, ProcessLookupError):  # it has ended meanwhile
            for thread in process.threads():
                os.setpriority(os.PRIO_PROCESS, thread.id, nice)
