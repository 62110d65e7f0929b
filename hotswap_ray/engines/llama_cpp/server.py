"""llama.cpp's own server in this process: loading it, asking it, and giving its memory back.

It runs in threads of its own and batches continuously over one slot per request. Its calls block,
so each runs in a worker thread; tokens cross into the event loop by ``call_soon_threadsafe``, and a
request ends early when its token callback returns True.
"""

from __future__ import annotations

import asyncio
import math
import tempfile
import threading
from pathlib import Path
from typing import Any

import httpx

from hotswap_ray.core.errors import EngineLoadFailed, EngineUnavailable, InvalidRequest
from hotswap_ray.core.outcome import Endpoint
from hotswap_ray.core.spec.task import ModelSpec
from hotswap_ray.engines.llama_cpp.options import LlamaCppOptions
from hotswap_ray.engines.llama_cpp.request import Template
from hotswap_ray.engines.llama_cpp.template import BASE_MODEL_TEMPLATE
from hotswap_ray.engines.weights.cache import trim_memory
from hotswap_ray.engines.weights.gguf import chat_template, resolve_source

DONE = object()
TOKENIZE_S = 60.0
"""Longest wait for the tokens of a prompt, in seconds."""


class LlamaServer:
    """A loaded model.

    llama.cpp always listens. On a socket in a private directory nobody else can connect, and
    there is no port to collide or to firewall; it is asked there for what has no call in Python.
    """

    def __init__(
        self, handle: Any, folder: tempfile.TemporaryDirectory[str], template: Template
    ) -> None:
        self.handle: Any = handle
        self.template = template
        self.ends: set[int] = set()
        """Tokens that were seen to end what a grammar holds (``scoring``)."""
        self._folder = folder
        self._http = httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(uds=str(_socket(folder))),
            base_url="http://llama",
            timeout=TOKENIZE_S,
        )

    async def tokenize(self, text: str) -> list[tuple[int, bytes]]:
        """The tokens of a prompt as the model reads it, each with its bytes.

        Raises:
            EngineUnavailable: llama.cpp did not say; it may have been unloaded meanwhile.
        """
        asked = {"content": text, "add_special": True, "parse_special": True, "with_pieces": True}
        found = await self._ask("/tokenize", asked)
        return [(token["id"], _bytes(token["piece"])) for token in found["tokens"]]

    async def text_of(self, tokens: list[int]) -> str:
        """The text that tokens are.

        Raises:
            InvalidRequest: The model has no such tokens.
            EngineUnavailable: llama.cpp did not say; it may have been unloaded meanwhile.
        """
        return str((await self._ask("/detokenize", {"tokens": tokens}))["content"])

    async def _ask(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        try:
            answer = await self._http.post(path, json=body)
        except (httpx.HTTPError, RuntimeError) as error:  # the latter once the client is closed
            raise EngineUnavailable(f"llama.cpp did not answer at {path}: {error}") from error
        if answer.is_error:
            raise InvalidRequest(f"llama.cpp refused at {path}: does the model have these tokens?")
        found: dict[str, Any] = answer.json()
        return found

    async def release(self) -> None:
        """Free the weights; nothing may run any more."""
        holder, self.handle = [self.handle], None
        await self._http.aclose()
        await asyncio.to_thread(_release, holder)
        self._folder.cleanup()


def load(spec: ModelSpec, options: LlamaCppOptions) -> LlamaServer:
    """Load a model; takes seconds to minutes, and blocks.

    Raises:
        EngineLoadFailed: The file is missing, damaged or of an unknown kind.
    """
    path = resolve_source(spec.source)
    try:
        import xllamacpp
    except ImportError as error:
        raise EngineLoadFailed(
            "llama.cpp is not installed; run: pip install 'hotswap_ray[cpu]'"
        ) from error
    own = options.chat_template or chat_template(path)
    template = Template(own or BASE_MODEL_TEMPLATE, is_plain=own is None)
    folder = tempfile.TemporaryDirectory(prefix="hotswap-")
    try:
        params = _params(xllamacpp, spec, options, path)
        params.hostnames = [str(_socket(folder))]
        if template.is_plain or options.chat_template:
            params.chat_template = template.text
        return LlamaServer(xllamacpp.Server(params), folder, template)
    except RuntimeError as error:
        folder.cleanup()
        raise EngineLoadFailed(
            f"llama.cpp could not load {path} ({path.stat().st_size} bytes): it is cut "
            "short, damaged or of an unknown architecture, or memory is short; "
            "llama.cpp's own words are in this replica's log"
        ) from error


def _params(xllamacpp: Any, spec: ModelSpec, options: LlamaCppOptions, path: Path) -> Any:
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.model_alias = {spec.id}
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
    return params


class Call:
    """One request inside llama.cpp: runs in a worker thread, read from the event loop."""

    def __init__(self, server: LlamaServer, endpoint: Endpoint, body: dict[str, Any]) -> None:
        self._handle = server.handle
        self._endpoint = endpoint
        self._body = body
        self._loop = asyncio.get_running_loop()
        self.queue: asyncio.Queue[Any] = asyncio.Queue()
        self.cancelled = threading.Event()

    def run(self) -> None:
        """Generate until the end, an error, or ``cancelled``; then put ``DONE``."""
        try:
            if not self.cancelled.is_set():
                handle = (
                    self._handle.handle_completions
                    if self._endpoint == "completions"
                    else self._handle.handle_chat_completions
                )
                handle(self._body, self._on_chunk)
        finally:
            self._handle = None  # the last reference frees the weights
            self._put(DONE)

    def _on_chunk(self, chunk: dict[str, Any]) -> bool:
        """Hand a chunk over; True makes llama.cpp stop and free the slot."""
        self._put(chunk)
        return self.cancelled.is_set()

    def _put(self, item: Any) -> None:
        if self._loop.is_closed():
            self.cancelled.set()
        else:
            self._loop.call_soon_threadsafe(self.queue.put_nowait, item)


def _socket(folder: tempfile.TemporaryDirectory[str]) -> Path:
    return Path(folder.name) / "llama.sock"


def _bytes(piece: str | list[int]) -> bytes:
    """The bytes of a token; llama.cpp writes those that are no text as a list."""
    return piece.encode() if isinstance(piece, str) else bytes(piece)


def _release(holder: list[Any]) -> None:
    """Drop the server in this thread (it joins its own) and give the heap back."""
    holder.clear()
    trim_memory()
