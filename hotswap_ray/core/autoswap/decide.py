"""Promote, roll back, unload or leave alone: a pure function of a task's snapshot.

A promotion is irreversible while it lasts, so it needs proof (``core/proof/betting.py``) and not
a higher mean. The floors of the first arbiter stay: nothing inside the cooldown or below
the minimum of samples. A low success rate is an alarm, not a reason: nothing may be better.
A swap must also pay: what it is expected to gain over the residency has to exceed what
loading and cold caches cost. Every result says why, with the numbers it rests on.

Nothing oscillates, for three reasons: all tests of a task start anew after a swap, so a
second one needs new evidence; the bar rises with every recent swap; and two models proven
equal within the width are left as they are, unless the candidate is cheaper.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from hotswap_ray.core.proof.betting import PairTest, Verdict
from hotswap_ray.core.spec.autoswap import AutoswapMode

Action = Literal["promote", "roll_back", "unload", "stay", "undecided"]
DecisionReason = Literal[
    "better", "equivalent_cheaper", "collapsed", "worse_than_before",
    "off", "unknown_active", "no_candidate", "cooldown", "few_samples", "does_not_pay", "settled",
    "testing", "collapsed_without_alternative", "useless_everywhere",
]  # fmt: skip

SLOWDOWN = 0.05
"""Utility that each request loses while another model loads."""
COLD_LOSS = 20 * 0.02
"""Utility that is lost to cold caches: 20 requests lose 0.02 each."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How careful a task's auto-swap is.

    Attributes:
        mode: ``off``, ``advise`` (decides and explains, changes nothing) or ``on``.
        alpha: Probability of promoting a model that is not better, in (0, 0.5].
        cooldown_s: Least time between two swaps of a task.
        min_samples: Fewest differences behind a decision.
        success_alarm: Success rate below which the operator is told, in [0, 1].
        residency_s: Time a promoted model is expected to stay.
        cheaper: Share by which an equivalent candidate must be cheaper, in [0, 1].
    """

    mode: AutoswapMode = "on"
    alpha: float = 0.05
    cooldown_s: float = 300.0
    min_samples: int = 10
    success_alarm: float = 0.8
    residency_s: float = 3600.0
    cheaper: float = 0.1


@dataclass(frozen=True, slots=True)
class SwapCost:
    """What a swap costs, in units of utility times requests.

    Attributes:
        load_s: Predicted load time; 0 for a loaded model.
    """

    load_s: float = 0.0

    def total(self, requests_per_s: float) -> float:
        """Cost at this arrival rate.

        Example:
            >>> SwapCost(load_s=10).total(requests_per_s=2.0)
            1.4
        """
        return self.load_s * requests_per_s * SLOWDOWN + COLD_LOSS


@dataclass(frozen=True, slots=True)
class Standing:
    """One model that may serve the task: what is believed of it and what it costs.

    Attributes:
        model: Model id.
        belief: Expected utility in [0, 1].
        count: Own observations.
        success_rate: ``None`` when nothing was seen.
        price: Anything that orders models by expense, 0 and up (cost, then memory).
        collapsed: Whether its drift alarm stands.
        swap_cost: Of a swap to it.
    """

    model: str
    belief: float
    count: float = 0.0
    success_rate: float | None = None
    price: float = 0.0
    collapsed: bool = False
    swap_cost: SwapCost = field(default_factory=SwapCost)


@dataclass(frozen=True, slots=True)
class TaskState:
    """A task at one instant.

    Attributes:
        task: Task id.
        active: Model that serves.
        standings: Models that meet the hard limits, the active one among them.
        tests: Test of each candidate against the active model, since the last swap.
        previous: Model that served before and is still warm; ``None`` when not baking.
        since_swap_s: Time since the last swap; infinite when there was none.
        recent_swaps: Automatic swaps of the task in the last day that no drift caused.
        requests_per_s: Arrival rate.
    """

    task: str
    active: str
    standings: tuple[Standing, ...]
    tests: Mapping[str, PairTest] = field(default_factory=dict)
    previous: str | None = None
    since_swap_s: float = math.inf
    recent_swaps: int = 0
    requests_per_s: float = 1.0


@dataclass(frozen=True, slots=True)
class Decision:
    """A decision, or the decision not to, with everything it rests on.

    Attributes:
        task: Task id; empty for ``unload``.
        action: What to do.
        reason: Why, as a stable code.
        active: Model that serves.
        model: Model promoted, returned to, unloaded or nearest to it; ``None`` without one.
        applies: False in mode ``advise``: explained but not done.
        log_e: Natural logarithm of the evidence for ``model``.
        log_bar: What it has to reach.
        samples: Differences behind it.
        difference: Their mean.
        more: Further samples until the bar at this rate; ``None`` if never or unknown.
        gain: Expected gain over the residency, utility times requests.
        cost: Cost of the swap in the same unit.
        wait_s: Seconds until a cooldown ends.
        success_alarm: Whether the active model's success rate is below the alarm.
    """

    task: str
    action: Action
    reason: DecisionReason
    active: str
    model: str | None = None
    applies: bool = True
    log_e: float = 0.0
    log_bar: float = 0.0
    samples: int = 0
    difference: float = 0.0
    more: int | None = None
    gain: float = 0.0
    cost: float = 0.0
    wait_s: float = 0.0
    success_alarm: bool = False


def decide(state: TaskState, settings: Settings) -> Decision:
    """What to do about a task now. Pure: the same snapshot gives the same choice.

    Order: an emergency first, then the guard of a fresh promotion, then promotions. The
    first two know no cooldown.
    """
    return _Look(state, settings).decision()


def unloadable(
    tasks: Sequence[tuple[TaskState, Settings]],
    kept: frozenset[str] = frozenset(),
) -> list[Decision]:
    """Loaded models that no task needs: at each task that may use them proven no gain.

    Each task judges by its own settings, and one that is not in mode ``on`` releases no model.
    So the order of the tasks does not matter.

    Args:
        tasks: State and settings of every task.
        kept: Models that stay in any case: resident ones, fallbacks, pinned ones.
    """
    used = set(kept)
    for state, _ in tasks:
        used |= {state.active, *([state.previous] if state.previous else [])}
    useless: dict[str, bool] = {}
    for state, settings in tasks:
        rivals = len(state.standings) - 1
        for standing in state.standings:
            if standing.model not in used:
                test = state.tests.get(standing.model)
                proven = (
                    settings.mode == "on"
                    and test is not None
                    and test.count >= settings.min_samples
                    and test.verdict(rivals, settings.alpha)
                    in ("worse", "not_better", "equivalent")
                )
                useless[standing.model] = useless.get(standing.model, True) and proven
    return [
        Decision("", "unload", "useless_everywhere", "", model)
        for model, proven in sorted(useless.items())
        if proven
    ]


class _Look:
    """One look at one task."""

    def __init__(self, state: TaskState, settings: Settings) -> None:
        self.state = state
        self.settings = settings
        self.by_name = {standing.model: standing for standing in state.standings}
        self.rivals = [s for s in state.standings if s.model != state.active]
        self.alpha = settings.alpha / (1 + state.recent_swaps)
        # A model that was tested counts, also if it may not be promoted any more.
        self.candidates = max(len(self.rivals), len(state.tests), 1)
        self.bar = math.log(self.candidates / self.alpha)

    def decision(self) -> Decision:
        state, settings = self.state, self.settings
        if settings.mode == "off":
            return self._conclude("stay", "off")
        active = self.by_name.get(state.active)
        if active is None:
            return self._conclude("undecided", "unknown_active")
        if active.collapsed:
            return self._emergency(active)
        if (guard := self._guard()) is not None:
            return guard
        if not self.rivals:
            return self._conclude("stay", "no_candidate")
        return self._promotion(active)

    def _emergency(self, active: Standing) -> Decision:
        """The active model collapsed: the best known healthy model takes over at once."""
        healthy = [
            s
            for s in self.rivals
            if not s.collapsed
            and s.belief > active.belief
            and (s.count >= self.settings.min_samples or s.model == self.state.previous)
        ]
        if not healthy:
            return self._conclude("undecided", "collapsed_without_alternative")
        chosen = max(healthy, key=lambda s: s.belief)
        action: Action = "roll_back" if chosen.model == self.state.previous else "promote"
        return self._conclude(action, "collapsed", chosen)

    def _guard(self) -> Decision | None:
        """After a promotion: is the old model, still warm, proven better than the new one?"""
        old = self.by_name.get(self.state.previous or "")
        test = self.state.tests.get(self.state.previous or "")
        if old is None or test is None or old.collapsed:
            return None
        if test.count >= self.settings.min_samples and test.log_e("better") >= -math.log(
            self.alpha
        ):
            return self._conclude("roll_back", "worse_than_before", old, -math.log(self.alpha))
        return None

    def _promotion(self, active: Standing) -> Decision:
        promotable: list[tuple[Standing, DecisionReason]] = []
        undecided: list[Standing] = []
        for rival in self.rivals:
            if rival.collapsed:
                continue
            verdict = self._verdict(rival)
            if verdict == "better":
                promotable.append((rival, "better"))
            elif verdict == "equivalent" and rival.price < active.price * (
                1 - self.settings.cheaper
            ):
                promotable.append((rival, "equivalent_cheaper"))
            elif verdict == "undecided":
                undecided.append(rival)
        if not promotable:
            if not undecided:
                return self._conclude("stay", "settled")
            nearest = max(undecided, key=self._log_e)
            has_few = self._count(nearest) < self.settings.min_samples
            return self._conclude("undecided", "few_samples" if has_few else "testing", nearest)
        chosen, reason = max(promotable, key=lambda pair: (pair[0].belief, -pair[0].price))
        if self.state.since_swap_s < self.settings.cooldown_s:
            return self._conclude("stay", "cooldown", chosen)
        promotion = self._conclude("promote", reason, chosen)
        if reason == "better" and promotion.gain <= promotion.cost:
            return self._conclude("stay", "does_not_pay", chosen)
        return promotion

    def _verdict(self, rival: Standing) -> Verdict:
        test = self.state.tests.get(rival.model)
        if test is None or test.count < self.settings.min_samples:
            return "undecided"
        return test.verdict(self.candidates, self.alpha)

    def _log_e(self, rival: Standing) -> float:
        test = self.state.tests.get(rival.model)
        return test.log_e() if test else -math.inf

    def _count(self, rival: Standing) -> int:
        test = self.state.tests.get(rival.model)
        return test.count if test else 0

    def _conclude(
        self,
        action: Action,
        reason: DecisionReason,
        standing: Standing | None = None,
        bar: float | None = None,
    ) -> Decision:
        state, settings = self.state, self.settings
        active = self.by_name.get(state.active)
        success = active.success_rate if active else None
        test = state.tests.get(standing.model) if standing else None
        gain = cost = 0.0
        if standing is not None and active is not None:
            horizon = state.requests_per_s * settings.residency_s
            gain = (standing.belief - active.belief) * horizon
            cost = standing.swap_cost.total(state.requests_per_s)
        return Decision(
            task=state.task,
            action=action,
            reason=reason,
            active=state.active,
            model=standing.model if standing else None,
            applies=settings.mode == "on",
            log_e=test.log_e() if test else 0.0,
            log_bar=self.bar if bar is None else bar,
            samples=test.count if test else 0,
            difference=test.mean if test else 0.0,
            more=test.more(self.candidates, self.alpha) if test else None,
            gain=gain,
            cost=cost,
            wait_s=max(settings.cooldown_s - state.since_swap_s, 0.0),
            success_alarm=success is not None and success < settings.success_alarm,
        )
