"""What a benchmark found: one row per task and model, as a table and as a plot."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from hotswap_ray.reports.svg import Dot, dot_panels

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


def plot(rows: Iterable[Row]) -> str:
    """An SVG: quality with its interval against p50 latency, one panel a task.

    Models without a quality or without an answer are left out.
    """
    panels: defaultdict[str, list[Dot]] = defaultdict(list)
    for row in rows:
        if row["quality"] is not None and row["latency_p50_ms"] is not None:
            panels[f"{row['task']}: quality, with its 95% interval"].append(
                Dot(
                    *(row["model"], row["latency_p50_ms"], row["quality"]),
                    *(row["quality_low"], row["quality_high"]),
                )
            )
    return dot_panels(panels, "latency, median (ms)")


def _number(value: float | None, digits: int) -> str | None:
    return None if value is None else f"{value:.{digits}f}"
