"""Which model serves the next request of a task: the question as a value, policies by name.

A policy answers it::

    class Mine:
        def select(self, snapshot: Snapshot, rng: random.Random) -> str: ...
        def update(self, arm: str, reward: float | None) -> None: ...

One instance serves one task. What was observed is in the snapshot; ``update`` is for what
a policy counts by itself. Hard limits were applied before: the snapshot holds only models
that may serve. A third party adds a policy by an entry point of the group
``hotswap_ray.policies`` and proves it with ``hotswap_ray.testing.check_policy``.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Protocol, cast, runtime_checkable

from hotswap_ray.core.errors import ConfigError, NotFound

GROUP = "hotswap_ray.policies"
BUILT_IN = {
    "thompson": "hotswap_ray.core.policies.thompson:Thompson",
    "fixed": "hotswap_ray.core.policies.simple:Fixed",
    "round_robin": "hotswap_ray.core.policies.simple:RoundRobin",
    "epsilon_greedy": "hotswap_ray.core.policies.simple:EpsilonGreedy",
    "ucb": "hotswap_ray.core.policies.ucb:Ucb",
    "threshold": "hotswap_ray.core.policies.threshold:Threshold",
}


@dataclass(frozen=True, slots=True)
class Arm:
    """One model that may serve, and what is known of its reward at the task.

    Attributes:
        model: Model id.
        count: Own observations, forgotten ones counted less.
        mean: Their mean reward; ``None`` when there are none.
        success_rate: Share of successes; ``None`` when nothing was seen.
        belief: Expected reward, own evidence and prior together.
        sd: Standard deviation of that expectation.
    """

    model: str
    count: float = 0.0
    mean: float | None = None
    success_rate: float | None = None
    belief: float = 0.5
    sd: float = 0.5


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a policy knows when it chooses.

    Attributes:
        task: Task id.
        arms: Models that meet the task's hard limits and are loaded; at least one.
        active: Model of the route; ``None`` at the start.
        quality_target: Quality the task should reach, in [0, 1].
    """

    task: str
    arms: tuple[Arm, ...]
    active: str | None = None
    quality_target: float = 0.8

    def __post_init__(self) -> None:
        if not self.arms:
            raise NotFound(f"no model meets the limits of task {self.task}")


@runtime_checkable
class Policy(Protocol):
    """Chooses a model for each request of one task."""

    def select(self, snapshot: Snapshot, rng: random.Random) -> str:
        """Model id of one of the snapshot's arms; the same for the same seed and history."""
        ...

    def update(self, arm: str, reward: float | None) -> None:
        """Learn that a request went to a model, and its reward; ``None`` if nobody judged."""
        ...


def best(arms: Sequence[Arm]) -> Arm:
    """The arm of the highest belief; the first of equals."""
    return max(arms, key=lambda arm: arm.belief)


def policy_names() -> list[str]:
    """Names that ``make_policy`` accepts, built in and installed."""
    return sorted({*BUILT_IN, *(entry.name for entry in entry_points(group=GROUP))})


@lru_cache
def find_policy(name: str) -> Callable[..., Policy]:
    """The class of a policy.

    Raises:
        ConfigError: No policy has this name; the closest one is named.
    """
    if name in BUILT_IN:
        module, _, attribute = BUILT_IN[name].partition(":")
        return cast("Callable[..., Policy]", getattr(import_module(module), attribute))
    for entry in entry_points(group=GROUP):
        if entry.name == name:
            return cast("Callable[..., Policy]", entry.load())
    matches = get_close_matches(name, policy_names(), 1)
    hint = f"; did you mean {matches[0]}?" if matches else "."
    raise ConfigError(f"policy {name!r} is unknown{hint} There are {', '.join(policy_names())}")


def make_policy(name: str, options: Mapping[str, Any] | None = None) -> Policy:
    """A new policy for one task.

    Args:
        name: Built in, or the name of an entry point of ``hotswap_ray.policies``.
        options: Arguments of its class.

    Raises:
        ConfigError: The name or an option is unknown.

    Example:
        >>> policy = make_policy("fixed", {"model": "b"})
        >>> policy.select(Snapshot("t", (Arm("a"), Arm("b"))), random.Random(1))
        'b'
    """
    factory = find_policy(name)
    try:
        return factory(**(options or {}))
    except TypeError as error:
        raise ConfigError(f"policy {name}: {error}") from None
