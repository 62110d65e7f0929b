"""The tests of all tasks: outcomes and scores go in, decisions about every task come out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from hotswap_ray.core.autoswap.candidate_tests import CandidateTests
from hotswap_ray.core.autoswap.decide import (
    Decision,
    Settings,
    SwapCost,
    TaskState,
    decide,
    unloadable,
)
from hotswap_ray.core.autoswap.task_tests import TaskTests
from hotswap_ray.core.autoswap.view import Alarm, Finding, Look, ModelFacts, TaskView, inputs_of
from hotswap_ray.core.evidence.beliefs import NO_REFERENCE, Beliefs
from hotswap_ray.core.evidence.cell import Cell, Evidence
from hotswap_ray.core.evidence.learnings import Learnings
from hotswap_ray.core.evidence.utility import Reference, utility, weighs_quality_only
from hotswap_ray.core.outcome import Outcome
from hotswap_ray.core.policies.selection import Arm
from hotswap_ray.core.spec.task import Preferences


class Decider:
    """Holds the tests of every task that the arbiter may decide about, and decides by them.

    Args:
        learnings: Evidence and knowledge. Cells whose evidence holds no longer are forgotten there.
        trusted: Whether the scores of one key may decide alone.

    Attributes:
        on_alarm: Called when a model's results fell: somebody should look at once.
        arms: What is believed of each model that may be tried, by task, since the last look.
        forgot: Whether evidence was given up that the store still has.
    """

    def __init__(self, learnings: Learnings, trusted: bool = False) -> None:
        self._learnings = learnings
        self._trusted = trusted
        self._tasks: dict[str, TaskTests] = {}
        self._models: Mapping[str, ModelFacts] = {}
        self._references: dict[str, Reference] = {}
        self.on_alarm: Callable[[], None] = lambda: None
        self.arms: dict[str, tuple[Arm, ...]] = {}
        self.forgot = False

    def take(self, batch: Sequence[Outcome]) -> None:
        """Use outcomes, in any order, for the tests they may count for."""
        for outcome in batch:
            task_tests = self._tasks.get(outcome.task)
            if task_tests is not None:
                task_tests.take(outcome)
                if task_tests.untold:
                    self.on_alarm()

    def score(self, cell: Cell, request_id: str, score: float, source: str | None) -> None:
        """Use a person's score of an answer; arguments as ``TaskTests.score``."""
        task_tests = self._tasks.get(cell[0])
        if task_tests is not None:
            task_tests.score(cell[1], request_id, score, source)
            if task_tests.untold:
                self.on_alarm()

    def look(
        self,
        views: Sequence[TaskView],
        models: Mapping[str, ModelFacts],
        now_s: float,
        rate: Callable[[str], float] = lambda task: 1.0,
        kept: frozenset[str] = frozenset(),
    ) -> Look:
        """Decide about every task. A task whose mode is off is not observed any more.

        Args:
            views: The tasks as they are now; a change of the active model starts the tests
                of its task anew.
            models: Facts of every model.
            now_s: Unix time.
            rate: Arrival rate of a task, requests a second.
            kept: Models that are never unloaded.
        """
        self._models = models
        self._learnings.prices = {name: facts.price for name, facts in models.items()}
        watched = [view for view in views if view.settings.mode != "off"]
        for task in self._tasks.keys() - {view.task for view in watched}:
            del self._tasks[task]
        self.arms = {}
        beliefs = self._beliefs(watched)
        findings: list[Finding] = []
        alarms: list[Alarm] = []
        states: list[tuple[TaskState, Settings]] = []
        for view in views:
            if view.settings.mode == "off":
                findings.append(Finding(Decision(view.task, "stay", "off", view.active), {}))
                continue
            task_tests = self._tasks.get(view.task) or self._begin(view)
            task_tests.follow(view, now_s)
            alarms += task_tests.untold
            task_tests.untold = []
            state = self._state(task_tests, view, beliefs, now_s, rate(view.task))
            decision = decide(state, view.settings)
            findings.append(Finding(decision, inputs_of(state, view.settings)))
            states.append((state, view.settings))
            for model in task_tests.reopen(decision):
                self._learnings.forget((view.task, model))
                self.forgot = True
        # Every task must agree, also one that may not use a model just now, because limits change.
        if states and all(v.unload and v.settings.mode == "on" for v in views):
            findings += [Finding(decision, {}) for decision in unloadable(states, kept)]
        return Look(tuple(findings), tuple(alarms))

    def _begin(self, view: TaskView) -> TaskTests:
        worth = partial(self._worth, view.task)
        task_tests = TaskTests(CandidateTests(view.task, view.active), worth, self._trusted)
        self._tasks[view.task] = task_tests
        return task_tests

    def _beliefs(self, views: Sequence[TaskView]) -> Beliefs:
        """Priors from all tasks, also from those not watched: they inform about the same models."""
        tasks = dict.fromkeys((*(view.task for view in views), *self._learnings.knowledge))
        models = dict.fromkeys((*self._models, *(view.active for view in views)))
        return Beliefs(self._learnings.cells if views else {}, [*tasks], [*models])

    def _state(
        self,
        task_tests: TaskTests,
        view: TaskView,
        beliefs: Beliefs,
        now_s: float,
        requests_per_s: float,
    ) -> TaskState:
        task, candidate_tests = view.task, task_tests.candidate_tests
        models = [view.active, *view.candidates] if view.meets_limits else [*view.candidates]
        limit_ms = self._learnings.known(task).requirements.max_latency_ms
        cells = {m: self._learnings.cells.get((task, m)) for m in models}
        fit = [m for m in models if not _too_slow(cells[m], limit_ms, view.settings.min_samples)]
        costs_usd = {m: self._learnings.mean_cost_usd(cells[m]) for m in fit}
        preferences = self._preferences(task)
        reference = self._reference(preferences, {m: cells[m] for m in fit}, costs_usd)
        self._references[task] = reference
        arms = [beliefs.arm(task, m, cells[m], preferences, reference, costs_usd[m]) for m in fit]
        relevant = {*candidate_tests.undecided(fit), view.active, view.previous}
        self.arms[task] = tuple(a for a in arms if view.every_arm or a.model in relevant)
        prices = {m: costs_usd[m] or float(self._facts(m).memory_bytes) for m in fit}
        load_costs = {m: SwapCost(load_s=self._facts(m).load_s) for m in fit}
        return candidate_tests.state(now_s, arms, requests_per_s, prices, load_costs)

    def _worth(self, task: str, outcome: Outcome, reward: float | None) -> float | None:
        return utility(
            self._preferences(task),
            self._references.get(task, NO_REFERENCE),
            reward,
            success=outcome.success,
            latency_ms=outcome.latency_ms,
            cost_usd=self._learnings.cost_usd(outcome.model, outcome.tokens_in, outcome.tokens_out),
            memory_bytes=outcome.memory_bytes or self._facts(outcome.model).memory_bytes or None,
        )

    def _facts(self, model: str) -> ModelFacts:
        return self._models.get(model) or ModelFacts()

    def _preferences(self, task: str) -> Preferences:
        return self._learnings.known(task).preferences

    def _reference(
        self,
        preferences: Preferences,
        cells: Mapping[str, Evidence | None],
        costs_usd: Mapping[str, float | None],
    ) -> Reference:
        """What is usual at a task: means over the models' own values."""
        if weighs_quality_only(preferences):
            return NO_REFERENCE
        latencies = [cell.latency_ms.quantile(0.5) for cell in cells.values() if cell is not None]
        memory = [self._facts(model).memory_bytes or None for model in cells]
        return Reference(_mean(latencies), _mean([*costs_usd.values()]), _mean(memory))

    def changed_docs(self) -> list[dict[str, Any]]:
        """Plain values of the tests of each task that changed since the last call."""
        changed = [task_tests for task_tests in self._tasks.values() if task_tests.changed]
        for task_tests in changed:
            task_tests.changed = False
        return [task_tests.to_doc() for task_tests in changed]

    def not_saved(self, docs: Sequence[Mapping[str, Any]]) -> None:
        """Mark tests that could not be saved, so that ``changed_docs`` gives them again."""
        for doc in docs:
            if task_tests := self._tasks.get(doc["task"]):
                task_tests.changed = True

    def load(self, docs: Mapping[str, Mapping[str, Any]]) -> None:
        """Go on with saved tests."""
        for task, doc in docs.items():
            worth = partial(self._worth, task)
            self._tasks[task] = TaskTests.from_doc(doc, worth, self._trusted)


def _too_slow(cell: Evidence | None, limit_ms: float | None, least: int) -> bool:
    """Whether a model is known to miss a task's latency limit more often than not."""
    if cell is None or limit_ms is None or cell.count < least:
        return False
    return (cell.latency_ms.quantile(0.5) or 0.0) > limit_ms


def _mean(values: Sequence[float | None]) -> float | None:
    numbers = [value for value in values if value is not None]
    return sum(numbers) / len(numbers) if numbers else None
