"""Counts requests between the choice of a target and the last byte, and refuses too many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from hotswap_ray.core.errors import Overloaded
from hotswap_ray.core.routing.target import Target


class InFlight:
    """Requests at work in one ingress replica.

    Args:
        most: Clients' requests at once, over all targets.
        on_idle: Called with the application whose last request has ended.

    Attributes:
        counts: Requests per application, copies included; only those that have any.
        clients: Clients' requests, over all of them.
    """

    def __init__(self, most: int, on_idle: Callable[[str], None]) -> None:
        self.counts: Counter[str] = Counter()
        self._most = most
        self.clients = 0
        self._on_idle = on_idle

    def enter(self, target: Target) -> None:
        """Count a client's request.

        Raises:
            Overloaded: There are too many here, or on this target.
        """
        if self.clients >= self._most:
            raise Overloaded("too many requests in flight in this ingress", 1.0)
        if not self.has_room(target):
            raise Overloaded(
                f"model {target.model!r} has {target.limit} requests in flight here; try later", 1.0
            )
        self.clients += 1
        self.counts[target.app] += 1

    def leave(self, target: Target) -> None:
        """Count a client's request no more, since it has ended."""
        self.clients -= 1
        self._decrement(target)

    def enter_copy(self, target: Target) -> bool:
        """Count a copy, unless half of the target's room is taken; whether it was counted."""
        if self.counts[target.app] >= max(1, target.limit // 2):
            return False
        self.counts[target.app] += 1
        return True

    def leave_copy(self, target: Target) -> None:
        """Count a copy no more, since it has ended."""
        self._decrement(target)

    def has_room(self, target: Target) -> bool:
        """Whether a target can take one more request."""
        return self.counts[target.app] < target.limit

    def _decrement(self, target: Target) -> None:
        self.counts[target.app] -= 1
        if not self.counts[target.app]:
            del self.counts[target.app]
            self._on_idle(target.app)
