"""One client request on its way through the router, and an answer that has begun."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

from hotswap_ray.actors.cluster.connection import Item
from hotswap_ray.core.outcome import Endpoint
from hotswap_ray.core.routing.table import Assignment


@dataclass(frozen=True, slots=True)
class Call:
    """One client request, parsed."""

    request_id: str
    endpoint: Endpoint
    body: dict[str, Any]
    model: str
    task_header: str | None = None
    task_metadata: str | None = None
    prefer: str | None = None
    """Model that the Python handle asked for by criteria; pinned when it is loaded."""
    conversation: str | None = None
    """Key that a conversation keeps; without one each request is a conversation of its own."""


@dataclass(slots=True)
class Opened:
    """An answer that has begun: nothing can send it to another model any more."""

    assignment: Assignment
    first: Item
    rest: AsyncGenerator[Item, None]
