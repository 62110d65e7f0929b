"""llama.cpp inside the replica, by xllamacpp: the default engine on CPUs.

A whole answer is streamed inside: nothing else in llama.cpp can be cancelled.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from functools import partial
from typing import Any, ClassVar, Literal
from uuid import uuid4

import psutil
from pydantic import BaseModel

from hotswap_ray.core.errors import EngineError, EngineUnavailable, InvalidRequest
from hotswap_ray.core.fit.capabilities import canonicals
from hotswap_ray.core.outcome import Endpoint
from hotswap_ray.core.spec.task import ModelSpec
from hotswap_ray.engines.answers import assemble
from hotswap_ray.engines.base import default_deployment_options, parse_options
from hotswap_ray.engines.body.refusals import context_exceeded
from hotswap_ray.engines.llama_cpp.answer import ChunkShaper, UsageCount
from hotswap_ray.engines.llama_cpp.echo import EchoedPrompt, read_prompt
from hotswap_ray.engines.llama_cpp.options import LlamaCppOptions
from hotswap_ray.engines.llama_cpp.request import LlamaRequest, read_request
from hotswap_ray.engines.llama_cpp.server import DONE, Call, LlamaServer, load


class LlamaCppEngine:
    """Serves one GGUF model.

    ``spec.context_tokens`` holds for each request in flight; llama.cpp rounds it up to a
    multiple of 256.
    """

    Options: ClassVar[type[BaseModel]] = LlamaCppOptions

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec
        self._options: LlamaCppOptions = parse_options(LlamaCppEngine, spec)
        self._state: Literal["new", "ready", "asleep", "stopped"] = "new"
        self._server: LlamaServer | None = None
        self._workers = ThreadPoolExecutor(
            # Cancelled requests hold a thread until their next token, so twice the slots.
            max_workers=2 * spec.max_ongoing_requests,
            thread_name_prefix=f"llama-{spec.id}",
        )
        self._changing = asyncio.Lock()
        self._running: dict[Call, asyncio.Future[None]] = {}

    @classmethod
    def deployment_options(cls, spec: ModelSpec) -> dict[str, Any]:
        """Ray options that ``spec`` asks for."""
        return default_deployment_options(spec)

    @classmethod
    def can_sleep(cls, spec: ModelSpec) -> bool:
        """Always: the weights are freed and read again."""
        return True

    @classmethod
    def features(cls, spec: ModelSpec) -> dict[str, bool]:
        """What it surely does and surely lacks, before anything is loaded.

        Tools are a matter of the chat template, which is in the weights: who declares them is
        trusted.
        """
        return {
            "tools": "tools" in canonicals(spec.capabilities),
            "json": True,
            "vision": False,
            "logprobs": True,
            "n": True,
        }

    @property
    def in_flight(self) -> int:
        """Generations that llama.cpp still works on, cancelled ones included."""
        return len(self._running)

    async def start(self) -> None:
        """Load the weights in a thread.

        Raises:
            EngineLoadFailed: The file is missing, damaged or of an unknown kind.
        """
        async with self._changing:
            self._server = await asyncio.to_thread(load, self._spec, self._options)
            self._state = "ready"

    async def generate(self, endpoint: Endpoint, body: dict[str, Any]) -> dict[str, Any]:
        """Answer whole; see ``Engine.generate``."""
        chunks = [chunk async for chunk in self.stream(endpoint, body)]
        return assemble(endpoint, chunks)

    async def stream(
        self, endpoint: Endpoint, body: dict[str, Any]
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Answer token by token; the last chunk has ``usage`` and no choices."""
        server = self._ready_server()
        request = read_request(self._spec, server.template, endpoint, body)
        usage, head = UsageCount(request.n), {}
        answer = self._echoed if request.echo else self._answered
        async with aclosing(answer(server, request, usage)) as chunks:
            async for chunk in chunks:
                head = chunk
                yield chunk
        yield {**head, "choices": [], "usage": usage.total()}

    async def _answered(
        self, server: LlamaServer, request: LlamaRequest, usage: UsageCount
    ) -> AsyncGenerator[dict[str, Any], None]:
        shaper = ChunkShaper(request)
        async with aclosing(self._chunks(server, request.endpoint, request.body)) as chunks:
            async for chunk in chunks:
                usage.add(chunk.pop("usage", None) or {})
                if chunk["choices"] and (shaped := shaper.shape(chunk)) is not None:
                    yield shaped

    async def _echoed(
        self, server: LlamaServer, request: LlamaRequest, usage: UsageCount
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Prompt by prompt: each is told, with its logprobs if asked, then gone on with."""
        shaper = ChunkShaper(request)
        ask = partial(self._chunks, server, "completions")
        own = {"id": f"cmpl-{uuid4().hex}"}  # llama.cpp has one for each prompt that it is asked
        for number, prompt in enumerate(request.prompts):
            echoed: EchoedPrompt = await read_prompt(server, prompt)
            if len(echoed.tokens) >= self._spec.context_tokens:
                raise context_exceeded(self._spec.id, len(echoed.tokens), self._spec.context_tokens)
            if request.top_logprobs is not None:
                await echoed.score(ask, request.top_logprobs)
            first = number * request.n
            for index in range(first, first + request.n):
                yield own | echoed.chunk(self._spec.id, request, index, shaper.legacy(index))
            if request.body["max_tokens"] == 0:
                usage.add_prompt(len(echoed.tokens))
                continue
            body = request.body | {"prompt": echoed.tokens}
            async with aclosing(self._chunks(server, "completions", body)) as chunks:
                async for chunk in chunks:
                    usage.add(chunk.pop("usage", None) or {})
                    for choice in chunk["choices"]:
                        choice["index"] += first
                    if chunk["choices"] and (shaped := shaper.shape(chunk)) is not None:
                        yield shaped | own

    async def _chunks(
        self, server: LlamaServer, endpoint: Endpoint, body: dict[str, Any]
    ) -> AsyncGenerator[dict[str, Any], None]:
        """What llama.cpp says, its errors raised as ours."""
        if server.handle is None:  # unloaded between two prompts of one request
            raise EngineUnavailable(f"{self._spec.id}: the engine is {self._state}")
        call = Call(server, endpoint, body)
        future = asyncio.get_running_loop().run_in_executor(self._workers, call.run)
        self._running[call] = future
        future.add_done_callback(lambda _: self._running.pop(call))
        try:
            while (chunk := await call.queue.get()) is not DONE:
                if chunk is None:  # so llama.cpp begins the answer to several prompts
                    continue
                if error := chunk.get("error"):
                    raise self._error(error)
                chunk.pop("timings", None)
                yield chunk
            await future
            if call.cancelled.is_set():
                raise EngineUnavailable(f"{self._spec.id}: stopped while it answered")
        except (ValueError, RuntimeError) as error:
            # llama.cpp raises while it reads a request, and reports what comes later.
            raise InvalidRequest(f"{self._spec.id}: {error}") from error
        finally:
            call.cancelled.set()

    async def sleep(self) -> None:
        """Free the weights once the requests in flight have ended."""
        async with self._changing:
            if self._state == "asleep":
                return
            self._ready_server()
            self._state = "asleep"
            await self._unload()

    async def wake(self) -> None:
        """Load the weights again; at once if awake."""
        async with self._changing:
            if self._state == "asleep":
                self._server = await asyncio.to_thread(load, self._spec, self._options)
                self._state = "ready"

    async def stop(self) -> None:
        """Cancel what runs and free everything."""
        async with self._changing:
            self._state = "stopped"
            for call in self._running:
                call.cancelled.set()
            await self._unload()
            self._workers.shutdown(wait=False)

    def memory_bytes(self) -> int:
        """Resident memory of this process, weights included."""
        return int(psutil.Process().memory_info().rss)

    async def check_health(self) -> None:
        """Raise ``EngineUnavailable`` before ``start`` and after ``stop``."""
        if self._state in ("new", "stopped"):
            raise EngineUnavailable(f"{self._spec.id}: the engine is {self._state}")

    def _ready_server(self) -> LlamaServer:
        if self._state != "ready" or self._server is None:
            raise EngineUnavailable(f"{self._spec.id}: the engine is {self._state}")
        return self._server

    def _error(self, error: dict[str, Any]) -> InvalidRequest | EngineError:
        """The typed error for an error object of llama.cpp."""
        code, message = error.get("code"), str(error.get("message"))
        if error.get("type") == "exceed_context_size_error":
            return context_exceeded(
                self._spec.id, int(error["n_prompt_tokens"]), int(error["n_ctx"])
            )
        if code in (400, 404, 422, 501):
            return InvalidRequest(f"{self._spec.id}: {message}")
        if code == 503:
            return EngineUnavailable(f"{self._spec.id}: {message}", 1.0)
        return EngineError(f"{self._spec.id}: {message}")

    async def _unload(self) -> None:
        while self._running:
            await asyncio.wait(self._running.values())
        server, self._server = self._server, None
        if server is not None:
            await server.release()
