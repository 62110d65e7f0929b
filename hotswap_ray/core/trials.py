"""The tests that run at one task: what was seen goes in, decisions come out.

One object per task, owned by one writer; the live arbiter and the replay use the same.
It holds what ``core/autoswap.py`` needs between two looks: a test for each candidate, the
matching of unpaired results, the drift of each model, the times of the swaps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from hotswap_ray.core.autoswap import Choice, Settings, Standing, SwapCost, TaskState, decide
from hotswap_ray.core.decision import FairShare, Matching, PairTest
from hotswap_ray.core.drift import Change, Drift
from hotswap_ray.core.selection import Arm

DAY_S = 86_400.0
LOADED = SwapCost()


class Trials:
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
        >>> trials = Trials("t", "old", Settings(cooldown_s=0))
        >>> for n in range(40):
        ...     trials.pair("new", 1.0, n % 2)
        >>> arms = [Arm("old", 40, belief=0.5), Arm("new", 40, belief=0.9)]
        >>> trials.look(0.0, arms).action
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
        self._matching: dict[str, Matching] = {}
        self._gates: dict[str, FairShare] = {}
        self._drift: dict[str, Drift] = {}
        self._swaps_s: list[float] = []
        self._last_swap_s = -math.inf

    @property
    def tests(self) -> Mapping[str, PairTest]:
        """Test of each candidate that was compared, since the last swap."""
        return self._tests

    def pair(
        self, candidate: str, utility: float, active_utility: float, source: str | None = None
    ) -> None:
        """The same prompt was answered by a candidate and the active model.

        Args:
            candidate: Model id.
            utility: Of its answer, in [0, 1].
            active_utility: Of the active model's answer.
            source: Whose judgement it is; ``None`` for a checker, which is not limited.
        """
        if candidate != self.active and self._admits(candidate, source):
            self._test(candidate).extend((utility - active_utility,))

    def served(self, model: str, utility: float, source: str | None = None) -> None:
        """A request was answered by one model only; its utility meets another one's."""
        if model == self.active:
            for candidate, matching in self._matching.items():
                if found := matching.active(utility):
                    self._test(candidate).extend(found)
        elif self._admits(model, source):
            matching = self._matching.setdefault(model, Matching(self._ratio))
            if found := matching.candidate(utility):
                self._test(model).extend(found)

    def watch(self, model: str, value: float) -> Change:
        """Success or quality of one answer, for the drift of its model."""
        drift = self._drift.get(model)
        if drift is None:
            drift = self._drift[model] = Drift()
        return drift.update(value)

    def look(
        self,
        now_s: float,
        arms: Sequence[Arm],
        requests_per_s: float = 1.0,
        prices: Mapping[str, float] | None = None,
        swap_costs: Mapping[str, SwapCost] | None = None,
    ) -> Choice:
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
            tests=self._tests,
            previous=self.previous,
            since_swap_s=now_s - self._last_swap_s,
            recent_swaps=sum(1 for at_s in self._swaps_s if now_s - at_s < DAY_S),
            requests_per_s=requests_per_s,
        )

    def undecided(self, models: Sequence[str]) -> list[str]:
        """Candidates whose evidence can still change something, in the given order."""
        rivals = [model for model in models if model != self.active]
        return [
            model
            for model in rivals
            if (test := self._tests.get(model)) is None
            or test.count < self.settings.min_samples
            or test.verdict(len(rivals), self.settings.alpha) == "undecided"
        ]

    def swapped(self, model: str, now_s: float, automatic: bool = True) -> None:
        """Another model serves now: every test starts anew, the old model is guarded against."""
        self.previous, self.active = self.active, model
        self._tests.clear()
        self._matching.clear()
        self._gates.clear()
        self._last_swap_s = now_s
        if automatic:
            self._swaps_s = [at_s for at_s in self._swaps_s if now_s - at_s < DAY_S] + [now_s]

    def baked(self) -> None:
        """The old model is not kept warm any more; there is nothing to roll back to."""
        self.previous = None

    def reopen(self, model: str) -> None:
        """A model's results changed: what was compared with it holds no longer."""
        self._drift.pop(model, None)
        for candidate in list(self._tests) if model == self.active else [model]:
            self._tests.pop(candidate, None)
            self._matching.pop(candidate, None)
        self._swaps_s.clear()

    def _standing(self, arm: Arm, price: float, cost: SwapCost) -> Standing:
        drift = self._drift.get(arm.model)
        collapsed = drift is not None and drift.alarmed
        belief = drift.recent if drift is not None and collapsed else arm.belief
        return Standing(arm.model, belief, arm.count, arm.success_rate, price, collapsed, cost)

    def _test(self, candidate: str) -> PairTest:
        test = self._tests.get(candidate)
        if test is None:
            test = self._tests[candidate] = PairTest(self._margin, self._width)
        return test

    def _admits(self, candidate: str, source: str | None) -> bool:
        if source is None:
            return True
        return self._gates.setdefault(candidate, FairShare()).admits(source)

    def to_doc(self) -> dict[str, Any]:
        """Plain values for the store. Drift and pending matches start anew after a restart."""
        return {
            "task": self.task,
            "active": self.active,
            "previous": self.previous,
            "tests": {name: test.to_doc() for name, test in self._tests.items()},
            "swaps_s": list(self._swaps_s),
            "last_swap_s": None if math.isinf(self._last_swap_s) else self._last_swap_s,
        }

    @classmethod
    def from_doc(
        cls, doc: Mapping[str, Any], settings: Settings | None = None, ratio: int = 1
    ) -> Trials:
        """Inverse of ``to_doc``."""
        made = cls(doc["task"], doc["active"], settings, ratio=ratio)
        made.previous = doc["previous"]
        made._tests = {name: PairTest.from_doc(saved) for name, saved in doc["tests"].items()}
        made._swaps_s = list(doc["swaps_s"])
        last_s = doc["last_swap_s"]
        made._last_swap_s = -math.inf if last_s is None else last_s
        return made
