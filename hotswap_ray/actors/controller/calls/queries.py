"""What people ask of the controller: what serves what, what happened, what would happen."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from hotswap_ray.actors.controller.ab_tests.registry import ABTests
from hotswap_ray.actors.controller.autoswap.views import TaskViews
from hotswap_ray.actors.controller.calls.probes import ProbeCalls
from hotswap_ray.actors.controller.models.pool import ModelPool
from hotswap_ray.actors.controller.models.publisher import Publisher
from hotswap_ray.actors.controller.swaps.learnings import SwapLearning
from hotswap_ray.actors.controller.swaps.runner import SwapRunner
from hotswap_ray.config import Config
from hotswap_ray.core.fit.compatibility import CompatibilityReport, check_compatibility
from hotswap_ray.core.spec.task import TaskSpec
from hotswap_ray.store import Store


class ControllerQueries(ProbeCalls):
    """The methods of ``SwapController`` that only read."""

    _config: Config
    _store: Store
    _tasks: Mapping[str, TaskSpec]
    _pool: ModelPool
    _publisher: Publisher
    _runner: SwapRunner
    _ab_tests: ABTests
    _learning: SwapLearning
    _views: TaskViews

    async def swaps(self, task: str | None = None, limit: int = 50) -> list[dict[str, Any]]:
        """Latest swaps first."""
        return await asyncio.to_thread(self._store.load_swaps, task, False, limit)

    async def journal(self, swap_id: str) -> list[dict[str, Any]]:
        """Every phase a swap entered, in order, with its time."""
        await self._runner.find(swap_id)
        return await asyncio.to_thread(self._store.load_journal, swap_id)

    async def check(self, task: str, model: str) -> dict[str, Any]:
        """Compatibility of a model with a task, as declared and as probed before, if loaded."""
        await self.start()
        current = self._pool.specs.get(self._publisher.route(task).model)
        report = check_compatibility(
            self._tasks[task],
            self._pool.spec(model),
            current,
            measured_memory_bytes=self._pool.measured_bytes.get(model, 0),
        )
        report = CompatibilityReport(
            (*report.gaps, *(await self._probed(self._tasks[task], model)).gaps)
        )
        strict = self._config.swap.compatibility == "strict"
        return {"accepted": report.accepts(strict), "gaps": [str(gap) for gap in report.gaps]}

    async def predict(self, task: str, model: str) -> dict[str, Any]:
        """What a model is expected to do at a task, with its compatibility as of ``check``."""
        compatibility = await self.check(task, model)
        return {**await self._learning.predict(task, model), **compatibility}

    async def calibration(self) -> dict[str, Any]:
        """Predictions of swaps against what was measured. See ``SwapLearning.calibration``."""
        return await self._learning.calibration()

    async def status(self) -> dict[str, Any]:
        """Routes, models, open swaps and A/B tests, ingress replicas and the last trouble."""
        await self.start()
        table = self._publisher.table
        return {
            "version": table.version,
            "default_task": table.default_task,
            "tasks": {
                task: {
                    "model": route.model,
                    "generation": route.active.generation if route.active else None,
                    "fallback": self._tasks[task].fallback,
                    "held": route.held,
                    "autoswap": self._views.spec(task).mode,
                }
                for task, route in table.routes.items()
            },
            "models": self._models(),
            "open_swaps": [swap.to_doc() for swap in self._runner.open()],
            "open_ab_tests": [test.to_doc(brief=True) for test in self._ab_tests.open()],
            "ingress": {
                name: {"version": listener.version, "in_flight": sum(listener.in_flight.values())}
                for name, listener in self._publisher.listeners.items()
            },
            "last_error": self._runner.last_error,
        }

    def _models(self) -> list[dict[str, Any]]:
        """Every known model with its state, for people."""
        return [
            {
                "model": spec.id,
                "engine": spec.engine,
                "state": generation.state if generation else "unloaded",
                "generation": generation.generation if generation else None,
                "memory_bytes": generation.memory_bytes if generation else 0,
                "load_s": generation.load_s if generation else None,
                "resident": spec.resident,
                "serves": self._pool.users(spec.id),
                "spec": spec.model_dump(mode="json", exclude={"options"}),  # may hold a key
            }
            for spec in self._pool.specs.values()
            for generation in [self._pool.generations.get(spec.id)]
        ]

    async def events(self, after_id: int = 0, limit: int = 100) -> list[dict[str, Any]]:
        """Events after an id, oldest first."""
        return await asyncio.to_thread(self._store.load_events, after_id, limit)
