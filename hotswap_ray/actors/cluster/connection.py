"""A warm connection from an ingress replica to one model generation.

The port that the router needs, and its form over Ray Serve handles. Handles are made once
per generation: their routers linger, so one per request would leak.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from hotswap_ray.core.errors import EngineUnavailable, HotswapError
from hotswap_ray.core.outcome import Endpoint
from hotswap_ray.core.routing.target import Target

MODEL_DEPLOYMENT = "model"
"""Name of the deployment in every model application."""

Item = bytes | tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Context:
    """What few requests have besides a body.

    Attributes:
        trace: Headers of its trace, for an engine that asks another server.
        session: Its conversation, which keeps to one replica.
    """

    trace: Mapping[str, str] = field(default_factory=dict)
    session: str | None = None


class Connection(Protocol):
    """What the router asks of a model. Safe to share between requests.

    ``context`` is one ``Context``, or nothing.
    """

    async def generate(
        self, endpoint: Endpoint, body: dict[str, Any], *context: Context
    ) -> tuple[bytes, int, int, int]:
        """Body, prompt tokens, answer tokens, memory bytes; cancelling stops the model."""
        ...

    def stream(
        self, endpoint: Endpoint, body: dict[str, Any], *context: Context
    ) -> AsyncIterator[Item]:
        """Frames, then ``(prompt tokens, answer tokens, memory bytes)``."""
        ...

    async def ping(self) -> dict[str, Any]:
        """Reach a replica once, so that the first request does not pay for it."""
        ...


Connect = Callable[[Target], Connection]


class ServeConnection:
    """Connection over Ray Serve."""

    def __init__(self, target: Target) -> None:
        from ray import serve  # only a process of the cluster needs it

        handle = serve.get_deployment_handle(MODEL_DEPLOYMENT, target.app)
        self._ping = handle.options(method_name="ping")
        self._generate = handle.options(method_name="generate")
        self._stream = handle.options(method_name="stream", stream=True)

    async def generate(
        self, endpoint: Endpoint, body: dict[str, Any], *context: Context
    ) -> tuple[bytes, int, int, int]:
        """Answer whole. See ``Connection.generate``."""
        response = _sent(self._generate, endpoint, body, context)
        is_complete = False
        try:
            answer: tuple[bytes, int, int, int] = await response
            is_complete = True
            return answer
        finally:
            if not is_complete:
                response.cancel()

    async def stream(
        self, endpoint: Endpoint, body: dict[str, Any], *context: Context
    ) -> AsyncIterator[Item]:
        """Answer as frames. See ``Connection.stream``."""
        response = _sent(self._stream, endpoint, body, context)
        is_complete = False
        try:
            async for item in response:
                if isinstance(item, tuple):  # the last frame and what the answer took
                    frame, *usage = item
                    yield frame
                    yield tuple(usage)
                else:
                    yield item
            is_complete = True
        finally:
            if not is_complete:
                response.cancel()

    async def ping(self) -> dict[str, Any]:
        """Reach a replica. See ``Connection.ping``."""
        answer: dict[str, Any] = await self._ping.remote()
        return answer


def _sent(handle: Any, endpoint: Endpoint, body: dict[str, Any], context: Sequence[Context]) -> Any:
    """The response of a handle; a copy of it with options shares its router."""
    for one in context:
        if one.session is not None:
            handle = handle.options(session_id=one.session)
        if one.trace:
            return handle.remote(endpoint, body, one.trace)
    return handle.remote(endpoint, body)


def cause(error: Exception) -> HotswapError:
    """The error as it was raised in the replica, without what Ray wrapped it in.

    Ray wraps an exception of another process; a process that was lost raised none itself.
    """
    inner = getattr(error, "cause", None) or error
    if isinstance(inner, HotswapError):
        return inner
    return EngineUnavailable(f"the model failed: {type(inner).__name__}: {inner}"[:500], 1.0)
