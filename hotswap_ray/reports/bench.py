"""What a benchmark found: one row per task and model, as a table and as a plot."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from hotswap_ray.reports import charts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = Mapping[str, Any]
COLUMNS = (
    "task", "model", "prompts", "quality", "95% interval", "success", "p50 ms", "p99 ms",
    "tokens in", "tokens out", "cost usd", "note",
)  # fmt: skip


def cells(rows: Iterable[Row]) -> list[tuple[Any, ...]]:
    """Rows for ``COLUMNS``, the best model of each task first; what is not known is ``None``."""

    def order(row: Row) -> tuple[str, float]:
        return row["task"], -(row["quality"] or 0.0)

    return [
        (
            row["task"],
            row["model"],
            row["prompts"],
            _number(row["quality"], 3),
            None
            if row["quality"] is None
            else f"{row['quality_low']:.3f} to {row['quality_high']:.3f}",
            _number(row["success_rate"], 3),
            _number(row["latency_p50_ms"], 1),
            _number(row["latency_p99_ms"], 1),
            row["tokens_in"],
            row["tokens_out"],
            _number(row["cost_usd"] or None, 6),
            row["note"],
        )
        for row in sorted(rows, key=order)
    ]


def plot(rows: Iterable[Row]) -> Figure:
    """Quality with its interval against p50 latency, one panel a task; a model keeps its colour.

    Models without a quality or without an answer are left out.

    Returns:
        A figure for ``charts.save``.

    Raises:
        InvalidRequest: matplotlib is missing.
    """
    panels: defaultdict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row["quality"] is not None and row["latency_p50_ms"] is not None:
            panels[row["task"]].append(row)
    names = list(dict.fromkeys(row["model"] for of_task in panels.values() for row in of_task))
    with charts.style():
        figure = charts.figure(charts.PANEL * max(len(panels), 1))
        for n, (task, of_task) in enumerate(panels.items()):
            axes = figure.add_subplot(len(panels), 1, n + 1)
            for row in of_task:
                _dot(axes, row, f"C{names.index(row['model'])}")
            axes.set(xlabel="latency, median (ms)", ylim=(-0.03, 1.03))
            axes.set_xlim(0, 1.1 * max(row["latency_p50_ms"] for row in of_task) or 1)
            axes.set_title(f"{task}: quality, with its 95% interval")
            axes.grid(axis="y")
            charts.legend(axes)
    return figure


def _dot(axes: Axes, row: Row, tone: str) -> None:
    x, y = row["latency_p50_ms"], row["quality"]
    axes.vlines(x, row["quality_low"], row["quality_high"], colors=tone, linewidth=2)
    axes.plot(x, y, "o", color=tone, label=row["model"], gid=f"dot:{row['task']}:{row['model']}")


def _number(value: float | None, digits: int) -> str | None:
    return None if value is None else f"{value:.{digits}f}"
