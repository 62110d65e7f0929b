"""``hotswap``: the command line. Thin over ``Arbiter``; exit codes 0 ok, 1 refused, 2 usage."""

from __future__ import annotations

import sys

import typer

from hotswap_ray.cli import (
    ab_test,
    bench,
    decisions,
    learnings,
    models,
    predict,
    replay,
    schedule,
    serve,
    show,
    swaps,
)
from hotswap_ray.core.errors import HotswapError

app = typer.Typer(
    name="hotswap",
    help="Swap language models behind one OpenAI-compatible endpoint without losing a request.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command("serve")(serve.serve)
app.command("validate")(serve.validate)
app.command("status")(show.status)
app.command("watch")(show.watch)
app.command("swap")(swaps.swap)
app.command("rollback")(swaps.rollback)
app.command("explain")(decisions.explain)
app.command("decisions")(decisions.decisions)
app.command("autoswap")(decisions.autoswap)
app.command("bench")(bench.bench)
app.command("predict")(predict.predict)
app.command("replay")(replay.replay)
app.command("swaps")(swaps.history)
app.add_typer(models.app, name="models")
app.add_typer(swaps.rollout, name="rollout")
app.add_typer(learnings.app, name="learnings")
app.add_typer(schedule.app, name="schedule")
app.add_typer(ab_test.app, name="ab-test")


def main() -> None:
    """Entry point: an error of ours is one line on stderr and exit code 1."""
    try:
        app()
    except HotswapError as error:
        for line in str(error).splitlines():
            sys.stderr.write(f"hotswap: {error.code}: {line}\n")
        sys.exit(1)
