"""How plots look and how they become files: matplotlib, which the extra ``plots`` brings.

It is imported only when something is drawn, so that nobody else waits for it or needs it.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from hotswap_ray.core.errors import InvalidRequest

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, PANEL = 720, 400
"""Of a figure and of an ordinary panel, in pixels of a drawing at its own size."""
PER_INCH = 72
STYLE = {
    "font.size": 12,
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial", "sans-serif"],
    "axes.titlesize": 14,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "legend.frameon": False,
    "figure.constrained_layout.h_pad": 0.1,
    "text.parse_math": False,  # a name with two $ is a name
    "svg.fonttype": "none",  # words stay words: they can be searched and read aloud
    "svg.hashsalt": "hotswap_ray",  # else the ids, and so the file, differ each time
}


def require() -> None:
    """Refuse at once where nothing can be drawn.

    Raises:
        InvalidRequest: matplotlib is missing; the message says how to get it.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise InvalidRequest(
            "a plot needs matplotlib, which is not installed; run: pip install 'hotswap_ray[plots]'"
        ) from error


@contextmanager
def style() -> Iterator[None]:
    """The look of our plots, whatever the user's own settings of matplotlib are.

    Raises:
        InvalidRequest: matplotlib is missing.
    """
    require()
    from matplotlib.style import context

    with context(["default", STYLE]):
        yield


def figure(height: float) -> Figure:
    """An empty figure of our width that finds room for its labels.

    Args:
        height: In pixels.
    """
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH / PER_INCH, height / PER_INCH), layout="constrained")


def legend(axes: Axes) -> None:
    """Names right of the panel, where they hide nothing."""
    if axes.get_legend_handles_labels()[1]:
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))


def svg(chart: Figure) -> str:
    """A figure as SVG, always the same text; it begins with its element, so a page can hold it."""
    out = io.StringIO()
    with style():
        chart.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    return text[text.index("<svg") :]


def save(chart: Figure, path: Path) -> None:
    """Write a figure: as PNG where the file's name ends so, else as SVG.

    Raises:
        OSError: The file cannot be written.
    """
    if path.suffix.lower() == ".png":
        with style():
            chart.savefig(path, format="png", dpi=2 * PER_INCH, metadata={"Software": None})
    else:
        path.write_text(svg(chart), encoding="utf-8")
