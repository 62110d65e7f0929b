"""One client request on its way through the router, and an answer that has begun."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Any

from hotswap_ray.actors.cluster.connection import Item
from hotswap_ray.core.outcome import Endpoint
from hotswap_ray.core.routing.conversation import Key
from hotswap_ray.core.routing.table import Assignment

TOOL_FIELDS = frozenset(
    {"tools", "tool_choice", "parallel_tool_calls", "functions", "function_call"}
)


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
    names: tuple[Key, ...] = ()
    """What names its conversation, the best first; see ``ConversationKeys``."""
    trace: Mapping[str, str] = field(default_factory=dict)
    """Headers of the trace that it belongs to, for engines that ask another server."""

    @property
    def offers_tools(self) -> bool:
        """Whether the answer may be a call of a tool, so that a loop may begin or go on."""
        return bool(self.body.get("tools") or self.body.get("functions"))

    def body_for(self, assignment: Assignment) -> dict[str, Any]:
        """The body that a model gets: without tools where they are left out."""
        if "tools" not in assignment.left_out:
            return self.body
        return {name: value for name, value in self.body.items() if name not in TOOL_FIELDS}


@dataclass(slots=True)
class Opened:
    """An answer that has begun: nothing can send it to another model any more."""

    assignment: Assignment
    first: Item
    rest: AsyncGenerator[Item, None]
