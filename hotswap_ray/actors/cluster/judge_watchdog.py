"""A caller's link to the judge: every call returns, with or without a verdict."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from itertools import islice

from tenacity import AsyncRetrying, retry_if_exception_type, wait_fixed

from hotswap_ray.actors.cluster.log_limit import LogLimit
from hotswap_ray.actors.cluster.names import JUDGE
from hotswap_ray.actors.cluster.proxy import ActorProxy
from hotswap_ray.core.answers.judge_messages import Job, Judgement, Strikes, labels
from hotswap_ray.core.errors import HotswapError

MOST_JOBS = 32
"""Answers sent at once."""
MOST_OVERDUE = 8
"""Answers of a batch that may use their whole limit before the batch counts as lost."""
SPARE_S = 10.0
"""Seconds a batch gets beyond its checks, for transport, a queue, and a judge that starts."""
RESTART_S = 30.0
"""Longest wait for a judge that was lost to answer again."""
PAUSE_S = 0.2
log = logging.getLogger("hotswap.judge")

Reach = Callable[[Sequence[Job]], Awaitable[list[Judgement]]]
Kill = Callable[[], Awaitable[None]]


class JudgeWatchdog:
    """Sends answers to the judge, and kills a judge that does not answer.

    After a batch came to nothing its jobs go one at a time, so that only the one that hangs
    or takes the process down goes unjudged. Safe to share: one batch is on its way at a time.

    Args:
        reach: ``Judge.judge``; raises ``HotswapError`` if the judge cannot be reached.
        kill: Ends the judge's process; Ray starts it again.
        limit_s: ``learning.check_timeout_s``, seconds for the checks of one answer.
        spare_s: Seconds a batch gets beyond that.
        restart_s: Longest wait for a judge that was lost.

    Attributes:
        unjudged: Answers without any verdict so far.
        undecided: How many of these because no check could tell.
        errors: How many of these for an error.
        last_error: The last of them; empty if there was none.
    """

    def __init__(
        self,
        reach: Reach,
        kill: Kill,
        limit_s: float,
        *,
        spare_s: float = SPARE_S,
        restart_s: float = RESTART_S,
    ) -> None:
        self._reach = reach
        self._kill = kill
        self._limit_s = limit_s
        self._spare_s = spare_s
        self._restart_s = restart_s
        self._strikes = Strikes(time.monotonic)
        self._lock = asyncio.Lock()
        self.unjudged = 0
        self.undecided = 0
        self.errors = 0
        self.last_error = ""
        self._failures = LogLimit(log)

    async def judge(self, jobs: Sequence[Job]) -> list[Judgement]:
        """Judge answers.

        Args:
            jobs: The answers.

        Returns:
            One verdict a job, in order. Never raises but when cancelled.
        """
        judgements: list[Judgement] = []
        remaining = iter(jobs)
        async with self._lock:
            while batch := list(islice(remaining, MOST_JOBS)):
                judgements += await self._batch(batch)
        for judgement in judgements:
            is_missing = judgement.quality is None and judgement.format_ok is None
            self.unjudged += is_missing
            self.undecided += is_missing and not judgement.failure
            self.errors += bool(judgement.failure)
            self.last_error = judgement.failure or self.last_error
        if any(judgement.failure for judgement in judgements):
            text = "%d answers went without a verdict for an error so far; the last: %s"
            self._failures.warn(text, self.errors, self.last_error)
        return judgements

    async def _batch(self, jobs: list[Job]) -> list[Judgement]:
        resting = [self._strikes.resting(job) for job in jobs]
        awake = [job for job, rests in zip(jobs, resting, strict=True) if rests is None]
        verdicts = iter(await self._awake(awake) if awake else ())
        return [rests or next(verdicts) for rests in resting]

    async def _awake(self, jobs: list[Job]) -> list[Judgement]:
        answer = await self._ask(jobs)
        if isinstance(answer, list):
            return answer
        judgements: list[Judgement] = []
        for job in jobs:
            if resting := self._strikes.resting(job):
                judgements.append(resting)
                continue
            if not await self._is_back():
                missing = Judgement(None, f"the judge is down: {answer}")
                return judgements + [missing] * (len(jobs) - len(judgements))
            second = await self._ask([job])
            self._strikes.note(job, hung=isinstance(second, str))
            if isinstance(second, list):
                judgements += second
            else:
                judgements.append(Judgement(None, f"{second}: {labels(job)}"))
        return judgements

    async def _ask(self, jobs: list[Job]) -> list[Judgement] | str:
        """The verdicts, or why there are none; a judge that does not answer is killed."""
        limit_s = self._limit_s * min(len(jobs), MOST_OVERDUE) + self._spare_s
        try:
            async with asyncio.timeout(limit_s):
                return await self._reach(jobs)
        except TimeoutError:
            await self._kill()
            return f"no verdict within {limit_s:g} s"
        except HotswapError as error:
            return error.message

    async def _is_back(self) -> bool:
        """Wait until the judge answers an empty batch, since the last one may have killed it."""
        asking = AsyncRetrying(
            retry=retry_if_exception_type(HotswapError), wait=wait_fixed(PAUSE_S)
        )
        with suppress(TimeoutError):
            async with asyncio.timeout(self._restart_s):
                await asking(self._reach, ())
                return True
        return False


def connect(namespace: str, limit_s: float, *, spare_s: float = SPARE_S) -> JudgeWatchdog:
    """The link of a process of the cluster to the actor that ``app.py`` starts.

    Args:
        namespace: Ray namespace of the actor.
        limit_s: ``learning.check_timeout_s``.
        spare_s: See ``JudgeWatchdog``.
    """

    async def kill() -> None:
        import ray  # only a process of the cluster needs it

        with suppress(ValueError, ray.exceptions.RayError):
            actor = await asyncio.to_thread(ray.get_actor, JUDGE, namespace=namespace)
            ray.kill(actor, no_restart=False)

    # The link has its own limits, which depend on the size of a batch.
    reach = ActorProxy(JUDGE, namespace, timeout_s=86_400).judge
    return JudgeWatchdog(reach, kill, limit_s, spare_s=spare_s)
