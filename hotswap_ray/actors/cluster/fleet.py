"""Everything the controller may ask of Ray: the port, and its form over Ray Serve.

One Serve application per model generation, without a route, under a name that is never
used twice. Nothing here decides; nothing here waits longer than it is told.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import psutil

from hotswap_ray.actors.cluster.connection import MODEL_DEPLOYMENT, cause
from hotswap_ray.core.fit.room import Room
from hotswap_ray.core.routing.target import app_name
from hotswap_ray.core.spec.task import ModelSpec
from hotswap_ray.engines.base import load_engine_class

INGRESS_APP = "hotswap"
INGRESS_DEPLOYMENT = "ingress"
GONE = "gone"
TRIES = 5
RACE = "not registered for pickle by value"
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class AppState:
    """An application as Serve sees it.

    Attributes:
        status: Serve's word, or ``gone``.
        running: Replicas that finished their constructor.
        starting: Replicas that exist but have not.
        message: Why it failed, in one line.
    """

    status: str = GONE
    running: int = 0
    starting: int = 0
    message: str = ""


class Fleet(Protocol):
    """What the controller asks of the cluster. Every call is idempotent by its application."""

    async def deploy(self, spec: ModelSpec, generation: int, load_nice: int) -> None:
        """Ask for an application; returns at once. Asking again does nothing."""
        ...

    async def states(self) -> dict[str, AppState]:
        """All applications by name."""
        ...

    async def delete(self, app: str) -> None:
        """Ask for an application's end; returns at once."""
        ...

    async def kill_replicas(self, app: str) -> None:
        """End replicas that do not end by themselves (a constructor that hangs)."""
        ...

    async def call(self, app: str, method: str, *args: Any) -> Any:
        """Call a model replica's method. Raises ``EngineUnavailable`` if it cannot be reached."""
        ...

    async def free(self) -> Room:
        """Room that is free now."""
        ...

    async def is_alive(self, actor_name: str) -> bool:
        """Whether a Serve replica's actor runs."""
        ...

    async def ingress_count(self) -> int:
        """Ingress replicas that run now."""
        ...


