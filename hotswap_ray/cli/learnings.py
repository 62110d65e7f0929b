"""``hotswap learnings``: what traffic taught, to look at and to carry elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hotswap_ray.cli import output
from hotswap_ray.cli.output import NAMESPACE, Address, AsJson, Namespace
from hotswap_ray.core.outcome import Ending

UNANSWERED = tuple(ending.value for ending in Ending if ending is not Ending.OK)

app = typer.Typer(help="Show, export and import what was learned.", no_args_is_help=True)


@app.command()
def show(
    task: Annotated[
        str | None, typer.Argument(metavar="TASK", help="Only this task.", show_default=False)
    ] = None,
    as_json: AsJson = False,
    address: Address = None,
    namespace: Namespace = NAMESPACE,
) -> None:
    """Evidence per task and model; of one task also what is known of the task itself."""
    with output.arbiter(address, namespace) as arbiter:
        if task is not None:
            knowledge = arbiter.task_performance_summary(task)
            rows = knowledge.pop("models")
        else:
            knowledge, rows = {}, arbiter.learnings().to_dict("records")
    if as_json:
        output.emit_json({**knowledge, "models": rows} if knowledge else rows)
        return
    if knowledge:
        facts = [
            (name, output.cell_text(value)) for name, value in knowledge.items() if name != "task"
        ]
        output.emit_table(f"task {task}", ("known", "value"), facts)
    columns = ("task", "model", "requests", "success", "quality", "scores", "p50 ms", "p99 ms",
               "tokens in", "tokens out", "memory", "not answered")  # fmt: skip
    table = [
        (
            row["task"],
            row["model"] or "(reported)",
            row["count"],
            output.number(row["success_rate"], 3),
            output.number(row["quality"]),
            row["quality_count"],
            output.number(row["latency_p50_ms"], 1),
            output.number(row["latency_p99_ms"], 1),
            output.number(row["tokens_in"], 0),
            output.number(row["tokens_out"], 0),
            output.mib(row["memory_bytes"]),
            ", ".join(f"{row[end]} {end}" for end in UNANSWERED if row.get(end)),
        )
        for row in rows
    ]
    output.emit_table("learnings", columns, table)


@app.command("export")
def export_learnings(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="File to write: .csv, .csv.gz or .parquet for `replay`, else JSON lines.",
            show_default=False,
        ),
    ],
    no_outcomes: Annotated[
        bool, typer.Option("--no-outcomes", help="Only what was learned, not each request.")
    ] = False,
    as_json: AsJson = False,
    address: Address = None,
    namespace: Namespace = NAMESPACE,
) -> None:
    """Write all learnings to a file, or the judged answers as a table for `hotswap replay`.

    The table has a row per prompt and model. Where it is known that two models answered one
    prompt (shadows, benchmarks) they share it. For the rest the n-th judged answer of each model
    at a task stands for prompt n: a replay draws prompts independently, so that is sound.
    """
    from hotswap_ray.replay.export import is_recording  # brings pandas

    if is_recording(file):
        if no_outcomes:
            raise typer.BadParameter("a table for replay is made of requests", param_hint="FILE")
        with output.arbiter(address, namespace) as arbiter:
            recording = arbiter.export_replay(file)
        _emit_recording(file, recording, as_json)
        return
    with output.arbiter(address, namespace) as arbiter:
        lines = arbiter.export_learnings(file, with_outcomes=not no_outcomes)
    if as_json:
        output.emit_json({"file": str(file), "lines": lines})
    else:
        output.emit(f"{lines} lines in {file}")


def _emit_recording(file: Path, recording: dict[str, Any], as_json: bool) -> None:
    if as_json:
        output.emit_json({"file": str(file), **recording})
        return
    rows = [
        (task, count, recording["unpaired"][task]) for task, count in recording["paired"].items()
    ]
    output.emit_table("prompts", ("task", "answered by each model", "put together"), rows)
    left_out = ", ".join(f"{count} of {model}" for model, count in recording["left_out"].items())
    output.emit(
        f"left out: judged answers {left_out or 'none'}; not judged {recording['unjudged']}"
    )
    output.emit(f"{recording['rows']} rows of {', '.join(recording['models'])} in {file}")


@app.command("import")
def import_learnings(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="File that export wrote.", show_default=False)
    ],
    as_json: AsJson = False,
    address: Address = None,
    namespace: Namespace = NAMESPACE,
) -> None:
    """Take in a file that export wrote, all or nothing; twice is harmless."""
    with output.arbiter(address, namespace) as arbiter:
        counts = arbiter.import_learnings(file)
    if as_json:
        output.emit_json(counts)
    else:
        summary = ", ".join(f"{count} {kind}" for kind, count in counts.items())
        output.emit(f"taken in: {summary}")
