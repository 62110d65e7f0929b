"""vLLM inside the replica, by Ray's own ``LLMServer``: the default engine on GPUs.

Ray maps ``LLMConfig`` to vLLM, places its workers and keeps up with its releases; this file
turns what ``LLMServer`` answers into dict chunks and typed errors, and gives back what it
leaves behind: the EngineCore process, which Ray frees only by killing the replica.

vLLM is imported by ``start``, in the replica. The controller, which only asks for
``deployment_options``, needs neither vLLM nor a GPU.
"""

from __future__ import annotations

import asyncio
import importlib
import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any, ClassVar, NoReturn

import psutil
from pydantic import BaseModel

from hotswap_ray.core.errors import (
    ConfigError,
    EngineError,
    EngineLoadFailed,
    EngineUnavailable,
    InvalidRequest,
)
from hotswap_ray.core.fit.capabilities import canonicals
from hotswap_ray.core.outcome import Endpoint
from hotswap_ray.core.spec.task import ModelSpec
from hotswap_ray.engines.base import default_deployment_options, parse_options
from hotswap_ray.engines.vllm.options import VllmOptions
from hotswap_ray.engines.vllm.request import as_asked, has_tools, read_request
from hotswap_ray.engines.vllm.runtime import (
    STOP_GRACE_S,
    DeviceMemory,
    LogMark,
    NoDownload,
    VllmErrors,
    end_processes,
    parse_events,
    raise_if_cancelled,
    resident_bytes,
    started_processes,
    typed_error,
    vllm_processes,
)


