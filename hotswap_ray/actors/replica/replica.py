"""The replica that hosts one engine: frames its answers, bounds its work, loads it politely.

It is the only place where an engine's objects become bytes, so the ingress forwards them
without looking inside. A plain class; ``app.py`` makes it a Serve deployment.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import Any

import orjson

from hotswap_ray.actors.replica.call_marks import offers_tools, with_marks, without_marks
from hotswap_ray.actors.replica.frames import Frames
from hotswap_ray.actors.replica.joined import Joined
from hotswap_ray.actors.replica.priority import lowered_priority
from hotswap_ray.core.errors import EngineLoadFailed, EngineUnavailable
from hotswap_ray.core.outcome import Endpoint
from hotswap_ray.core.routing.call_ids import mark_of
from hotswap_ray.core.spec.task import ModelSpec
from hotswap_ray.engines.base import load_engine_class
from hotswap_ray.engines.trace import TRACE

NO_TRACE: Mapping[str, str] = {}
STREAM_INTERVAL_S = 0.02  # chunks that arrive closer together travel as one message
MEMORY_AGE_S = 1.0  # reading resident memory costs more than a small answer


class ModelReplica:
    """Serves one generation of a model.

    Args:
        spec: The model, as plain values (it travels through Ray).
        generation: Load number of the model.
        load_nice: Steps of niceness (0..19) that this process takes back while it loads.
    """

    async def __init__(  # type: ignore[misc] # Serve awaits an async constructor
        self, spec: dict[str, Any], generation: int, load_nice: int = 0
    ) -> None:
        self._spec = ModelSpec.model_validate(spec)
        self._generation = generation
        self._mark = mark_of(self._spec.id, generation)
        self._slots = asyncio.Semaphore(self._spec.max_ongoing_requests)
        self._asleep = False
        self._memory = (0.0, 0)
        started = time.perf_counter()
        with lowered_priority(load_nice):
            self._engine = load_engine_class(self._spec.engine)(self._spec)
            try:
                await self._engine.start()
            except EngineLoadFailed:
                await self._engine.stop()
                raise
        self._load_s = time.perf_counter() - started

    async def ping(self) -> dict[str, Any]:
        """Identity and measured memory; also warms a caller's connection."""
        return {
            "model": self._spec.id,
            "generation": self._generation,
            "pid": os.getpid(),
            "memory_bytes": self._engine.memory_bytes(),
            "load_s": self._load_s,
            "asleep": self._asleep,
        }

    async def generate(
        self, endpoint: Endpoint, body: dict[str, Any], trace: Mapping[str, str] = NO_TRACE
    ) -> tuple[bytes, int, int, int]:
        """Answer whole.

        Args:
            endpoint: Which of OpenAI's.
            body: The request.
            trace: Headers for an engine that asks another server.

        Returns:
            The JSON body, prompt tokens, answer tokens and memory of this replica in bytes.
        """
        TRACE.set(trace)
        async with self._slots:
            self._awake()
            answer = await self._engine.generate(endpoint, without_marks(body))
        if offers_tools(body):
            answer = with_marks(answer, self._mark)
        answer["model"] = self._spec.id
        usage = answer["usage"]
        return (
            orjson.dumps(answer),
            usage["prompt_tokens"],
            usage["completion_tokens"],
            self._memory_bytes(),
        )

    async def stream(
        self, endpoint: Endpoint, body: dict[str, Any], trace: Mapping[str, str] = NO_TRACE
    ) -> AsyncIterator[bytes | tuple[bytes, int, int, int]]:
        """Answer in server-sent events.

        Yields:
            Frames as bytes and, last, the last frame with prompt tokens, answer tokens and
            memory in bytes, as one item: each costs as much as a small answer. A stream
            without that last item was cut short. The first item holds the first chunk that
            says something: until then nothing is sent, and another model may still answer.
        """
        wants_usage = bool((body.get("stream_options") or {}).get("include_usage"))
        marked = partial(with_marks, mark=self._mark) if offers_tools(body) else None
        frames = Frames(self._spec.id, marked)
        TRACE.set(trace)
        # Closed before the slot is released, so that the next request finds the engine idle.
        async with self._slots:
            self._awake()
            chunks: Any = self._engine.stream(endpoint, without_marks(body))
            async with Joined(chunks, frames.take, STREAM_INTERVAL_S) as joined:
                while True:
                    parts = await joined.take()
                    if joined.ended:
                        break
                    yield b"".join(parts)
        yield (
            b"".join([*parts, frames.end(wants_usage)]),
            frames.usage.get("prompt_tokens", 0),
            frames.usage.get("completion_tokens", 0),
            self._memory_bytes(),
        )

    async def frames(self, endpoint: Endpoint, body: dict[str, Any]) -> bytes:
        """All frames of a stream at once, for probes of how a model streams."""
        stream = self.stream(endpoint, body)
        return b"".join([item if isinstance(item, bytes) else item[0] async for item in stream])

    async def sleep(self) -> int:
        """Give memory back; returns the memory that remains, in bytes."""
        if not self._asleep:
            self._asleep = True
            await self._engine.sleep()
        return self._engine.memory_bytes()

    async def wake(self) -> int:
        """Answer again; returns the memory in use, in bytes."""
        if self._asleep:
            await self._engine.wake()
            self._asleep = False
        return self._engine.memory_bytes()

    async def stop(self) -> None:
        """Release the engine before the process ends."""
        self._asleep = True
        await self._engine.stop()

    async def check_health(self) -> None:
        """Called by Serve; an engine that cannot answer gets its replica replaced."""
        if not self._asleep:
            await self._engine.check_health()

    def _awake(self) -> None:
        if self._asleep:
            raise EngineUnavailable(f"model {self._spec.id!r} is asleep", 5.0)

    def _memory_bytes(self) -> int:
        read_at, value = self._memory
        now = time.monotonic()
        if now - read_at > MEMORY_AGE_S:
            value = self._engine.memory_bytes()
            self._memory = (now, value)
        return value
