"""Tool loops: the model that made a call gets its result, whatever the route says meanwhile.

Who made a call is written in its id (``core/routing/call_ids.py``), so every ingress replica knows
it. Legacy function calls have no id: for them the conversation is remembered here.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from hotswap_ray.core.routing.call_ids import mark_in, mark_of
from hotswap_ray.core.routing.target import Target

MOST_REMEMBERED = 10_000
CALLS = (b'"finish_reason":"tool_calls"', b'"finish_reason":"function_call"')


class Loops:
    """Open tool loops of one ingress replica. Lives on one event loop.

    Args:
        wait_s: Longest that a model which is being drained waits for the result of its call.
        on_over: Called when it has waited long enough.
    """

    def __init__(self, wait_s: float, on_over: Callable[[], None]) -> None:
        self._wait_s = wait_s
        self._on_over = on_over
        self._by_mark: dict[str, Target] = {}
        self._targets: Mapping[str, Target] = {}
        self._callers: OrderedDict[str, str] = OrderedDict()
        self._called_s: dict[str, float] = {}
        self._draining: frozenset[str] = frozenset()
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def use(self, targets: Mapping[str, Target], draining: Iterable[str]) -> None:
        """Take over the targets of a new table, by application, and those that drain."""
        self._targets = targets
        self._by_mark = {mark_of(t.model, t.generation): t for t in targets.values()}
        for app in [app for app in self._called_s if app not in targets]:
            del self._called_s[app]
        self._draining = frozenset(draining)
        for app in self._draining:
            self._wake_when_over(app)

    def holder(self, ids: Sequence[Any], key: str | None) -> Target | None:
        """The model that made the calls which a request continues, if it is still there.

        Args:
            ids: From ``open_calls``.
            key: Of the conversation, for calls without an id.
        """
        for call_id in ids:
            mark = mark_in(call_id)
            if mark is not None:
                return self._by_mark.get(mark)
        return self._targets.get(self._callers.get(key, "")) if key is not None else None

    def listen(self, target: Target, key: str | None, answer: bytes) -> None:
        """Look whether an answer, or a piece of one, ends with a call."""
        if not any(call in answer for call in CALLS):
            return
        self._called_s[target.app] = asyncio.get_running_loop().time()
        if target.app in self._draining:
            self._wake_when_over(target.app)
        if key is not None:
            self._callers[key] = target.app
            self._callers.move_to_end(key)
            if len(self._callers) > MOST_REMEMBERED:
                self._callers.popitem(last=False)

    def are_open(self, app: str) -> bool:
        """Whether a model may still get the result of a call that it made lately."""
        called_s = self._called_s.get(app)
        if called_s is None:
            return False
        return asyncio.get_running_loop().time() - called_s < self._wait_s

    def _wake_when_over(self, app: str) -> None:
        timer = self._timers.pop(app, None)
        if timer is not None:
            timer.cancel()
        if self.are_open(app):
            over_s = self._called_s[app] + self._wait_s
            self._timers[app] = asyncio.get_running_loop().call_at(over_s, self._over, app)

    def _over(self, app: str) -> None:
        self._timers.pop(app, None)
        self._on_over()
