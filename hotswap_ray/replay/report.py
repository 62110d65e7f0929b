"""What a replay found, against chance and hindsight: numbers, JSON, tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hotswap_ray.replay.data import Recorded

PER_SEED = ("achieved", "share", "final_share", "changes", "promotions", "rollbacks", "undecided")


@dataclass(frozen=True, slots=True)
class TaskRun:
    """One task in one run.

    Attributes:
        achieved: Mean quality of the answers served.
        final: Column of the model on the route at the end.
        changes: Changes of the serving model.
        promotions: Swaps to a candidate.
        rollbacks: Swaps back.
    """

    achieved: float
    final: int
    changes: int = 0
    promotions: int = 0
    rollbacks: int = 0


@dataclass(frozen=True, slots=True)
class Run:
    """All tasks in one run, and how many of them ended undecided."""

    tasks: Mapping[str, TaskRun]
    undecided: int = 0


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean and standard deviation over seeds; ``None`` where a share has no meaning."""

    mean: float | None
    std: float | None


@dataclass(frozen=True, slots=True)
class ReplayReport:
    """Result of a replay. Tasks count equally, for each got as many requests.

    Attributes:
        random: Mean quality if chance chose.
        best_single: The same for the one model that is best over all tasks, in hindsight.
        oracle: The same for the best model of each task, in hindsight.
        share_best_single: Where ``best_single`` lies between ``random`` and ``oracle``.
        spreads: Over seeds: achieved, share, final_share, changes (per 1,000 requests),
            promotions, rollbacks and tasks undecided at the end (a run).
        tasks: A row per task.
        facts: What was run: policy, mode, numbers of tasks, models, requests, skipped.
    """

    random: float
    best_single: float
    oracle: float
    share_best_single: float | None
    spreads: Mapping[str, Spread]
    tasks: Sequence[Mapping[str, Any]]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values; what varies with the seed is ``{"mean": ..., "std": ...}``."""
        fixed = {
            "random": self.random,
            "best_single": self.best_single,
            "oracle": self.oracle,
            "share_best_single": self.share_best_single,
        }
        return {
            **self.facts,
            **{name: {"mean": value, "std": 0.0} for name, value in fixed.items()},
            **{name: {"mean": s.mean, "std": s.std} for name, s in self.spreads.items()},
            "tasks": [dict(row) for row in self.tasks],
        }

    def lines(self) -> list[str]:
        """Text for a terminal: the numbers, then the table."""
        lines = [" ".join(f"{name}={value}" for name, value in self.facts.items())]
        values = self.to_json()
        for name in ("random", "best_single", "oracle", "share_best_single", *PER_SEED):
            mean, std = values[name]["mean"], values[name]["std"]
            text = "-" if mean is None else f"{mean:.4f}" + (f" +- {std:.4f}" if std else "")
            lines.append(f"{name:18} {text}")
        lines.append("")
        width = max(len(str(row["task"])) for row in self.tasks)
        lines.append(f"{'task':{width}}  random  oracle  achieved  changes  best -> final")
        for row in self.tasks:
            lines.append(
                f"{row['task']:{width}}  {row['random']:6.3f}  {row['oracle']:6.3f}  "
                f"{row['achieved']:8.3f}  {row['changes']:7.1f}  {row['best']} -> {row['final']}"
            )
        return lines


def summarise(data: Recorded, runs: Sequence[Run], **facts: Any) -> ReplayReport:
    """Join the runs of a replay.

    Args:
        data: What was replayed.
        runs: One per seed.
        facts: What was run; must hold ``per_task``.
    """
    means = np.array([data.values[task]["quality"].mean(0) for task in data.tasks])
    chance, single, oracle = (
        float(means.mean()),
        float(means.mean(0).max()),
        float(means.max(1).mean()),
    )
    per_task = int(facts["per_task"])

    def share(value: float) -> float | None:
        return (value - chance) / (oracle - chance) if oracle - chance > 1e-9 else None

    columns: dict[str, list[float | None]] = {name: [] for name in PER_SEED}
    for run in runs:
        task_runs = list(run.tasks.values())
        achieved = float(np.mean([task.achieved for task in task_runs]))
        final = float(np.mean([means[n, task.final] for n, task in enumerate(task_runs)]))
        columns["achieved"].append(achieved)
        columns["share"].append(share(achieved))
        columns["final_share"].append(share(final))
        columns["changes"].append(
            1000 * sum(t.changes for t in task_runs) / (per_task * len(task_runs))
        )
        columns["promotions"].append(sum(t.promotions for t in task_runs))
        columns["rollbacks"].append(sum(t.rollbacks for t in task_runs))
        columns["undecided"].append(run.undecided)
    rows = []
    for n, task in enumerate(data.tasks):
        of_task = [run.tasks[task] for run in runs]
        finals = [t.final for t in of_task]
        rows.append(
            {
                "task": task,
                "prompts": len(data.values[task]["quality"]),
                "random": float(means[n].mean()),
                "oracle": float(means[n].max()),
                "achieved": float(np.mean([t.achieved for t in of_task])),
                "achieved_std": float(np.std([t.achieved for t in of_task])),
                "changes": 1000 * float(np.mean([t.changes for t in of_task])) / per_task,
                "promotions": float(np.mean([t.promotions for t in of_task])),
                "rollbacks": float(np.mean([t.rollbacks for t in of_task])),
                "best": data.models[int(means[n].argmax())],
                "final": data.models[max(set(finals), key=finals.count)],
            }
        )
    return ReplayReport(
        chance,
        single,
        oracle,
        share(single),
        {name: _spread(values) for name, values in columns.items()},
        rows,
        {
            **facts,
            "seeds": len(runs),
            "task_count": len(data.tasks),
            "model_count": len(data.models),
            "skipped": data.skipped,
        },
    )


def _spread(values: Sequence[float | None]) -> Spread:
    finite = [value for value in values if value is not None and math.isfinite(value)]
    if len(finite) < len(values) or not finite:
        return Spread(None, None)
    return Spread(float(np.mean(finite)), float(np.std(finite)))
