"""What the vLLM engine needs at vLLM's own places: its workers, its hooks, its processes."""

from __future__ import annotations

import importlib
import multiprocessing
from types import SimpleNamespace
from typing import Any

import psutil

STOP_GRACE_S = 10.0
"""Seconds that vLLM's processes get to end by themselves."""


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


def vllm_processes() -> list[psutil.Process]:
    """vLLM's processes: what ``multiprocessing`` started here, and their children."""
    found = []
    for child in multiprocessing.active_children():
        try:
            process = psutil.Process(child.pid)
            found += [process, *process.children(recursive=True)]
        except psutil.NoSuchProcess:
            continue
    return found


def end_processes(processes: list[psutil.Process]) -> None:
    """Wait for ``processes`` to end; kill those that do not."""
    _, alive = psutil.wait_procs(processes, timeout=STOP_GRACE_S)
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
