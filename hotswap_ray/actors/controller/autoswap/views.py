"""The tasks as the auto-swap sees them, and which models may be tried at each."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from hotswap_ray.actors.controller.models.pool import ModelPool
from hotswap_ray.actors.controller.models.publisher import Publisher
from hotswap_ray.config import Config
from hotswap_ray.core.autoswap.decide import Settings
from hotswap_ray.core.autoswap.view import ModelFacts, TaskView
from hotswap_ray.core.fit.compatibility import check_compatibility
from hotswap_ray.core.rollout.ab_record import ABTest
from hotswap_ray.core.routing.table import Route, RouteTable, Trial
from hotswap_ray.core.spec.autoswap import AutoswapMode, AutoswapSpec
from hotswap_ray.core.spec.task import TaskSpec
from hotswap_ray.core.swap.phases import Phase, Swap

UNKNOWN_LOAD_S = 30.0
"""Expected time of a load before the first one was measured."""


class TaskViews:
    """Reads routes, models and settings; changes nothing.

    Args:
        config: The configuration.
        tasks: Task specs by id.
        pool: Models.
        publisher: Route table.
        open_swaps: Swaps that have not ended.
        modes: Modes set at run time, by task; they win over the configuration.
        tests: Open A/B tests that divide conversations.
    """

    def __init__(
        self,
        config: Config,
        tasks: Mapping[str, TaskSpec],
        pool: ModelPool,
        publisher: Publisher,
        open_swaps: Callable[[], list[Swap]],
        modes: Mapping[str, AutoswapMode],
        tests: Callable[[], list[ABTest]] = list,
    ) -> None:
        self._config = config
        self._tasks = tasks
        self._pool = pool
        self._publisher = publisher
        self._open_swaps = open_swaps
        self._modes = modes
        self._tests = tests
        self._load_s: dict[str, float] = {}

    def spec(self, task: str) -> AutoswapSpec:
        """How a task gets its models now, with what was set at run time."""
        spec = self._tasks[task].autoswap_with(self._config.autoswap)
        mode = self._modes.get(task)
        return spec if mode is None else spec.model_copy(update={"mode": mode})

    def open_swap(self, task: str) -> Swap | None:
        """The swap of a task that has not ended, if there is one."""
        return next((swap for swap in self._open_swaps() if swap.task == task), None)

    def is_swapping(self, task: str) -> bool:
        """Whether a swap or an A/B test of the task is at work.

        A swap that only keeps the old model warm is not.
        """
        swap = self.open_swap(task)
        if any(test.task == task and test.divides for test in self._tests()):
            return True
        return swap is not None and swap.phase is not Phase.BAKING

    def view(self, task: str, automatic: bool, refused: frozenset[str]) -> TaskView:
        """A task as it is now.

        Args:
            task: Task id.
            automatic: Whether its last swap was the arbiter's own.
            refused: Models that are not to be considered for now.
        """
        spec, route = self.spec(task), self._publisher.table.routes[task]
        current = self._pool.specs.get(route.model)
        previous = self._previous(task)
        named = spec.candidates or tuple(self._pool.specs)
        candidates = [name for name in named if name not in (route.model, *refused)]
        fit = [name for name in candidates if self._fits(task, name, route.model)]
        if previous is not None and previous not in fit:
            fit.append(previous)  # it served until now
        return TaskView(
            task=task,
            active=route.model,
            candidates=tuple(fit),
            settings=Settings(
                mode=spec.mode,
                alpha=spec.alpha,
                cooldown_s=spec.cooldown_s,
                min_samples=spec.min_samples,
                success_alarm=spec.success_alarm,
                residency_s=spec.residency_s,
                cheaper=spec.cheaper,
            ),
            meets_limits=current is not None and self._fits(task, route.model, None),
            previous=previous,
            automatic=automatic,
            margin=spec.margin,
            equivalence=spec.equivalence,
            explore=0.5 if spec.serve == "policy" else spec.explore,
            every_arm=spec.serve == "policy",
            unload=spec.unload,
        )

    def _previous(self, task: str) -> str | None:
        swap = self.open_swap(task)
        if swap is None or swap.phase not in (Phase.DRAINING, Phase.BAKING):
            return None
        return swap.from_model if self._pool.is_ready(swap.from_model) else None

    def _fits(self, task: str, model: str, instead_of: str | None) -> bool:
        spec = self._pool.specs.get(model)
        if spec is None:
            return False
        report = check_compatibility(
            self._tasks[task],
            spec,
            self._pool.specs.get(instead_of) if instead_of else None,
            measured_memory_bytes=self._pool.measured_bytes.get(model, 0),
        )
        return report.accepts(self._config.swap.compatibility == "strict")

    def facts(self) -> dict[str, ModelFacts]:
        """What every known model costs."""
        facts = {}
        for name, spec in self._pool.specs.items():
            generation = self._pool.generations.get(name)
            if generation is not None and generation.state != "loading":  # not measured yet
                self._load_s[name] = generation.load_s
            ready = self._pool.is_ready(name)
            memory = generation.memory_bytes if generation else 0
            facts[name] = ModelFacts(
                price=spec.price,
                load_s=0.0 if ready else self._load_s.get(name, UNKNOWN_LOAD_S),
                memory_bytes=memory or self._pool.measured_bytes.get(name, 0),
            )
        return facts

    def kept(self) -> frozenset[str]:
        """Models that stay loaded whatever the tests say."""
        names = {spec.id for spec in self._pool.specs.values() if spec.resident}
        names |= {task.fallback for task in self._tasks.values() if task.fallback}
        for swap in self._open_swaps():
            names |= {swap.from_model, swap.to_model}
        for test in self._tests():
            names |= {*test.models}
        return frozenset(names | (self._pool.specs.keys() - self._pool.generations.keys()))

    def trial(self, table: RouteTable, view: TaskView) -> Trial | None:
        """Models that may be tried at a task, by the table as it is; ``None`` without any."""
        spec, route = self.spec(view.task), table.routes[view.task]
        if spec.mode == "off" or route.active is None or route.held:
            return None
        candidates = tuple(
            target
            for name in view.candidates
            if (target := table.models.get(name)) and target != route.active
        )
        advises = spec.mode == "advise"  # changes nothing that a client could notice
        trial = Trial(
            candidates,
            explore=0.0 if advises else spec.explore,
            shadow=spec.shadow if self._tasks[view.task].checks else 0.0,
            by_policy=spec.serve == "policy" and not advises,
        )
        is_used = candidates and (trial.explore or trial.shadow or trial.by_policy)
        return trial if is_used else None

    def changed_trials(self, table: RouteTable, views: list[TaskView]) -> dict[str, Trial | None]:
        """Trials that differ from those of the table, except where a swap is at work."""
        return {
            view.task: trial
            for view in views
            if not self.is_swapping(view.task)
            and _same_model(table.routes.get(view.task), view)
            and (trial := self.trial(table, view)) != table.routes[view.task].trial
        }


def _same_model(route: Route | None, view: TaskView) -> bool:
    """Whether the route is still the one that the view was made of."""
    return route is not None and route.model == view.active
