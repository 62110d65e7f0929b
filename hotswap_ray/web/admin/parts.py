"""What the parts of the control plane share: their time limit, and reading a query."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any
from urllib.parse import parse_qs

from hotswap_ray.web.openai_api import Scope

QUICK_S = 30.0
NAME = "([^/]+)"
"""Part of a path that is a name."""


async def quick(call: Awaitable[Any], more_s: float = 0.0) -> Any:
    """What the controller answers, within 30 s and what the caller gives it on top."""
    async with asyncio.timeout(QUICK_S + more_s):
        return await call


def query_of(scope: Scope) -> dict[str, str]:
    """The query of a request; of a name that comes again the last value counts.

    Example:
        >>> query_of({"query_string": b"a=1&a=2"})
        {'a': '2'}
    """
    pairs = parse_qs(scope.get("query_string", b"").decode("latin-1"))
    return {name: values[-1] for name, values in pairs.items()}
