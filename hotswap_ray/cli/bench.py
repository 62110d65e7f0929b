"""``hotswap bench``: golden sets asked of models, as progress, a table and a plot."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from hotswap_ray.cli import output
from hotswap_ray.cli.output import NAMESPACE, Address, AsJson, Namespace
from hotswap_ray.core.errors import ConfigError
from hotswap_ray.reports import charts
from hotswap_ray.reports.bench import COLUMNS, cells, plot


def bench(
    task: Annotated[
        str | None, typer.Option("--task", help="Only this task.", show_default=False)
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model", help="Only this model; give it again for more.", show_default=False
        ),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file", help="Golden set in the place of the task's own.", show_default=False
        ),
    ] = None,
    loaded_only: Annotated[
        bool, typer.Option("--loaded-only", help="Load no model for it.")
    ] = False,
    plot_file: Annotated[
        Path | None,
        typer.Option(
            "--plot", help="SVG or PNG file to write: quality, latency.", show_default=False
        ),
    ] = None,
    as_json: AsJson = False,
    address: Address = None,
    namespace: Namespace = NAMESPACE,
) -> None:
    """Ask models the golden prompts of tasks; what comes of it counts as evidence."""
    if file is not None and task is None:
        raise typer.BadParameter("a file is of one task; name it with --task", param_hint="--file")
    if plot_file is not None:
        charts.require()  # before minutes of work, not after them
    with output.arbiter(address, namespace) as arbiter, _progress() as bar:
        shown = bar.add_task("starting", total=None)

        def show(status: dict[str, Any]) -> None:
            text = status["now"] or status["state"]
            bar.update(shown, completed=status["done"], total=status["of"], description=text)

        status = arbiter.bench(task, model, file, loaded_only=loaded_only, on_progress=show)
    if plot_file is not None:
        try:
            charts.save(plot(status["rows"]), plot_file)
        except OSError as error:
            raise ConfigError(f"{plot_file}: {error.strerror or 'cannot be written'}") from None
    if as_json:
        output.emit_json(status)
    else:
        if status["rows"]:
            output.emit_table(f"benchmark {status['bench_id']}", COLUMNS, cells(status["rows"]))
        for skip in status["skipped"]:
            where = " ".join(filter(None, (skip["task"], skip["model"])))
            output.emit(f"skipped: {where}: {skip['reason']}")
        if status["error"]:
            output.emit(f"{status['state']}: {status['error']}")
    if status["state"] != "done" or not status["rows"]:
        raise typer.Exit(1)


def _progress() -> Progress:
    """On standard error, and only for a person."""
    return Progress(
        *(BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()),
        TextColumn("{task.description}"),
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    )
