"""A line chart as SVG text: enough for the plots of the documents, without a library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

COLOURS = ("#1f6fb4", "#c0392b", "#2e8b57", "#8e44ad", "#d68910", "#555555")
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 720, 400, 64, 170, 40, 52


def line_chart(
    title: str,
    x_label: str,
    x_values: Sequence[float],
    series: Mapping[str, Sequence[float]],
    y_range: tuple[float, float],
    dashed: Mapping[str, float] | None = None,
) -> str:
    """A chart with one line a series and dashed horizontal references.

    Args:
        title: Above the chart.
        x_label: Below the axis.
        x_values: Positions, spread evenly (each is labelled).
        series: Values per name, as many as positions.
        y_range: Lowest and highest value shown; others are cut.
        dashed: Height per name of reference lines.
    """
    low, high = y_range
    wide, tall = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def x(n: int) -> float:
        return LEFT + wide * n / max(len(x_values) - 1, 1)

    def y(value: float) -> float:
        return TOP + tall * (high - min(max(value, low), high)) / (high - low)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="24" font-size="15">{escape(title)}</text>',
    ]
    for tick in range(6):
        value = low + (high - low) * tick / 5
        parts.append(
            f'<line x1="{LEFT}" x2="{LEFT + wide}" y1="{y(value):.1f}" y2="{y(value):.1f}" '
            f'stroke="#dddddd"/><text x="{LEFT - 8}" y="{y(value) + 4:.1f}" '
            f'text-anchor="end">{value:.1f}</text>'
        )
    for n, value in enumerate(x_values):
        parts.append(
            f'<text x="{x(n):.1f}" y="{TOP + tall + 20}" text-anchor="middle">{value:g}</text>'
        )
    parts.append(
        f'<text x="{LEFT + wide / 2}" y="{HEIGHT - 10}" text-anchor="middle">'
        f"{escape(x_label)}</text>"
    )
    for name, height in (dashed or {}).items():
        parts.append(
            f'<line x1="{LEFT}" x2="{LEFT + wide}" y1="{y(height):.1f}" y2="{y(height):.1f}" '
            f'stroke="#555555" stroke-dasharray="5 4"/>'
            f'<text x="{LEFT + 6}" y="{y(height) - 5:.1f}" fill="#555555">{escape(name)}</text>'
        )
    for n, (name, values) in enumerate(series.items()):
        colour = COLOURS[n % len(COLOURS)]
        points = " ".join(f"{x(i):.1f},{y(value):.1f}" for i, value in enumerate(values))
        label = TOP + 18 + 22 * n
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>'
        )
        parts.append(
            f'<line x1="{LEFT + wide + 12}" x2="{LEFT + wide + 34}" y1="{label}" y2="{label}" '
            f'stroke="{colour}" stroke-width="2"/>'
            f'<text x="{LEFT + wide + 40}" y="{label + 4}">{escape(name)}</text>'
        )
    return "\n".join([*parts, "</svg>", ""])
