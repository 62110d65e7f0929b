"""The report of an A/B test for people: a table for a terminal, and a plot."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hotswap_ray.reports import charts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Doc = Mapping[str, Any]
Points = Mapping[str, Sequence[Mapping[str, float]]]
WIDE = 100
ROW, AROUND = 36, 122
"""Pixels per variant in the forest plot, and for what stands above and below them."""


def text(doc: Doc) -> str:
    """Lines of at most 100 columns: the sentence, the arms, the comparisons, the costs.

    Args:
        doc: From ``Report.to_doc``.
    """
    arms = [
        (
            _short(arm["model"]),
            arm["requests"],
            f"{arm['share']:.0%}",
            arm["values"],
            _number(arm["mean"], ".3f"),
            _number(arm["success_rate"], ".3f"),
            _number(arm["latency_p50_ms"], ".0f"),
            _number(arm["latency_p95_ms"], ".0f"),
            _number(arm["cost_usd"], ".4f"),
        )
        for arm in doc["arms"]
    ]
    comparisons = [
        (
            _short(row["model"]),
            _number(row["effect"], "+.3f"),
            f"{row['low']:+.3f} to {row['high']:+.3f}",
            f"{row['e_better']:.3g}",
            f"{row['e_worse']:.3g}",
            f"{row['bar']:.3g}",
            "dropped" if row["dropped"] else row["verdict"],
            _number(row["more"], ","),
        )
        for row in doc["comparisons"]
    ]
    head = ("model", "requests", "share", "values", doc["metric"], "success", "p50 ms", "p95 ms")
    lines = [
        *_wrapped(doc["sentence"]),
        "",
        *_table((*head, "cost usd"), arms),
        "",
        *_table(
            ("variant", "effect", "interval", "e better", "e worse", "bar", "verdict", "more"),
            comparisons,
        ),
    ]
    for row in doc["comparisons"]:
        if row["dropped"]:
            lines += _wrapped(f"{row['model']} is out: {row['dropped']}")
    lines.append("")
    lines += _wrapped(_costs(doc))
    return "\n".join(lines)


def plot(doc: Doc, points: Points | None = None) -> Figure:
    """Each variant's effect with its interval, and how they ran if points are given.

    Args:
        doc: From ``Report.to_doc``.
        points: From ``core.rollout.ab_report.history``.

    Returns:
        A figure for ``charts.save``.

    Raises:
        InvalidRequest: matplotlib is missing.
    """
    running = {name: row for name, row in (points or {}).items() if row}
    heights = [AROUND + ROW * len(doc["comparisons"]), *([charts.PANEL] if running else [])]
    with charts.style():
        figure = charts.figure(sum(heights))
        panels = figure.subplots(len(heights), squeeze=False, height_ratios=heights)[:, 0]
        _forest(panels[0], doc)
        if running:
            _running(panels[1], doc, running)
    return figure


def _forest(axes: Axes, doc: Doc) -> None:
    comparisons, wide, margin = doc["comparisons"], doc["equivalence"], doc["margin"]
    reach = _round(max([0.05, *(abs(row[end]) for row in comparisons for end in ("low", "high"))]))
    axes.axvspan(-wide, wide, color="#eeeeee", gid="equivalence")
    axes.axvline(0, color="#555555", linewidth=1)
    for at in (-margin, margin) if margin else ():
        axes.axvline(at, color="#999999", linewidth=1, linestyle="--", gid="margin")
    for n, row in enumerate(comparisons):
        axes.hlines(n, row["low"], row["high"], colors=f"C{n}", linewidth=3)
        if row["effect"] is not None:
            axes.plot(row["effect"], n, "o", color=f"C{n}", gid=f"dot:{row['model']}")
    names = [
        f"{_short(row['model'], 20)}\n{'dropped' if row['dropped'] else row['verdict']}"
        for row in comparisons
    ]
    axes.set_yticks(range(len(comparisons)), names)
    for n, label in enumerate(axes.get_yticklabels()):
        label.set_color(f"C{n}")
    axes.tick_params("y", length=0)
    axes.set_xticks([reach * tick / 2 for tick in range(-2, 3)])
    axes.xaxis.set_major_formatter("{x:+.2f}")
    axes.set(xlim=(-reach, reach), ylim=(len(comparisons) - 0.5, -0.5))
    control = _short(doc["control"])
    axes.set_title(f"{doc['metric']}: difference to {control}, with its anytime-valid interval")
    axes.set_xlabel(
        f"worse  ←  effect on {doc['metric']}  →  better\n"
        f"grey: counts as equal (±{wide:g}), dashed: margin (±{margin:g})"
    )


def _running(axes: Axes, doc: Doc, running: Points) -> None:
    ends = sorted(abs(p[end]) for row in running.values() for p in row for end in ("low", "high"))
    # The first intervals are so wide that the later ones could not be told apart beside them.
    reach = _round(max(ends[len(ends) * 3 // 4], doc["equivalence"]))
    axes.axhline(0, color="#555555", linewidth=1, linestyle="--", label="no effect")
    order = [row["model"] for row in doc["comparisons"]]
    for name, series in running.items():
        tone = f"C{order.index(name)}"
        requests, low, effect, high = (
            [point[part] for point in series] for part in ("requests", "low", "effect", "high")
        )
        axes.fill_between(
            requests, low, high, color=tone, alpha=0.15, linewidth=0, gid=f"band:{name}"
        )
        axes.plot(requests, effect, color=tone, label=_short(name, 18), gid=f"line:{name}")
    most = max(point["requests"] for series in running.values() for point in series)
    axes.set(xlim=(0, most), ylim=(-reach, reach), xlabel="requests of all models")
    axes.set_title("The same as it ran")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.grid(axis="y")
    charts.legend(axes)


def _round(reach: float) -> float:
    """The next tenth, so that ticks are plain numbers."""
    return min(1.0, math.ceil(reach * 10 + 1e-9) / 10)


def _costs(doc: Doc) -> str:
    extra, loss = doc["extra_cost_usd"], doc["quality_given_up"]
    price = (
        "The price of the test is not known"
        if extra is None
        else f"The variants cost {abs(extra):.4f} usd {'more' if extra >= 0 else 'less'} than "
        "the control would have"
    )
    if loss is None:
        return f"{price}; what it gave up in {doc['metric']} is not known."
    return f"{price}; against the best model throughout, it gave up {loss:.1f} in {doc['metric']}."


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    cells = [list(map(str, row)) for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if n == 0 else cell.rjust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _short(name: str, most: int = 24) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


def _wrapped(sentence: str) -> list[str]:
    return textwrap.wrap(sentence, WIDE)
