"""What an operator does: swaps, models, state; the acting half of Arbiter."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hotswap_ray.client.events import Events
from hotswap_ray.client.link import LONGEST_S
from hotswap_ray.client.swaps import Swaps
from hotswap_ray.config.golden_set import read_golden_set
from hotswap_ray.core.errors import EngineTimeout

POLL_S = 0.2
BENCH_S = 0.5


class Operations(Swaps, Events):
    """Changes to a running hotswap_ray. Blocking; each is saved before it is done."""

    # --- decisions ----------------------------------------------------------------------

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
        setting: dict[str, Any] = self._link.controller("set_autoswap", task, mode)
        return setting

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
        spec_doc = dict(spec) if spec is not None else None
        return self._change("load", model, spec_doc, timeout_s=timeout_s)

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

        Fields are those of ``core.evidence.bench.GoldenResult``. Raises ``NotFound`` if it is not
        known.
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
        """Routes, models, open swaps and A/B tests, and more, as ``GET /admin/status``."""
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
