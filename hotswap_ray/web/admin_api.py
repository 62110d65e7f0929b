"""The control plane under ``/admin``."""

from __future__ import annotations

from typing import Any

from hotswap_ray.config import ServerConfig
from hotswap_ray.web.openai_api import Receive, Scope, Send, authorize, send_json


class AdminApi:
    """ASGI application for operators.

    Args:
        config: Holds the admin token.
        controller: ``SwapController`` or a proxy of it.
        learning: ``LearningActor`` or a proxy of it.
    """

    def __init__(self, config: ServerConfig, controller: Any, learning: Any) -> None:
        self._config = config
        self._controller = controller
        self._learning = learning

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        authorize(scope, (self._config.admin_token,) if self._config.admin_token else ())
        await send_json(send, 200, await self._controller.status())
