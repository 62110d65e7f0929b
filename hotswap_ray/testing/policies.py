"""The contract of selection policies, public as ``hotswap_ray.testing.check_policy``."""

from __future__ import annotations

import random
from collections.abc import Callable

from hotswap_ray.core.policies.selection import Arm, Policy, Snapshot

ROUNDS = 200


def check_policy(make: Callable[[], Policy]) -> None:
    """Check that a policy keeps the contract of ``core.policies.selection.Policy``.

    It chooses one of the arms, also when arms come and go; it is reproducible from the
    seed; it draws randomness only from the generator it is given; it takes missing rewards;
    and two of its instances share nothing.

    Args:
        make: Makes a new policy for one task.

    Raises:
        AssertionError: What the policy does otherwise.

    Example:
        >>> from hotswap_ray.core.policies.selection import find_policy
        >>> check_policy(find_policy("thompson"))
    """
    assert isinstance(make(), Policy), "a policy has the methods select and update"
    first = _history(make(), seed=1)
    random.seed(99)  # a policy that uses global randomness would now differ
    other = make()
    _history(other, seed=2)
    assert _history(make(), seed=1) == first, "the same seed and history give the same choices"
    _one_arm_is_chosen(make())
    _arms_come_and_go(make())
    _unknown_arms_are_no_error(make())


def _history(policy: Policy, seed: int) -> list[str]:
    rng, world = random.Random(seed), random.Random(7)
    worth = {"a": 0.3, "b": 0.7, "c": 0.5}
    count = dict.fromkeys(worth, 0)
    total = dict.fromkeys(worth, 0.0)
    chosen: list[str] = []
    for number in range(ROUNDS):
        arms = tuple(_arm(model, count[model], total[model]) for model in worth)
        arm = policy.select(Snapshot("t", arms, chosen[-1] if chosen else None), rng)
        assert arm in worth, f"{arm!r} is none of the arms"
        reward = float(world.random() < worth[arm])
        policy.update(arm, None if number % 5 == 0 else reward)
        count[arm] += 1
        total[arm] += reward
        chosen.append(arm)
    return chosen


def _one_arm_is_chosen(policy: Policy) -> None:
    rng = random.Random(3)
    for _ in range(ROUNDS):
        assert policy.select(Snapshot("t", (Arm("only"),)), rng) == "only"
        policy.update("only", None)


def _arms_come_and_go(policy: Policy) -> None:
    rng = random.Random(4)
    names = ["a", "b", "c", "d"]
    active = None
    for _ in range(ROUNDS):
        arms = tuple(
            _arm(model, rng.randrange(30), 3.0)
            for model in rng.sample(names, rng.randint(1, len(names)))
        )
        active = policy.select(Snapshot("t", arms, active), rng)
        assert active in {arm.model for arm in arms}, f"{active!r} is not among the arms now"
        policy.update(active, rng.random())


def _unknown_arms_are_no_error(policy: Policy) -> None:
    """An outcome may arrive after its model was unloaded."""
    policy.update("gone", 0.5)
    policy.update("gone", None)


def _arm(model: str, count: int, total: float) -> Arm:
    mean = min(total / count, 1.0) if count else None
    belief = 0.5 if mean is None else mean
    return Arm(model, count, mean, mean, belief, 0.4 / (count + 1) ** 0.5)
