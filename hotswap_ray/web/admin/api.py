"""The control plane under ``/admin``: what operators and their scripts ask over HTTP."""

from __future__ import annotations

from typing import Any

from starlette.routing import Match, Router

from hotswap_ray.config.sections import ServerConfig
from hotswap_ray.core.errors import EngineUnavailable, MethodNotAllowed, NotFound
from hotswap_ray.web.admin.ab_tests import ABTestRoutes
from hotswap_ray.web.admin.events import EventRoutes
from hotswap_ray.web.admin.learnings import LearningRoutes
from hotswap_ray.web.admin.models import ModelRoutes
from hotswap_ray.web.admin.schedules import ScheduleRoutes
from hotswap_ray.web.admin.swaps import SwapRoutes
from hotswap_ray.web.admin.tasks import TaskRoutes
from hotswap_ray.web.asgi import Receive, Scope, Send, authorize, read_json, send_error


class AdminApi:
    """ASGI application for operators; the caller turns its errors into answers.

    Args:
        config: Holds the admin token.
        controller: ``SwapController`` or a proxy of it. A load takes minutes: the proxy's
            own time limit must be longer; every other call is limited here.
        learning: ``LearningActor`` or a proxy of it.
    """

    def __init__(self, config: ServerConfig, controller: Any, learning: Any) -> None:
        self._config = config
        self._routes = [
            *TaskRoutes(controller).routes(),
            *ModelRoutes(controller).routes(),
            *SwapRoutes(controller).routes(),
            *ABTestRoutes(controller).routes(),
            *ScheduleRoutes(controller).routes(),
            *LearningRoutes(controller, learning).routes(),
            *EventRoutes(controller).routes(),
        ]
        self._router = Router(self._routes, redirect_slashes=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request.

        Raises:
            HotswapError: What is wrong with it; nothing was sent yet.
        """
        authorize(scope, (self._config.admin_token,) if self._config.admin_token else ())
        path = scope["path"].removeprefix("/admin").strip("/")
        inner_scope = {**scope, "path": f"/{path}", "state": {}}
        methods = self._methods(inner_scope)
        if not methods:
            raise NotFound(f"no /admin/{path}; GET /admin/status is where to begin")
        if scope["method"] not in methods:
            error = MethodNotAllowed(f"{scope['path']} takes {' or '.join(methods)} only")
            await send_error(send, error, [(b"allow", ", ".join(methods).encode())])
            return
        if scope["method"] in ("POST", "PUT"):
            body = await read_json(receive, self._config.max_body_bytes, optional=True)
            inner_scope["state"] = {"body": body}
        try:
            await self._router(inner_scope, receive, send)
        except TimeoutError:
            raise EngineUnavailable("the controller did not answer in time", 5.0) from None

    def _methods(self, scope: Scope) -> list[str]:
        """The methods that a path takes; Starlette would name those of its first route only.

        Starlette adds ``HEAD`` to each ``GET``. It is refused here, because a ``HEAD`` of the
        events would never end.
        """
        fitting = [route for route in self._routes if route.matches(scope)[0] is not Match.NONE]
        return [method for route in fitting for method in (route.methods or set()) - {"HEAD"}]
