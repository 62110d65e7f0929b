"""What a look at the tasks needs to know, and what it finds: plain values between two actors.

The owner of the routes states what serves and what may serve; the owner of the evidence decides
what should change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hotswap_ray.core.autoswap.decide import Decision, Settings, TaskState
from hotswap_ray.core.spec.price import NO_PRICE, Price


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What a model costs.

    Attributes:
        price: Of its tokens.
        load_s: Expected time to load it; 0 when it is loaded.
        memory_bytes: Memory of one replica; 0 when unknown.
    """

    price: Price = NO_PRICE
    load_s: float = 0.0
    memory_bytes: int = 0


@dataclass(frozen=True, slots=True)
class TaskView:
    """A task at one look, as the owner of the routes sees it.

    Attributes:
        task: Task id.
        active: Model that serves.
        candidates: Other models that meet the hard limits, loaded or not.
        settings: How careful to be.
        meets_limits: Whether the active model meets them.
        previous: Model that served before and is still warm.
        automatic: Whether the last swap was the arbiter's own.
        margin: Difference of utility that is not worth a promotion.
        equivalence: Difference that counts as none.
        explore: Share of requests that candidates answer.
        every_arm: Whether a policy serves: it needs to know of models that are settled too.
        unload: Whether models proven useless may go.
    """

    task: str
    active: str
    candidates: tuple[str, ...] = ()
    settings: Settings = field(default_factory=Settings)
    meets_limits: bool = True
    previous: str | None = None
    automatic: bool = False
    margin: float = 0.01
    equivalence: float = 0.03
    explore: float = 0.05
    every_arm: bool = False
    unload: bool = False


@dataclass(frozen=True, slots=True)
class Alarm:
    """A model's results at a task fell.

    Attributes:
        task: Task id.
        model: Model id.
        recent: Mean of its last results, in [0, 1].
    """

    task: str
    model: str
    recent: float


@dataclass(frozen=True, slots=True)
class Finding:
    """What one look found at one task, with what it rests on.

    Attributes:
        decision: The decision.
        inputs: Standings and tests as plain values.
    """

    decision: Decision
    inputs: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Look:
    """What one look found.

    Attributes:
        findings: One per task, in the order asked, then models to unload.
        alarms: Falls that were not reported before.
    """

    findings: tuple[Finding, ...]
    alarms: tuple[Alarm, ...]


def inputs_of(state: TaskState, settings: Settings) -> dict[str, Any]:
    """What a decision rests on, as plain values for a record.

    Args:
        state: The snapshot that was decided on.
        settings: How careful the task is.
    """
    rows = []
    for standing in state.standings:
        row: dict[str, Any] = {
            "model": standing.model,
            "belief": round(standing.belief, 4),
            "count": round(standing.count, 1),
            "success_rate": _rounded(standing.success_rate),
            "price": standing.price,
            "collapsed": standing.collapsed,
            "load_s": standing.swap_cost.load_s,
        }
        test = state.tests.get(standing.model)
        if test is not None and standing.model != state.active:
            row |= {
                "comparisons": test.count,
                "difference": round(test.mean, 4),
                "log_e": round(test.log_e(), 3),
                "log_e_worse": round(test.log_e("worse"), 3),
            }
        rows.append(row)
    return {
        "mode": settings.mode,
        "alpha": settings.alpha,
        "min_samples": settings.min_samples,
        "cooldown_s": settings.cooldown_s,
        "previous": state.previous,
        "recent_swaps": state.recent_swaps,
        "requests_per_s": round(state.requests_per_s, 3),
        "models": rows,
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
