"""All that was learned, in memory: knowledge by task and evidence by (task, model)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hotswap_ray.core.errors import NotFound
from hotswap_ray.core.evidence.beliefs import Beliefs
from hotswap_ray.core.evidence.cell import Cell, Evidence, group
from hotswap_ray.core.evidence.knowledge import TaskKnowledge
from hotswap_ray.core.evidence.prior import Belief
from hotswap_ray.core.names import did_you_mean
from hotswap_ray.core.outcome import NO_TASK, Outcome
from hotswap_ray.core.spec.price import NO_PRICE, Price
from hotswap_ray.core.spec.task import TaskSpec

Array = NDArray[np.float64]


class Learnings:
    """The state of the learning actor.

    Args:
        half_life: Of new cells, in observations.

    Attributes:
        knowledge: By task.
        cells: Evidence by (task, model).
        dirty: Cells that differ from what is saved.
        prices: Of tokens today, by model.
    """

    def __init__(self, half_life: float) -> None:
        self._half_life = half_life
        self._by_task: defaultdict[str, list[Evidence]] = defaultdict(list)
        self.knowledge: dict[str, TaskKnowledge] = {}
        self.cells: dict[Cell, Evidence] = {}
        self.dirty: set[Cell] = set()
        self.prices: dict[str, Price] = {}

    def take(self, cells: dict[Cell, Evidence], dirty: set[Cell]) -> None:
        """Replace the evidence in memory by evidence from the store."""
        self.cells, self.dirty = cells, dirty
        self._by_task.clear()
        for (task, _), cell in cells.items():
            self._by_task[task].append(cell)
            self.knowledge.setdefault(task, TaskKnowledge(task))

    def configure(self, tasks: Iterable[TaskSpec]) -> None:
        """Take over what the configuration states."""
        for spec in tasks:
            knowledge = self.knowledge.get(spec.id) or TaskKnowledge(spec.id)
            self.knowledge[spec.id] = knowledge.configured(spec)

    def adopt(self, imported: dict[str, TaskKnowledge]) -> None:
        """Take over imported knowledge; this cluster's configuration wins over its own."""
        for task, knowledge in imported.items():
            own = self.knowledge.get(task, knowledge)
            self.knowledge[task] = replace(
                knowledge,
                requirements=own.requirements,
                quality_target=own.quality_target,
                preferences=(knowledge if "preferences" in knowledge.stated else own).preferences,
            )

    def fold(self, batch: Sequence[Outcome]) -> None:
        """Learn from outcomes in their order; those of no task teach nothing."""
        for key, outcomes in group(batch).items():
            if key[0] != NO_TASK:
                self._cell(key).extend(outcomes)

    def score(self, key: Cell, score: float) -> None:
        """Learn a quality that was given later."""
        if key[0] != NO_TASK:
            self._cell(key).score((score,))

    def forget(self, key: Cell) -> None:
        """Start a cell anew: its model changed, and what was seen of it holds no longer."""
        old = self.cells.pop(key, None)
        if old is not None:
            self._by_task[key[0]].remove(old)
            self._cell(key).count = old.count  # ever seen

    def _cell(self, key: Cell) -> Evidence:
        self.dirty.add(key)
        cell = self.cells.get(key)
        if cell is None:
            cell = self.cells[key] = Evidence(*key, self._half_life)
            self._by_task[key[0]].append(cell)
            self.knowledge.setdefault(key[0], TaskKnowledge(key[0]))
        return cell

    def of_task(self, task: str) -> Sequence[Evidence]:
        """Evidence of every model at a task."""
        return self._by_task.get(task, ())

    def known(self, task: str) -> TaskKnowledge:
        """Knowledge of a task as last refreshed.

        Raises:
            NotFound: The task is unknown; the closest name is given.
        """
        knowledge = self.knowledge.get(task)
        if knowledge is None:
            raise NotFound(f"unknown task {task!r}{did_you_mean(task, self.knowledge)}")
        return knowledge

    def refresh(self, task: str, now_s: float) -> TaskKnowledge:
        """Knowledge of a task with its references renewed from the evidence.

        Raises:
            NotFound: The task is unknown.
        """
        knowledge = self.known(task).observe(self.of_task(task), now_s)
        self.knowledge[task] = knowledge
        return knowledge

    def prior(self, task: str, model: str) -> Belief:
        """What the other tasks and models let expect of a model, without its own evidence."""
        tasks = {task, *(t for t, m in self.cells if m == model)}
        models = {model, *(m for t, m in self.cells if t in tasks and m)}
        other_cells = {key: cell for key, cell in self.cells.items() if key != (task, model)}
        return Beliefs(other_cells, sorted(tasks), sorted(models)).of(task, model)

    def rows(self, task: str | None = None) -> list[dict[str, Any]]:
        """A flat row per cell; ``model`` is ``None`` for reports that name no model.

        ``cost_usd`` is the mean of a request at today's prices; ``None`` where there are none.
        """
        cells = self.cells.values() if task is None else self.of_task(task)
        return [
            {**cell.row(), "cost_usd": self.mean_cost_usd(cell), "model": cell.model or None}
            for cell in sorted(cells, key=lambda cell: (cell.task, cell.model))
        ]

    def cost_usd(
        self, model: str, tokens_in: float | None, tokens_out: float | None
    ) -> float | None:
        """Price of so many tokens of a model today; ``None`` where it has no price."""
        return self._price(model).cost_usd(tokens_in or 0.0, tokens_out or 0.0) or None

    def costs_usd(self, model: str, tokens_in: Array, tokens_out: Array) -> Array:
        """Prices of many requests of a model today, shape (n,); NaN where it has none."""
        costs = self._price(model).cost_usd(tokens_in, tokens_out)
        return np.where(costs != 0, costs, np.nan)

    def _price(self, model: str) -> Price:
        return self.prices.get(model, NO_PRICE)

    def mean_cost_usd(self, cell: Evidence | None) -> float | None:
        """Mean price of a request, by the tokens that were seen."""
        if cell is None:
            return None
        return self.cost_usd(cell.model, cell.tokens_in.mean, cell.tokens_out.mean)
