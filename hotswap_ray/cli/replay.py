"""``hotswap replay``: what the arbiter would have done with recorded results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from hotswap_ray.cli import output
from hotswap_ray.cli.output import AsJson


def replay(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="CSV or Parquet of recorded results.", show_default=False
        ),
    ],
    per_task: Annotated[int, typer.Option(help="Requests per task.")] = 1000,
    seeds: Annotated[int, typer.Option(help="Runs; mean and standard deviation over them.")] = 4,
    policy: Annotated[str, typer.Option(help="Policy by name.")] = "thompson",
    mode: Annotated[
        Literal["select", "autoswap"],
        typer.Option(help="A choice per request, or one active model that is swapped on proof."),
    ] = "select",
    as_json: AsJson = False,
) -> None:
    """Replay recorded results through the real selection and decisions. Starts nothing."""
    from hotswap_ray.replay.replay import replay as run

    report = run(file, per_task, seeds, policy, mode)
    if as_json:
        output.emit_json(report.to_json())
    else:
        output.emit("\n".join(report.lines()))
