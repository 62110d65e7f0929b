"""``hotswap predict``: what a model would do at a task, and how well earlier predictions held."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

from hotswap_ray.cli import output
from hotswap_ray.cli.output import NAMESPACE, Address, AsJson, Namespace

QUANTITIES: dict[str, tuple[str, Callable[[float], str]]] = {
    "quality": ("quality", lambda value: f"{value:.3f}"),
    "latency_ms": ("median latency", lambda value: f"{value:.4g} ms"),
    "memory_bytes": ("memory", lambda value: f"{value / 2**20:.0f} MiB"),
    "cost_usd": ("cost of a request", lambda value: f"${value:.3g}"),
    "load_s": ("time to load", lambda value: f"{value:.3g} s"),
}


def predict(
    task: Annotated[str, typer.Argument(metavar="TASK", help="Task id.", show_default=False)],
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Model that might serve it.", show_default=False)
    ],
    as_json: AsJson = False,
    address: Address = None,
    namespace: Namespace = NAMESPACE,
) -> None:
    """Say what a model would do at a task, with 90% intervals. Changes nothing.

    Beside it stands how earlier predictions held: in how many swaps, how often the actual value
    was inside its interval (0.9 is right), and the mean error relative to what was predicted.
    """
    with output.arbiter(address, namespace) as arbiter:
        prediction = arbiter.predict(task, model)
        calibration = arbiter.calibration()["quantities"]
    if as_json:
        output.emit_json({**prediction, "calibration": calibration})
        return
    columns = ("of", "expected", "90% interval", "swaps", "inside", "mean error")
    rows = [_row(name, prediction, calibration.get(name)) for name in QUANTITIES]
    output.emit_table(f"{model} at {task}", columns, rows)
    output.emit("may serve it" if prediction["accepted"] else "a swap would be refused")
    for gap in prediction["gaps"]:
        output.emit(f"  {gap}")


def _row(
    name: str, prediction: dict[str, Any], calibration: dict[str, Any] | None
) -> tuple[Any, ...]:
    title, show = QUANTITIES[name]
    if name == "quality":
        title = prediction["reward"]  # of scores, or success where nobody judges
    bounds = prediction[name]
    expected = show(bounds["mid"]) if bounds else "unknown"
    interval = f"{show(bounds['low'])} to {show(bounds['high'])}" if bounds else None
    if calibration is None:
        return title, expected, interval, 0, None, None
    error = calibration["relative_error"]
    return (
        title,
        expected,
        interval,
        calibration["n"],
        output.number(calibration["inside"]),
        None if error is None else f"{error:.0%}",
    )
