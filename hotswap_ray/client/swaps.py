"""Swaps from Python: begin, follow, decide, undo and try again; a part of Arbiter."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from typing import Any, Literal

from hotswap_ray.client.link import LONGEST_S, ClusterLink
from hotswap_ray.core.errors import EngineTimeout, SwapError
from hotswap_ray.core.swap.phases import SWITCHED, TERMINAL, Phase

WAIT_SLICE_S = 20.0


class Swaps:
    """Swaps of a running hotswap_ray. Blocking; each is saved before it is done.

    What decides about a swap takes ``if_match``, the ``etag`` of its record as you saw it:
    ``PreconditionFailed`` if somebody else has changed it since, and nothing is done.

    Args:
        link: The connection to it.
    """

    def __init__(self, link: ClusterLink) -> None:
        self._link = link

    def force_swap(
        self,
        task: str,
        model: str,
        wait: bool = True,
        *,
        swap_id: str | None = None,
        bake_s: float | None = None,
        strategy: Literal["auto", "overlap", "sleep", "drain_first"] | None = None,
        compatibility: Literal["strict", "warn"] | None = None,
        canary: str | None = None,
        until: Literal["switched", "end"] = "switched",
        timeout_s: float = LONGEST_S,
        requested_by: str = "python",
        if_match: str | None = None,
        dry_run: bool = False,
    ) -> dict[str, Any]:
        """Give a task another model, under load, without losing a request.

        Args:
            task: Task.
            model: Model that shall serve it; it is loaded first if it is not.
            wait: Return when ``until`` holds, else at once.
            swap_id: The same id again is the same swap.
            bake_s: Seconds the old model stays warm; the configuration's when ``None``.
            strategy: How to make room; the configuration's when ``None``.
            compatibility: ``warn`` accepts gaps; the configuration's when ``None``.
            canary: Percentages of the conversations, as ``5,25``, on which the model proves
                itself first; the configuration's steps when ``None``.
            until: ``switched``: the model serves. ``end``: the old model is let go as well.
            timeout_s: Longest wait.
            requested_by: For the record.
            if_match: ``etag`` of the task's latest swap as you saw it; the swap begins only if
                nobody has changed it since.
            dry_run: Change nothing, and return what would happen: ``accepted``, ``refusals``,
                ``gaps``, ``strategy``, ``reason``, ``room``, ``canary``, ``prediction`` and more.

        Returns:
            The swap's record: ``swap_id``, ``phase``, ``etag``, ``seconds``, ``facts`` and more.

        Raises:
            NotFound: Unknown task or model.
            Conflict: Another swap of the task is open, or the model serves it already.
            PreconditionFailed: Somebody was faster; see ``if_match``.
            SwapError: It failed; a subclass says why. The old model serves on.
            EngineTimeout: It has neither switched nor ended in time; it goes on.
        """
        record = self._link.controller(
            "swap",
            task,
            model,
            swap_id or f"swap-{uuid.uuid4().hex[:12]}",  # so that it can be asked again
            bake_s=bake_s,
            strategy=strategy,
            compatibility=compatibility,
            canary=canary,
            requested_by=requested_by,
            if_match=if_match,
            dry_run=dry_run,
        )
        if dry_run or not wait:
            return dict(record)
        return self._wait_or_raise(record["swap_id"], until, timeout_s)

    def _wait_or_raise(
        self, swap_id: str, until: Literal["switched", "end"], timeout_s: float
    ) -> dict[str, Any]:
        record = self.wait(swap_id, until, timeout_s)
        if record["phase"] in ("failed", "rolled_back"):
            raise _failure(record)
        return record

    def retry(
        self,
        swap_id: str,
        wait: bool = True,
        *,
        attempt: int | None = None,
        until: Literal["switched", "end"] = "switched",
        timeout_s: float = LONGEST_S,
    ) -> dict[str, Any]:
        """Try a swap again that failed or was rolled back: a new one with its settings.

        Args:
            swap_id: The old one; ``facts["retries"]`` of the new one names it.
            wait: Return when ``until`` holds, else at once.
            attempt: Which retry it is, from 1; asking again with it changes nothing. Without
                one: the retry that is open or succeeded, else the next.
            until: As for ``force_swap``.
            timeout_s: Longest wait.

        Returns:
            The record of the new swap, ``<swap_id>-r<attempt>``.

        Raises:
            NotFound: Unknown swap.
            IllegalTransition: It did not fail, or was a rollback itself.
            SwapError: As for ``force_swap``.
        """
        record = self._link.controller("retry", swap_id, attempt)
        return self._wait_or_raise(record["swap_id"], until, timeout_s) if wait else dict(record)

    def rollback(
        self,
        task: str,
        wait: bool = True,
        *,
        to: str | None = None,
        if_match: str | None = None,
        timeout_s: float = LONGEST_S,
    ) -> dict[str, Any]:
        """Give a task back to the model it had before, or to an earlier one.

        Args:
            task: Task.
            wait: Return when the earlier model serves, else at once.
            to: A model of ``generations(task)``. One that is warm serves after one commit; any
                other is loaded and validated again, by a swap without a canary.
            if_match: ``etag`` of the task's latest swap as you saw it.
            timeout_s: Longest wait.

        Returns:
            The swap's record; its phase is ``rolled_back`` (or ``failed``, if it was aborted before
            its switch), and for one that had to be loaded any from ``draining`` to ``succeeded``.

        Raises:
            NotFound: Unknown task, or ``to`` never served it.
            NothingToRollBack: It never changed, or went back already.
            Conflict: ``to`` serves it already, or a swap to another model is open.
            PreconditionFailed: ``if_match`` is not the etag of its latest swap any more.
            SwapError: The model that had to be loaded did not come up, or is not valid any more.
            EngineTimeout: Not in time; it goes on.
        """
        record = self._link.controller_once("rollback", task, if_match=if_match, to=to)
        if not wait:
            return dict(record)
        # One that has to be loaded serves long before its swap has baked.
        record = self.wait(record["swap_id"], "end" if to is None else "switched", timeout_s)
        if record["phase"] == "failed" and record["to_model"] == to:
            raise _failure(record)
        return record

    def generations(self, task: str) -> list[dict[str, Any]]:
        """The models that served a task, the newest first.

        Returns:
            ``model``, ``generation``, ``served_at_s`` (Unix time, ``None`` if not known),
            ``serves``, ``state``, and ``warm``: whether a rollback to it is one commit.

        Raises:
            NotFound: Unknown task.
        """
        rows: list[dict[str, Any]] = self._link.controller("generations", task)
        return rows

    def wait(
        self,
        swap_id: str,
        until: Literal["switched", "end"] = "end",
        timeout_s: float = LONGEST_S,
    ) -> dict[str, Any]:
        """The record of a swap once it has ended, or the candidate serves.

        Raises:
            NotFound: Unknown swap.
            EngineTimeout: Not in time; the swap goes on.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            slice_s = min(WAIT_SLICE_S, max(0.0, deadline - time.monotonic()))
            record: dict[str, Any] = self._link.controller("wait", swap_id, slice_s, until)
            phase = Phase(record["phase"])
            if phase in TERMINAL or (until == "switched" and phase in SWITCHED):
                return record
            if time.monotonic() >= deadline:
                raise EngineTimeout(f"swap {swap_id} is still {phase} after {timeout_s:g} s")

    def promote(self, swap_id: str, if_match: str | None = None) -> dict[str, Any]:
        """Skip the rest of a canary, or of the bake time. Raises ``IllegalTransition``."""
        return self._signal(swap_id, "promote", if_match)

    def pause(self, swap_id: str, if_match: str | None = None) -> dict[str, Any]:
        """Keep a canary at its share until it is resumed. Raises ``IllegalTransition``."""
        return self._signal(swap_id, "pause", if_match)

    def resume(self, swap_id: str, if_match: str | None = None) -> dict[str, Any]:
        """Let a paused canary go on. Raises ``IllegalTransition``."""
        return self._signal(swap_id, "resume", if_match)

    def abort(self, swap_id: str, if_match: str | None = None) -> dict[str, Any]:
        """Give a swap up before it switches. Raises ``IllegalTransition`` after it did."""
        return self._signal(swap_id, "abort", if_match)

    def rollback_swap(self, swap_id: str, if_match: str | None = None) -> dict[str, Any]:
        """Take an open swap back after it switched. Raises ``IllegalTransition``."""
        return self._signal(swap_id, "rollback", if_match)

    def _signal(self, swap_id: str, event: str, if_match: str | None) -> dict[str, Any]:
        record: dict[str, Any] = self._link.controller_once(
            "signal", swap_id, event, if_match=if_match
        )
        return record

    def check_compatibility(self, task: str, model: str) -> dict[str, Any]:
        """Whether a swap would be ``accepted``, and all ``gaps``; changes nothing."""
        report: dict[str, Any] = self._link.controller("check", task, model)
        return report


def _failure(record: Mapping[str, Any]) -> SwapError:
    """The error a swap ended with; its record begins with the error's code."""
    code, _, text = str(record["error"]).partition(": ")
    kinds = {kind.code: kind for kind in SwapError.__subclasses__()}
    return kinds.get(code, SwapError)(
        f"swap {record['swap_id']} {record['phase']}: {text if code in kinds else record['error']}"
    )
