"""The report of an A/B test for people: a table for a terminal, and a plot as SVG."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from hotswap_ray.reports.svg import HEIGHT, LEFT, Axes, colour, document

Doc = Mapping[str, Any]
Points = Mapping[str, Sequence[Mapping[str, float]]]
WIDE = 100
ROW = 34
"""Pixels per variant in the forest plot."""
TOP, BELOW = 44, 78


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
    compared = [
        (
            _short(one["model"]),
            _number(one["effect"], "+.3f"),
            f"{one['low']:+.3f} to {one['high']:+.3f}",
            f"{one['e_better']:.3g}",
            f"{one['e_worse']:.3g}",
            f"{one['bar']:.3g}",
            "dropped" if one["dropped"] else one["verdict"],
            _number(one["more"], ","),
        )
        for one in doc["comparisons"]
    ]
    head = ("model", "requests", "share", "values", doc["metric"], "success", "p50 ms", "p95 ms")
    lines = [
        *_wrapped(doc["sentence"]),
        "",
        *_table((*head, "cost usd"), arms),
        "",
        *_table(
            ("variant", "effect", "interval", "e better", "e worse", "bar", "verdict", "more"),
            compared,
        ),
    ]
    for one in doc["comparisons"]:
        if one["dropped"]:
            lines += _wrapped(f"{one['model']} is out: {one['dropped']}")
    lines.append("")
    lines += _wrapped(_costs(doc))
    return "\n".join(lines)


def plot(doc: Doc, points: Points | None = None) -> str:
    """An SVG: each variant's effect with its interval, and how they ran if points are given.

    Args:
        doc: From ``Report.to_doc``.
        points: From ``core.ab_test.history``.
    """
    compared = doc["comparisons"]
    reach = max([0.05, *(abs(end) for one in compared for end in (one["low"], one["high"]))])
    height = TOP + ROW * len(compared) + BELOW
    parts = _forest(doc, _round(reach), height)
    running = {name: row for name, row in (points or {}).items() if row}
    if running:
        parts += _running(doc, running, height)
        height += HEIGHT
    return document(parts, height)


def _forest(doc: Doc, reach: float, height: float) -> list[str]:
    title = f"{doc['metric']}: difference to {doc['control']}, with its anytime-valid interval"
    label = f"worse  ←  effect on {doc['metric']}  →  better"
    axes = Axes(title, label, (-reach, reach), (0, 1))
    floor, wide = height - BELOW + 8, doc["equivalence"]
    left, right = axes.x(max(-wide, -reach)), axes.x(min(wide, reach))
    parts = [
        f'<text x="{LEFT}" y="24" font-size="15">{escape(title)}</text>',
        f'<rect x="{left:.1f}" y="{TOP}" width="{right - left:.1f}" height="{floor - TOP:g}" '
        f'fill="#eeeeee"><title>equivalence: ±{wide:g}</title></rect>',
        _vertical(axes.x(0), floor, "#555555", ""),
    ]
    for at in (-doc["margin"], doc["margin"]):
        if doc["margin"] and abs(at) < reach:
            parts.append(_vertical(axes.x(at), floor, "#999999", "3 3"))
    for tick in range(-2, 3):
        value = reach * tick / 2
        parts.append(
            f'<text x="{axes.x(value):.1f}" y="{floor + 18:g}" text-anchor="middle">'
            f"{value:+.2f}</text>"
        )
    parts.append(
        f'<text x="{axes.x(0):.1f}" y="{floor + 38:g}" text-anchor="middle">{escape(label)}</text>'
        f'<text x="{axes.x(0):.1f}" y="{floor + 56:g}" text-anchor="middle" font-size="11" '
        f'fill="#555555">grey: counts as equal (±{wide:g}), dashed: margin '
        f"(±{doc['margin']:g})</text>"
    )
    for n, one in enumerate(doc["comparisons"]):
        parts += _interval(axes, one, TOP + ROW * (n + 0.5), colour(n))
    return parts


def _interval(axes: Axes, one: Mapping[str, Any], y: float, tone: str) -> list[str]:
    low, high = axes.x(one["low"]), axes.x(one["high"])
    low, high = max(low, LEFT), min(high, axes.right)
    parts = [
        f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{y:g}" y2="{y:g}" stroke="{tone}" '
        f'stroke-width="3"/>',
        f'<text x="{axes.right + 12:g}" y="{y - 2:g}" fill="{tone}">'
        f"{escape(_short(one['model'], 20))}</text>",
        f'<text x="{axes.right + 12:g}" y="{y + 12:g}" font-size="11">'
        f"{'dropped' if one['dropped'] else one['verdict']}</text>",
    ]
    if one["effect"] is not None:
        parts.append(f'<circle cx="{axes.x(one["effect"]):.1f}" cy="{y:g}" r="5" fill="{tone}"/>')
    return parts


def _running(doc: Doc, running: Points, top: float) -> list[str]:
    most = max(point["requests"] for row in running.values() for point in row)
    ends = sorted(abs(p[end]) for row in running.values() for p in row for end in ("low", "high"))
    reach = _round(
        max(ends[len(ends) * 3 // 4], doc["equivalence"])
    )  # the first intervals say little
    axes = Axes("The same as it ran", "requests of all models", (0, most), (-reach, reach), top=top)
    parts = axes.draw({most * n / 5: f"{most * n / 5:,.0f}" for n in range(6)}, {"no effect": 0.0})
    order = [one["model"] for one in doc["comparisons"]]
    for name, row in running.items():
        tone = colour(order.index(name))
        band = [(p["requests"], p["high"]) for p in row]
        band += [(p["requests"], p["low"]) for p in reversed(row)]
        parts.append(f'<polygon points="{_path(axes, band)}" fill="{tone}" fill-opacity="0.15"/>')
        line = _path(axes, [(p["requests"], p["effect"]) for p in row])
        parts.append(f'<polyline points="{line}" fill="none" stroke="{tone}" stroke-width="2"/>')
        parts.append(axes.legend(order.index(name), _short(name, 18), tone))
    return parts


def _round(reach: float) -> float:
    """The next tenth, so that ticks are plain numbers."""
    return min(1.0, math.ceil(reach * 10 + 1e-9) / 10)


def _path(axes: Axes, points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{axes.x(x):.1f},{axes.y(y):.1f}" for x, y in points)


def _vertical(x: float, floor: float, tone: str, dashes: str) -> str:
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{floor:g}" stroke="{tone}"{dashed}/>'


def _costs(doc: Doc) -> str:
    extra, lost = doc["extra_cost_usd"], doc["quality_given_up"]
    price = (
        "The price of the test is not known"
        if extra is None
        else f"The variants cost {abs(extra):.4f} usd {'more' if extra >= 0 else 'less'} than "
        "the control would have"
    )
    if lost is None:
        return f"{price}; what it gave up in {doc['metric']} is not known."
    return f"{price}; against the best model throughout, it gave up {lost:.1f} in {doc['metric']}."


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
