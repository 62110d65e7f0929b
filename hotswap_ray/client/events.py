"""Events from Python, as an iterator that a Ray job can loop over; a part of Arbiter."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from typing import Any, Literal

from hotswap_ray.client.link import ClusterLink
from hotswap_ray.core.errors import EngineUnavailable, InvalidRequest, StoreError
from hotswap_ray.core.swap.events import is_wanted
from hotswap_ray.core.swap.phases import SWITCHED, TERMINAL, Phase

POLL_S = 0.2
AWAY_S = 1.0
PAGE = 100


class Events:
    """Events of a running hotswap_ray."""

    _link: ClusterLink

    def events(
        self,
        after_id: int = 0,
        kinds: Collection[str] | None = None,
        swap_id: str | None = None,
        until: Literal["switched", "end"] | None = None,
        timeout_s: float | None = None,
        *,
        poll_s: float = POLL_S,
    ) -> Iterator[dict[str, Any]]:
        """Events after an id, then those that come: ``id, kind, at_s, doc``.

        It goes on while the controller is being restarted, and misses nothing. With the ``id`` of
        the last event seen, another process goes on from there.

        Args:
            after_id: Only later ones.
            kinds: Only these, for example ``["swap", "webhook_failed"]``.
            swap_id: Only those of one swap; ends when that swap has ended.
            until: With ``switched`` it ends as soon as the swap's candidate serves.
            timeout_s: Ends after so long; never when ``None``.
            poll_s: Seconds between two looks.

        Raises:
            NotFound: Unknown swap.
            InvalidRequest: ``until`` without a swap, or ``kinds`` is a text.
            EngineUnavailable: The controller stays away, and there is no ``timeout_s`` left.

        Example::

            for event in arbiter.events(swap_id="nightly", timeout_s=3600):
                print(event["doc"]["phase"])
        """
        if until is not None and swap_id is None:
            raise InvalidRequest("until needs the swap_id of the swap that it is about")
        if isinstance(kinds, str):
            raise InvalidRequest(f'kinds is a list, for example ["{kinds}"]')
        if swap_id is not None:
            self._is_over(swap_id, until)  # raises now if it is unknown
        return self._follow(after_id, kinds, swap_id, until, timeout_s, poll_s)

    def _follow(
        self,
        after_id: int,
        kinds: Collection[str] | None,
        swap_id: str | None,
        until: str | None,
        timeout_s: float | None,
        poll_s: float,
    ) -> Iterator[dict[str, Any]]:
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            try:
                # This is asked before the events, so that the last events are still read.
                is_over = swap_id is not None and self._is_over(swap_id, until)
                events = self._link.controller("events", after_id, PAGE)
            except (EngineUnavailable, StoreError):
                if deadline is None or time.monotonic() >= deadline:
                    raise
                time.sleep(AWAY_S)
                continue
            for event in events:
                after_id = event["id"]
                if is_wanted(event, kinds, swap_id):
                    yield event
            if deadline is not None and time.monotonic() >= deadline:
                return
            if len(events) == PAGE:
                continue
            if is_over:
                return
            if not events:
                time.sleep(poll_s)

    def _is_over(self, swap_id: str, until: str | None) -> bool:
        record = self._link.controller("wait", swap_id, 0.0, until or "end")
        phase = Phase(record["phase"])
        return phase in TERMINAL or (until == "switched" and phase in SWITCHED)
