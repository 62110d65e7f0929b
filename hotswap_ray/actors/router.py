"""The data path of one ingress replica: choose, count, forward, record.

It never waits for an actor. It counts every request from the choice of its target to its
last byte, because Serve itself lets a request that waits in a vanished application hang:
the controller deletes a generation only when these counts are zero everywhere.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from hotswap_ray.actors.connection import Connect, Connection, Item, cause
from hotswap_ray.config import ServerConfig
from hotswap_ray.core.errors import (
    EngineTimeout,
    EngineUnavailable,
    Overloaded,
    RequestError,
)
from hotswap_ray.core.routes import Choice, RouteTable, Target, choose, choose_task
from hotswap_ray.core.types import Decision, Endpoint, Outcome


@dataclass(frozen=True, slots=True)
class Call:
    """One client request, parsed."""

    request_id: str
    endpoint: Endpoint
    body: dict[str, Any]
    model: str
    task_header: str | None = None
    task_metadata: str | None = None
    prefer: str | None = None
    """Model that the Python handle asked for by criteria; pinned when it is loaded."""


@dataclass(slots=True)
class Opened:
    """An answer that has begun: nothing can send it to another model any more."""

    choice: Choice
    first: Item
    rest: AsyncGenerator[Item, None]


class Router:
    """Serves requests on the current route table.

    Lives on one event loop; ``apply`` and the request methods may interleave there.

    Args:
        limits: Timeouts and bounds.
        connect: Makes a connection to a target.
        clock: Unix seconds, for outcomes.
        on_drained: Called when the last request on a draining application ends.
    """

    def __init__(
        self,
        limits: ServerConfig,
        connect: Connect,
        clock: Callable[[], float] = time.time,
        on_drained: Callable[[], None] = lambda: None,
    ) -> None:
        self.table = RouteTable()
        self.in_flight: Counter[str] = Counter()
        self.outcomes: list[Outcome] = []
        self._limits = limits
        self._connect = connect
        self._clock = clock
        self._on_drained = on_drained
        self._connections: dict[str, Connection] = {}
        self._total = 0
        self._held = 0
        self._changed = asyncio.Event()

    async def apply(self, table: RouteTable) -> list[str]:
        """Use a newer table; returns the applications that are connected and answer.

        New targets are connected before the reference changes, so no request pays for it.
        """
        targets = table.targets()
        new = [target for app, target in targets.items() if app not in self._connections]
        for target in new:
            self._connections[target.app] = self._connect(target)
        # A target that does not answer keeps its place: the request will tell the client.
        answers = await asyncio.gather(
            *(self._reach(target) for target in new), return_exceptions=True
        )
        for target, answer in zip(new, answers, strict=True):
            if isinstance(answer, BaseException):
                del self._connections[target.app]
        self.table = table
        self._changed.set()
        self._changed = asyncio.Event()
        for app in [a for a in self._connections if a not in targets and not self.in_flight[a]]:
            del self._connections[app]
        return [app for app in targets if app in self._connections]

    async def _reach(self, target: Target) -> None:
        async with asyncio.timeout(5):
            await self._connections[target.app].ping()

    async def generate(self, call: Call) -> tuple[Choice, bytes]:
        """Answer whole; a failed model is retried once elsewhere.

        Raises:
            RequestError: The client's fault, or a full queue.
            EngineError: The model, and the fallback if there is one, failed.
        """
        choice = await self._choose(call)
        try:
            return choice, await self._generate(call, choice)
        except RequestError:
            raise
        except Exception as error:  # noqa: BLE001 - any failure of a model is the router's business; it is recorded, and raised again when nothing else can serve
            second = self._second(call, choice, error)
        return second, await self._generate(call, second)

    async def _generate(self, call: Call, choice: Choice) -> bytes:
        started, at_s = time.perf_counter(), self._clock()
        self._enter(choice.target)
        success: bool | None = False
        tokens_in = tokens_out = memory = 0
        try:
            connection = self._connection(choice.target)
            async with asyncio.timeout(self._limits.request_timeout_s):
                body, tokens_in, tokens_out, memory = await connection.generate(
                    call.endpoint, call.body
                )
            success = True
            return body
        except asyncio.CancelledError:
            success = None  # the client left; that says nothing about the model
            raise
        except TimeoutError:
            raise self._late("answer", self._limits.request_timeout_s) from None
        except Exception as error:
            if isinstance(cause(error), RequestError):
                success = None
            raise cause(error) from error
        finally:
            self._leave(choice.target)
            if success is not None:
                elapsed_ms = (time.perf_counter() - started) * 1e3
                self._record(
                    call, choice, at_s, success, elapsed_ms, None, tokens_in, tokens_out, memory
                )

    async def open(self, call: Call) -> Opened:
        """Begin a stream: returns when its first byte is there.

        Raises:
            RequestError: The client's fault, or a full queue.
            EngineError: The model, and the fallback if there is one, failed.
        """
        choice = await self._choose(call)
        try:
            return await self._open(call, choice)
        except RequestError:
            raise
        except Exception as error:  # noqa: BLE001 - as in `generate`
            second = self._second(call, choice, error)
        return await self._open(call, second)

    async def _open(self, call: Call, choice: Choice) -> Opened:
        items = self._stream(call, choice)
        try:
            return Opened(choice, await anext(items), items)
        except BaseException:
            await items.aclose()
            raise

    async def _stream(self, call: Call, choice: Choice) -> AsyncGenerator[Item, None]:
        started, at_s = time.perf_counter(), self._clock()
        loop_started = asyncio.get_running_loop().time()
        self._enter(choice.target)
        success: bool | None = False
        ttft_ms = None
        usage = (0, 0, 0)
        limit_s = 0.0
        try:
            source = self._connection(choice.target).stream(call.endpoint, call.body)
            async with aclosing(source) as items:  # type: ignore[type-var]
                while True:
                    limit_s = self._limits.request_timeout_s
                    if ttft_ms is None:
                        limit_s = min(limit_s, self._limits.first_byte_timeout_s)
                    # A deadline per item: one around the loop would fire between two of
                    # them, in the caller's code.
                    try:
                        async with asyncio.timeout_at(loop_started + limit_s):
                            item = await anext(items)
                    except StopAsyncIteration:
                        break
                    if ttft_ms is None:
                        ttft_ms = (time.perf_counter() - started) * 1e3
                    if isinstance(item, tuple):
                        usage, success = item, True
                    yield item
            if not success:
                raise EngineUnavailable(f"model {choice.target.model!r} cut its answer short")
        except (asyncio.CancelledError, GeneratorExit):
            if not success:
                success = None
            raise
        except TimeoutError:
            what = "first byte" if ttft_ms is None else "end of the answer"
            raise self._late(what, limit_s) from None
        except Exception as error:
            if isinstance(cause(error), RequestError):
                success = None
            raise cause(error) from error
        finally:
            self._leave(choice.target)
            if success is not None:
                elapsed_ms = (time.perf_counter() - started) * 1e3
                self._record(call, choice, at_s, success, elapsed_ms, ttft_ms, *usage)

    async def _choose(self, call: Call) -> Choice:
        """Read the table once; while its route is held, wait for another one, bounded."""
        while True:
            table = self.table
            task = choose_task(table, call.model, call.task_header, call.task_metadata)
            route = table.routes[task]
            if not (route.held and call.model.startswith("auto")):
                break
            if self._held >= self._limits.max_held_requests:
                raise EngineUnavailable(f"task {task!r} is swapping and its queue is full", 5.0)
            self._held += 1
            try:
                async with asyncio.timeout(self._limits.hold_timeout_s):
                    await self._changed.wait()
            except TimeoutError:
                raise EngineUnavailable(f"task {task!r} is still swapping", 5.0) from None
            finally:
                self._held -= 1
        preferred = table.models.get(call.prefer) if call.prefer else None
        if preferred is not None:
            return Choice(task, preferred, Decision.PINNED, route.fallback)
        return choose(table, call.model, task)

    def _second(self, call: Call, first: Choice, error: Exception) -> Choice:
        """Where a request whose model failed before the first byte goes once more."""
        active = self.table.routes[first.task].active if first.task in self.table.routes else None
        if first.decision is Decision.PINNED and not call.prefer:
            raise error
        for target in (active, first.fallback):
            if target is not None and target.app != first.target.app:
                return replace(first, target=target, decision=Decision.FALLBACK, fallback=None)
        raise error

    def _connection(self, target: Target) -> Connection:
        connection = self._connections.get(target.app)
        if connection is None:  # it did not answer when the table came; it may by now
            connection = self._connections[target.app] = self._connect(target)
        return connection

    def _enter(self, target: Target) -> None:
        if self._total >= self._limits.max_in_flight:
            raise Overloaded("too many requests in flight in this ingress", 1.0)
        if self.in_flight[target.app] >= target.limit:
            raise Overloaded(
                f"model {target.model!r} has {target.limit} requests in flight here; try later", 1.0
            )
        self.in_flight[target.app] += 1
        self._total += 1

    def _leave(self, target: Target) -> None:
        self.in_flight[target.app] -= 1
        self._total -= 1
        if not self.in_flight[target.app]:
            del self.in_flight[target.app]
            if target.app in self.table.draining:
                self._on_drained()

    def _late(self, what: str, limit_s: float) -> EngineTimeout:
        return EngineTimeout(f"no {what} within {limit_s:g} s", 5.0)

    def _record(self, call: Call, choice: Choice, at_s: float, success: bool, *rest: Any) -> None:
        latency_ms, ttft_ms, tokens_in, tokens_out, memory_bytes = rest
        self.outcomes.append(
            Outcome(
                call.request_id,
                choice.task,
                choice.target.model,
                choice.target.generation,
                choice.decision,
                at_s,
                success,
                latency_ms,
                ttft_ms,
                tokens_in,
                tokens_out,
                memory_bytes,
            )
        )
