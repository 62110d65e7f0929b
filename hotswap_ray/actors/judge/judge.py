"""Judging answers of live traffic, in a process of its own.

A check can hang: a regular expression may backtrack for ever without letting another
thread run, a callable may loop. So ``Judge`` is an actor that serves nobody else. A timer
interrupts a check that takes too long, and only that answer goes without a judgement. What
no timer can interrupt (a loop in C, a checker that swallows the interruption) is ended by
the caller: ``actors/cluster/judge_watchdog.py`` kills the process, and Ray starts it again.
Checks that do so again and again rest for a while, so that one task's cannot starve the others.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

from hotswap_ray.actors.cluster.judge_here import judge_one
from hotswap_ray.core.answers import checkers
from hotswap_ray.core.answers.judge_messages import Job, Judgement, Strikes, labels
from hotswap_ray.core.errors import NotFound


class Overdue(BaseException):
    """A check ran into its limit; no ``except Exception`` of a checker may catch it."""


class Judge:
    """The actor. Its methods are synchronous: only a main thread can be interrupted.

    Args:
        limit_s: Longest that the checks of one answer may take, in seconds.
        strikes: Which checks rest.
    """

    def __init__(self, limit_s: float, strikes: Strikes | None = None) -> None:
        self._limit_s = limit_s
        self._strikes = strikes or Strikes(time.monotonic)

    def judge(self, jobs: Sequence[Job]) -> list[Judgement]:
        """Judge answers, each within the limit.

        Args:
            jobs: The answers; none at all asks whether the judge is there.

        Returns:
            One verdict a job, in order. A check that raises or takes too long costs only its
            own answer the verdict.
        """
        return [self._strikes.resting(job) or self._limited(job) for job in jobs]

    def _limited(self, job: Job) -> Judgement:
        # Imported first: an import is slow, and is broken when it is interrupted half-way.
        for check in job.checks:
            if check.kind == "callable":
                with suppress(NotFound):  # reported when the check runs
                    checkers.find_checker(check.value)
        try:
            with _interrupted_after(self._limit_s):
                judgement = judge_one(job)
        except Overdue:
            self._strikes.note(job, hung=True)
            return Judgement(None, f"took longer than {self._limit_s:g} s: {labels(job)}")
        self._strikes.note(job, hung=False)
        return judgement


@contextmanager
def _interrupted_after(limit_s: float) -> Iterator[None]:
    """Raise ``Overdue`` in this, the main thread after ``limit_s`` seconds, and then again.

    Python's own regular expressions look for signals while they search.
    """

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise Overdue

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, limit_s, limit_s)
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
