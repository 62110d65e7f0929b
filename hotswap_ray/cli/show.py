"""``hotswap status`` and ``hotswap watch``: what serves what, now and as it changes."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.live import Live
from rich.table import Table

from hotswap_ray.cli import output
from hotswap_ray.cli.output import NAMESPACE, Address, AsJson, Namespace


def status(
    as_json: AsJson = False, address: Address = None, namespace: Namespace = NAMESPACE
) -> None:
    """Show tasks, models, open swaps and A/B tests, and ingress replicas."""
    with output.arbiter(address, namespace) as arbiter:
        state, rows = arbiter.status(), arbiter.learnings().to_dict("records")
    if as_json:
        output.emit_json(state)
        return
    evidence = {(row["task"], row["model"]): row for row in rows}
    output.emit_table("tasks", TASK_COLUMNS, task_rows(state, evidence))
    output.emit_table("models", MODEL_COLUMNS, model_rows(state["models"]))
    for swap in state["open_swaps"]:
        output.emit(f"open swap {output.swap_line(swap)}")
    for test in state["open_ab_tests"]:
        output.emit(f"open A/B test {output.ab_test_line(test)}")
    replicas = state["ingress"].values()
    busy = sum(replica["in_flight"] for replica in replicas)
    output.emit(
        f"ingress: {len(replicas)} replicas, {busy} requests in flight, "
        f"route table {state['version']}"
    )
    if state["last_error"]:
        output.emit(f"last error: {state['last_error']}")


def watch(
    interval_s: Annotated[
        float, typer.Option("--interval-s", min=0.1, max=3600, help="Seconds between two looks.")
    ] = 1.0,
    count: Annotated[
        int, typer.Option("--count", min=0, help="Looks before it ends; 0 goes on until Ctrl-C.")
    ] = 0,
    as_json: AsJson = False,
    address: Address = None,
    namespace: Namespace = NAMESPACE,
) -> None:
    """Show tasks with their traffic, and models, live until Ctrl-C."""
    with output.arbiter(address, namespace) as arbiter:
        looks = 0
        live = None if as_json else Live(auto_refresh=False)
        try:
            if live:
                live.start()
            while True:
                state, learned = arbiter.status(), arbiter.learnings()
                rows = learned.to_dict("records")
                if live:
                    live.update(_screen(state, rows), refresh=True)
                else:
                    output.emit_json({"status": state, "learnings": rows})
                looks += 1
                if looks == count:
                    break
                time.sleep(interval_s)
        except KeyboardInterrupt:
            pass  # that is how it ends
        finally:
            if live:
                live.stop()


TASK_COLUMNS = (
    "task",
    "model",
    "generation",
    "requests",
    "success",
    "quality",
    "p50 ms",
    "p99 ms",
    "swap",
    "auto",
)
MODEL_COLUMNS = ("model", "engine", "state", "generation", "memory", "load s", "serves")


def _screen(state: Mapping[str, Any], rows: Iterable[Mapping[Any, Any]]) -> Group:
    evidence = {(row["task"], row["model"]): row for row in rows}
    tables: list[Table] = [
        output.table("tasks", TASK_COLUMNS, task_rows(state, evidence)),
        output.table("models", MODEL_COLUMNS, model_rows(state["models"])),
    ]
    return Group(*tables)


def task_rows(
    state: Mapping[str, Any], evidence: Mapping[tuple[str, str], Mapping[Any, Any]]
) -> list[tuple[Any, ...]]:
    """A row per task: its model, and what was observed of that model at it."""
    opened = {test["task"]: f"A/B test: {test['phase']}" for test in state["open_ab_tests"]}
    opened |= {swap["task"]: f"{swap['to_model']}: {swap['phase']}" for swap in state["open_swaps"]}
    rows = []
    for task, route in state["tasks"].items():
        row = evidence.get((task, route["model"]), {})
        rows.append(
            (
                task,
                route["model"],
                route["generation"] or ("held" if route["held"] else "not loaded"),
                row.get("count"),
                output.number(row.get("success_rate"), 3),
                output.number(row.get("quality")),
                output.number(row.get("latency_p50_ms"), 1),
                output.number(row.get("latency_p99_ms"), 1),
                opened.get(task),
                route.get("autoswap"),
            )
        )
    return rows


def model_rows(models: Iterable[Mapping[str, Any]]) -> list[tuple[Any, ...]]:
    """A row per model: engine, state, size and the tasks it serves."""
    return [
        (
            row["model"],
            row["engine"],
            row["state"],
            row["generation"],
            output.mib(row["memory_bytes"]),
            output.number(row["load_s"]),
            ", ".join(row["serves"]),
        )
        for row in models
    ]
