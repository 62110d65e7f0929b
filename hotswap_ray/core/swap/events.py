"""Which events a watcher wants."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any


def is_wanted(
    event: Mapping[str, Any], kinds: Collection[str] | None = None, swap_id: str | None = None
) -> bool:
    """Whether a watcher wants an event.

    Args:
        event: ``id, kind, at_s, doc``.
        kinds: Only these, for example ``swap`` and ``webhook_failed``; all when empty.
        swap_id: Only those of one swap.

    Example:
        >>> event = {"id": 7, "kind": "swap", "at_s": 1.0, "doc": {"swap_id": "s1"}}
        >>> is_wanted(event, ["swap"], "s1"), is_wanted(event, ["swap"], "s2")
        (True, False)
    """
    if kinds and event["kind"] not in kinds:
        return False
    return swap_id is None or event["doc"].get("swap_id") == swap_id
