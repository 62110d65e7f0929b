"""Benchmarks inside the controller: one at a time, by hand or by the clock."""

from __future__ import annotations

import asyncio
import logging
import re
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from tenacity import wait_fixed

from hotswap_ray.actors.cluster.background import Tasks, forever
from hotswap_ray.actors.cluster.fleet import Fleet
from hotswap_ray.actors.controller.bench.loans import Loans
from hotswap_ray.actors.controller.bench.run import BenchParts, BenchRun, OutcomeSink, Plan, Prompts
from hotswap_ray.actors.controller.models.pool import ModelPool
from hotswap_ray.actors.controller.models.publisher import Publisher
from hotswap_ray.config import Config
from hotswap_ray.config.golden_set import given_prompts, golden_prompts
from hotswap_ray.core.answers.judge_messages import Judging
from hotswap_ray.core.errors import ConfigError, Conflict, HotswapError, InvalidRequest, NotFound
from hotswap_ray.core.routing.table import unknown
from hotswap_ray.core.spec.task import TaskSpec
from hotswap_ray.core.swap.phases import Swap
from hotswap_ray.store import Store

LOOK_S = 5.0
ID = re.compile(r"[A-Za-z0-9]{1,32}")
log = logging.getLogger("hotswap.bench")


class Bench:
    """Runs golden sets against models and hands the results in as evidence.

    Args:
        config: Limits, and when tasks are benchmarked by themselves.
        store: Durable state.
        pool: Models.
        fleet: The cluster.
        publisher: Route table.
        learning: Where evidence goes.
        judge: Judges answers.
        clock: Unix seconds.
        tasks: Task specs by id.
        swaps: Open swaps.
    """

    def __init__(
        self,
        config: Config,
        store: Store,
        pool: ModelPool,
        fleet: Fleet,
        publisher: Publisher,
        learning: OutcomeSink,
        judge: Judging,
        clock: Callable[[], float],
        tasks: Mapping[str, TaskSpec],
        swaps: Callable[[], list[Swap]],
    ) -> None:
        self._config = config
        self._store = store
        self._pool = pool
        self._publisher = publisher
        self._clock = clock
        self._tasks = tasks
        self._swaps = swaps
        self._loans = Loans(pool, store, swaps)
        self._parts = BenchParts(config, pool, fleet, learning, judge, clock, tasks, self._loans)
        self._run: BenchRun | None = None
        self._background = Tasks(log)
        self._work: asyncio.Task[None] | None = None
        spans_s = {
            task: spec.autoswap_with(config.autoswap).bench_every_s for task, spec in tasks.items()
        }
        self._every_s = {task: span_s for task, span_s in spans_s.items() if span_s}
        self._last_s: dict[str, float] | None = None

    async def begin(
        self,
        task: str | None = None,
        model: str | Sequence[str] | None = None,
        prompts: Sequence[Mapping[str, Any]] | None = None,
        *,
        bench_id: str | None = None,
        loaded_only: bool = False,
    ) -> dict[str, Any]:
        """Begin a benchmark; returns its ``bench_id`` at once, ``status`` follows it.

        Args:
            task: Task; all of them when ``None``.
            model: Model or models. When ``None``, the candidates that ``autoswap`` names for
                a task, else all models, and in any case the one that serves it.
            prompts: Golden prompts as plain data, in the place of the task's own.
            bench_id: 1 to 32 letters and digits; the same id again is the same benchmark.
            loaded_only: Leave out models that would have to be loaded first.

        Raises:
            NotFound: Unknown task or model.
            InvalidRequest: A prompt or the id is malformed, or ``prompts`` without ``task``.
            ConfigError: A golden file cannot be used.
            Conflict: Another benchmark runs.
        """
        if bench_id is not None and not ID.fullmatch(bench_id):
            raise InvalidRequest("a bench id is 1 to 32 letters and digits")
        if bench_id is not None and self._run and self._run.bench_id == bench_id:
            return {"bench_id": bench_id}
        if task is not None and task not in self._tasks:
            raise NotFound(unknown("task", task, self._tasks))
        named = [model] if isinstance(model, str) else model
        for name in named or ():
            self._pool.spec(name)
        if prompts is None:
            sets = await self._golden([task] if task else [*self._tasks])
        elif task is None:
            raise InvalidRequest("prompts are of one task; name it")
        else:
            sets = {task: given_prompts(task, prompts)}
        bench_id = bench_id or uuid.uuid4().hex[:12]
        self._begin(bench_id, sets, named, loaded_only)
        return {"bench_id": bench_id}

    async def status(self, bench_id: str | None = None, wait_s: float = 0) -> dict[str, Any]:
        """A benchmark as it is, or once it has ended if that is sooner than ``wait_s``.

        Args:
            bench_id: The last one when ``None``.
            wait_s: Longest wait, in seconds.

        Returns:
            ``bench_id, state, done, of, now, rows, skipped, error``.

        Raises:
            NotFound: It is neither running nor the last one of this controller.
        """
        run = self._find(bench_id)
        if self._work is not None and run.state == "running" and wait_s > 0:
            await asyncio.wait({self._work}, timeout=wait_s)
        return run.to_doc()

    def results(self, bench_id: str | None = None) -> list[dict[str, Any]]:
        """The result of each prompt: the fields of ``core.evidence.bench.GoldenResult``.

        Raises:
            NotFound: See ``status``.
        """
        return self._find(bench_id).results_doc()

    async def cancel(self, bench_id: str) -> dict[str, Any]:
        """End a benchmark; returns its status when what was loaded for it is gone.

        Raises:
            NotFound: See ``status``.
        """
        run = self._find(bench_id)
        if self._work is not None and run.state == "running":
            run.state = "cancelled"  # before the await: a second call must not cut clean-up short
            self._work.cancel()
        if self._work is not None:
            await asyncio.wait({self._work})
        return run.to_doc()

    def keep(self, model: str) -> None:
        """Keep a model loaded after a benchmark, since an operator has loaded it."""
        self._loans.keep(model)

    def _find(self, bench_id: str | None) -> BenchRun:
        if self._run is None or bench_id not in (None, self._run.bench_id):
            raise NotFound(f"no benchmark {bench_id or ''} is known; only the last one is kept")
        return self._run

    @property
    def _is_busy(self) -> bool:
        return self._work is not None and not self._work.done()

    async def _golden(self, tasks: Iterable[str]) -> dict[str, dict[str, Any]]:
        return {task: await asyncio.to_thread(golden_prompts, self._tasks[task]) for task in tasks}

    def _begin(
        self,
        bench_id: str,
        sets: Mapping[str, Prompts],
        named: Sequence[str] | None = None,
        loaded_only: bool = False,
    ) -> asyncio.Task[None]:
        if self._run is not None and self._is_busy:
            raise Conflict(f"benchmark {self._run.bench_id} runs; wait for it or cancel it", 10.0)
        run = BenchRun(
            bench_id,
            self._plan(sets, named, loaded_only),
            self._parts,
            [
                {"task": task, "model": "", "reason": "the task has no golden prompts"}
                for task, prompts in sets.items()
                if not prompts
            ],
        )
        self._run = run
        self._work = self._background.spawn(self._drive(run), f"bench:{run.bench_id}")
        return self._work

    def _plan(
        self, sets: Mapping[str, Prompts], named: Sequence[str] | None, loaded_only: bool
    ) -> Plan:
        """Models that are loaded come first, each with all its tasks."""
        models = sorted(self._pool.specs, key=lambda model: not self._pool.is_ready(model))
        return {
            model: tasks
            for model in models
            if self._pool.is_ready(model) or not loaded_only
            if (
                tasks := {
                    task: prompts
                    for task, prompts in sets.items()
                    if prompts and model in (named or self._considered(task))
                }
            )
        }

    def _considered(self, task: str) -> set[str]:
        spec = self._tasks[task].autoswap_with(self._config.autoswap)
        active = self._publisher.table.routes[task].model
        return {*(spec.candidates or self._pool.specs), active}

    async def _drive(self, run: BenchRun) -> None:
        try:
            await run.go()
            run.state = "done"
        except asyncio.CancelledError:
            run.state = "cancelled"
        except HotswapError as error:
            run.state, run.error = "failed", f"{error.code}: {error}"
        finally:
            if run.state == "running":
                run.state, run.error = "failed", "unexpected; see the controller's log"
            run.now = ""
            await self._add_end_event(run)

    async def _add_end_event(self, run: BenchRun) -> None:
        doc = run.to_doc()
        event = {key: doc[key] for key in ("bench_id", "state", "done", "of", "error")}
        best: dict[str, Any] = {}
        for row in run.rows:
            if row["quality"] is not None and row["quality"] > best.get(row["task"], (-1,))[0]:
                best[row["task"]] = (row["quality"], row["model"])
        event["best"] = {task: model for task, (_, model) in best.items()}
        event["skipped"] = len(run.skipped)
        try:
            await asyncio.to_thread(self._store.add_event, "benchmark", event, self._clock())
        except HotswapError as error:
            log.error("the end of benchmark %s is not among the events: %s", run.bench_id, error)

    # --- by the clock -------------------------------------------------------------------

    async def run_schedule(self) -> None:
        """Look at the schedule again and again; never returns."""
        await forever(self._look_and_pause, "scheduled benchmark", log, wait_fixed(LOOK_S))

    async def _look_and_pause(self) -> None:
        await self.look()
        await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """Benchmark the tasks whose ``autoswap.bench_every_s`` is over; returns when it ended.

        While a swap is open, or a task has no model yet, it is left for the next look. Also
        gives back what an earlier controller had loaded for a benchmark.
        """
        routes = self._publisher.table.routes.values()
        if self._is_busy or self._swaps() or not all(route.active for route in routes):
            return
        await self._loans.clean_up(lambda: self._is_busy)
        if self._last_s is None:
            settings = await asyncio.to_thread(self._store.load_settings)
            self._last_s = {
                task: settings[f"bench:{task}"]["at_s"]
                for task in self._every_s
                if f"bench:{task}" in settings
            }
        now_s, last_s = self._clock(), self._last_s
        due = [
            task
            for task, span_s in self._every_s.items()
            if task not in last_s or not 0 <= now_s - last_s[task] < span_s
        ]
        sets: dict[str, Prompts] = {}
        for task in due:
            try:
                sets |= await self._golden([task])
            except ConfigError as error:  # the other tasks are benchmarked all the same
                log.error("scheduled benchmark of %s: %s", task, error)
        if any(sets.values()):
            await asyncio.wait({self._begin(uuid.uuid4().hex[:12], sets)})
        # Saved after the run, so that one that a crash cut short is done again.
        for task in due:
            last_s[task] = now_s
            doc = {"at_s": now_s}
            await asyncio.to_thread(self._store.save_setting, f"bench:{task}", doc)
