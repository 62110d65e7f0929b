"""The paths of the data plane, and what is said of all others."""

from __future__ import annotations

import re

POSTS = ("/v1/chat/completions", "/v1/completions", "/v1/feedback")
HEALTH = ("/healthz", "/health")
GETS = ("/v1/models", "/", *HEALTH, "/readyz", "/version", "/metrics")

METRICS = (
    "# The metrics are Ray's, on a port of each node that it chooses itself: `hotswap serve`\n"
    "# prints the address, and prom_metrics_service_discovery.json in Ray's temporary folder\n"
    "# (/tmp/ray) lists every node for Prometheus. Names begin with ray_hotswap_.\n"
)
"""Comments, so that a scrape of this path is an empty one and not an error."""

_HINTS = {
    "/v1/responses": 'set your client to "chat completions" (POST /v1/chat/completions)',
    "/v1/messages": "use a client of OpenAI's chat completions (POST /v1/chat/completions)",
    "/api": "set your client to an OpenAI-compatible server, with a base URL that ends in /v1",
}


def plain(path: str) -> str:
    """A path without what clients add by mistake.

    Example:
        >>> plain("/v1//chat/completions/"), plain("/")
        ('/v1/chat/completions', '/')
    """
    if "//" in path:
        path = re.sub("/{2,}", "/", path)
    return path.rstrip("/") or "/"


def methods(path: str) -> str | None:
    """What a path takes, as the header ``allow`` has it; ``None`` if there is no such path.

    Example:
        >>> methods("/v1/completions"), methods("/v1/models/a"), methods("/v2")
        ('POST, OPTIONS', 'GET, HEAD, OPTIONS', None)
    """
    if path in POSTS:
        return "POST, OPTIONS"
    return "GET, HEAD, OPTIONS" if path in GETS or path.startswith("/v1/models/") else None


def missing(path: str) -> str:
    """The sentence of a 404: what was meant, and what there is.

    Example:
        >>> missing("/chat/completions").partition(";")[0]
        'no /chat/completions here, did you mean /v1/chat/completions?'
        >>> missing("/v1/embeddings").startswith("no /v1/embeddings here; hotswap serves chat and")
        True
    """
    meant = [one for one in (*POSTS, "/v1/models") if one.endswith(path) or path.endswith(one)]
    hints = [text for root, text in _HINTS.items() if f"{path}/".startswith(f"{root}/")]
    start = f"no {path} here"
    if meant:
        start += f", did you mean {min(meant, key=len)}?"
    elif hints:
        start += f": {hints[0]}"
    posts = ", ".join(f"POST {one}" for one in POSTS)
    gets = ", ".join(f"GET {one}" for one in ("/v1/models", "/healthz", "/readyz", "/version"))
    return f"{start}; hotswap serves chat and text completions only: {posts}, {gets}"
