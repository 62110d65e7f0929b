"""``hotswap schedule``: swaps at a time, or again and again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from hotswap_ray.cli import output
from hotswap_ray.cli.output import NAMESPACE, Address, AsJson, Namespace
from hotswap_ray.config import yaml as config_yaml
from hotswap_ray.core.errors import ConfigError

app = typer.Typer(
    no_args_is_help=True, help="Swaps at a time, by cron, in maintenance windows, when quiet."
)
LIST_COLUMNS = ("schedule", "from", "swaps", "next", "waits for", "last run")
DRY_COLUMNS = ("due", "schedule", "begins", "swaps", "why", "if")


@app.command("list")
def list_schedules(
    as_json: AsJson = False, address: Address = None, namespace: Namespace = NAMESPACE
) -> None:
    """List schedules: when each is due next, what it waits for, and its last run."""
    with output.arbiter(address, namespace) as arbiter:
        rows = arbiter.schedules()
    if as_json:
        output.emit_json(rows)
    else:
        output.emit_table("schedules", LIST_COLUMNS, [_row(row) for row in rows])


@app.command("set")
def set_schedules(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="YAML: id, then its spec.", show_default=False)
    ],
    as_json: AsJson = False,
    address: Address = None,
    namespace: Namespace = NAMESPACE,
) -> None:
    """Add or replace the schedules of a file; they outlast restarts."""
    specs = read(file)
    with output.arbiter(address, namespace) as arbiter:
        rows = [arbiter.set_schedule(schedule, spec) for schedule, spec in specs.items()]
    if as_json:
        output.emit_json(rows)
        return
    for row in rows:
        output.emit(f"schedule {row['schedule']} is due next {row['next'] or 'never'}")


@app.command("delete")
def delete(
    schedule: Annotated[str, typer.Argument(metavar="ID", help="Schedule.", show_default=False)],
    as_json: AsJson = False,
    address: Address = None,
    namespace: Namespace = NAMESPACE,
) -> None:
    """Forget a schedule, one of the configuration too; swaps that it began go on."""
    with output.arbiter(address, namespace) as arbiter:
        answer = arbiter.delete_schedule(schedule)
    if as_json:
        output.emit_json(answer)
    else:
        output.emit(f"schedule {schedule} is deleted")


@app.command("dry-run")
def dry_run(
    subject: Annotated[
        str | None,
        typer.Argument(
            metavar="[ID|FILE]",
            help="Schedule, or a file as for set; without it all schedules.",
            show_default=False,
        ),
    ] = None,
    hours: Annotated[float, typer.Option("--hours", min=0.01, help="How far to look ahead.")] = 24,
    as_json: AsJson = False,
    address: Address = None,
    namespace: Namespace = NAMESPACE,
) -> None:
    """Print what would happen when, and change nothing."""
    is_file = subject is not None and subject.endswith((".yaml", ".yml", ".json"))
    specs = read(Path(subject)) if is_file and subject is not None else {}
    with output.arbiter(address, namespace) as arbiter:
        rows = (
            [row for id, spec in specs.items() for row in arbiter.schedule_dry_run(id, hours, spec)]
            if specs
            else arbiter.schedule_dry_run(subject, hours)
        )
    if as_json:
        output.emit_json(rows)
        return
    title = f"the next {hours:g} hours, in each schedule's own time"
    output.emit_table(title, DRY_COLUMNS, [_run(row) for row in rows])


def read(file: Path) -> dict[str, Any]:
    """Schedules of a YAML file by id; the section ``schedules:`` of a configuration too.

    Raises:
        ConfigError: It cannot be read, or is no mapping.
    """
    try:
        document = config_yaml.parse(file.read_text(encoding="utf-8"), {})
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror or 'cannot be read'}") from error
    if document.problems:
        raise ConfigError("\n".join(problem.render(str(file)) for problem in document.problems))
    data = document.data
    if isinstance(data, Mapping) and isinstance(data.get("schedules"), Mapping):
        data = data["schedules"]
    if not isinstance(data, Mapping) or not all(isinstance(v, Mapping) for v in data.values()):
        raise ConfigError(f"{file}: expected a mapping of schedules by id")
    return dict(data)


def _row(row: Mapping[str, Any]) -> tuple[Any, ...]:
    last = row["results"][-1]["state"] if row["results"] else None
    swaps = ", ".join(f"{swap['task']} to {swap['model']}" for swap in row["spec"]["swaps"])
    due = row["next"] if row["enabled"] else "disabled"
    running = "its swaps" if row["running_due_s"] is not None else None
    return (row["schedule"], row["source"], swaps, due, row["waits"] or running, last)


def _run(row: Mapping[str, Any]) -> tuple[Any, ...]:
    begins = row["begins"] or row["action"]
    return (
        *(row["due"], row["schedule"], begins),
        *(", ".join(row["swaps"]), row["why"], ", ".join(row["if"])),
    )
