"""The tests that run at one task: what was seen goes in, decisions come out.

One object per task, owned by one writer; the live arbiter and the replay use the same.
It holds what ``core/autoswap/decide.py`` needs between two looks: a test for each candidate, the
matching of unpaired results, the drift of each model, the times of the swaps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from hotswap_ray.core.autoswap.decide import (
    Decision,
    Settings,
    Standing,
    SwapCost,
    TaskState,
    decide,
)
from hotswap_ray.core.policies.selection import Arm
from hotswap_ray.core.proof.betting import Matching, PairTest
from hotswap_ray.core.proof.drift import Change, Drift

DAY_S = 86_400.0
LOADED = SwapCost()
MOST_SOURCES = 200
"""Pairs of candidate and voter that are kept apart; further voters do not count for a test."""


class CandidateTests:
    """Tests of every candidate against the active model of one task.

    Args:
        task: Task id.
        active: Model that serves.
        settings: How careful to be; may be replaced at run time.
        margin: Difference of utility that is not worth a promotion.
        width: Difference that counts as none.
        ratio: Served requests of the active model per one of a candidate.

    Attributes:
        active: Model that serves.
        previous: Model that served before and is still warm.
        settings: As given, or as changed since.

    Example:
        >>> candidate_tests = CandidateTests("t", "old", Settings(cooldown_s=0))
        >>> for n in range(40):
        ...     candidate_tests.pair("new", 1.0, n % 2)
        >>> arms = [Arm("old", 40, belief=0.5), Arm("new", 40, belief=0.9)]
        >>> candidate_tests.look(0.0, arms).action
        'promote'
    """

    def __init__(
        self,
        task: str,
        active: str,
        settings: Settings | None = None,
        margin: float = 0.01,
        width: float = 0.03,
        ratio: int = 1,
    ) -> None:
        self.task = task
        self.active = active
        self.previous: str | None = None
        self.settings = settings or Settings()
        self._margin = margin
        self._width = width
        self._ratio = ratio
        self._tests: dict[str, PairTest] = {}
        self._by_source: dict[str, dict[str, PairTest]] = {}
        self._matching: dict[tuple[str, str | None], Matching] = {}
        self._drift: dict[str, Drift] = {}
        self._swaps_s: list[float] = []
        self._last_swap_s = -math.inf

    @property
    def tests(self) -> Mapping[str, PairTest]:
        """Test of each candidate that was compared, since the last swap.

        Where people voted it is the test that remains without the one source that speaks
        most for the candidate: what is proven then, no source brought about alone.
        """
        return {name: self._without_top_source(name) for name in self._tests}

    def _without_top_source(self, candidate: str) -> PairTest:
        whole = self._tests[candidate]
        parts = self._by_source.get(candidate)
        if not parts:
            return whole
        return min((whole.without(part) for part in parts.values()), key=PairTest.log_e)

    def configure(self, settings: Settings, margin: float, width: float, ratio: int) -> None:
        """Take over settings; tests of another margin or width start anew.

        Args:
            settings: How careful to be.
            margin: Difference of utility that is not worth a promotion.
            width: Difference that counts as none.
            ratio: Served requests of the active model per one of a candidate.
        """
        self.settings, self._ratio = settings, ratio
        if (self._margin, self._width) != (margin, width):
            self._margin, self._width = margin, width
            self.restart()

    def restart(self) -> None:
        """Forget all comparisons, because results mean something else from now on."""
        self._tests.clear()
        self._by_source.clear()
        self._matching.clear()

    def pair(self, candidate: str, utility: float, active_utility: float) -> None:
        """Compare two answers to one prompt, a candidate's and the active model's.

        Args:
            candidate: Model id.
            utility: Of its answer, in [0, 1].
            active_utility: Of the active model's answer.
        """
        if candidate != self.active:
            self._extend(candidate, None, (utility - active_utility,))

    def served(self, model: str, utility: float, source: str | None = None) -> None:
        """Add the utility of a request that one model answered, to meet that of another model.

        Args:
            model: Model id.
            utility: Of its answer, in [0, 1].
            source: Whose judgement it is; only judgements of one source meet. ``None`` for
                what no person judged.
        """
        if model == self.active:
            for (candidate, judge), matching in self._matching.items():
                if judge == source and (differences := matching.active(utility)):
                    self._extend(candidate, source, differences)
            return
        if source is not None and len(self._matching) > MOST_SOURCES:
            return
        matching = self._matching.setdefault((model, source), Matching(self._ratio))
        if differences := matching.candidate(utility):
            self._extend(model, source, differences)

    def _extend(self, candidate: str, source: str | None, differences: Sequence[float]) -> None:
        self._test(self._tests, candidate).extend(differences)
        if source is not None:
            self._test(self._by_source.setdefault(candidate, {}), source).extend(differences)

    def watch(self, model: str, value: float) -> Change:
        """Success or quality of one answer, for the drift of its model."""
        drift = self._drift.get(model)
        if drift is None:
            drift = self._drift[model] = Drift()
        return drift.update(value)

    def recent(self, model: str) -> float:
        """Mean of about the last 20 watched values of a model; NaN before any."""
        drift = self._drift.get(model)
        return math.nan if drift is None else drift.recent

    def look(
        self,
        now_s: float,
        arms: Sequence[Arm],
        requests_per_s: float = 1.0,
        prices: Mapping[str, float] | None = None,
        swap_costs: Mapping[str, SwapCost] | None = None,
    ) -> Decision:
        """Decide about the task; changes nothing.

        Args:
            now_s: Clock of the swaps, in seconds.
            arms: Models that meet the hard limits, with what is believed of them.
            requests_per_s: Arrival rate.
            prices: Of each model, to choose among equals.
            swap_costs: Of a swap to each model; missing ones count as loaded.
        """
        return decide(self.state(now_s, arms, requests_per_s, prices, swap_costs), self.settings)

    def state(
        self,
        now_s: float,
        arms: Sequence[Arm],
        requests_per_s: float = 1.0,
        prices: Mapping[str, float] | None = None,
        swap_costs: Mapping[str, SwapCost] | None = None,
    ) -> TaskState:
        """The snapshot that ``look`` decides on; arguments as there."""
        prices, swap_costs = prices or {}, swap_costs or {}
        return TaskState(
            task=self.task,
            active=self.active,
            standings=tuple(
                self._standing(arm, prices.get(arm.model, 0.0), swap_costs.get(arm.model, LOADED))
                for arm in arms
            ),
            tests=self.tests,
            previous=self.previous,
            since_swap_s=now_s - self._last_swap_s,
            recent_swaps=sum(1 for at_s in self._swaps_s if now_s - at_s < DAY_S),
            requests_per_s=requests_per_s,
        )

    def undecided(self, models: Sequence[str]) -> list[str]:
        """Candidates whose evidence can still change something, in the given order."""
        rivals = [model for model in models if model != self.active]
        tests = self.tests
        return [
            model
            for model in rivals
            if (test := tests.get(model)) is None
            or test.count < self.settings.min_samples
            or test.verdict(max(len(rivals), len(tests)), self.settings.alpha) == "undecided"
        ]

    def swapped(self, model: str, now_s: float, automatic: bool = True) -> None:
        """Follow a swap: every test starts anew, and the guard compares with the old model."""
        self.previous, self.active = self.active, model
        self.restart()
        self._last_swap_s = now_s
        if automatic:
            self._swaps_s = [at_s for at_s in self._swaps_s if now_s - at_s < DAY_S] + [now_s]

    def reopen(self, model: str) -> None:
        """Start the tests of a model anew whose results changed: its comparisons hold no longer."""
        self._drift.pop(model, None)
        for candidate in list(self._tests) if model == self.active else [model]:
            self._tests.pop(candidate, None)
            self._by_source.pop(candidate, None)
            for key in [key for key in self._matching if key[0] == candidate]:
                del self._matching[key]
        self._swaps_s.clear()

    def _standing(self, arm: Arm, price: float, cost: SwapCost) -> Standing:
        drift = self._drift.get(arm.model)
        collapsed = drift is not None and drift.alarmed
        belief = drift.recent if drift is not None and collapsed else arm.belief
        return Standing(arm.model, belief, arm.count, arm.success_rate, price, collapsed, cost)

    def _test(self, tests: dict[str, PairTest], name: str) -> PairTest:
        test = tests.get(name)
        if test is None:
            test = tests[name] = PairTest(self._margin, self._width)
        return test

    def to_doc(self) -> dict[str, Any]:
        """Plain values for the store. Drift and pending matches start anew after a restart."""
        return {
            "task": self.task,
            "active": self.active,
            "margin": self._margin,
            "width": self._width,
            "previous": self.previous,
            "tests": {name: test.to_doc() for name, test in self._tests.items()},
            "by_source": {
                name: {source: test.to_doc() for source, test in tests.items()}
                for name, tests in self._by_source.items()
            },
            "swaps_s": list(self._swaps_s),
            "last_swap_s": None if math.isinf(self._last_swap_s) else self._last_swap_s,
        }

    @classmethod
    def from_doc(
        cls, doc: Mapping[str, Any], settings: Settings | None = None, ratio: int = 1
    ) -> CandidateTests:
        """Inverse of ``to_doc``."""
        loaded = cls(doc["task"], doc["active"], settings, doc["margin"], doc["width"], ratio)
        loaded.previous = doc["previous"]
        loaded._tests = {name: PairTest.from_doc(saved) for name, saved in doc["tests"].items()}
        loaded._by_source = {
            name: {source: PairTest.from_doc(saved) for source, saved in tests.items()}
            for name, tests in doc["by_source"].items()
        }
        loaded._swaps_s = list(doc["swaps_s"])
        last_s = doc["last_swap_s"]
        loaded._last_swap_s = -math.inf if last_s is None else last_s
        return loaded
