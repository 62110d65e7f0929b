"""Models under ``/admin/models``."""

from __future__ import annotations

from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.routing import Route

from hotswap_ray.core.errors import InvalidRequest
from hotswap_ray.web.admin.http import Answer, body_of, quick


class ModelRoutes:
    """What is loaded, and loading, unloading, putting to sleep and waking.

    Args:
        controller: ``SwapController`` or a proxy of it.
    """

    def __init__(self, controller: Any) -> None:
        self._controller = controller

    def routes(self) -> list[Route]:
        """The paths of this part, and what serves each."""
        return [
            Route("/models", self._models),
            Route("/models/{model}/probes", self._probes),
            *(
                Route(
                    f"/models/{{model}}/{action}", partial(self._change, action), methods=["POST"]
                )
                for action in ("load", "unload", "sleep", "wake")
            ),
        ]

    async def _models(self, request: Request) -> Answer:
        return Answer({"models": (await quick(self._controller.status()))["models"]})

    async def _probes(self, request: Request) -> Answer:
        # Not quick: it takes as long as swap.probe_timeout_s, and a load takes minutes.
        return Answer(await self._controller.probe(request.path_params["model"]))

    async def _change(self, action: str, request: Request) -> Answer:
        model, body = request.path_params["model"], body_of(request)
        if action == "load" and body:
            return Answer(await self._controller.load(model, body))
        if body:
            raise InvalidRequest(f"{action} takes no body")
        if action in ("load", "wake"):
            return Answer(await self._controller.load(model))
        return Answer(await getattr(self._controller, action)(model))
