"""What a browser must be told before a page of another origin may use the endpoint (CORS)."""

from __future__ import annotations

from collections.abc import Iterable

from hotswap_ray.web.asgi import Headers, Scope, header

METHODS = b"GET, HEAD, POST, OPTIONS"
MAX_AGE_S = 3600
_READABLE = b"x-request-id, retry-after"


class Cors:
    """The rules of one server.

    Args:
        origins: Who may read answers, as browsers write it; ``*`` is everybody; none, nobody.
    """

    def __init__(self, origins: Iterable[str]) -> None:
        self._origins = frozenset(origins)

    def answer(self, scope: Scope, headers: Headers) -> Headers:
        """What to add to an answer's headers.

        Args:
            scope: The request's.
            headers: The answer's; those of ours become readable for the page.
        """
        origin = self._allowed(scope)
        if not origin:
            return self._vary()
        ours = sorted({name for name, _ in headers if name.startswith(b"x-hotswap-")})
        return [
            (b"access-control-allow-origin", origin),
            (b"access-control-expose-headers", b", ".join([_READABLE, *ours])),
            *self._vary(),
        ]

    def preflight(self, scope: Scope) -> Headers:
        """What to add to the answer to ``OPTIONS``: the headers asked for are the ones allowed.

        A ``*`` for them would not cover ``authorization``.
        """
        origin = self._allowed(scope)
        if not origin:
            return self._vary()
        asked = header(scope, b"access-control-request-headers")
        return [
            (b"access-control-allow-origin", origin),
            (b"access-control-allow-methods", METHODS),
            *([(b"access-control-allow-headers", asked.encode("latin-1"))] if asked else []),
            (b"access-control-max-age", str(MAX_AGE_S).encode()),
            *self._vary(),
        ]

    def _allowed(self, scope: Scope) -> bytes:
        """The origin that an answer names; empty if there is none to name."""
        if not self._origins:
            return b""
        if "*" in self._origins:
            return b"*"
        origin = header(scope, b"origin")
        return origin.encode("latin-1") if origin in self._origins else b""

    def _vary(self) -> Headers:
        """Caches must not give the answer for one origin to another."""
        return [(b"vary", b"Origin")] if self._origins else []
