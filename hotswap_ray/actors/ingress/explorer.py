"""Which requests try a candidate: a coin decides whether, a policy decides which.

The coin knows nothing of the request, so what a candidate answers is a fair sample of the
task's traffic. For a conversation it is thrown from the hash of its key, so that every ingress
replica throws the same; whom the policy then picks is remembered, and told to the others
(``core/routing/draws.py``). A candidate that has no room is not tried: the client must not pay
for it.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping
from dataclasses import replace

from hotswap_ray.core.outcome import RoutingDecision
from hotswap_ray.core.policies.selection import Arm, Policy, Snapshot, make_policy
from hotswap_ray.core.routing.draws import ACTIVE_ONE, Drawn, mark_of_conversation
from hotswap_ray.core.routing.table import Assignment, Route, Trial
from hotswap_ray.core.routing.target import Target
from hotswap_ray.core.spec.autoswap import AutoswapSpec

BROKEN_POLICY = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
log = logging.getLogger("hotswap.ingress")


class Explorer:
    """Tries candidates, by a policy of its own for each task.

    Args:
        specs: How each task tries them.
        targets: Quality target of each task.

    Attributes:
        arms: Beliefs about the models that are worth trying, by task; without them
            nothing is tried.
        failures: Choices that a policy could not make.
        drawn: Who was drawn for which conversation.
        on_draw: Called when there is a draw to be told.
    """

    def __init__(
        self, specs: Mapping[str, AutoswapSpec], targets: Mapping[str, float] | None = None
    ) -> None:
        self.arms: Mapping[str, tuple[Arm, ...]] = {}
        self.failures = 0
        self._specs = specs
        self._quality = targets or {}
        self._policies: dict[str, Policy] = {}
        self._random: dict[str, random.Random] = {}
        self.drawn = Drawn()
        self.on_draw: Callable[[], None] = lambda: None

    def pick(
        self, assignment: Assignment, route: Route, can_take: Callable[[Target], bool]
    ) -> Assignment:
        """The target of a request that would otherwise go to the active model.

        Args:
            assignment: The active model, and the key of the request's conversation.
            route: Its task's.
            can_take: Whether a target has room for one more request, and what it needs.
        """
        trial = route.trial
        if trial is None or assignment.decision is not RoutingDecision.ACTIVE:
            return assignment
        active, key = assignment.target, assignment.conversation
        if key is None:
            rng = self._rng(assignment.task)
            if not _wants(trial, rng):
                return assignment
            extra = _extra(trial, active)
            chosen = self._select(assignment.task, trial, active, can_take, extra, rng)
        else:
            chosen = self._of_conversation(assignment, trial, key, can_take)
        if chosen is None or chosen == active:
            return assignment
        return replace(assignment, target=chosen, decision=RoutingDecision.EXPLORE, fallback=active)

    def _of_conversation(
        self, assignment: Assignment, trial: Trial, key: str, can_take: Callable[[Target], bool]
    ) -> Target | None:
        """The model that was drawn for a conversation, drawn now if it has just begun."""
        task, active = assignment.task, assignment.target
        seeded = random.Random(f"{self._seed(task)}/{task}/{key}")
        if not _wants(trial, seeded):
            return None
        mark = mark_of_conversation(task, key)
        drawn = self.drawn.of(mark)
        targets = {target.model: target for target in trial.candidates}
        targets |= {active.model: active, ACTIVE_ONE: active}
        if drawn is not None and drawn in targets:
            target = targets[drawn]
            return target if target == active or can_take(target) else None
        chosen = self._select(task, trial, active, can_take, _extra(trial, active), seeded)
        model = ACTIVE_ONE if chosen is None or chosen == active else chosen.model
        self.drawn.add(mark, model)
        self.on_draw()
        return chosen

    def shadow(
        self, assignment: Assignment, route: Route, has_room: Callable[[Target], bool]
    ) -> Target | None:
        """Target of a copy of a request that the active model answered; mostly ``None``."""
        trial = route.trial
        if trial is None or not trial.shadow or assignment.decision is not RoutingDecision.ACTIVE:
            return None
        rng = self._rng(assignment.task)
        if rng.random() >= trial.shadow:
            return None
        return self._select(assignment.task, trial, assignment.target, has_room, None, rng)

    def _seed(self, task: str) -> int | None:
        return self._specs[task].seed if task in self._specs else None

    def _rng(self, task: str) -> random.Random:
        rng = self._random.get(task)
        if rng is None:
            seed = self._seed(task)
            rng = self._random[task] = random.Random(None if seed is None else f"{seed}/{task}")
        return rng

    def _select(
        self,
        task: str,
        trial: Trial,
        active: Target,
        has_room: Callable[[Target], bool],
        extra: Target | None,
        rng: random.Random,
    ) -> Target | None:
        """The policy's choice among candidates with room, and ``extra``."""
        eligible = {
            target.model: target
            for target in trial.candidates
            if target != active and has_room(target)
        }
        if extra is not None:
            eligible[extra.model] = extra
        arms = tuple(arm for arm in self.arms.get(task, ()) if arm.model in eligible)
        if not arms:
            return None
        spec = self._specs.get(task) or AutoswapSpec()
        policy = self._policies.get(task)
        if policy is None:
            policy = self._policies[task] = make_policy(spec.policy, spec.policy_options)
        snapshot = Snapshot(task, arms, active.model, self._quality.get(task, 0.8))
        try:
            model = policy.select(snapshot, rng)
            policy.update(model, None)
        except BROKEN_POLICY:  # code of others must not cost a client its answer
            self.failures += 1
            log.exception("policy %s of task %s failed", spec.policy, task)
            return None
        return eligible.get(model)


def _wants(trial: Trial, rng: random.Random) -> bool:
    """Whether a candidate shall be tried: the coin."""
    return trial.by_policy or rng.random() < trial.explore


def _extra(trial: Trial, active: Target) -> Target | None:
    """The active model, where the policy may pick it too."""
    return active if trial.by_policy else None
