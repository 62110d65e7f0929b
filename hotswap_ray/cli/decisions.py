"""``hotswap explain``, ``decisions`` and ``autoswap``: what the arbiter decides, and why."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any

import typer

from hotswap_ray.cli import output
from hotswap_ray.cli.output import NAMESPACE, Address, AsJson, Namespace


class ModeOption(StrEnum):
    """Who decides about a task."""

    OFF = "off"
    ADVISE = "advise"
    ON = "on"
    CONFIG = "config"


def explain(
    subject: Annotated[
        str,
        typer.Argument(
            metavar="TASK|REQUEST_ID|SWAP_ID", help="What to explain.", show_default=False
        ),
    ],
    as_json: AsJson = False,
    address: Address = None,
    namespace: Namespace = NAMESPACE,
) -> None:
    """Say why a task has its model, a swap happened, or a model answered a request."""
    with output.arbiter(address, namespace) as arbiter:
        explanation = arbiter.explain(subject)
    if as_json:
        output.emit_json(explanation)
        return
    output.emit(explanation["sentence"])
    if explanation.get("what_would_change"):
        output.emit(f"What would change it: {explanation['what_would_change']}")
    if models := explanation["inputs"].get("models"):
        output.emit_table("what it rests on", MODEL_COLUMNS, [_model(row) for row in models])
    if explanation["decisions"]:
        rows = [_decision(row) for row in explanation["decisions"]]
        output.emit_table("decisions (UTC)", DECISION_COLUMNS, rows)


def decisions(
    task: Annotated[
        str | None, typer.Option("--task", help="Only of this task.", show_default=False)
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="At most so many.")] = 20,
    as_json: AsJson = False,
    address: Address = None,
    namespace: Namespace = NAMESPACE,
) -> None:
    """List decisions, and decisions not to, as they changed."""
    with output.arbiter(address, namespace) as arbiter:
        frame = arbiter.decisions(task, limit)
    rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
    if as_json:
        output.emit_json(rows)
        return
    output.emit_table("decisions (UTC)", DECISION_COLUMNS, [_decision(row) for row in rows])


def autoswap(
    task: Annotated[str, typer.Argument(metavar="TASK", help="Task id.", show_default=False)],
    mode: Annotated[
        ModeOption,
        typer.Argument(
            metavar="MODE",
            help="off, advise (decides and explains, changes nothing), on, or config.",
            show_default=False,
        ),
    ],
    as_json: AsJson = False,
    address: Address = None,
    namespace: Namespace = NAMESPACE,
) -> None:
    """Set whether the arbiter decides about a task by itself, from now on."""
    with output.arbiter(address, namespace) as arbiter:
        setting = arbiter.set_autoswap(task, mode.value)
    if as_json:
        output.emit_json(setting)
    else:
        output.emit(f"auto-swap of {setting['task']} is {setting['mode']}")


MODEL_COLUMNS = ("model", "believed", "requests", "success", "comparisons", "difference", "ln E")
DECISION_COLUMNS = ("time", "action", "swap", "sentence")  # which names task and models


def _model(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return (
        row["model"],
        output.number(row["belief"], 3),
        output.number(row["count"], 0),
        output.number(row["success_rate"], 3),
        row.get("comparisons"),
        output.number(row.get("difference"), 3),
        output.number(row.get("log_e")),
    )


def _decision(row: Mapping[Any, Any]) -> tuple[Any, ...]:
    time_text = datetime.fromtimestamp(row["at_s"], UTC).strftime("%m-%d %H:%M:%S")
    return (time_text, row["action"], row["swap_id"], row["sentence"])
