"""The protocol every engine follows, and how one is found by its name in the YAML.

An engine lives inside one Ray Serve replica and serves one model. A third party adds one
by the entry point group ``hotswap_ray.engines``; ``testing.check_engine`` is the contract.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, ClassVar, Protocol, cast

from pydantic import BaseModel, ValidationError

from hotswap_ray.core.errors import ConfigError, NotFound
from hotswap_ray.core.names import did_you_mean
from hotswap_ray.core.outcome import Endpoint
from hotswap_ray.core.spec.task import ModelSpec

BUILT_IN = {
    "llama_cpp": "hotswap_ray.engines.llama_cpp:LlamaCppEngine",
    "openai": "hotswap_ray.engines.openai:OpenAIEngine",
    "simulated": "hotswap_ray.engines.simulated:SimulatedEngine",
    "vllm": "hotswap_ray.engines.vllm.engine:VllmEngine",
}


class Engine(Protocol):
    """One model in one process. Made in the replica, never in the controller.

    Constructing is cheap and checks nothing but types; ``start`` loads. All methods are
    called on the replica's event loop and must not block it: blocking work goes to threads.
    """

    Options: ClassVar[type[BaseModel]]
    """Options this engine accepts in ``ModelSpec.options``; unknown keys are refused."""

    def __init__(self, spec: ModelSpec) -> None: ...

    @classmethod
    def deployment_options(cls, spec: ModelSpec) -> dict[str, Any]:
        """Ray Serve options (actor options, placement group) that ``spec`` asks for."""
        ...

    @classmethod
    def can_sleep(cls, spec: ModelSpec) -> bool:
        """Whether ``sleep`` gives memory back for this model."""
        ...

    # An engine may also have `features(cls, spec) -> dict[str, bool]`, a class method: what it
    # surely does and surely lacks, by the names of `core/fit/capabilities.py` (tools, json,
    # vision, logprobs, n). What is not named there is not known and passed on to the engine.
    # One whose model has a context of its own says `sets_context = False`.

    async def start(self) -> None:
        """Load the weights. Raises ``EngineLoadFailed`` with the reason."""
        ...

    async def generate(self, endpoint: Endpoint, body: dict[str, Any]) -> dict[str, Any]:
        """Answer whole: an OpenAI response object with ``usage``.

        Cancelling the call stops the generation. Raises ``InvalidRequest`` for a body the
        model cannot take (for example longer than its context), ``EngineError`` otherwise.
        """
        ...

    def stream(self, endpoint: Endpoint, body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """Answer in OpenAI chunk objects; the last one has ``usage``.

        Closing the iterator stops the generation. Errors as in ``generate``.
        """
        ...

    async def sleep(self) -> None:
        """Give memory back but stay able to ``wake``. Raises ``NotSupported`` if it cannot."""
        ...

    async def wake(self) -> None:
        """Undo ``sleep``; returns when the model answers again."""
        ...

    async def stop(self) -> None:
        """Release everything, child processes included. Safe to call twice."""
        ...

    def memory_bytes(self) -> int:
        """Measured memory of this replica now: device memory on GPU, else resident memory."""
        ...

    async def check_health(self) -> None:
        """Raise ``EngineUnavailable`` if the engine can no longer answer."""
        ...


def load_engine_class(name: str) -> type[Engine]:
    """Find an engine by its name.

    Args:
        name: A built-in name, an entry point name, or ``module:Class``.

    Returns:
        The engine class; its module is imported only now.

    Raises:
        NotFound: No engine has this name; the closest names are given.

    Example:
        >>> load_engine_class("simulated").__name__
        'SimulatedEngine'
    """
    target = BUILT_IN.get(name)
    plugins = {point.name: point for point in entry_points(group="hotswap_ray.engines")}
    if target is None and name in plugins:
        return cast("type[Engine]", plugins[name].load())
    if target is None and ":" in name:
        target = name
    if target is None:
        names = sorted({*BUILT_IN, *plugins})
        hint = did_you_mean(name, names)
        raise NotFound(f"unknown engine {name!r}{hint} Known engines: {', '.join(names)}.")
    module, _, attribute = target.partition(":")
    return cast("type[Engine]", getattr(import_module(module), attribute))


def parse_options(engine: type[Any], spec: ModelSpec) -> Any:
    """Check ``spec.options`` against the engine's own schema.

    Raises:
        ConfigError: An option is unknown or out of range; the closest name is given.
    """
    try:
        return engine.Options(**spec.options)
    except ValidationError as error:
        options = sorted(engine.Options.model_fields)
        lines = []
        for item in error.errors():
            where = ".".join(str(part) for part in item["loc"])
            text = item["msg"]
            if item["type"] == "extra_forbidden":
                hint = did_you_mean(where, options) or f"; known: {', '.join(options)}"
                text = f"unknown option{hint}"
            lines.append(f"models.{spec.id}.options.{where}: {text}")
        raise ConfigError("\n".join(lines)) from None


def default_deployment_options(spec: ModelSpec) -> dict[str, Any]:
    """Ray options of an engine that runs in its replica's own process.

    Args:
        spec: The model; its ``resources`` say what one replica reserves.

    Returns:
        Keyword arguments for ``deployment.options``; only ``ray_actor_options`` here.

    Example:
        >>> default_deployment_options(ModelSpec(id="a", engine="simulated"))
        {'ray_actor_options': {'num_cpus': 1, 'num_gpus': 0}}
    """
    resources = spec.resources
    actor: dict[str, Any] = {"num_cpus": resources.num_cpus, "num_gpus": resources.num_gpus}
    if resources.accelerator_type is not None:
        actor["accelerator_type"] = resources.accelerator_type
    if resources.memory_bytes > 0:
        actor["memory"] = resources.memory_bytes
    return {"ray_actor_options": actor}
