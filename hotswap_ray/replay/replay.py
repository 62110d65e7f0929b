"""What would the arbiter have done with these recorded results? The real code, no engines.

``replay`` draws prompts per task with replacement, interleaves the tasks, and lets the same
evidence, prior, policies, tests and decisions run that run in the cluster. Every number
comes from the seed.

In mode ``select`` the policy chooses a model for each request. In mode ``autoswap`` a task
has one active model; a share of the traffic is answered by a candidate, a share of it is
also shown to a candidate (shadowed), and only a decision changes the active model. The
clock of the cooldown is one second a request of the task.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hotswap_ray.core.autoswap.candidate_tests import CandidateTests
from hotswap_ray.core.autoswap.decide import Settings
from hotswap_ray.core.errors import ConfigError
from hotswap_ray.core.evidence.beliefs import NO_REFERENCE, QUALITY_ONLY, Beliefs
from hotswap_ray.core.evidence.cell import Evidence
from hotswap_ray.core.evidence.utility import Reference, utility, weighs_quality_only
from hotswap_ray.core.outcome import Outcome
from hotswap_ray.core.policies.selection import Arm, Policy, Snapshot, make_policy
from hotswap_ray.core.spec.task import Preferences
from hotswap_ray.replay.data import Recorded, read
from hotswap_ray.replay.report import ReplayReport, Run, TaskRun, summarise

ReplayMode = Literal["select", "autoswap"]
QUALITY, LATENCY, COST, TOKENS_IN, TOKENS_OUT = range(5)


@dataclass(frozen=True, slots=True)
class Options:
    """How a replay runs, beyond the contract of the command.

    Attributes:
        preferences: Weights of the tasks; quality alone by default.
        quality_target: Of every task, for the policy ``threshold``.
        policy_options: Arguments of the policy.
        settings: Of the auto-swap.
        canary: Share of requests that a candidate answers, autoswap only.
        shadow: Share of the others that a candidate answers too, unseen by the user.
        look_every: Requests of a task between two decisions.
    """

    preferences: Preferences = QUALITY_ONLY
    quality_target: float = 0.8
    policy_options: Mapping[str, Any] | None = None
    settings: Settings = field(default_factory=lambda: Settings(cooldown_s=50.0))
    canary: float = 0.05
    shadow: float = 0.5
    look_every: int = 10


def replay(
    path: str | Path | Recorded,
    per_task: int = 1000,
    seeds: int = 4,
    policy: str = "thompson",
    mode: ReplayMode = "select",
    options: Options | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ReplayReport:
    """Replay recorded results.

    Args:
        path: File (see ``replay.data.read``) or what was read from it.
        per_task: Requests per task, 1 to 10 million.
        seeds: Runs, with the seeds 0, 1, ...; at least 1.
        policy: Name of the policy; in mode autoswap it chooses the candidates to try.
        mode: ``select`` or ``autoswap``.
        options: Further settings.
        progress: Called with runs done and runs in all.

    Raises:
        ConfigError: The file, the policy or a number is wrong.
    """
    if mode not in ("select", "autoswap"):
        raise ConfigError(f"mode is {mode!r}; it must be select or autoswap")
    for name, value, most in (("per_task", per_task, 10**7), ("seeds", seeds, 10**5)):
        if not 1 <= value <= most:
            raise ConfigError(f"{name} is {value}; it must be in [1, {most}]")
    options = options or Options()
    make_policy(policy, options.policy_options)  # a wrong name fails before the reading
    data = path if isinstance(path, Recorded) else read(path)
    runs = []
    for seed in range(seeds):
        world = _World(data, per_task, seed, policy, options)
        runs.append(world.select() if mode == "select" else world.autoswap())
        if progress is not None:
            progress(seed + 1, seeds)
    return summarise(data, runs, policy=policy, mode=mode, per_task=per_task)


class _Task:
    """One task of one run: its prompts, evidence and current route."""

    def __init__(self, world: _World, task: str) -> None:
        table = world.data.values[task]
        names = ("quality", "latency_ms", "cost_usd", "tokens_in", "tokens_out")
        # Lists: plain floats are read one by one, and faster so than out of an array.
        self.rows = np.stack([table[name] for name in names], axis=2).tolist()
        self.prompts = world.draw.integers(len(self.rows), size=world.per_task).tolist()
        self.task = task
        self.policy: Policy = make_policy(world.policy, world.options.policy_options)
        self.cells = [world.cells[task, model] for model in world.models]
        self.costs = [_mean(table["cost_usd"][:, n]) for n in range(len(world.models))]
        self.reference = NO_REFERENCE
        if not world.quality_only:
            self.reference = Reference(
                _mean(np.nanmedian(table["latency_ms"]))
                if _measured(table["latency_ms"])
                else None,
                _mean(table["cost_usd"]),
            )
        self.arms: list[Arm] = []
        self.candidate_tests: CandidateTests | None = None
        self.served: list[int] = []
        self.total = 0.0
        self.changes = self.promotions = self.rollbacks = 0


class _World:
    """One run."""

    def __init__(
        self, data: Recorded, per_task: int, seed: int, policy: str, options: Options
    ) -> None:
        self.data = data
        self.per_task = per_task
        self.policy = policy
        self.options = options
        self.quality_only = weighs_quality_only(options.preferences)
        self.models = data.models
        self.draw = np.random.default_rng(seed)
        self.rng = random.Random(seed)
        self.column = {model: n for n, model in enumerate(self.models)}
        self.cells = {(t, m): Evidence(t, m) for t in data.tasks for m in self.models}
        self.tasks = [_Task(self, task) for task in data.tasks]
        self.requests = 0
        self._prior_at = 0
        self._renew_prior()

    def select(self) -> Run:
        """The policy chooses for each request."""
        for number in range(self.per_task):
            for task in self.tasks:
                active = self.models[task.served[-1]] if task.served else None
                snapshot = Snapshot(
                    task.task, tuple(task.arms), active, self.options.quality_target
                )
                chosen = self.column[task.policy.select(snapshot, self.rng)]
                if task.served and chosen != task.served[-1]:
                    task.changes += 1
                self._serve(task, number, chosen)
        last = max(self.per_task // 10, 1)
        return self._run({t.task: max(set(t.served[-last:]), key=t.served[-last:].count)
                          for t in self.tasks})  # fmt: skip

    def autoswap(self) -> Run:
        """One active model a task; decisions change it."""
        options = self.options
        undecided = 0
        ratio = min(max(round((1 - options.canary) / max(options.canary, 0.1)), 1), 10)
        for task in self.tasks:
            start = self.rng.choice(self.models)
            task.candidate_tests = CandidateTests(task.task, start, options.settings, ratio=ratio)
        for number in range(self.per_task):
            for task in self.tasks:
                self._one_request(task, number)
                if (number + 1) % options.look_every == 0:
                    self._decide(task, float(number))
        final = {}
        for task in self.tasks:
            candidate_tests = _candidate_tests(task)
            final[task.task] = self.column[candidate_tests.active]
            decision = candidate_tests.look(float(self.per_task), task.arms)
            undecided += decision.action == "undecided"
        return self._run(final, undecided)

    def _one_request(self, task: _Task, number: int) -> None:
        candidate_tests, options, rng = _candidate_tests(task), self.options, self.rng
        active = self.column[candidate_tests.active]
        coin = rng.random()
        canary = coin < options.canary
        shadowed = not canary and rng.random() < options.shadow
        rival = self._rival(task, candidate_tests) if canary or shadowed else None
        if canary and rival is not None:
            worth = self._serve(task, number, rival)
            candidate_tests.served(self.models[rival], worth)
            self._watch(task, candidate_tests, rival, worth, number)
            return
        worth = self._serve(task, number, active)
        if rival is None:
            candidate_tests.served(candidate_tests.active, worth)
        else:
            rival_worth = self._observe(task, number, rival)
            candidate_tests.pair(self.models[rival], rival_worth, worth)
        self._watch(task, candidate_tests, active, worth, number)

    def _rival(self, task: _Task, candidate_tests: CandidateTests) -> int | None:
        """The candidate that the policy finds most worth trying, of those still open."""
        undecided = set(candidate_tests.undecided(self.models))
        arms = tuple(arm for arm in task.arms if arm.model in undecided)
        if not arms:
            return None
        snapshot = Snapshot(task.task, arms, None, self.options.quality_target)
        return self.column[task.policy.select(snapshot, self.rng)]

    def _watch(
        self, task: _Task, candidate_tests: CandidateTests, model: int, worth: float, number: int
    ) -> None:
        """Drift: an alarm may call for an emergency, and the old evidence holds no longer."""
        if candidate_tests.watch(self.models[model], worth) == "none":
            return
        self._decide(task, float(number))
        candidate_tests.reopen(self.models[model])
        fresh = Evidence(task.task, self.models[model])
        task.cells[model] = self.cells[task.task, self.models[model]] = fresh
        self._renew_arm(task, model)

    def _decide(self, task: _Task, now_s: float) -> None:
        candidate_tests = _candidate_tests(task)
        prices = {m: cost for m, cost in zip(self.models, task.costs, strict=True) if cost}
        decision = candidate_tests.look(now_s, task.arms, prices=prices)
        if not decision.applies or decision.model is None:
            return
        if decision.action == "promote":
            task.promotions += 1
        elif decision.action == "roll_back":
            task.rollbacks += 1
        else:
            return
        task.changes += 1
        candidate_tests.swapped(decision.model, now_s)

    def _serve(self, task: _Task, number: int, model: int) -> float:
        """Answer a request; the utility of the answer."""
        task.served.append(model)
        worth = self._observe(task, number, model)
        task.total += task.rows[task.prompts[number]][model][QUALITY]
        task.policy.update(self.models[model], worth)
        return worth

    def _observe(self, task: _Task, number: int, model: int) -> float:
        """Evidence of one answer, as the learning actor would take it in."""
        row = task.rows[task.prompts[number]][model]
        quality, latency = row[QUALITY], row[LATENCY]
        has_latency = latency == latency  # not NaN
        cell = task.cells[model]
        if has_latency:
            tokens_in, tokens_out = row[TOKENS_IN], row[TOKENS_OUT]
            cell.update(
                Outcome("", task.task, self.models[model], 1, "active", float(number), True,
                        latency, None, int(tokens_in) if tokens_in == tokens_in else 0,
                        int(tokens_out) if tokens_out == tokens_out else 0, 0, quality)
            )  # fmt: skip
        else:
            cell.score((quality,))
        self._renew_arm(task, model)
        self.requests += 1
        if self.requests - self._prior_at >= max(len(self.tasks), self.requests // 20):
            self._renew_prior()
        preferences = self.options.preferences
        if self.quality_only:
            return float(quality)
        worth = utility(
            preferences,
            task.reference,
            quality,
            latency_ms=latency if has_latency else None,
            cost_usd=row[COST] if row[COST] == row[COST] else None,
        )
        return float(quality) if worth is None else worth

    def _renew_prior(self) -> None:
        """Renew the prior; it changes slowly, so not after every request."""
        self._prior_at = self.requests
        self.beliefs = Beliefs(self.cells, self.data.tasks, self.models)
        for task in self.tasks:
            task.arms = [self._arm(task, n) for n in range(len(self.models))]

    def _renew_arm(self, task: _Task, model: int) -> None:
        task.arms[model] = self._arm(task, model)

    def _arm(self, task: _Task, model: int) -> Arm:
        return self.beliefs.arm(
            task.task,
            self.models[model],
            task.cells[model],
            self.options.preferences,
            task.reference,
            task.costs[model],
        )

    def _run(self, final: Mapping[str, int], undecided: int = 0) -> Run:
        return Run(
            {
                task.task: TaskRun(
                    achieved=task.total / self.per_task,
                    final=final[task.task],
                    changes=task.changes,
                    promotions=task.promotions,
                    rollbacks=task.rollbacks,
                )
                for task in self.tasks
            },
            undecided,
        )


def _candidate_tests(task: _Task) -> CandidateTests:
    assert task.candidate_tests is not None
    return task.candidate_tests


def _measured(values: Any) -> bool:
    return bool(np.isfinite(values).any())


def _mean(values: Any) -> float | None:
    return float(np.nanmean(values)) if _measured(values) else None
