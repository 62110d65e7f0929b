"""What all commands share: the connection, JSON, tables and numbers for people."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from hotswap_ray.client.arbiter import Arbiter

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Address = Annotated[
    str | None,
    typer.Option(
        "--address",
        help="Ray address; else RAY_ADDRESS, else what runs on this machine.",
        show_default=False,
    ),
]
Namespace = Annotated[str, typer.Option("--namespace", help="Ray namespace of the actors.")]
NAMESPACE = "hotswap"
WIDE = 200


@contextmanager
def arbiter(address: str | None, namespace: str) -> Iterator[Arbiter]:
    """A connected handle; imported late, so that ``--help`` needs no Ray."""
    from hotswap_ray.client.arbiter import Arbiter

    with Arbiter.connect(address, namespace) as handle:
        yield handle


def emit_json(value: Any) -> None:
    """One JSON value, indented; times and numpy numbers included."""
    option = orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
    typer.echo(orjson.dumps(value, default=str, option=option).decode())


def emit_json_line(value: Any) -> None:
    """One JSON value on one line, for a command that goes on."""
    typer.echo(orjson.dumps(value).decode())


def emit(text: str) -> None:
    """One line for a person."""
    typer.echo(text)


def emit_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A table for a person."""
    # Into a pipe a row must not be broken.
    Console(width=None if sys.stdout.isatty() else WIDE).print(table(title, columns, rows))


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Table:
    """A table; a value that is missing is a dash."""
    grid = Table(*columns, title=title, title_justify="left")
    for row in rows:
        grid.add_row(*("-" if value is None or value == "" else str(value) for value in row))
    return grid


def mib(size_bytes: float | None) -> str | None:
    """Bytes as MiB, for example ``430 MiB``.

    >>> mib(450_887_680)
    '430 MiB'
    """
    return f"{size_bytes / 2**20:.0f} MiB" if size_bytes else None


def number(value: float | None, digits: int = 2) -> str | None:
    """A number with so many digits, or nothing.

    >>> number(0.12345), number(None)
    ('0.12', None)
    """
    return None if value is None or value != value else f"{value:.{digits}f}"


def cell_text(value: Any) -> str:
    """A value for a cell; what is not set is left out.

    >>> cell_text({"accelerator": "any", "context_tokens": 0, "capabilities": ("chat", "tools")})
    'accelerator any, capabilities chat tools'
    """
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {cell_text(part)}" for name, part in value.items() if part)
    if isinstance(value, list | tuple):
        return " ".join(map(cell_text, value))
    return "" if value is None else str(value)


def swap_line(record: Mapping[str, Any]) -> str:
    """A swap in one line.

    >>> swap_line({"swap_id": "s", "task": "t", "from_model": "a", "to_model": "b",
    ...            "phase": "failed", "error": "conflict: no", "seconds": {"loading": 1.5}})
    's: t a -> b failed after 1.50 s (conflict: no)'
    """
    seconds = sum(record["seconds"].values())
    line = (
        f"{record['swap_id']}: {record['task']} {record['from_model']} -> {record['to_model']} "
        f"{record['phase']} after {seconds:.2f} s"
    )
    return f"{line} ({record['error']})" if record["error"] else line


def ab_test_line(record: Mapping[str, Any]) -> str:
    """An A/B test in one line.

    >>> ab_test_line({"id": "x", "task": "t", "control": "a", "spec": {"variants": ["b", "c"]},
    ...               "phase": "running", "weights": {"b": 0.2, "c": 0.2}})
    'x: t a against b, c is running, shares b 20%, c 20%'
    """
    shares = ", ".join(f"{model} {share:.0%}" for model, share in record["weights"].items())
    return (
        f"{record['id']}: {record['task']} {record['control']} against "
        f"{', '.join(record['spec']['variants'])} is {record['phase']}"
        + (f", shares {shares}" if shares and record["phase"] == "running" else "")
    )


def plan_text(plan: Mapping[str, Any]) -> str:
    """A dry run in a few lines.

    >>> print(plan_text({"task": "t", "from_model": "a", "to_model": "b", "accepted": False,
    ...     "exists": False, "refusals": [{"code": "conflict", "message": "b is loading"}],
    ...     "gaps": [], "strategy": "overlap", "reason": "both fit", "canary": [0.05],
    ...     "load_s": {"low": 1.0, "mid": 2.0, "high": 3.0}, "bake_s": 300.0}))
    t: a -> b would be refused; nothing was changed
    refused: conflict: b is loading
    strategy overlap: both fit
    load 2 s (1 to 3); canary 5%; bake 300 s
    """
    verdict = "would be tried" if plan["accepted"] else "would be refused"
    if plan["exists"]:
        verdict = "is there already under this id"
    lines = [
        f"{plan['task']}: {plan['from_model']} -> {plan['to_model']} {verdict}; nothing was changed"
    ]
    lines += [f"refused: {row['code']}: {row['message']}" for row in plan["refusals"]]
    lines += [f"gap: {gap}" for gap in plan["gaps"]]
    if plan["strategy"]:
        lines.append(f"strategy {plan['strategy']}: {plan['reason']}")
    load = plan["load_s"]
    load_text = f"{load['mid']:.3g} s ({load['low']:.3g} to {load['high']:.3g})" if load else "?"
    canary = ", ".join(f"{weight * 100:.3g}%" for weight in plan["canary"])
    lines.append(f"load {load_text}; canary {canary or 'none'}; bake {plan['bake_s']:g} s")
    return "\n".join(lines)