class VllmEngine:
    """Serves one model with vLLM; requests in flight share its continuous batch."""

    Options: ClassVar[type[BaseModel]] = VllmOptions

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec
        self._options: VllmOptions = parse_options(type(self), spec)
        self._server: Any = None
        self._asleep, self._device_bytes = False, 0
        self._others = started_processes()
        self._tree: list[psutil.Process] = []
        self._errors = VllmErrors()

    @classmethod
    def deployment_options(cls, spec: ModelSpec) -> dict[str, Any]:
        """Reserve the replica and vLLM's workers as one placement group.

        On CPUs the workers are child processes of the replica, so one bundle with
        ``num_cpus`` holds everything. On GPUs they are Ray actors: a bundle for each, and
        the replica sits in the first without a GPU of its own.

        Raises:
            ConfigError: ``accelerator: gpu`` without ``num_gpus``, or cpu with them.
        """
        options: VllmOptions = parse_options(cls, spec)
        resources = spec.resources
        actor = default_deployment_options(spec)["ray_actor_options"]
        actor.pop("accelerator_type", None)
        actor["num_gpus"] = 0
        reserved = {"CPU": resources.num_cpus, "memory": resources.memory_bytes}
        replica = {name: amount for name, amount in reserved.items() if amount > 0}
        if _on_gpu(spec, options):
            worker: dict[str, float] = {"GPU": resources.num_gpus}
            if resources.accelerator_type is not None:
                worker[f"accelerator_type:{resources.accelerator_type}"] = 0.001
            pipeline = int(options.engine_kwargs.get("pipeline_parallel_size", 1))
            bundles = [dict(worker) for _ in range(resources.tensor_parallel * pipeline)]
            bundles[0].update(replica)
        else:
            # Ray refuses an empty bundle, and without a group LLMServer makes its own.
            bundles = [replica or {"CPU": 0.001}]
        return {
            "ray_actor_options": actor,
            "placement_group_bundles": bundles,
            "placement_group_strategy": options.placement_strategy,
        }

    @classmethod
    def can_sleep(cls, spec: ModelSpec) -> bool:
        """Always: natively on GPUs, by ending vLLM's processes elsewhere."""
        return True

    @classmethod
    def features(cls, spec: ModelSpec) -> dict[str, bool]:
        """What it surely does and surely lacks, by what is declared and set."""
        options: VllmOptions = parse_options(cls, spec)
        return {
            "tools": has_tools(spec, options.engine_kwargs),
            "json": True,
            "vision": "vision" in canonicals(spec.capabilities),
            "logprobs": True,
            "n": True,
        }

    async def start(self) -> None:
        """Load the model; nothing of a failed load stays behind.

        vLLM blocks the event loop while it loads, as it does in Ray's own deployment; the
        replica serves nothing else yet.

        Raises:
            EngineLoadFailed: vLLM, the weights or an engine argument; the message says which.
        """
        if self._server is not None:
            return
        ready = False
        mark, self._others = LogMark(), started_processes()
        try:
            await self._load()
            ready = True
        except self._errors.server as error:
            cause = mark.first_error()
            reason = f"{error}; its log says: {cause}" if cause else error
            raise EngineLoadFailed(f"vLLM could not load {self._spec.id!r}: {reason}") from error
        finally:
            if not ready:
                await self.stop()

    async def _load(self) -> None:
        # Else vLLM binds one thread to every core, and two replicas fight for them.
        os.environ["OMP_NUM_THREADS"] = str(max(1, int(self._spec.resources.num_cpus)))
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        if 0 < self._spec.resources.num_gpus < 1:
            os.environ["VLLM_RAY_PER_WORKER_GPUS"] = str(self._spec.resources.num_gpus)
        llm = await asyncio.to_thread(importlib.import_module, "ray.serve.llm")
        self._errors = VllmErrors.of_installed_vllm()
        # Its finalizer is a coroutine that only Serve awaits; `stop` does what it would.
        server: Any = type("Server", (llm.LLMServer,), {"__del__": lambda _: None})
        self._server = server.sync_init(llm.LLMConfig(**self._llm_config()))
        await self._server.start()
        self._tree = vllm_processes(self._others)
        await self._measure()

    def _llm_config(self) -> dict[str, Any]:
        """Keyword arguments of ``ray.serve.llm.LLMConfig``."""
        spec, options = self._spec, self._options
        gpu = _on_gpu(spec, options)
        engine_kwargs = {
            "max_num_seqs": spec.max_ongoing_requests,
            "enable_sleep_mode": gpu,
            "worker_extension_cls": _path(DeviceMemory),
            **options.engine_kwargs,
            "max_model_len": spec.context_tokens,
            "tensor_parallel_size": spec.resources.tensor_parallel,
        }
        config: dict[str, Any] = {
            "model_loading_config": {"model_id": spec.id, "model_source": spec.source or spec.id},
            "accelerator_config": {"kind": "gpu" if gpu else "cpu"},
            "accelerator_type": spec.resources.accelerator_type if gpu else None,
            "engine_kwargs": engine_kwargs,
            "experimental_configs": {
                "stream_batching_interval_ms": options.stream_batching_interval_ms
            },
            "log_engine_metrics": options.engine_metrics,
        }
        if "://" not in (spec.source or ""):
            # Saves a second process that imports vLLM only to find nothing to download.
            config["callback_config"] = {"callback_class": _path(NoDownload)}
        return config

    async def generate(self, endpoint: Endpoint, body: dict[str, Any]) -> dict[str, Any]:
        """Answer whole, as an OpenAI response object."""
        request = read_request(self._spec, self._options.engine_kwargs, endpoint, body)
        items = self._items(endpoint, {**request.body, "stream": False, "stream_options": None})
        async with aclosing(items):
            async for item in items:
                return as_asked(request, item.model_dump(mode="json"))
        raise EngineError(f"vLLM gave no answer for {self._spec.id!r}")

    async def stream(
        self, endpoint: Endpoint, body: dict[str, Any]
    ) -> AsyncIterator[dict[str, Any]]:
        """Answer in OpenAI chunk objects; the last one has ``usage`` and no choices."""
        request = read_request(self._spec, self._options.engine_kwargs, endpoint, body)
        options = {**(request.body.get("stream_options") or {}), "include_usage": True}
        told = {**request.body, "stream": True, "stream_options": options}
        items = self._items(endpoint, told)
        async with aclosing(items):
            async for item in items:
                for chunk in parse_events(item):
                    if "error" in chunk:
                        await self._fail(chunk["error"])
                    yield as_asked(request, chunk)

    async def _items(self, endpoint: Endpoint, body: dict[str, Any]) -> AsyncGenerator[Any, None]:
        """What LLMServer yields, one by one; its errors raised as ours."""
        server, body["model"] = self._awake_server(), self._spec.id
        with self._errors.translated(self._spec.id):
            requests = importlib.import_module("ray.serve.llm.openai_api_models")
            if endpoint == "chat/completions":
                answers = await server.chat(requests.ChatCompletionRequest(**body))
            else:
                answers = await server.completions(requests.CompletionRequest(**body))
            async with aclosing(answers):
                async for answer in answers:
                    for item in answer if isinstance(answer, list) else [answer]:
                        raise_if_cancelled()
                        if (error := getattr(item, "error", None)) is not None:
                            await self._fail(error.model_dump())
                        yield item

    async def _fail(self, error: dict[str, Any]) -> NoReturn:
        """Raise the typed error; one that vLLM died of looks like any other in a stream."""
        typed = typed_error(error)
        if not isinstance(typed, InvalidRequest):
            await self.check_health()
        raise typed

    def _awake_server(self) -> Any:
        if self._server is None or self._asleep:
            raise EngineUnavailable(f"{self._spec.id!r} is asleep or not loaded")
        return self._server

    async def sleep(self) -> None:
        """Free the cache and, by ``sleep_level``, the weights.

        Where vLLM has no sleep (CPUs, where its own call does nothing and says nothing)
        its processes are ended, and ``wake`` starts them again: no new replica, no imports.
        """
        server = self._awake_server()
        self._asleep = True
        if not self._sleeps_natively:
            await self._release()
            return
        with self._errors.translated(self._spec.id):
            await server.sleep(level=self._options.sleep_level)
            await self._measure()

    async def wake(self) -> None:
        """Undo ``sleep``; the caller checks golden prompts, as after every load.

        Raises:
            EngineLoadFailed: The processes could not be started again.
        """
        if not self._asleep:
            return
        if not self._sleeps_natively:
            await self.start()
        with self._errors.translated(self._spec.id):
            if self._sleeps_natively and self._options.sleep_level == 1:
                await self._server.wakeup()
            elif self._sleeps_natively:
                # Level 2 wakes to memory without weights: it would answer, in garbage.
                await self._server.wakeup(tags=["weights"])
                await self._server.collective_rpc("reload_weights")
                await self._server.wakeup(tags=["kv_cache"])
            await self._measure()
        self._asleep = False

    @property
    def _sleeps_natively(self) -> bool:
        default = _on_gpu(self._spec, self._options)
        return bool(self._options.engine_kwargs.get("enable_sleep_mode", default))

    async def stop(self) -> None:
        """Shut vLLM down and wait until its processes are gone."""
        self._asleep = False
        await self._release()

    async def _release(self) -> None:
        server, self._server = self._server, None
        # The children of a dead EngineCore are found no longer; `_tree` noted them at the start.
        tree = [*{*self._tree, *vllm_processes(self._others)}]
        if server is not None and server.engine is not None:
            await server.engine.shutdown()
            # Ray offers no way to end AsyncLLM (2.58-2.60); without this name we only kill.
            if (client := getattr(server.engine, "_engine_client", None)) is not None:
                await asyncio.to_thread(client.shutdown, timeout=STOP_GRACE_S)
        await asyncio.to_thread(end_processes, tree)
        self._device_bytes, self._tree = 0, []

    def memory_bytes(self) -> int:
        """Memory in use on the GPUs when it last changed, else resident memory now."""
        if self._device_bytes > 0:
            return self._device_bytes
        return sum(
            resident_bytes(process) for process in [psutil.Process(), *vllm_processes(self._others)]
        )

    async def _measure(self) -> None:
        self._device_bytes = sum(await self._server.collective_rpc("hotswap_device_bytes"))

    async def check_health(self) -> None:
        """Raise ``EngineUnavailable`` if EngineCore has died."""
        if self._asleep:
            return
        try:
            await self._awake_server().check_health()
        except self._errors.server as error:
            raise EngineUnavailable(f"vLLM of {self._spec.id!r} is dead: {error}") from error


def _path(cls: type[Any]) -> str:
    return f"{cls.__module__}.{cls.__name__}"


def _on_gpu(spec: ModelSpec, options: VllmOptions) -> bool:
    """Whether the model runs on GPUs; refuses an accelerator that contradicts ``num_gpus``."""
    has_gpu = spec.resources.num_gpus > 0
    if options.accelerator != "auto" and (options.accelerator == "gpu") != has_gpu:
        raise ConfigError(
            f"models.{spec.id}: accelerator {options.accelerator} and "
            f"resources.num_gpus {spec.resources.num_gpus:g} contradict each other"
        )
    return has_gpu
