"""The data path of one ingress replica: choose, forward, choose once more, record.

It never waits for an actor. It counts every request from the choice of its target to its
last byte, because Serve itself lets a request that waits in a vanished application hang:
the controller deletes a generation only when these counts are zero everywhere.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import contextmanager

from hotswap_ray.actors.cluster.connection import Connect, Item
from hotswap_ray.actors.ingress.attempt import Attempt, Forwarder, Unanswered
from hotswap_ray.actors.ingress.call import Call, Opened
from hotswap_ray.actors.ingress.chooser import Chooser
from hotswap_ray.actors.ingress.connections import Connections
from hotswap_ray.actors.ingress.division import Division
from hotswap_ray.actors.ingress.explorer import Explorer
from hotswap_ray.actors.ingress.in_flight import InFlight
from hotswap_ray.actors.ingress.loops import Loops
from hotswap_ray.actors.ingress.recorder import Recorder
from hotswap_ray.actors.ingress.shadows import Shadows
from hotswap_ray.actors.ingress.suspects import Suspects
from hotswap_ray.actors.ingress.waiting_room import WaitingRoom
from hotswap_ray.config.sections import ServerConfig
from hotswap_ray.core.errors import HotswapError, NotFound
from hotswap_ray.core.outcome import Ending, Outcome, RoutingDecision
from hotswap_ray.core.routing.table import Assignment, RouteTable, choose_task
from hotswap_ray.core.routing.target import Target
from hotswap_ray.core.spec.autoswap import AutoswapSpec
from hotswap_ray.core.spec.task import TaskSpec

NO_MODEL = ""
JUDGEABLE = frozenset({Ending.OK, Ending.FAILED, Ending.TIMED_OUT})
"""Endings of requests that a candidate gets a copy of, to be compared."""


class Router:
    """Serves requests on the current route table.

    Lives on one event loop; ``apply`` and the request methods may interleave there.

    Args:
        limits: Timeouts and bounds.
        connect: Makes a connection to a target.
        clock: Unix seconds, for outcomes.
        on_drained: Called when nothing is left to wait for on a draining application.
        tasks: Tasks by id, for their checks and requirements.
        autoswap: How each task tries other models.

    Attributes:
        turned_away: Requests that were refused before a task was known, by code and status.
    """

    def __init__(
        self,
        limits: ServerConfig,
        connect: Connect,
        clock: Callable[[], float] = time.time,
        on_drained: Callable[[], None] = lambda: None,
        tasks: Mapping[str, TaskSpec] | None = None,
        autoswap: Mapping[str, AutoswapSpec] | None = None,
    ) -> None:
        self.turned_away: Counter[tuple[str, int]] = Counter()
        self._load = InFlight(limits.max_in_flight, self._idle)
        self.in_flight = self._load.counts
        tasks, autoswap = tasks or {}, autoswap or {}
        self.recorder = Recorder({task: spec.checks for task, spec in tasks.items()})
        self.explorer = Explorer(autoswap, {t: spec.quality_target for t, spec in tasks.items()})
        self.division = Division(self._has_room)
        self._limits = limits
        self._clock = clock
        self._on_drained = on_drained
        self._connections = Connections(connect)
        self._settled: frozenset[str] = frozenset()
        self._targets: dict[str, Target] = {}
        self._news = WaitingRoom(limits.max_held_requests)
        self._suspects = Suspects(lambda app: app in self._targets, self._news.wake)
        self._loops = Loops(limits.tool_result_wait_s, on_drained)
        self._chooser = Chooser(
            limits,
            self._suspects,
            self._has_room,
            self.division,
            self.explorer,
            self._loops,
            self._news,
            tasks,
        )
        self.shadows = Shadows(
            self.explorer,
            self._connections,
            self.recorder,
            autoswap,
            self._load,
            limits.request_timeout_s,
        )
        self._forward = Forwarder(
            limits,
            self._connections,
            self._load,
            self._suspects,
            self._loops,
            clock,
            lambda call, assignment: self.recorder.is_judged(assignment.task, call.body),
            self._record,
        )

    @property
    def table(self) -> RouteTable:
        """The route table in use."""
        return self._chooser.table

    async def apply(self, table: RouteTable) -> list[str]:
        """Use a newer table; returns the applications that are connected and answer.

        New targets are connected before the reference changes, so no request pays for it.
        """
        targets = table.targets()
        await self._connections.reach(targets)
        self._chooser.table, self._targets = table, targets
        self._settled = frozenset(targets).difference(table.draining)
        self._loops.use(targets, table.draining)
        self._news.wake()
        self._connections.keep({*targets, *self.in_flight})
        return self._connections.reached(targets)

    async def reconnect(self) -> list[str]:
        """Ping the targets again that have not answered; returns all that are connected now."""
        await self._connections.reach(self._targets)
        return self._connections.reached(self._targets)

    def watch(self) -> None:
        """Ping models that have requests in flight and have not answered lately."""
        for app, target in self._targets.items():
            if self.in_flight[app]:
                self._suspects.ask_if_quiet(app, self._connections.to(target).ping)

    def calling(self) -> list[str]:
        """Applications that have called tools and may still get the results."""
        return [app for app in self._targets if self._loops.are_open(app)]

    async def generate(self, call: Call) -> tuple[Assignment, bytes]:
        """Answer whole; a model that does not answer is retried once elsewhere.

        Raises:
            RequestError: The client's fault, or a full queue.
            EngineError: The model, and the fallback if there is one, failed.
        """
        first = await self._first(call)
        deadline = self._deadline()
        try:
            return first, await self._forward.whole(call, first, deadline)
        except Unanswered as failure:
            with self._settling(failure) as second:
                second += [await self._chooser.second(call, first, failure, deadline)]
                return second[0], await self._forward.whole(call, second[0], deadline)

    async def open(self, call: Call) -> Opened:
        """Begin a stream: returns when its first content is there.

        Raises:
            RequestError: The client's fault, or a full queue.
            EngineError: The model, and the fallback if there is one, failed.
        """
        first = await self._first(call)
        deadline = self._deadline()
        try:
            return await self._open(call, first, deadline)
        except Unanswered as failure:
            with self._settling(failure) as second:
                second += [await self._chooser.second(call, first, failure, deadline)]
                return await self._open(call, second[0], deadline)

    def turn_away(self, error: HotswapError) -> None:
        """Count a request that was refused before anything was known of it."""
        self.turned_away[error.code, error.http_status] += 1

    async def _first(self, call: Call) -> Assignment:
        at_s, started = self._clock(), time.perf_counter()
        try:
            return await self._chooser.first(call)
        except HotswapError as error:
            latency_ms = (time.perf_counter() - started) * 1e3
            self._refused(call, error, at_s, latency_ms)
            raise

    @contextmanager
    def _settling(self, failure: Unanswered) -> Iterator[list[Assignment]]:
        """A second model is asked: what the first one refused is its fault if this one takes it.

        Yields:
            A list for the second assignment.
        """
        second: list[Assignment] = []
        ending = Ending.CLIENT_ERROR
        try:
            yield second
            # A longer context is no merit of the one, and no fault of the other.
            if second[0].decision is not RoutingDecision.ESCALATED:
                ending = Ending.REFUSAL
        except Unanswered as again:
            self._forward.settle(again.refused, Ending.CLIENT_ERROR)
            raise again.error from again
        finally:
            self._forward.settle(failure.refused, ending)

    def _deadline(self) -> float:
        """When a request that begins now must have ended, retry included."""
        return asyncio.get_running_loop().time() + self._limits.request_timeout_s

    async def _open(self, call: Call, assignment: Assignment, deadline: float) -> Opened:
        items: AsyncGenerator[Item, None] = self._forward.stream(call, assignment, deadline)
        try:
            return Opened(assignment, await anext(items), items)
        except BaseException:
            await items.aclose()
            raise

    def _has_room(self, target: Target) -> bool:
        """Whether a target can take one more request without a client noticing."""
        return target.app not in self._suspects and self._load.has_room(target)

    def _idle(self, app: str) -> None:
        if app not in self._settled:
            self._on_drained()

    def _refused(self, call: Call, error: HotswapError, at_s: float, latency_ms: float) -> None:
        """Record that no model was asked."""
        try:
            task = choose_task(self.table, call.model, call.task_header, call.task_metadata)
        except NotFound:
            self.turn_away(error)
            return
        outcome = Outcome(
            *(call.request_id, task, NO_MODEL, 0, RoutingDecision.REFUSED, at_s, False),
            latency_ms,
            ending=Ending.REFUSED,
            status=error.http_status,
        )
        self.recorder.add(call, outcome, None, False)

    def _record(self, attempt: Attempt) -> None:
        call, assignment = attempt.call, attempt.assignment
        target, route = assignment.target, self.table.routes.get(assignment.task)
        shadowed = (
            route is not None
            and attempt.ending in JUDGEABLE
            and self.shadows.begin(call, assignment, route, attempt.at_s)
        )
        is_ok = attempt.ending is Ending.OK
        outcome = Outcome(
            *(call.request_id, assignment.task, target.model, target.generation),
            RoutingDecision.SHADOWED if shadowed else assignment.decision,
            *(attempt.at_s, is_ok, attempt.latency_ms, attempt.ttft_ms),
            *attempt.usage,
            ending=None if attempt.ending in (Ending.OK, Ending.FAILED) else attempt.ending,
            status=attempt.status,
        )
        self.recorder.add(call, outcome, attempt.answer, attempt.streamed)
