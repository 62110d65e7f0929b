"""llama.cpp inside the replica, by xllamacpp: the default engine on CPUs.

llama.cpp's own server runs in threads of this process and batches continuously over one
slot per request. Its calls block, so each runs in a worker thread; tokens cross into the
event loop by ``call_soon_threadsafe``, and a request ends early when its token callback
returns True. A whole answer is streamed inside for the same reason: nothing else in
llama.cpp can be cancelled.
"""

from __future__ import annotations

import asyncio
import math
import tempfile
import threading
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, Literal

import psutil
from pydantic import BaseModel, ConfigDict, Field

from hotswap_ray.core.errors import (
    EngineError,
    EngineLoadFailed,
    EngineUnavailable,
    InvalidRequest,
)
from hotswap_ray.core.outcome import Endpoint
from hotswap_ray.core.spec.task import ModelSpec
from hotswap_ray.engines.answers import UsageSum, assemble
from hotswap_ray.engines.base import default_deployment_options, parse_options
from hotswap_ray.engines.weights.cache import trim_memory
from hotswap_ray.engines.weights.gguf import has_chat_template, resolve_source

BASE_MODEL_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}Q: {{ message['content'] }}\n"
    "{% elif message['role'] == 'assistant' %}A: {{ message['content'] }}\n"
    "{% else %}{{ message['content'] }}\n{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}A:{% endif %}"
)
"""How messages are written for a base model, one that knows no chat format."""
BASE_MODEL_STOP = "\nQ:"

_DONE = object()


