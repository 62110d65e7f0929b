"""Call a named Ray actor like a local object, across its restarts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from hotswap_ray.actors.cluster.connection import cause
from hotswap_ray.core.errors import EngineTimeout


class ActorProxy:
    """Asynchronous methods of a named actor.

    Every call has a deadline, raises the actor's own exception, and finds the actor anew
    after it was lost. So a plain object with async methods can stand in its place.

    Args:
        name: Name of the actor.
        namespace: Its Ray namespace.
        timeout_s: Longest wait for one call.
    """

    def __init__(self, name: str, namespace: str, timeout_s: float = 30.0) -> None:
        self._name = name
        self._namespace = namespace
        self._timeout_s = timeout_s
        self._actor: Any = None

    def __getattr__(self, method: str) -> Callable[..., Awaitable[Any]]:
        if method.startswith("_"):
            raise AttributeError(method)

        async def call(*args: Any, **kwargs: Any) -> Any:
            import ray

            try:
                if self._actor is None:
                    self._actor = await asyncio.to_thread(
                        ray.get_actor, self._name, namespace=self._namespace
                    )
                async with asyncio.timeout(self._timeout_s):
                    return await getattr(self._actor, method).remote(*args, **kwargs)
            except ray.exceptions.RayTaskError as error:
                raise cause(error) from None
            except TimeoutError as error:
                text = f"{self._name}.{method} did not answer within {self._timeout_s:g} s"
                raise EngineTimeout(text, 5.0) from error
            except (ray.exceptions.RayError, ValueError) as error:
                self._actor = None
                raise cause(error) from error

        return call
