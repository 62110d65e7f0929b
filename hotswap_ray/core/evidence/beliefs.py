"""From the evidence of every cell to what a policy and the auto-swap may believe.

``Beliefs`` is learned from all cells now and then (a prior changes slowly); an ``arm`` is
then made from a cell's newest evidence in about 5 us.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from hotswap_ray.core.evidence.cell import Cell, Evidence
from hotswap_ray.core.evidence.prior import Belief, Prior, learn
from hotswap_ray.core.evidence.utility import (
    Moment,
    Reference,
    reward_moment,
    reward_share,
    utility,
    weighs_quality_only,
)
from hotswap_ray.core.policies.selection import Arm
from hotswap_ray.core.spec.task import Preferences

QUALITY_ONLY = Preferences()
NO_REFERENCE = Reference()
NOTHING = Moment()


def parent_of(task: str) -> str:
    """Parent by name: what stands before the last slash or dot; empty for none.

    Example:
        >>> parent_of("mmlu/anatomy"), parent_of("summarise")
        ('mmlu', '')
    """
    cut = max(task.rfind("/"), task.rfind("."))
    return task[:cut] if cut > 0 else ""


class Beliefs:
    """Priors of all cells, and what follows for one cell.

    Args:
        cells: Evidence per (task, model).
        tasks: Tasks to learn from; evidence of other tasks is not used.
        models: Models to learn from, likewise.
        parent: Parent of a task.

    Example:
        >>> cell = Evidence("t", "a")
        >>> cell.score([0.9] * 50)
        >>> beliefs = Beliefs({("t", "a"): cell}, ["t"], ["a", "b"])
        >>> beliefs.arm("t", "a", cell).belief > beliefs.arm("t", "b", None).belief
        True
    """

    def __init__(
        self,
        cells: Mapping[Cell, Evidence],
        tasks: Sequence[str],
        models: Sequence[str],
        parent: Callable[[str], str] = parent_of,
    ) -> None:
        self._row = {task: n for n, task in enumerate(tasks)}
        self._column = {model: n for n, model in enumerate(models)}
        self.scored = {
            task: any(
                (cell := cells.get((task, model))) is not None and cell.quality.weight > 0
                for model in models
            )
            for task in tasks
        }
        table = np.zeros((3, len(tasks), len(models)))
        for (task, model), cell in cells.items():
            if task in self._row and model in self._column:
                moment = reward_moment(cell, self.scored[task])
                table[:, self._row[task], self._column[model]] = (
                    moment.weight,
                    moment.mean,
                    moment.variance,
                )
        self.prior: Prior = learn(table[0], table[1], table[2], [parent(task) for task in tasks])

    def of(self, task: str, model: str, own: Moment = NOTHING) -> Belief:
        """The reward of one model at one task, prior and own evidence together.

        Args:
            task: One of the known tasks.
            model: One of the known models.
            own: Its own rewards; none by default.
        """
        return self.prior.belief(self._row[task], self._column[model], own.weight, own.mean)

    def arm(
        self,
        task: str,
        model: str,
        cell: Evidence | None,
        preferences: Preferences = QUALITY_ONLY,
        reference: Reference = NO_REFERENCE,
        cost_usd: float | None = None,
    ) -> Arm:
        """What is believed of one model at one task, as utility.

        Args:
            task: One of the known tasks.
            model: One of the known models.
            cell: Its evidence; ``None`` when there is none.
            preferences: Of the task.
            reference: Of the task.
            cost_usd: Mean cost of a request with this model.
        """
        scored = self.scored[task] or (cell is not None and cell.quality.weight > 0)
        own = NOTHING if cell is None else reward_moment(cell, scored)
        belief = self.of(task, model, own)
        mean, expected, share = own.mean, belief.mean, 1.0
        if not weighs_quality_only(preferences):
            latency = cell.latency_ms.quantile(0.5) if cell is not None else None
            memory = float(cell.memory_bytes) if cell is not None and cell.memory_bytes else None
            share = reward_share(preferences)

            def worth(reward: float) -> float:
                return (
                    utility(
                        preferences,
                        reference,
                        reward,
                        latency_ms=latency,
                        cost_usd=cost_usd,
                        memory_bytes=memory,
                    )
                    or 0.0
                )

            mean, expected = worth(mean), worth(expected)
        return Arm(
            model=model,
            count=own.weight,
            mean=mean if own.weight else None,
            success_rate=None if cell is None else cell.success_rate,
            belief=expected,
            sd=share * belief.sd,
        )
