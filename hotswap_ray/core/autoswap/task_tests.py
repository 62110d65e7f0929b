"""One task's running tests: what a live result may say.

* Results count for a test when a coin chose their model (``active``, ``explore``,
  ``canary``, ``ab_test``), when both models answered one prompt (``shadow``, ``bench``), and not
  when a client chose (``pinned``) or a failure did (``fallback``): those prompts are no fair
  sample.
* Where people or checks judge answers, an answer without a score waits for it. A failure
  is worth nothing and known at once, so failures count only as often as successes are
  scored; otherwise most results of a task where few people vote would be failures.
* A golden prompt is compared once per test: asked again it is no new evidence.
* One key's scores decide nothing alone, neither a promotion nor an alarm.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Protocol

from hotswap_ray.core.autoswap.candidate_tests import CandidateTests
from hotswap_ray.core.autoswap.decide import Decision
from hotswap_ray.core.autoswap.view import Alarm, TaskView
from hotswap_ray.core.outcome import SHADOW_PREFIX, Outcome, RoutingDecision
from hotswap_ray.core.proof.betting import FairShare

MOST_WAITING = 5_000
"""Answers of a task that wait for their score or their pair, forgotten beyond it."""
DRAWN = frozenset(
    {
        RoutingDecision.ACTIVE,
        RoutingDecision.EXPLORE,
        RoutingDecision.CANARY,
        RoutingDecision.AB_TEST,
    }
)
PAIRED = frozenset({RoutingDecision.SHADOW, RoutingDecision.SHADOWED, RoutingDecision.BENCH})
BENCH = re.compile(r"bench-(.+-[0-9a-f]{16})-.+")


class Worth(Protocol):
    """Utility of an answer."""

    def __call__(self, outcome: Outcome, reward: float | None) -> float | None:
        """In [0, 1]; ``None`` when the reward matters and is missing."""
        ...


class TaskTests:
    """CandidateTests of one task, fed by its traffic.

    Args:
        candidate_tests: Its tests.
        worth: Utility of an answer, from its reward.
        trusted: Whether the scores of one key may decide alone.

    Attributes:
        changed: Whether something is not saved yet.
        fallen: Models whose results fell; nothing was done about it yet.
        untold: Their alarms, until somebody takes them.
    """

    def __init__(
        self, candidate_tests: CandidateTests, worth: Worth, trusted: bool = False
    ) -> None:
        self.candidate_tests = candidate_tests
        self.changed = True
        self.fallen: set[str] = set()
        self.untold: list[Alarm] = []
        self._worth = worth
        self._trusted = trusted
        self._judged = False
        self._successes = self._scores = self._failure_credit = 0.0
        self._benched: set[str] = set()
        self._drift_gates: dict[str, FairShare] = {}
        self._waiting: OrderedDict[str, Outcome] = OrderedDict()
        self._pairs: OrderedDict[str, dict[str, float]] = OrderedDict()

    def follow(self, view: TaskView, now_s: float) -> None:
        """Bring the tests in line with the task's route and settings."""
        ratio = min(max(round((1 - view.explore) / max(view.explore, 0.1)), 1), 10)
        candidate_tests = self.candidate_tests
        candidate_tests.configure(view.settings, view.margin, view.equivalence, ratio)
        if candidate_tests.active != view.active:
            candidate_tests.swapped(view.active, now_s, automatic=view.automatic)
            self._benched.clear()
            self.changed = True
        if candidate_tests.previous != view.previous:
            candidate_tests.previous = view.previous
            self.changed = True

    def take(self, outcome: Outcome) -> None:
        """Use an outcome of the task for what it may count for."""
        decision = outcome.decision
        if decision not in DRAWN and decision not in PAIRED:
            return
        bench = decision == RoutingDecision.BENCH
        if not bench:
            if outcome.quality is not None:
                self._start_judging()
            if outcome.success:
                self._successes += 1
                self._scores += outcome.quality is not None
        reward = self._reward(outcome, bench)
        if reward is not None and not bench:
            self._watch(outcome.model, reward)
        if decision in PAIRED:
            self._pair(outcome, reward, bench)
        elif reward is None:
            self._waiting[outcome.request_id] = outcome
            if len(self._waiting) > MOST_WAITING:
                self._waiting.popitem(last=False)
        elif outcome.success or self._failure_counts():
            self._serve(outcome, reward, None)

    def score(self, model: str, request_id: str, score: float, source: str | None) -> None:
        """Use a person's score of an answer.

        Args:
            model: Model that answered.
            request_id: The answer's.
            score: In [0, 1].
            source: Whose key gave it; ``None`` is trusted.
        """
        self._start_judging()
        outcome = self._waiting.pop(request_id, None)
        if outcome is None:
            return  # its model was not drawn by a coin, or it was forgotten
        self._scores += 1
        source = None if self._trusted else source
        self._serve(outcome, score, source)
        gate = self._drift_gates.setdefault(model, FairShare())
        if source is None or gate.admits(source):
            self._watch(model, score)

    def reopen(self, decision: Decision) -> list[str]:
        """Models that fell and whose old results hold no longer; their tests start anew.

        While an emergency acts on the fall of the active model, that one stays among the fallen.
        """
        busy = {decision.active} if decision.reason == "collapsed" and decision.applies else set()
        reopened = sorted(self.fallen - busy)
        for model in reopened:
            self.candidate_tests.reopen(model)
            self.changed = True
        self.fallen &= busy
        return reopened

    def _start_judging(self) -> None:
        if not self._judged:  # earlier results were successes, which do not compare with scores
            self._judged = True
            self.candidate_tests.restart()

    def _reward(self, outcome: Outcome, bench: bool) -> float | None:
        if not outcome.success:
            return 0.0
        if outcome.quality is not None:
            return outcome.quality
        return None if self._judged or bench else 1.0

    def _failure_counts(self) -> bool:
        """Whether this failure counts: as often as a success gets its score."""
        if not self._judged:
            return True
        self._failure_credit += min(1.0, (self._scores + 1) / (self._successes + 1))
        if self._failure_credit < 1:
            return False
        self._failure_credit -= 1
        return True

    def _serve(self, outcome: Outcome, reward: float, source: str | None) -> None:
        worth = self._worth(outcome, reward)
        if worth is not None:
            self.candidate_tests.served(outcome.model, worth, source)
            self.changed = True

    def _pair(self, outcome: Outcome, reward: float | None, bench: bool) -> None:
        """Compare with the active model's answer to the same prompt, once that is there."""
        worth = self._worth(outcome, reward)
        if worth is None:
            return
        active, key = self.candidate_tests.active, prompt_of(outcome)
        answers = self._pairs.setdefault(key, {})
        rivals = [m for m in answers if m != active] if outcome.model == active else [outcome.model]
        answers[outcome.model] = worth
        if active in answers and rivals:
            for model in rivals:
                self._compare(model, answers[model], answers[active], key if bench else None)
            if not bench:  # a golden prompt is answered by more models
                del self._pairs[key]
        if len(self._pairs) > MOST_WAITING:
            self._pairs.popitem(last=False)

    def _compare(self, model: str, worth: float, active_worth: float, key: str | None) -> None:
        if key is not None:
            comparison = f"{model}/{key[-16:]}"
            if comparison in self._benched:
                return
            self._benched.add(comparison)
        self.candidate_tests.pair(model, worth, active_worth)
        self.changed = True

    def _watch(self, model: str, value: float) -> None:
        if self.candidate_tests.watch(model, value) != "none":
            self.fallen.add(model)
            self.untold.append(
                Alarm(self.candidate_tests.task, model, self.candidate_tests.recent(model))
            )

    def to_doc(self) -> dict[str, Any]:
        """Plain values for the store. What waits and the drift start anew after a restart."""
        return {
            **self.candidate_tests.to_doc(),
            "judged": self._judged,
            "successes": self._successes,
            "scores": self._scores,
            "benched": sorted(self._benched),
        }

    @classmethod
    def from_doc(cls, doc: Mapping[str, Any], worth: Worth, trusted: bool = False) -> TaskTests:
        """Inverse of ``to_doc``."""
        loaded = cls(CandidateTests.from_doc(doc), worth, trusted)
        loaded._judged, loaded._benched = doc["judged"], set(doc["benched"])
        loaded._successes, loaded._scores = doc["successes"], doc["scores"]
        loaded.changed = False
        return loaded


def prompt_of(outcome: Outcome) -> str:
    """What the answers of several models to one prompt have in common.

    Example:
        >>> copy = Outcome("shadow-r1", "t", "m", 1, "shadow", 0.0, True, 1.0)
        >>> prompt_of(copy)
        'r1'
    """
    if outcome.decision == RoutingDecision.BENCH:
        match = BENCH.fullmatch(outcome.request_id)
        return match[1] if match else outcome.request_id
    return outcome.request_id.removeprefix(SHADOW_PREFIX)
