"""What an operator does: swaps, models, state; the acting half of Arbiter."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from hotswap_ray.client_link import LONGEST_S, ClusterLink
from hotswap_ray.core.errors import EngineTimeout, SwapError
from hotswap_ray.core.swap import SWITCHED, TERMINAL, Phase
from hotswap_ray.golden_set import read_golden_set

POLL_S = 0.2
WAIT_SLICE_S = 20.0
BENCH_S = 0.5


class Operations:
    """Changes to a running hotswap_ray. Blocking; each is saved before it is done.

    Args:
        link: The connection to it.
    """

    def __init__(self, link: ClusterLink) -> None:
        self._link = link

    # --- swaps --------------------------------------------------------------------------

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

        Returns:
            The swap's record: ``swap_id``, ``phase``, ``seconds``, ``facts`` and more.

        Raises:
            NotFound: Unknown task or model.
            Conflict: Another swap of the task is open, or the model serves it already.
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
        )
        if not wait:
            return dict(record)
        record = self.wait(record["swap_id"], until, timeout_s)
        if record["phase"] in ("failed", "rolled_back"):
            raise _failure(record)
        return record

    def rollback(
        self, task: str, wait: bool = True, *, timeout_s: float = LONGEST_S
    ) -> dict[str, Any]:
        """Give a task back to the model it had before; the swap's record.

        Raises:
            NotFound: Unknown task.
            NothingToRollBack: It never changed, or went back already.
        """
        record = self._link.controller_once("rollback", task)
        return self.wait(record["swap_id"], "end", timeout_s) if wait else dict(record)

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

    def promote(self, swap_id: str) -> dict[str, Any]:
        """Skip the rest of a canary, or of the bake time. Raises ``IllegalTransition``."""
        return self._signal(swap_id, "promote")

    def pause(self, swap_id: str) -> dict[str, Any]:
        """Keep a canary at its share until it is resumed. Raises ``IllegalTransition``."""
        return self._signal(swap_id, "pause")

    def resume(self, swap_id: str) -> dict[str, Any]:
        """Let a paused canary go on. Raises ``IllegalTransition``."""
        return self._signal(swap_id, "resume")

    def abort(self, swap_id: str) -> dict[str, Any]:
        """Give a swap up before it switches. Raises ``IllegalTransition`` after it did."""
        return self._signal(swap_id, "abort")

    def rollback_swap(self, swap_id: str) -> dict[str, Any]:
        """Take an open swap back after it switched. Raises ``IllegalTransition``."""
        return self._signal(swap_id, "rollback")

    def _signal(self, swap_id: str, event: str) -> dict[str, Any]:
        record: dict[str, Any] = self._link.controller_once("signal", swap_id, event)
        return record

    def check_compatibility(self, task: str, model: str) -> dict[str, Any]:
        """Whether a swap would be ``accepted``, and all ``gaps``; changes nothing."""
        report: dict[str, Any] = self._link.controller("check", task, model)
        return report

    def set_autoswap(self, task: str, mode: str) -> dict[str, Any]:
        """Set whether the arbiter decides about a task; it outlasts restarts.

        Args:
            task: Task.
            mode: ``off``, ``advise`` (decides and explains, changes nothing), ``on``, or
                ``config`` for what the file says.

        Raises:
            NotFound: Unknown task.
            InvalidRequest: Unknown mode.
        """
        said: dict[str, Any] = self._link.controller("set_autoswap", task, mode)
        return said

    # --- models -------------------------------------------------------------------------

    def load(
        self, model: str, spec: Mapping[str, Any] | None = None, timeout_s: float = LONGEST_S
    ) -> dict[str, Any]:
        """Load (or wake) a model beside those that serve; returns when it answers.

        Args:
            model: Model id.
            spec: As under ``models:`` in the YAML file, for one that is not there.
            timeout_s: Longest wait; the load goes on after it.

        Raises:
            NotFound: Unknown model or engine.
            ConfigError: The spec is wrong; each field is named.
            InsufficientResources: No room, after ``swap.load_wait_s``.
            EngineLoadFailed: It did not come up; nothing is left behind.
        """
        given = dict(spec) if spec is not None else None
        return self._change("load", model, given, timeout_s=timeout_s)

    def wake(self, model: str, timeout_s: float = LONGEST_S) -> dict[str, Any]:
        """Wake a model that sleeps; the same as ``load``."""
        return self.load(model, timeout_s=timeout_s)

    def unload(self, model: str, timeout_s: float = LONGEST_S) -> dict[str, Any]:
        """Let a model's requests end and remove it. Raises ``Conflict`` if a task needs it."""
        return self._change("unload", model, timeout_s=timeout_s)

    def sleep(self, model: str, timeout_s: float = LONGEST_S) -> dict[str, Any]:
        """Give a model's memory back until it wakes. Raises ``Conflict``, ``NotSupported``."""
        return self._change("sleep", model, timeout_s=timeout_s)

    def _change(self, method: str, *args: Any, timeout_s: float) -> dict[str, Any]:
        row: dict[str, Any] = self._link.controller(method, *args, timeout_s=timeout_s)
        return row

    # --- benchmarks ---------------------------------------------------------------------

    def bench(
        self,
        task: str | None = None,
        model: str | Sequence[str] | None = None,
        file: str | Path | None = None,
        *,
        loaded_only: bool = False,
        on_progress: Callable[[dict[str, Any]], None] = lambda status: None,
    ) -> dict[str, Any]:
        """Ask models the golden prompts of tasks; results are evidence. Ctrl-C ends it.

        Models that are not loaded are loaded for it, one at a time and within the capacity at
        hand, and unloaded after.

        Args:
            task: Task; all of them when ``None``.
            model: Model or models. When ``None``, the candidates that ``autoswap`` names for
                a task, else all models, and in any case the one that serves it.
            file: Golden set of ``task``, read here: a YAML list, or JSON lines.
            loaded_only: Load none.
            on_progress: Sees the status again and again, and at the end.

        Returns:
            The status: ``state`` (``done``, ``failed`` or ``cancelled``), ``done`` of ``of``
            prompts, ``rows`` (one a task and model), ``skipped`` with reasons, ``error``.

        Raises:
            NotFound: Unknown task or model, or the controller was restarted meanwhile.
            ConfigError: The golden set cannot be used; each problem with its line.
            Conflict: Another benchmark runs.
        """
        prompts = None
        if file is not None:
            prompts = [prompt.model_dump(mode="json") for prompt in read_golden_set(Path(file))]
        bench_id = uuid.uuid4().hex[:12]  # so that it can be asked again
        self._link.controller(
            "bench", task, model, prompts, bench_id=bench_id, loaded_only=loaded_only
        )
        try:
            while True:
                status: dict[str, Any] = self._link.controller("bench_status", bench_id, BENCH_S)
                on_progress(status)
                if status["state"] != "running":
                    return status
        except KeyboardInterrupt:
            self.bench_cancel(bench_id)
            raise

    def bench_results(self, bench_id: str | None = None) -> list[dict[str, Any]]:
        """What came of each prompt of a benchmark, the last one when ``None``.

        Fields are those of ``bench_report.Result``. Raises ``NotFound`` if it is not known.
        """
        results: list[dict[str, Any]] = self._link.controller("bench_results", bench_id)
        return results

    def bench_cancel(self, bench_id: str) -> dict[str, Any]:
        """End a benchmark; its status, once what was loaded for it is gone."""
        status: dict[str, Any] = self._link.controller(
            "bench_cancel", bench_id, timeout_s=LONGEST_S
        )
        return status

    # --- state --------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """Routes, models, open swaps and ingress replicas, as ``GET /admin/status``."""
        status: dict[str, Any] = self._link.controller("status")
        return status

    def wait_until_ready(self, timeout_s: float = 600) -> dict[str, Any]:
        """The status once every task has a loaded model.

        Raises:
            EngineTimeout: Not in time; the message names the tasks and the last trouble.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            status = self.status()
            waiting = [t for t, row in status["tasks"].items() if row["generation"] is None]
            if not waiting:
                return status
            if time.monotonic() >= deadline:
                raise EngineTimeout(
                    f"no model yet for {', '.join(waiting)} after {timeout_s:g} s"
                    + (f"; {status['last_error']}" if status["last_error"] else "")
                )
            time.sleep(POLL_S)

    def events(self, after_id: int = 0, poll_s: float = POLL_S) -> Iterator[dict[str, Any]]:
        """Events after an id, then those that come, without end: ``id, kind, at_s, doc``."""
        while True:
            found = self._link.controller("events", after_id)
            for event in found:
                after_id = event["id"]
                yield event
            if not found:
                time.sleep(poll_s)


def _failure(record: Mapping[str, Any]) -> SwapError:
    """The error a swap ended with; its record begins with the error's code."""
    code, _, text = str(record["error"]).partition(": ")
    kinds = {kind.code: kind for kind in SwapError.__subclasses__()}
    return kinds.get(code, SwapError)(
        f"swap {record['swap_id']} {record['phase']}: {text if code in kinds else record['error']}"
    )