class ServeFleet:
    """Fleet over Ray Serve.

    Args:
        deployment: Makes the Serve deployment that hosts a model; a module-level function.
    """

    def __init__(self, deployment: Callable[[ModelSpec], Any]) -> None:
        self._deployment = deployment
        self._handles: dict[tuple[str, str], Any] = {}

    async def deploy(self, spec: ModelSpec, generation: int, load_nice: int) -> None:
        """Ask for an application. See ``Fleet.deploy``."""
        app = app_name(spec.id, generation)
        if app in await self.states():
            return
        await _ask(self._deploy, app, spec, generation, load_nice)

    def _deploy(self, app: str, spec: ModelSpec, generation: int, load_nice: int) -> None:
        from ray import serve

        target = self._deployment(spec).bind(spec.model_dump(mode="json"), generation, load_nice)
        serve.run_many(
            [serve.RunTarget(target=target, name=app, route_prefix=None)],
            wait_for_ingress_deployment_creation=False,
            wait_for_applications_running=False,
        )

    async def states(self) -> dict[str, AppState]:
        """All applications by name. See ``Fleet.states``."""
        from ray import serve

        status = await _ask(serve.status)
        states = {}
        for name, app in status.applications.items():
            deployments = list(app.deployments.values())
            counts = deployments[0].replica_states if deployments else {}
            texts = [app.message, *(deployment.message for deployment in deployments)]
            states[name] = AppState(
                str(app.status.value),
                counts.get("RUNNING", 0),
                counts.get("STARTING", 0),
                reason("\n".join(text for text in texts if text)),
            )
        return states

    async def delete(self, app: str) -> None:
        """Ask for an application's end. See ``Fleet.delete``."""
        from ray import serve

        for key in [key for key in self._handles if key[0] == app]:
            del self._handles[key]
        await _ask(serve.delete, app, _blocking=False)

    async def kill_replicas(self, app: str) -> None:
        """End the replicas of an application. See ``Fleet.kill_replicas``."""
        await _ask(self._kill_replicas, app)

    def _kill_replicas(self, app: str) -> None:
        import ray
        from ray.util import list_named_actors

        for actor in list_named_actors(all_namespaces=True):
            if f"#{MODEL_DEPLOYMENT}#" in actor["name"] and f"::{app}#" in actor["name"]:
                try:
                    ray.kill(ray.get_actor(actor["name"], namespace=actor["namespace"]))
                except ValueError:
                    continue  # it ended by itself

    async def call(self, app: str, method: str, *args: Any) -> Any:
        """Call a model replica's method. See ``Fleet.call``."""
        from ray import serve

        handle = self._handles.get((app, method))
        if handle is None:
            handle = serve.get_deployment_handle(MODEL_DEPLOYMENT, app).options(method_name=method)
            self._handles[app, method] = handle
        try:
            return await handle.remote(*args)
        except Exception as error:
            raise cause(error) from error

    async def free(self) -> Room:
        """Room that is free now. See ``Fleet.free``."""
        import ray

        resources = await _ask(ray.available_resources)
        prefix = "accelerator_type:"
        return Room(
            cpus=resources.get("CPU", 0.0),
            gpus=resources.get("GPU", 0.0),
            memory_bytes=psutil.virtual_memory().available,
            accelerator_types=frozenset(
                name.removeprefix(prefix) for name in resources if name.startswith(prefix)
            ),
        )

    async def ingress_count(self) -> int:
        """Ingress replicas that run now."""
        return (await self.states()).get(INGRESS_APP, AppState()).running

    async def is_alive(self, actor_name: str) -> bool:
        """Whether a Serve replica's actor runs. See ``Fleet.is_alive``."""
        import ray

        def exists() -> bool:
            try:
                ray.get_actor(actor_name, namespace="serve")
            except ValueError:
                return False
            return True

        return await _ask(exists)


async def _ask(function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Call Ray, which blocks, in a thread; its many errors become ``EngineUnavailable``."""
    tries_left = TRIES
    while True:
        tries_left -= 1
        try:
            return await asyncio.to_thread(function, *args, **kwargs)
        except Exception as error:
            # Serve (2.60) marks a module for pickling by value, process-wide, and takes the mark
            # back; its routers do so in threads of their own. The second call to do so fails before
            # it has sent anything, so it can be repeated.
            if tries_left and isinstance(error, ValueError) and RACE in str(error):
                continue
            raise cause(error) from error


def room_of(spec: ModelSpec, measured_memory_bytes: int = 0) -> Room:
    """Room a model needs: what Ray will reserve and what an earlier load measured.

    Args:
        spec: The model.
        measured_memory_bytes: Memory of one replica seen before; 0 if never loaded.
    """
    options = load_engine_class(spec.engine).deployment_options(spec)
    bundles = options.get("placement_group_bundles")
    if not bundles:
        actor = options.get("ray_actor_options", {})
        bundles = [{"CPU": actor.get("num_cpus", 0), "GPU": actor.get("num_gpus", 0)}]
    copies = spec.resources.min_replicas
    return Room(
        cpus=copies * sum(bundle.get("CPU", 0) for bundle in bundles),
        gpus=copies * sum(bundle.get("GPU", 0) for bundle in bundles),
        memory_bytes=copies * (measured_memory_bytes or spec.resources.memory_bytes),
        accelerator_types=frozenset(filter(None, [spec.resources.accelerator_type])),
    )


def reason(message: str) -> str:
    r"""The cause in a Serve status message, which holds a whole traceback.

    Example:
        >>> reason("Traceback...\nhotswap_ray.core.errors.EngineLoadFailed: no file x\n\nmore")
        'no file x'
    """
    messages = re.findall(r"hotswap_ray\.core\.errors\.\w+: (.+)", message)
    if messages:
        return str(messages[-1]).strip()
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"^[\w.]*(Error|Exception)\b", line)]
    return (errors or lines or [""])[-1][:500]
