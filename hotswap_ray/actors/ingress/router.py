"""The data path of one ingress replica: choose, count, forward, record.

It never waits for an actor. It counts every request from the choice of its target to its
last byte, because Serve itself lets a request that waits in a vanished application hang:
the controller deletes a generation only when these counts are zero everywhere.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace

from hotswap_ray.actors.cluster.connection import Connect, Item, cause
from hotswap_ray.actors.ingress.call import Call, Opened
from hotswap_ray.actors.ingress.connections import Connections
from hotswap_ray.actors.ingress.division import Division
from hotswap_ray.actors.ingress.explorer import Explorer
from hotswap_ray.actors.ingress.in_flight import InFlight
from hotswap_ray.actors.ingress.recorder import Recorder
from hotswap_ray.actors.ingress.shadows import Shadows
from hotswap_ray.actors.ingress.suspects import Suspects
from hotswap_ray.actors.ingress.waiting_room import WaitingRoom
from hotswap_ray.config.sections import ServerConfig
from hotswap_ray.core.errors import (
    EngineError,
    EngineTimeout,
    EngineUnavailable,
    RequestError,
)
from hotswap_ray.core.outcome import Outcome, RoutingDecision
from hotswap_ray.core.routing.table import AUTO, Assignment, RouteTable, choose, choose_task
from hotswap_ray.core.routing.target import Target
from hotswap_ray.core.spec.autoswap import AutoswapSpec
from hotswap_ray.core.spec.task import TaskSpec


class Router:
    """Serves requests on the current route table.

    Lives on one event loop; ``apply`` and the request methods may interleave there.

    Args:
        limits: Timeouts and bounds.
        connect: Makes a connection to a target.
        clock: Unix seconds, for outcomes.
        on_drained: Called when the last request on a draining application ends.
        tasks: Tasks by id, for their checks.
        autoswap: How each task tries other models.
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
        self.table = RouteTable()
        self._load = InFlight(limits.max_in_flight, self._idle)
        self.in_flight = self._load.counts
        tasks, autoswap = tasks or {}, autoswap or {}
        self.recorder = Recorder({task: spec.checks for task, spec in tasks.items()})
        self.explorer = Explorer(autoswap, {t: spec.quality_target for t, spec in tasks.items()})
        self._limits = limits
        self._clock = clock
        self._on_drained = on_drained
        self._connections = Connections(connect)
        self._settled: frozenset[str] = frozenset()
        self._news = WaitingRoom(limits.max_held_requests)
        self._suspects = Suspects(lambda app: app in self._targets, self._news.wake)
        self._targets: dict[str, Target] = {}
        self.division = Division(self._has_room)
        self.shadows = Shadows(
            self.explorer,
            self._connections,
            self.recorder,
            autoswap,
            self._load,
            limits.request_timeout_s,
        )

    async def apply(self, table: RouteTable) -> list[str]:
        """Use a newer table; returns the applications that are connected and answer.

        New targets are connected before the reference changes, so no request pays for it.
        """
        targets = table.targets()
        await self._connections.reach(targets)
        self.table, self._targets = table, targets
        self._settled = frozenset(targets).difference(table.draining)
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

    async def generate(self, call: Call) -> tuple[Assignment, bytes]:
        """Answer whole; a failed model is retried once elsewhere.

        Raises:
            RequestError: The client's fault, or a full queue.
            EngineError: The model, and the fallback if there is one, failed.
        """
        assignment = await self._choose(call)
        deadline = self._deadline()
        try:
            return assignment, await self._generate(call, assignment, deadline)
        except RequestError:
            raise
        except Exception as error:  # noqa: BLE001 - any failure of a model is the router's business; it is recorded, and raised again when nothing else can serve
            second = self._second(call, assignment, error, deadline)
        return second, await self._generate(call, second, deadline)

    def _deadline(self) -> float:
        """When a request that begins now must have ended, retry included."""
        return asyncio.get_running_loop().time() + self._limits.request_timeout_s

    async def _generate(self, call: Call, assignment: Assignment, deadline: float) -> bytes:
        started, at_s = time.perf_counter(), self._clock()
        self._load.enter(assignment.target)
        success: bool | None = False
        usage = (0, 0, 0)
        body: bytes | None = None
        try:
            connection = self._connections.to(assignment.target)
            async with self._until(deadline, assignment):
                body, *tokens = await connection.generate(call.endpoint, call.body)
            usage = (tokens[0], tokens[1], tokens[2])
            success = True
            self._suspects.heard(assignment.target.app)
            return body
        except asyncio.CancelledError:
            success = None  # the client left, so the model has not failed
            raise
        except TimeoutError:
            raise self._late(assignment.target, "answer", self._limits.request_timeout_s) from None
        except Exception as error:
            success = self._blame(assignment.target, cause(error))
            raise cause(error) from error
        finally:
            self._load.leave(assignment.target)
            if success is not None:
                self._record(call, assignment, at_s, success, started, None, usage, body)

    async def open(self, call: Call) -> Opened:
        """Begin a stream: returns when its first byte is there.

        Raises:
            RequestError: The client's fault, or a full queue.
            EngineError: The model, and the fallback if there is one, failed.
        """
        assignment = await self._choose(call)
        deadline = self._deadline()
        try:
            return await self._open(call, assignment, deadline)
        except RequestError:
            raise
        except Exception as error:  # noqa: BLE001 - as in `generate`
            second = self._second(call, assignment, error, deadline)
        return await self._open(call, second, deadline)

    async def _open(self, call: Call, assignment: Assignment, deadline: float) -> Opened:
        items = self._stream(call, assignment, deadline)
        try:
            return Opened(assignment, await anext(items), items)
        except BaseException:
            await items.aclose()
            raise

    async def _stream(
        self, call: Call, assignment: Assignment, deadline: float
    ) -> AsyncGenerator[Item, None]:
        started, at_s = time.perf_counter(), self._clock()
        first_byte_s = self._limits.first_byte_timeout_s
        first_deadline = min(deadline, asyncio.get_running_loop().time() + first_byte_s)
        self._load.enter(assignment.target)
        success: bool | None = False
        ttft_ms = None
        usage = (0, 0, 0)
        is_judged = self.recorder.is_judged(assignment.task, call.body)
        parts: list[bytes] | None = [] if is_judged else None
        try:
            source = self._connections.to(assignment.target).stream(call.endpoint, call.body)
            async with aclosing(source) as items:  # type: ignore[type-var]
                while True:
                    limit = first_deadline if ttft_ms is None else deadline
                    # A deadline per item: one around the loop would fire between two of
                    # them, in the caller's code.
                    try:
                        async with self._until(limit, assignment, ttft_ms is None):
                            item = await anext(items)
                    except StopAsyncIteration:
                        break
                    self._suspects.heard(assignment.target.app)
                    if ttft_ms is None:
                        ttft_ms = (time.perf_counter() - started) * 1e3
                    if isinstance(item, tuple):
                        usage, success = item, True
                    elif parts is not None:
                        parts.append(item)
                    yield item
            if not success:
                raise EngineUnavailable(f"model {assignment.target.model!r} cut its answer short")
        except (asyncio.CancelledError, GeneratorExit):
            if not success:
                success = None
            raise
        except TimeoutError:
            if ttft_ms is not None:
                limit_s = self._limits.request_timeout_s
                raise self._late(assignment.target, "end of the answer", limit_s) from None
            timeout = self._late(assignment.target, "first byte", first_byte_s)
            self._blame(assignment.target, timeout)
            raise timeout from None
        except Exception as error:
            success = self._blame(assignment.target, cause(error))
            raise cause(error) from error
        finally:
            self._load.leave(assignment.target)
            if success is not None:
                answer = None if parts is None else b"".join(parts)
                self._record(call, assignment, at_s, success, started, ttft_ms, usage, answer, True)

    async def _choose(self, call: Call) -> Assignment:
        """Read the table once; while its route is held, wait for another one, bounded.

        Nothing is awaited after the table was read for the last time, so the caller counts
        the request before the controller can hear that the target is idle.
        """
        arrived = asyncio.get_running_loop().time()
        while True:
            table = self.table
            task = choose_task(table, call.model, call.task_header, call.task_metadata)
            route = table.routes[task]
            is_auto = call.model == AUTO or call.model.startswith(f"{AUTO}:")
            if route.held and is_auto:
                until = arrived + self._limits.hold_timeout_s
                await self._news.wait(until, f"task {task!r} is still swapping", 5.0)
                continue
            preferred = table.models.get(call.prefer) if call.prefer else None
            if preferred is not None:
                assignment = Assignment(task, preferred, RoutingDecision.PINNED, route.fallback)
            else:
                assignment = choose(table, call.model, task)
            if route.split is not None and assignment.decision is RoutingDecision.ACTIVE:
                drawn = self.division.pick(call, assignment, route.split)
                if drawn is None:
                    until = arrived + self._limits.hold_timeout_s
                    await self._news.wait(until, f"a rollout of task {task!r} goes on", 1.0)
                    continue
                assignment = drawn
            if assignment.target.app not in self._suspects:
                if route.split is not None:
                    return assignment
                return self.explorer.pick(assignment, route, self._has_room)
            fallback = assignment.fallback
            if fallback is not None and fallback.app not in self._suspects:
                return replace(
                    assignment, target=fallback, decision=RoutingDecision.FALLBACK, fallback=None
                )
            until = arrived + self._limits.first_byte_timeout_s
            await self._news.wait(until, f"model {assignment.target.model!r} does not answer", 2.0)

    def _second(
        self, call: Call, first: Assignment, error: Exception, deadline: float
    ) -> Assignment:
        """Where a request whose model failed before the first byte goes once more.

        Only targets of the current table: any other may be deleted at any moment.
        """
        route = self.table.routes.get(first.task)
        pinned = first.decision is RoutingDecision.PINNED and not call.prefer
        if route is None or pinned or asyncio.get_running_loop().time() >= deadline:
            raise error
        for target in (route.active, route.fallback):
            if target and target.app != first.target.app and target.app not in self._suspects:
                return replace(
                    first, target=target, decision=RoutingDecision.FALLBACK, fallback=None
                )
        raise error

    def _blame(self, target: Target, error: Exception) -> bool | None:
        """Whether the model succeeded: ``False``, or ``None`` if the request was at fault."""
        if isinstance(error, RequestError):
            return None
        if isinstance(error, EngineUnavailable | EngineTimeout):
            self._suspects.add(target.app, self._connections.to(target).ping)
        return False

    def _has_room(self, target: Target) -> bool:
        """Whether a target can take one more request without a client noticing."""
        return target.app not in self._suspects and self._load.has_room(target)

    def _idle(self, app: str) -> None:
        if app not in self._settled:
            self._on_drained()

    @asynccontextmanager
    async def _until(
        self, deadline: float, assignment: Assignment, retriable: bool = True
    ) -> AsyncIterator[None]:
        """A time limit; a request that can be retried ends early when the model does not answer."""
        async with asyncio.timeout_at(deadline) as limit:
            if retriable and assignment.fallback is not None:
                with self._suspects.may_leave(assignment.target.app, limit):
                    yield
            else:
                yield

    def _late(self, target: Target, what: str, limit_s: float) -> EngineError:
        if target.app in self._suspects:
            return EngineUnavailable(f"model {target.model!r} does not answer", 2.0)
        return EngineTimeout(f"no {what} within {limit_s:g} s", 5.0)

    def _record(
        self,
        call: Call,
        assignment: Assignment,
        at_s: float,
        success: bool,
        started: float,
        ttft_ms: float | None,
        usage: tuple[int, int, int],
        answer: bytes | None,
        streamed: bool = False,
    ) -> None:
        latency_ms = (time.perf_counter() - started) * 1e3
        target, route = assignment.target, self.table.routes.get(assignment.task)
        shadowed = route is not None and self.shadows.begin(call, assignment, route, at_s)
        outcome = Outcome(
            *(call.request_id, assignment.task, target.model, target.generation),
            RoutingDecision.SHADOWED if shadowed else assignment.decision,
            *(at_s, success, latency_ms, ttft_ms),
            *usage,
        )
        self.recorder.add(call, outcome, answer, streamed)