class LlamaCppOptions(BaseModel):
    """Options of the llama.cpp engine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    threads: int | None = Field(
        None, ge=1, le=1024, description="Threads; the CPUs reserved in Ray if unset."
    )
    chat_template: str | None = Field(
        None,
        max_length=100_000,
        description="Jinja chat template; if unset the file's own, or questions and answers.",
    )
    gpu_layers: int = Field(0, ge=-1, le=10_000, description="Layers on the GPU; -1 is all.")
    seed: int | None = Field(None, ge=0, le=2**32 - 2, description="Seed; random if unset.")
    temperature: float = Field(0.8, ge=0, le=2, description="Used when a request states none.")
    batch_tokens: int = Field(512, ge=32, le=8192, description="Prompt tokens computed at once.")
    prompt_cache_mib: int = Field(
        0, ge=0, le=1_048_576, description="Memory to keep prompts of former requests in."
    )
    poll: int = Field(
        0, ge=0, le=100, description="Share of the time idle threads spin; slows neighbours."
    )


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
        self._server: Any = None
        self._workers = ThreadPoolExecutor(
            # Cancelled requests hold a thread until their next token, so twice the slots.
            max_workers=2 * spec.max_ongoing_requests,
            thread_name_prefix=f"llama-{spec.id}",
        )
        self._changing = asyncio.Lock()
        self._running: dict[_Call, asyncio.Future[None]] = {}
        self._plain_chat = False

    @classmethod
    def deployment_options(cls, spec: ModelSpec) -> dict[str, Any]:
        """Ray options that ``spec`` asks for."""
        return default_deployment_options(spec)

    @classmethod
    def can_sleep(cls, spec: ModelSpec) -> bool:
        """Always: the weights are freed and read again."""
        return True

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
            self._server = await asyncio.to_thread(self._load)
            self._state = "ready"

    async def generate(self, endpoint: Endpoint, body: dict[str, Any]) -> dict[str, Any]:
        """Answer whole; see ``Engine.generate``."""
        chunks = [chunk async for chunk in self.stream(endpoint, body)]
        return assemble(endpoint, chunks)

    async def stream(
        self, endpoint: Endpoint, body: dict[str, Any]
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Answer token by token; the last chunk has ``usage`` and no choices."""
        self._check_ready()
        call = _Call(self._server, endpoint, self._request(endpoint, body))
        future = asyncio.get_running_loop().run_in_executor(self._workers, call.run)
        self._running[call] = future
        future.add_done_callback(lambda _: self._running.pop(call))
        usage = UsageSum(many_prompts=isinstance(body.get("prompt"), list))
        head: dict[str, Any] = {}
        try:
            while (chunk := await call.queue.get()) is not _DONE:
                if chunk is None:  # so llama.cpp begins the answer to several prompts
                    continue
                if error := chunk.get("error"):
                    raise self._error(error)
                chunk.pop("timings", None)
                usage.add(chunk.pop("usage", None))
                if chunk["choices"]:
                    head = chunk
                    yield chunk
            await future
            if call.cancelled.is_set():
                raise EngineUnavailable(f"{self._spec.id}: stopped while it answered")
        except (ValueError, RuntimeError) as error:
            # llama.cpp raises while it reads a request, and reports what comes later.
            raise InvalidRequest(f"{self._spec.id}: {error}") from error
        finally:
            call.cancelled.set()
        yield {**head, "choices": [], "usage": usage.total()}

    async def sleep(self) -> None:
        """Free the weights once the requests in flight have ended."""
        async with self._changing:
            if self._state == "asleep":
                return
            self._check_ready()
            self._state = "asleep"
            await self._unload()

    async def wake(self) -> None:
        """Load the weights again; at once if awake."""
        async with self._changing:
            if self._state == "asleep":
                self._server = await asyncio.to_thread(self._load)
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

    def _check_ready(self) -> None:
        if self._state != "ready":
            raise EngineUnavailable(f"{self._spec.id}: the engine is {self._state}")

    def _load(self) -> Any:
        path = resolve_source(self._spec.source)
        try:
            import xllamacpp
        except ImportError as error:
            raise EngineLoadFailed(
                "llama.cpp is not installed; run: pip install 'hotswap_ray[cpu]'"
            ) from error
        # llama.cpp always listens. In a private directory nobody else can connect, and
        # there is no port to collide or to firewall.
        with tempfile.TemporaryDirectory(prefix="hotswap-") as private:
            try:
                return xllamacpp.Server(self._params(xllamacpp, path, Path(private)))
            except RuntimeError as error:
                raise EngineLoadFailed(
                    f"llama.cpp could not load {path} ({path.stat().st_size} bytes): it is cut "
                    "short, damaged or of an unknown architecture, or memory is short; "
                    "llama.cpp's own words are in this replica's log"
                ) from error

    def _params(self, xllamacpp: Any, path: Path, private: Path) -> Any:
        spec, options = self._spec, self._options
        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.model_alias = {spec.id}
        params.hostnames = [str(private / "llama.sock")]
        params.ui = params.endpoint_slots = False
        params.verbosity = 1  # errors only
        params.n_parallel = spec.max_ongoing_requests
        params.n_ctx = spec.context_tokens * spec.max_ongoing_requests
        params.fit_params = False  # it would shrink the context without a word
        params.n_batch = max(options.batch_tokens, params.n_parallel)
        params.n_ubatch = params.n_batch
        params.n_gpu_layers = options.gpu_layers
        params.cache_ram_mib = options.prompt_cache_mib
        threads = options.threads or max(1, math.ceil(spec.resources.num_cpus))
        for cpu in (params.cpuparams, params.cpuparams_batch):
            cpu.n_threads = threads
            cpu.poll = options.poll
        params.sampling.temp = options.temperature
        if options.seed is not None:
            params.sampling.seed = options.seed
        self._plain_chat = options.chat_template is None and not has_chat_template(path)
        if self._plain_chat:
            params.chat_template = BASE_MODEL_TEMPLATE
        elif options.chat_template is not None:
            params.chat_template = options.chat_template
        return params

    def _request(self, endpoint: Endpoint, body: dict[str, Any]) -> dict[str, Any]:
        """The body for llama.cpp: always streamed, with usage and a bounded length."""
        if endpoint == "chat/completions" and not body.get("messages"):
            raise InvalidRequest("chat completions need messages, a list that is not empty")
        if endpoint == "completions" and not body.get("prompt"):
            raise InvalidRequest("completions need a prompt, a string that is not empty")
        request = {**body, "stream": True, "stream_options": {"include_usage": True}}
        limit = body.get("max_tokens", body.get("max_completion_tokens"))
        if limit is None:
            # OpenAI's default for completions; a chat answer ends at the context's end.
            limit = 16 if endpoint == "completions" else self._spec.context_tokens
        if not isinstance(limit, int) or limit < 1:
            raise InvalidRequest(f"max_tokens must be a positive integer, not {limit!r}")
        request["max_tokens"] = limit
        if endpoint == "chat/completions" and self._plain_chat:
            stop = body.get("stop") or []
            request["stop"] = [*([stop] if isinstance(stop, str) else stop), BASE_MODEL_STOP]
        return request

    def _error(self, error: dict[str, Any]) -> InvalidRequest | EngineError:
        """The typed error for an error object of llama.cpp."""
        code, message = error.get("code"), str(error.get("message"))
        if error.get("type") == "exceed_context_size_error":
            return InvalidRequest(
                f"the prompt has {error.get('n_prompt_tokens')} tokens, but the context of "
                f"{self._spec.id} is {error.get('n_ctx')} tokens"
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
        await asyncio.to_thread(_release, [server])
        del server


class _Call:
    """One request inside llama.cpp: runs in a worker thread, read from the event loop."""

    def __init__(self, server: Any, endpoint: Endpoint, body: dict[str, Any]) -> None:
        self._server = server
        self._endpoint = endpoint
        self._body = body
        self._loop = asyncio.get_running_loop()
        self.queue: asyncio.Queue[Any] = asyncio.Queue()
        self.cancelled = threading.Event()

    def run(self) -> None:
        """Generate until the end, an error, or ``cancelled``; then put ``_DONE``."""
        try:
            if not self.cancelled.is_set():
                handle = (
                    self._server.handle_completions
                    if self._endpoint == "completions"
                    else self._server.handle_chat_completions
                )
                handle(self._body, self._on_chunk)
        finally:
            self._server = None  # the last reference frees the weights
            self._put(_DONE)

    def _on_chunk(self, chunk: dict[str, Any]) -> bool:
        """Hand a chunk over; True makes llama.cpp stop and free the slot."""
        self._put(chunk)
        return self.cancelled.is_set()

    def _put(self, item: Any) -> None:
        if self._loop.is_closed():
            self.cancelled.set()
        else:
            self._loop.call_soon_threadsafe(self.queue.put_nowait, item)


def _release(holder: list[Any]) -> None:
    """Drop the server in this thread (it joins its own) and give the heap back."""
    holder.clear()
    trim_memory()
