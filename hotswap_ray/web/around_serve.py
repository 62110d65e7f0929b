"""What stands between the network and Ray Serve, in each process of Serve that takes requests.

Serve returns the ``x-request-id`` that it reads, whoever wrote it, and answers 404 while no
application is there yet. Both can be changed only outside of it: Serve calls ``middlewares``
when its environment names it (``RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH``).
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from hotswap_ray.core.errors import ClusterUnavailable
from hotswap_ray.web.asgi import App, Receive, Scope, Send, send_error
from hotswap_ray.web.request_id import id_headers, new_id, number

CALLBACK = "hotswap_ray.web.around_serve:middlewares"


class AroundServe:
    """ASGI middleware that numbers requests, and asks clients to wait for the application.

    Args:
        app: Serve's own application.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        own = new_id()
        number(scope, own)
        replaced = False

        async def passed(message: MutableMapping[str, Any]) -> None:
            nonlocal replaced
            if message["type"] == "http.response.start" and _is_serves_404(message):
                replaced = True
                # Clients come back after a 503, never after a 404.
                error = ClusterUnavailable("the endpoint is starting; no application yet", 2.0)
                await send_error(send, error, id_headers(own, None, behind_serve=False))
            elif not replaced:
                await send(message)

        await self._app(scope, receive, passed)


def _is_serves_404(message: MutableMapping[str, Any]) -> bool:
    """Whether an answer is Serve's: ours is at ``/``, so that no path is unknown to Serve."""
    if message["status"] != 404:
        return False
    return all(name.lower() != b"x-hotswap-request-id" for name, _ in message["headers"])


def middlewares() -> list[Any]:
    """What Serve puts around its HTTP servers; it wants them wrapped so."""
    from starlette.middleware import Middleware

    return [Middleware(AroundServe)]
