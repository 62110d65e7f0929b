"""Copies of requests for candidates: no client sees the answer, and no client waits for it.

A copy begins after the client's own answer has ended. It is dropped, and counted, when too
many are at work, its model has less than half of its room left, or this replica is busy, since
then it would slow the requests of clients.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace

from hotswap_ray.actors.cluster.background import Tasks
from hotswap_ray.actors.cluster.connection import cause
from hotswap_ray.actors.ingress.call import Call
from hotswap_ray.actors.ingress.connections import Connections
from hotswap_ray.actors.ingress.explorer import Explorer
from hotswap_ray.actors.ingress.in_flight import InFlight
from hotswap_ray.actors.ingress.recorder import Recorder
from hotswap_ray.core.errors import (
    EngineTimeout,
    HotswapError,
    NotSupported,
    Overloaded,
    RequestError,
    Saturated,
)
from hotswap_ray.core.outcome import SHADOW_PREFIX, Ending, Outcome, RoutingDecision
from hotswap_ray.core.routing.needs import needs_of
from hotswap_ray.core.routing.table import Assignment, Route
from hotswap_ray.core.routing.target import Target
from hotswap_ray.core.spec.autoswap import AutoswapSpec

log = logging.getLogger("hotswap.ingress")


class Shadows:
    """Sends copies and records their outcomes.

    Args:
        explorer: Decides which requests are copied, and to which model.
        connections: To the models.
        recorder: Takes the outcomes.
        specs: How many at once, by task.
        load: Counts copies too, so that no model is deleted while it answers one.
        timeout_s: Longest answer.

    Attributes:
        sent: Copies begun.
        dropped: Copies that were wanted and not begun.
        busy: Whether this replica has no time to spare just now.
    """

    def __init__(
        self,
        explorer: Explorer,
        connections: Connections,
        recorder: Recorder,
        specs: Mapping[str, AutoswapSpec],
        load: InFlight,
        timeout_s: float,
    ) -> None:
        self.sent = 0
        self.dropped = 0
        self.busy: Callable[[], bool] = lambda: False
        self._explorer = explorer
        self._connections = connections
        self._recorder = recorder
        self._at_once = {task: spec.shadow_at_once for task, spec in specs.items()}
        self._load = load
        self._timeout_s = timeout_s
        self._at_work: Counter[str] = Counter()
        self._running = Tasks(log)

    def begin(self, call: Call, assignment: Assignment, route: Route, at_s: float) -> bool:
        """Copy a request that was just answered, if it is drawn and there is room.

        Args:
            call: The request.
            assignment: The model that answered it.
            route: Its task's.
            at_s: When it arrived; the copy has the same time, which marks the two as a pair.

        Returns:
            Whether a copy began: the client's answer is then one half of a pair.
        """
        if route.trial is None:  # most requests: their needs are not looked at again
            return False
        needs = needs_of(call.endpoint, call.body)
        target = self._explorer.shadow(assignment, route, needs.fits)
        if target is None:
            return False
        task = assignment.task
        full = self.busy() or self._at_work[task] >= self._at_once.get(task, 1)
        if full or not self._load.enter_copy(target):
            self.dropped += 1
            return False
        self.sent += 1
        self._at_work[task] += 1
        self._running.spawn(self._run(call, task, target, at_s), f"copy:{call.request_id}")
        return True

    async def _run(self, call: Call, task: str, target: Target, at_s: float) -> None:
        body = {k: v for k, v in call.body.items() if k not in ("stream", "stream_options")}
        copy = replace(call, request_id=SHADOW_PREFIX + call.request_id, body=body)
        started = time.perf_counter()
        answer: bytes | None = None
        usage = (0, 0, 0)
        is_recorded, ending, status = True, None, 0
        try:
            async with asyncio.timeout(self._timeout_s):
                answer, *tokens = await self._connections.to(target).generate(call.endpoint, body)
            usage = (tokens[0], tokens[1], tokens[2])
        except asyncio.CancelledError:
            is_recorded = False
            raise
        except Exception as error:  # noqa: BLE001 - whatever failed is this copy's outcome, recorded below
            log.debug("a copy for %s failed: %r", target.model, error)
            reason = cause(error)
            status, ending = reason.http_status, _ending(reason)
        finally:
            self._at_work[task] -= 1
            self._load.leave_copy(target)
            if is_recorded:
                outcome = Outcome(
                    copy.request_id,
                    task,
                    target.model,
                    target.generation,
                    RoutingDecision.SHADOW,
                    at_s,
                    answer is not None,
                    (time.perf_counter() - started) * 1e3,
                    None,
                    *usage,
                    ending=ending,
                    status=status,
                )
                self._recorder.add(copy, outcome, answer, False)


def _ending(error: HotswapError) -> Ending | None:
    """How a copy ended: what the active model took and this one refuses is a refusal."""
    if isinstance(error, Overloaded | Saturated):
        return Ending.SATURATED
    if isinstance(error, RequestError | NotSupported):
        return Ending.REFUSAL
    return Ending.TIMED_OUT if isinstance(error, EngineTimeout) else None
