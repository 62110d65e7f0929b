"""What surrounds vLLM in a replica: its errors, its log, its workers and its processes."""

from __future__ import annotations

import asyncio
import importlib
import multiprocessing
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import orjson
import psutil
from ray.exceptions import RayError

from hotswap_ray.core.errors import (
    ContextExceeded,
    EngineError,
    EngineUnavailable,
    InvalidRequest,
)
from hotswap_ray.engines import sse

STOP_GRACE_S = 10.0
"""Seconds that vLLM's processes get to end by themselves."""

_ERROR_LINE = re.compile(r"((?:\w+\.)*\w*Error: (?!Engine core init).+)")

_TOO_LONG = re.compile(r"maximum (?:context|model|input) length|max_model_len", re.IGNORECASE)

LOAD_ERRORS = (
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    RayError,
)
"""What vLLM and Ray raise for a model, an argument or a machine that does not fit."""


@dataclass(frozen=True)
class VllmErrors:
    """What vLLM raises while serving, by who is to blame."""

    client: tuple[type[Exception], ...] = (ValueError,)
    dead: tuple[type[Exception], ...] = ()
    server: tuple[type[Exception], ...] = LOAD_ERRORS

    @classmethod
    def of_installed_vllm(cls) -> VllmErrors:
        """The classes of the installed vLLM; one tree with a common root since 0.27."""
        public = importlib.import_module("vllm.exceptions")
        engine = importlib.import_module("vllm.v1.engine.exceptions")
        failed = engine.EngineGenerateError
        return cls(
            client=(ValueError, getattr(public, "VLLMClientError", ValueError)),
            dead=(engine.EngineDeadError,),
            server=(*LOAD_ERRORS, failed, getattr(public, "VLLMError", failed)),
        )

    @contextmanager
    def translated(self, model: str) -> Iterator[None]:
        """Raise what vLLM raises inside as errors of hotswap_ray; ``model`` is named."""
        try:
            yield
        except self.client as error:
            raise client_error(str(error)) from error
        except self.dead as error:
            raise EngineUnavailable(f"vLLM died serving {model!r}: {error}") from error
        except self.server as error:
            raise EngineError(f"vLLM failed serving {model!r}: {error}") from error


class LogMark:
    """Where this process's log ends now, to quote later what its children wrote since.

    Why a process of vLLM could not start is only in the log; its parent merely learns that
    it ended.
    """

    def __init__(self) -> None:
        self._ends: dict[str, int] = {}
        for stream in (1, 2):
            try:
                path = os.readlink(f"/proc/self/fd/{stream}")
                self._ends[path] = os.stat(path).st_size
            except OSError:  # a pipe, or no such file system
                continue

    def first_error(self) -> str | None:
        """The first error named since, or ``None``; the later ones are its consequences."""
        for path, end in self._ends.items():
            try:
                with open(path, errors="replace") as file:
                    file.seek(end)
                    match = _ERROR_LINE.search(file.read())
            except OSError:
                continue
            if match:
                return match[1].strip()
        return None


class DeviceMemory:
    """Methods that vLLM adds to its workers (``worker_extension_cls``)."""

    def hotswap_device_bytes(self) -> int:
        """Memory in use on this worker's GPU, by whomever; 0 on CPUs."""
        torch = importlib.import_module("torch")
        if not torch.cuda.is_available():
            return 0
        free, total = torch.cuda.mem_get_info()
        return int(total - free)


class NoDownload:
    """Ray's hooks around loading (its ``CallbackBase``): there is nothing to download."""

    def __init__(self, *, ctx_kwargs: dict[str, Any], **_: Any) -> None:
        self.ctx = SimpleNamespace(**ctx_kwargs, custom_data={}, run_init_node=False)

    async def run_callback(self, method_name: str) -> None:
        """Do nothing at ``method_name``."""


def parse_events(text: str) -> list[dict[str, Any]]:
    r"""Read server-sent events.

    Example:
        >>> parse_events('data: {"id": 1}\n\ndata: [DONE]\n\n')
        [{'id': 1}]
    """
    return [orjson.loads(event) for event in sse.read(text.encode()) if event.startswith("{")]


def client_error(message: str) -> InvalidRequest:
    """The error for what vLLM refuses; it has one code for all, and says which only in words.

    Example:
        >>> client_error("This model's maximum context length is 8 tokens. However, ...").code
        'context_length_exceeded'
        >>> client_error("temperature must be non-negative").code
        'invalid_request'
    """
    return ContextExceeded(message) if _TOO_LONG.search(message) else InvalidRequest(message)


def typed_error(error: dict[str, Any]) -> EngineError | InvalidRequest:
    """The typed error for vLLM's error object."""
    code, message = int(error.get("code") or 500), str(error.get("message"))
    if 400 <= code < 500:
        return client_error(message)
    return EngineUnavailable(message) if code == 503 else EngineError(message)


def raise_if_cancelled() -> None:
    """Cancel again: vLLM answers a cancelled request with an error object instead."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def started_processes() -> frozenset[int]:
    """Ids of what ``multiprocessing`` started in this process and still runs."""
    return frozenset(child.pid for child in multiprocessing.active_children() if child.pid)


def vllm_processes(others: frozenset[int]) -> list[psutil.Process]:
    """An engine's processes and their children: all started here but ``others``."""
    processes = []
    for pid in started_processes() - others:
        try:
            process = psutil.Process(pid)
            processes += [process, *process.children(recursive=True)]
        except psutil.NoSuchProcess:
            continue
    return processes


def end_processes(tree: list[psutil.Process]) -> None:
    """Wait until vLLM's processes, ``tree``, have ended; kill those that do not in time."""
    pids = {process.pid for process in tree}
    for child in multiprocessing.active_children():
        if child.pid not in pids:
            continue
        # Only its own `join` may reap it; else multiprocessing counts it as alive for ever.
        child.join(STOP_GRACE_S)
        if child.is_alive():
            child.kill()
            child.join(STOP_GRACE_S)
    _, alive = psutil.wait_procs(tree, timeout=STOP_GRACE_S)
    for process in alive:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(alive, timeout=STOP_GRACE_S)


def resident_bytes(process: psutil.Process) -> int:
    """Resident memory of ``process``; 0 once it is gone."""
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0
