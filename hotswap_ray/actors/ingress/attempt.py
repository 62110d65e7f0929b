"""One request at one model: sent, timed, counted, and its end recorded."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

from hotswap_ray.actors.cluster.connection import Context, Item, cause
from hotswap_ray.actors.ingress.call import Call
from hotswap_ray.actors.ingress.connections import Connections
from hotswap_ray.actors.ingress.in_flight import InFlight
from hotswap_ray.actors.ingress.loops import Loops
from hotswap_ray.actors.ingress.suspects import Suspects
from hotswap_ray.config.sections import ServerConfig
from hotswap_ray.core.errors import (
    EngineError,
    EngineTimeout,
    EngineUnavailable,
    HotswapError,
    NotSupported,
    Overloaded,
    RequestError,
    Saturated,
)
from hotswap_ray.core.outcome import Ending
from hotswap_ray.core.routing.table import Assignment
from hotswap_ray.core.routing.target import Target


@dataclass(slots=True)
class Attempt:
    """What became of one request at one model.

    Attributes:
        call: The request.
        assignment: The model, and why that one.
        at_s: Unix time when it was sent.
        started: ``time.perf_counter`` at that moment.
        streamed: Whether its answer is.
        ending: How it ended.
        status: HTTP status that it ended with; 0 where it was answered.
        latency_ms: From its begin to its end.
        ttft_ms: To the first content of a stream; ``None`` before.
        usage: Prompt tokens, answer tokens and memory of the replica in bytes.
        answer: Whole, for the judge; ``None`` where nobody judges it.
    """

    call: Call
    assignment: Assignment
    at_s: float
    started: float
    streamed: bool
    ending: Ending = Ending.FAILED
    status: int = 0
    latency_ms: float = 0.0
    ttft_ms: float | None = None
    usage: tuple[int, int, int] = (0, 0, 0)
    answer: bytes | None = None


class Unanswered(Exception):
    """A model gave no content, so another one may be asked.

    Args:
        error: Why, as the client is told if nobody else is asked.
        refused: The attempt, where the request may be at fault as well as the model: how it
            ended is known only when another model has been asked.
        sent: Whether the model got the request at all.
    """

    def __init__(
        self, error: HotswapError, refused: Attempt | None = None, sent: bool = True
    ) -> None:
        super().__init__(error)
        self.error = error
        self.refused = refused
        self.sent = sent


class Forwarder:
    """Sends requests to models.

    Args:
        limits: Timeouts.
        connections: To the models.
        load: Counts requests.
        suspects: Models that do not answer.
        loops: Tool loops that answers open.
        clock: Unix seconds.
        keeps: Whether the answer to a request is kept, to be judged.
        record: Takes an attempt that has ended.
    """

    def __init__(
        self,
        limits: ServerConfig,
        connections: Connections,
        load: InFlight,
        suspects: Suspects,
        loops: Loops,
        clock: Callable[[], float],
        keeps: Callable[[Call, Assignment], bool],
        record: Callable[[Attempt], None],
    ) -> None:
        self._limits = limits
        self._connections = connections
        self._load = load
        self._suspects = suspects
        self._loops = loops
        self._clock = clock
        self._keeps = keeps
        self._record = record

    async def whole(self, call: Call, assignment: Assignment, deadline: float) -> bytes:
        """Have a request answered whole.

        Args:
            call: The request.
            assignment: The model.
            deadline: Loop time at which it must have ended.

        Raises:
            Unanswered: The model did not answer.
        """
        attempt = self._begin(call, assignment, streamed=False)
        target = assignment.target
        try:
            connection = self._connections.to(target)
            async with self._until(deadline, assignment):
                body, *tokens = await connection.generate(
                    call.endpoint, call.body_for(assignment), *_context(call, assignment)
                )
            attempt.usage = (tokens[0], tokens[1], tokens[2])
            attempt.ending = Ending.OK
            attempt.answer = body
            self._suspects.heard(target.app)
            if call.offers_tools:
                self._loops.listen(target, assignment.conversation, body)
            return body
        except asyncio.CancelledError:
            attempt.ending = Ending.CANCELLED
            raise
        except TimeoutError:
            raise self._late(attempt, "answer", self._limits.request_timeout_s) from None
        except Exception as error:
            raise self._failed(attempt, cause(error)) from error
        finally:
            self._end(attempt)

    async def stream(
        self, call: Call, assignment: Assignment, deadline: float
    ) -> AsyncGenerator[Item, None]:
        """Have a request answered in pieces; the arguments are those of ``whole``.

        Raises:
            Unanswered: The model gave no content; after its first piece the error itself.
        """
        attempt = self._begin(call, assignment, streamed=True)
        target, limits = assignment.target, self._limits
        now = asyncio.get_running_loop().time
        limit = min(deadline, now() + limits.first_byte_timeout_s)
        keeps = self._keeps(call, assignment)
        parts: list[bytes] = []
        frames = 0
        try:
            body = call.body_for(assignment)
            source = self._connections.to(target).stream(
                call.endpoint, body, *_context(call, assignment)
            )
            async with aclosing(source) as items:  # type: ignore[type-var]
                while True:
                    # A deadline per item: one around the loop would fire between two of
                    # them, in the caller's code.
                    try:
                        async with self._until(limit, assignment, attempt.ttft_ms is None):
                            item = await anext(items)
                    except StopAsyncIteration:
                        break
                    self._suspects.heard(target.app)
                    if attempt.ttft_ms is None:
                        attempt.ttft_ms = (time.perf_counter() - attempt.started) * 1e3
                    if isinstance(item, tuple):
                        attempt.usage, attempt.ending = item, Ending.OK
                    else:
                        frames += item.count(b"\n\n")
                        if keeps:
                            parts.append(item)
                        if call.offers_tools:
                            self._loops.listen(target, assignment.conversation, item)
                    yield item
                    # From here on: however long the client took for that is not the model's.
                    limit = min(deadline, now() + limits.stream_idle_timeout_s)
            if attempt.ending is not Ending.OK:
                raise EngineUnavailable(f"model {target.model!r} cut its answer short")
        except (asyncio.CancelledError, GeneratorExit):
            if attempt.ending is not Ending.OK:
                attempt.ending = Ending.CANCELLED
                attempt.usage = (0, frames, 0)  # about a token each; it has cost them
            raise
        except TimeoutError:
            if attempt.ttft_ms is None:
                late = self._late(attempt, "first byte", limits.first_byte_timeout_s)
                self._suspect(target)
                raise late from None
            what, limit_s = "end of the answer", limits.request_timeout_s
            if now() < deadline:
                what, limit_s = "further piece of the answer", limits.stream_idle_timeout_s
            raise self._late(attempt, what, limit_s).error from None
        except Exception as error:
            unanswered = self._failed(attempt, cause(error))
            raise (unanswered if attempt.ttft_ms is None else unanswered.error) from error
        finally:
            attempt.answer = b"".join(parts) if keeps else None
            self._end(attempt)

    def settle(self, refused: Attempt | None, ending: Ending) -> None:
        """Record what a model refused, now that another one has been asked or nobody can be."""
        if refused is not None:
            refused.ending = ending
            self._record(refused)

    def _begin(self, call: Call, assignment: Assignment, streamed: bool) -> Attempt:
        attempt = Attempt(call, assignment, self._clock(), time.perf_counter(), streamed)
        try:
            self._load.enter(assignment.target)
        except Overloaded as error:
            unanswered = self._failed(attempt, error, sent=False)
            self._record(attempt)
            raise unanswered from None
        return attempt

    def _end(self, attempt: Attempt) -> None:
        self._load.leave(attempt.assignment.target)
        attempt.latency_ms = (time.perf_counter() - attempt.started) * 1e3
        if attempt.ending is not Ending.REFUSAL:  # whose it was, another model decides
            self._record(attempt)

    def _failed(self, attempt: Attempt, error: HotswapError, sent: bool = True) -> Unanswered:
        """Take in why a model did not answer."""
        attempt.status = error.http_status
        if isinstance(error, Overloaded | Saturated):
            attempt.ending = Ending.SATURATED
        elif isinstance(error, RequestError | NotSupported):
            attempt.ending = Ending.REFUSAL
            if attempt.ttft_ms is None:
                return Unanswered(error, attempt)
            attempt.ending = Ending.CLIENT_ERROR
        elif isinstance(error, EngineTimeout):
            attempt.ending = Ending.TIMED_OUT
        if isinstance(error, EngineUnavailable | EngineTimeout):
            self._suspect(attempt.assignment.target)
        return Unanswered(error, sent=sent)

    def _late(self, attempt: Attempt, what: str, limit_s: float) -> Unanswered:
        """A limit ran out, or the model turned out not to answer at all."""
        target = attempt.assignment.target
        error: EngineError = EngineTimeout(f"no {what} within {limit_s:g} s", 5.0)
        attempt.ending = Ending.TIMED_OUT
        if target.app in self._suspects:
            error = EngineUnavailable(f"model {target.model!r} does not answer", 2.0)
            attempt.ending = Ending.FAILED
        attempt.status = error.http_status
        return Unanswered(error)

    def _suspect(self, target: Target) -> None:
        self._suspects.add(target.app, self._connections.to(target).ping)

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


def _context(call: Call, assignment: Assignment) -> tuple[Context, ...]:
    """The last argument of a connection's methods, where there is anything to say."""
    session = assignment.conversation if assignment.target.has_affinity else None
    return (Context(call.trace, session),) if call.trace or session else ()
