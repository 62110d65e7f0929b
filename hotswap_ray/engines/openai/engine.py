"""Any OpenAI-compatible server as an engine: Ollama, llama-server, vLLM, a hosted API.

Nothing is loaded here; ``start`` checks that the server answers for the model. What it refuses
becomes an error of ours (the table is in ``refusals``), so the ingress treats a remote model as
it does any other. Only a connection that could not be made is tried again, and one that was
kept alive and turned out to be dead (``transport``): the server has seen nothing yet.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from typing import Any, ClassVar

import httpx
from pydantic import BaseModel

from hotswap_ray.core.errors import (
    EngineLoadFailed,
    EngineUnavailable,
    HotswapError,
    NotSupported,
    Overloaded,
)
from hotswap_ray.core.fit.capabilities import canonicals
from hotswap_ray.core.outcome import Endpoint
from hotswap_ray.core.spec.task import ModelSpec
from hotswap_ray.engines import sse
from hotswap_ray.engines.answers import LastUsage, assemble
from hotswap_ray.engines.base import default_deployment_options, parse_options
from hotswap_ray.engines.openai.connection import Connection
from hotswap_ray.engines.openai.options import OpenAIOptions
from hotswap_ray.engines.openai.params import applied
from hotswap_ray.engines.openai.reading import (
    AnswerReader,
    StreamReading,
    choices_asked,
    parsed,
    whole,
)
from hotswap_ray.engines.openai.trial import reason_against

FINISH_GRACE_S = 5.0
"""How long a stream whose choices have all finished may take to count its tokens and end."""

CLOSE_GRACE_S = 0.05
"""How long the end of the body may come after ``[DONE]``; else the connection is closed."""

DECLARED = ("tools", "json", "vision", "logprobs", "n")


class OpenAIEngine:
    """Forwards requests to a server that has ``spec.source`` (default ``spec.id``).

    Args:
        spec: The model.
        clock: Unix time in seconds.
    """

    Options: ClassVar[type[BaseModel]] = OpenAIOptions
    sets_context: ClassVar[bool] = False
    """The server has its own context; ``context_tokens`` only says what it is."""

    def __init__(self, spec: ModelSpec, clock: Callable[[], float] = time.time) -> None:
        self._spec = spec
        self._clock = clock
        self._options: OpenAIOptions = parse_options(OpenAIEngine, spec)
        self._model = spec.source or spec.id
        self._connection: Connection | None = None

    @classmethod
    def deployment_options(cls, spec: ModelSpec) -> dict[str, Any]:
        """Ray options that ``spec`` asks for."""
        return default_deployment_options(spec)

    @classmethod
    def can_sleep(cls, spec: ModelSpec) -> bool:
        """Only where ``vllm_sleep`` says so."""
        return bool(parse_options(cls, spec).vllm_sleep)

    @classmethod
    def features(cls, spec: ModelSpec) -> dict[str, bool]:
        """What the model declares; nothing else is known of a remote server.

        Example:
            >>> OpenAIEngine.features(
            ...     ModelSpec(id="m", engine="openai", capabilities=("chat", "function_calling"))
            ... )
            {'tools': True}
        """
        declared = canonicals(spec.capabilities)
        return {name: True for name in DECLARED if name in declared}

    async def start(self) -> None:
        """Check, as ``check`` says, that the server answers for the model.

        Raises:
            EngineLoadFailed: It does not; the message says what it said, and what it has.
        """
        self._connection = Connection(self._spec.id, self._options, self._clock)
        try:
            reason = await reason_against(
                self._model, self._spec, self._options, self._server, self.generate
            )
        except HotswapError as error:
            reason = f"does not answer: {_in_full(error)}"
        if reason:
            await self.stop()
            reason = reason.replace(f"{self._spec.id}: ", "")
            raise EngineLoadFailed(f"{self._spec.id}: {self._options.address} {reason}")

    async def generate(self, endpoint: Endpoint, body: dict[str, Any]) -> dict[str, Any]:
        """Answer whole; see ``Engine.generate``."""
        asked = {key: value for key, value in body.items() if key != "stream_options"}
        # A whole answer has its first byte when it is done, so only the total limit fits it.
        limit_s = self._options.total_timeout_s
        async with self._server.post(endpoint, self._request(asked, False), limit_s) as response:
            async with asyncio.timeout(limit_s):
                data = await response.aread()
        try:
            if data.lstrip().startswith((b"data:", b":", b"event:")):
                answer = self._streamed_anyway(endpoint, data)
            else:
                answer = whole(self._spec.id, data)
        except HotswapError as error:
            raise self._server.hidden(error) from None
        usage = LastUsage()
        usage.add(answer.get("usage"))
        return {**answer, "model": self._spec.id, "usage": usage.total()}

    async def stream(
        self, endpoint: Endpoint, body: dict[str, Any]
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Answer in the server's chunks; the last has ``usage`` and no choices.

        Chunks without content (a role) are held until content comes: an error before it is
        raised before anything was yielded, so that another model may answer. Where the server
        counts nothing, ``completion_tokens`` is the number of chunks with content (an
        estimate) and ``prompt_tokens`` is 0.
        """
        request = self._request({**body, "stream_options": {"include_usage": True}}, True)
        reading = StreamReading(self._spec.id, choices_asked(request))
        held: list[dict[str, Any]] = []
        async with (
            self._server.post(endpoint, request) as response,
            aclosing(self._chunks(response, reading)) as chunks,
        ):
            async for chunk in chunks:
                held.append(chunk)
                if reading.has_content:
                    for one in held:
                        yield one
                    held.clear()
        if not reading.has_begun:
            raise EngineUnavailable(f"{self._spec.id}: the server ended the stream at once")
        for one in held:
            yield one
        yield reading.last()

    async def sleep(self) -> None:
        """Let a vLLM server sleep (level 1); others cannot."""
        await self._vllm("sleep?level=1")

    async def wake(self) -> None:
        """Wake a vLLM server."""
        await self._vllm("wake_up")

    async def stop(self) -> None:
        """Close the connections; the server goes on."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    def memory_bytes(self) -> int:
        """0: the memory of a remote server is not known."""
        return 0

    async def check_health(self) -> None:
        """Raise ``EngineUnavailable`` if the server does not answer.

        Without ``health_path`` any answer but a 5xx will do: not every server lists its models,
        and none is asked for a token, which would keep it awake and cost money.
        """
        path = self._options.health_path
        url = "models" if path is None else f"{self._server.root}/{path.lstrip('/')}"
        got = await self._server.fetch(url)
        answers = path is None and got.status < 500
        if got.refusal is not None and not (answers or isinstance(got.refusal, Overloaded)):
            raise EngineUnavailable(got.refusal.message, got.refusal.retry_after_s)

    @property
    def _server(self) -> Connection:
        if self._connection is None:
            raise EngineUnavailable(f"{self._spec.id}: the engine is not started")
        return self._connection

    def _request(self, body: dict[str, Any], stream: bool) -> dict[str, Any]:
        return {**applied(self._options.params, body), "model": self._model, "stream": stream}

    async def _vllm(self, path: str) -> None:
        if not self._options.vllm_sleep:
            raise NotSupported(
                f"{self._spec.id}: a remote server cannot sleep; "
                "for vLLM in development mode set vllm_sleep: true"
            )
        got = await self._server.fetch(f"{self._server.root}/{path}", "POST")
        if got.refusal is not None:
            raise got.refusal

    async def _chunks(
        self, response: httpx.Response, reading: StreamReading
    ) -> AsyncGenerator[dict[str, Any], None]:
        """The chunks of an answer that should be a stream, up to its regular end."""
        try:
            async with aclosing(self._objects(response, reading)) as objects:
                async for value in objects:
                    if (chunk := reading.take(value)) is not None:
                        yield chunk
        except (httpx.TransportError, TimeoutError):
            if not reading.is_complete:
                raise
        except HotswapError as error:
            raise self._server.hidden(error) from None

    async def _objects(
        self, response: httpx.Response, reading: StreamReading
    ) -> AsyncGenerator[dict[str, Any], None]:
        """The JSON objects of the answer; those of a stream that was cut off are no answer."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._options.total_timeout_s
        reader = AnswerReader(self._spec.id)
        parts = response.aiter_bytes()
        while not reader.done:
            rest_s = FINISH_GRACE_S if reading.is_complete else deadline - loop.time()
            async with asyncio.timeout(rest_s):
                part = await anext(parts, None)
            for value in reader.end() if part is None else reader.feed(part):
                yield value
            if part is None:
                break
        if reader.done:  # read to its very end, the connection can be used again
            with suppress(TimeoutError, httpx.TransportError):
                async with asyncio.timeout(CLOSE_GRACE_S):
                    await anext(parts, None)
        if not (reading.is_finished or reader.done):
            raise EngineUnavailable(f"{self._spec.id}: the server cut the stream off")

    def _streamed_anyway(self, endpoint: Endpoint, data: bytes) -> dict[str, Any]:
        """The whole answer of a server that streams whatever it is asked."""
        reading = StreamReading(self._spec.id)
        chunks = [reading.take(parsed(self._spec.id, event)) for event in sse.read(data)]
        if not reading.is_finished:
            raise EngineUnavailable(f"{self._spec.id}: the server cut its answer off")
        return assemble(endpoint, [*filter(None, chunks), reading.last()])


def _in_full(error: HotswapError) -> str:
    """An error with its cause, for the operator who loads the model."""
    return f"{error.message}: {error.__cause__}" if error.__cause__ else error.message
