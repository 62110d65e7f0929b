"""Charts as SVG text: enough for the plots of reports and documents, without a library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

COLOURS = ("#1f6fb4", "#c0392b", "#2e8b57", "#8e44ad", "#d68910", "#555555")
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 720, 400, 64, 170, 40, 52
Range = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Dot:
    """A measured point with the interval of its height."""

    name: str
    x: float
    y: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Axes:
    """A rectangle with a title and two linear axes.

    Attributes:
        title: Above the rectangle.
        x_label: Below it.
        x_range: Lowest and highest position.
        y_range: Lowest and highest value shown; others are cut.
        top: Pixels above the whole panel.
    """

    title: str
    x_label: str
    x_range: Range
    y_range: Range
    top: float = 0

    @property
    def right(self) -> float:
        """Pixels left of the legend."""
        return WIDTH - RIGHT

    def x(self, value: float) -> float:
        """Horizontal place of a value, in pixels."""
        low, high = self.x_range
        return LEFT + (self.right - LEFT) * (value - low) / ((high - low) or 1)

    def y(self, value: float) -> float:
        """Vertical place of a value, in pixels."""
        low, high = self.y_range
        tall = HEIGHT - TOP - BOTTOM
        return self.top + TOP + tall * (high - min(max(value, low), high)) / (high - low)

    def draw(self, x_ticks: Mapping[float, str], dashed: Mapping[str, float]) -> list[str]:
        """Title, labels, grid and dashed references.

        Args:
            x_ticks: Label per position.
            dashed: Height per name of reference lines.
        """
        floor, middle = self.y(self.y_range[0]), (LEFT + self.right) / 2
        parts = [
            f'<text x="{LEFT}" y="{self.top + 24:g}" font-size="15">{escape(self.title)}</text>'
        ]
        places = 1 if self.y_range[1] - self.y_range[0] >= 1 else 2
        for tick in range(6):
            value = self.y_range[0] + (self.y_range[1] - self.y_range[0]) * tick / 5
            parts.append(
                f'<line x1="{LEFT}" x2="{self.right}" y1="{self.y(value):.1f}" '
                f'y2="{self.y(value):.1f}" stroke="#dddddd"/>'
                f'<text x="{LEFT - 8}" y="{self.y(value) + 4:.1f}" '
                f'text-anchor="end">{value:.{places}f}</text>'
            )
        for position, label in x_ticks.items():
            parts.append(
                f'<text x="{self.x(position):.1f}" y="{floor + 20:g}" '
                f'text-anchor="middle">{escape(label)}</text>'
            )
        parts.append(
            f'<text x="{middle:g}" y="{floor + 42:g}" text-anchor="middle">'
            f"{escape(self.x_label)}</text>"
        )
        for name, height in dashed.items():
            y = self.y(height)
            parts.append(
                f'<line x1="{LEFT}" x2="{self.right}" y1="{y:.1f}" y2="{y:.1f}" '
                f'stroke="#555555" stroke-dasharray="5 4"/>'
                f'<text x="{LEFT + 6}" y="{y - 5:.1f}" fill="#555555">{escape(name)}</text>'
            )
        return parts

    def legend(self, n: int, name: str, tone: str) -> str:
        """The n-th entry right of the rectangle."""
        x, y = self.right + 12, self.top + TOP + 18 + 22 * n
        return (
            f'<line x1="{x}" x2="{x + 22}" y1="{y:g}" y2="{y:g}" stroke="{tone}" '
            f'stroke-width="2"/><text x="{x + 28}" y="{y + 4:g}">{escape(name)}</text>'
        )


def line_chart(
    title: str,
    x_label: str,
    x_values: Sequence[float],
    series: Mapping[str, Sequence[float]],
    y_range: Range,
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
    axes = Axes(title, x_label, (0, max(len(x_values) - 1, 1)), y_range)
    parts = axes.draw({n: f"{value:g}" for n, value in enumerate(x_values)}, dashed or {})
    for n, (name, values) in enumerate(series.items()):
        points = " ".join(f"{axes.x(i):.1f},{axes.y(value):.1f}" for i, value in enumerate(values))
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour(n)}" stroke-width="2"/>'
        )
        parts.append(axes.legend(n, name, colour(n)))
    return document(parts)


def dot_panels(panels: Mapping[str, Sequence[Dot]], x_label: str, y_range: Range = (0, 1)) -> str:
    """A panel below the other, each with dots and their intervals; a name keeps its colour.

    Args:
        panels: Dots per title.
        x_label: Below each panel; positions begin at 0.
        y_range: Lowest and highest value shown; others are cut.
    """
    names = list(dict.fromkeys(dot.name for dots in panels.values() for dot in dots))
    parts: list[str] = []
    for number, (title, dots) in enumerate(panels.items()):
        highest = max((dot.x for dot in dots), default=0) * 1.1 or 1
        axes = Axes(title, x_label, (0, highest), y_range, top=number * HEIGHT)
        ticks = {highest * tick / 5: f"{highest * tick / 5:.3g}" for tick in range(6)}
        parts += axes.draw(ticks, {})
        for place, dot in enumerate(dots):
            x, tone = axes.x(dot.x), colour(names.index(dot.name))
            parts.append(
                f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{axes.y(dot.low):.1f}" '
                f'y2="{axes.y(dot.high):.1f}" stroke="{tone}" stroke-width="2"/>'
                f'<circle cx="{x:.1f}" cy="{axes.y(dot.y):.1f}" r="5" fill="{tone}"/>'
            )
            parts.append(axes.legend(place, dot.name, tone))
    return document(parts, max(len(panels), 1) * HEIGHT)


def document(parts: Sequence[str], height: int = HEIGHT) -> str:
    """The whole file."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        'font-family="sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
    )
    return "\n".join([*head, *parts, "</svg>", ""])


def colour(n: int) -> str:
    """The n-th colour; they come again after six."""
    return COLOURS[n % len(COLOURS)]
