"""``hotswap swap``, ``rollback``, ``swaps`` and ``rollout``: change a task's model, and undo it."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any

import typer

from hotswap_ray.cli import output
from hotswap_ray.cli.output import NAMESPACE, Address, AsJson, Namespace

rollout = typer.Typer(
    help="Promote, pause, resume, abort, roll back or retry a swap.", no_args_is_help=True
)
Task = Annotated[str, typer.Argument(metavar="TASK", help="Task id.", show_default=False)]
SwapArgument = Annotated[
    str, typer.Argument(metavar="SWAP_ID", help="Swap id.", show_default=False)
]
IfMatch = Annotated[
    str | None,
    typer.Option(
        "--if-match",
        metavar="ETAG",
        help="Refuse if the swap is not as it was when you saw this etag.",
        show_default=False,
    ),
]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Return at once.")]


class StrategyOption(StrEnum):
    """How room is made for the new model."""

    AUTO = "auto"
    OVERLAP = "overlap"
    SLEEP = "sleep"
    DRAIN_FIRST = "drain_first"


class Until(StrEnum):
    """What a swap is waited for."""

    SWITCHED = "switched"
    END = "end"


def swap(
    task: Task,
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Model that shall serve it.", show_default=False)
    ],
    strategy: Annotated[
        StrategyOption | None,
        typer.Option("--strategy", help="How to make room.", show_default="swap.strategy"),
    ] = None,
    bake_s: Annotated[
        float | None,
        typer.Option(
            "--bake-s",
            min=0,
            max=604_800,
            help="Seconds the old model stays warm.",
            show_default="swap.bake_s",
        ),
    ] = None,
    warn: Annotated[
        bool, typer.Option("--warn", help="Accept a model that is less than the old one.")
    ] = False,
    canary: Annotated[
        str | None,
        typer.Option(
            "--canary",
            metavar="PERCENT,...",
            help="Shares on which it proves itself first, as 5,25,50.",
            show_default="swap.canary.steps",
        ),
    ] = None,
    until: Annotated[
        Until, typer.Option("--until", help="Wait until it serves, or until the old one is gone.")
    ] = Until.SWITCHED,
    no_wait: NoWait = False,
    swap_id: Annotated[
        str | None,
        typer.Option("--swap-id", help="Asking again with it changes nothing.", show_default=False),
    ] = None,
    if_match: IfMatch = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would happen, and change nothing.")
    ] = False,
    as_json: AsJson = False,
    address: Address = None,
    namespace: Namespace = NAMESPACE,
) -> None:
    """Give a task another model, under load, without losing a request."""
    with output.arbiter(address, namespace) as arbiter:
        record = arbiter.force_swap(
            task,
            model,
            wait=not no_wait,
            swap_id=swap_id,
            bake_s=bake_s,
            strategy=strategy.value if strategy else None,
            compatibility="warn" if warn else None,
            canary=canary,
            until=until.value,
            requested_by="cli",
            if_match=if_match,
            dry_run=dry_run,
        )
    if dry_run:
        _emit_plan(record, as_json)
    else:
        _emit(record, as_json)


def rollback(
    task: Task,
    to: Annotated[
        str | None,
        typer.Option(
            "--to", metavar="MODEL", help="Any model that served it.", show_default="the last one"
        ),
    ] = None,
    list_: Annotated[
        bool, typer.Option("--list", help="Only list the models that served it.")
    ] = False,
    no_wait: NoWait = False,
    if_match: IfMatch = None,
    as_json: AsJson = False,
    address: Address = None,
    namespace: Namespace = NAMESPACE,
) -> None:
    """Give a task back to the model it had before, or to an earlier one."""
    with output.arbiter(address, namespace) as arbiter:
        if list_:
            _emit_generations(arbiter.generations(task), as_json)
        else:
            _emit(arbiter.rollback(task, wait=not no_wait, to=to, if_match=if_match), as_json)


def history(
    swap_id: Annotated[
        str | None,
        typer.Argument(metavar="SWAP_ID", help="One swap, with its journal.", show_default=False),
    ] = None,
    task: Annotated[
        str | None, typer.Option("--task", help="Only swaps of this task.", show_default=False)
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="At most so many.")] = 20,
    as_json: AsJson = False,
    address: Address = None,
    namespace: Namespace = NAMESPACE,
) -> None:
    """List the latest swaps, or show one with its journal."""
    with output.arbiter(address, namespace) as arbiter:
        if swap_id is not None:
            _emit_with_journal(arbiter.swap(swap_id), as_json)
            return
        records = arbiter.swaps(task, limit).to_dict("records")
    if as_json:
        output.emit_json(records)
        return
    columns = ("swap", "task", "from", "to", "phase", "strategy", "seconds", "by", "error")
    rows = [
        (
            record["swap_id"],
            record["task"],
            record["from_model"],
            record["to_model"],
            record["phase"],
            record["strategy"],
            output.number(sum(record["seconds"].values())),
            record["requested_by"],
            record["error"],
        )
        for record in records
    ]
    output.emit_table("swaps", columns, rows)


@rollout.command()
def promote(
    swap_id: SwapArgument,
    if_match: IfMatch = None,
    as_json: AsJson = False,
    address: Address = None,
    namespace: Namespace = NAMESPACE,
) -> None:
    """Skip the rest of a canary, or end the bake time."""
    with output.arbiter(address, namespace) as arbiter:
        arbiter.promote(swap_id, if_match)
        _emit(arbiter.wait(swap_id), as_json)


@rollout.command()
def pause(
    swap_id: SwapArgument,
    if_match: IfMatch = None,
    as_json: AsJson = False,
    address: Address = None,
    namespace: Namespace = NAMESPACE,
) -> None:
    """Keep a canary at its share until it is resumed."""
    with output.arbiter(address, namespace) as arbiter:
        _emit(arbiter.pause(swap_id, if_match), as_json)


@rollout.command()
def resume(
    swap_id: SwapArgument,
    if_match: IfMatch = None,
    as_json: AsJson = False,
    address: Address = None,
    namespace: Namespace = NAMESPACE,
) -> None:
    """Let a paused canary go on."""
    with output.arbiter(address, namespace) as arbiter:
        _emit(arbiter.resume(swap_id, if_match), as_json)


@rollout.command()
def abort(
    swap_id: SwapArgument,
    if_match: IfMatch = None,
    as_json: AsJson = False,
    address: Address = None,
    namespace: Namespace = NAMESPACE,
) -> None:
    """Give a swap up before it switches; its task keeps the model it has."""
    with output.arbiter(address, namespace) as arbiter:
        arbiter.abort(swap_id, if_match)
        _emit(arbiter.wait(swap_id), as_json)


@rollout.command("rollback")
def rollback_swap(
    swap_id: SwapArgument,
    if_match: IfMatch = None,
    as_json: AsJson = False,
    address: Address = None,
    namespace: Namespace = NAMESPACE,
) -> None:
    """Take a swap back that has switched but not ended."""
    with output.arbiter(address, namespace) as arbiter:
        arbiter.rollback_swap(swap_id, if_match)
        _emit(arbiter.wait(swap_id), as_json)


@rollout.command()
def retry(
    swap_id: SwapArgument,
    attempt: Annotated[
        int | None,
        typer.Option(
            "--attempt",
            min=1,
            max=9999,
            help="Which retry; asking again with it changes nothing.",
            show_default="the next",
        ),
    ] = None,
    no_wait: NoWait = False,
    as_json: AsJson = False,
    address: Address = None,
    namespace: Namespace = NAMESPACE,
) -> None:
    """Try a swap again that failed or was rolled back, with its settings."""
    with output.arbiter(address, namespace) as arbiter:
        _emit(arbiter.retry(swap_id, wait=not no_wait, attempt=attempt), as_json)


def _emit_generations(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        output.emit_json(rows)
        return
    columns = ("model", "generation", "served since (UTC)", "state", "going back takes")
    cells = [
        (
            row["model"],
            row["generation"] or None,
            _time(row["served_at_s"]),
            row["state"],
            _return_cost(row),
        )
        for row in rows
    ]
    output.emit_table("models that served it", columns, cells)


def _return_cost(row: dict[str, Any]) -> str:
    if row["serves"]:
        return "nothing, it serves"
    return "one commit" if row["warm"] else "a load"


def _time(at_s: float | None) -> str | None:
    if at_s is None:
        return None
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]


def _emit_plan(plan: dict[str, Any], as_json: bool) -> None:
    """A dry run; exit code 1 where the swap would be refused."""
    if as_json:
        output.emit_json(plan)
    else:
        output.emit(output.plan_text(plan))
    if not plan["accepted"]:
        raise typer.Exit(1)


def _emit(record: dict[str, Any], as_json: bool) -> None:
    if as_json:
        output.emit_json(record)
    else:
        output.emit(output.swap_line(record))


def _emit_with_journal(record: dict[str, Any], as_json: bool) -> None:
    if as_json:
        output.emit_json(record)
        return
    output.emit(output.swap_line(record))
    output.emit(f"etag {record['etag']}")
    if record["strategy"]:
        output.emit(f"strategy {record['strategy']}: {record['reason']}")
    rows = [
        (
            _time(step["at_s"]),
            step["phase"],
            step["note"],
        )
        for step in record["journal"]
    ]
    output.emit_table("journal (UTC)", ("time", "phase", "note"), rows)
    facts = [(name, output.cell_text(value)) for name, value in record["facts"].items()]
    if facts:
        output.emit_table("facts", ("fact", "value"), facts)
