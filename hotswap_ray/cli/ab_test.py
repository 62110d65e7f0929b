"""``hotswap ab-test``: models compared on the traffic of a task, until one is proven better."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from hotswap_ray.cli import output
from hotswap_ray.cli.output import NAMESPACE, Address, AsJson, Namespace
from hotswap_ray.core.errors import InvalidRequest
from hotswap_ray.reports import ab_test as ab_report
from hotswap_ray.reports import charts

app = typer.Typer(
    no_args_is_help=True, help="Compare models on a task's traffic until one is proven better."
)
TestId = Annotated[str, typer.Argument(metavar="ID", help="A/B test.", show_default=False)]
COLUMNS = ("test", "task", "control", "variants", "phase", "requests", "reason", "winner")


class MetricOption(StrEnum):
    """What is compared."""

    QUALITY = "quality"
    SUCCESS = "success"


@app.command()
def start(
    task: Annotated[str, typer.Argument(metavar="TASK", help="Task id.", show_default=False)],
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help="Variants; the active model is the control.",
            show_default=False,
        ),
    ],
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights",
            metavar="PERCENT,...",
            help="Share of each variant, as 20,20; the control has the rest.",
            show_default="equal shares",
        ),
    ] = None,
    adaptive: Annotated[
        bool, typer.Option("--adaptive", help="Let the shares follow the results.")
    ] = False,
    metric: Annotated[
        MetricOption, typer.Option("--metric", help="What is compared.")
    ] = MetricOption.QUALITY,
    max_requests: Annotated[
        int | None,
        typer.Option(
            "--max-requests", min=2, help="Requests that end it undecided.", show_default="20,000"
        ),
    ] = None,
    max_s: Annotated[
        float | None,
        typer.Option(
            "--max-s", min=1, help="Seconds that end it undecided.", show_default="one day"
        ),
    ] = None,
    promote: Annotated[
        bool, typer.Option("--promote", help="Give the task to a proven winner.")
    ] = False,
    test_id: Annotated[
        str | None,
        typer.Option("--test-id", help="Asking again with it changes nothing.", show_default=False),
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Return at its end, with the report.")
    ] = False,
    as_json: AsJson = False,
    address: Address = None,
    namespace: Namespace = NAMESPACE,
) -> None:
    """Divide a task's conversations among its active model and others."""
    stated = {"max_requests": max_requests, "max_s": max_s}
    spec: dict[str, Any] = {name: value for name, value in stated.items() if value is not None}
    if weights is not None:
        spec["weights"] = _shares(weights)
    if promote:
        spec["on_end"] = "promote"
    with output.arbiter(address, namespace) as arbiter:
        record = arbiter.ab_test(
            task,
            models,
            test_id=test_id,
            wait=wait,
            requested_by="cli",
            adaptive=adaptive,
            metric=metric.value,
            **spec,
        )
    _emit(record, as_json)


@app.command("list")
def list_tests(
    task: Annotated[
        str | None, typer.Option("--task", help="Only tests of this task.", show_default=False)
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="At most so many.")] = 20,
    as_json: AsJson = False,
    address: Address = None,
    namespace: Namespace = NAMESPACE,
) -> None:
    """List the latest A/B tests."""
    with output.arbiter(address, namespace) as arbiter:
        tests = arbiter.ab_tests(task, limit)
    if as_json:
        output.emit_json(tests)
        return
    rows = [
        (
            *(row["id"], row["task"], row["control"], ", ".join(row["variants"])),
            *(row["phase"], row["requests"], row["reason"], row["winner"]),
        )
        for row in tests
    ]
    output.emit_table("A/B tests", COLUMNS, rows)


@app.command()
def show(
    test_id: TestId,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot",
            metavar="FILE.svg",
            help="Also draw the effects, as SVG or PNG.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
    address: Address = None,
    namespace: Namespace = NAMESPACE,
) -> None:
    """Show an A/B test with its report."""
    if plot is not None:
        charts.require()
    with output.arbiter(address, namespace) as arbiter:
        record = arbiter.ab_test_report(test_id)
    if plot is not None:
        if record["report"] is None:
            raise InvalidRequest(f"A/B test {test_id} is {record['phase']}: nothing to draw yet")
        figure = ab_report.plot(record["report"], record["history"] or {})
        try:
            charts.save(figure, plot)
        except OSError as error:
            raise InvalidRequest(f"{plot}: {error.strerror or 'cannot be written'}") from error
    _emit(record, as_json)


@app.command()
def stop(
    test_id: TestId,
    promote: Annotated[
        str | None,
        typer.Option(
            "--promote", metavar="MODEL", help="Variant that gets the task.", show_default=False
        ),
    ] = None,
    if_match: Annotated[
        str | None,
        typer.Option(
            "--if-match",
            metavar="ETAG",
            help="Refuse if the test is not as it was when you saw this etag.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
    address: Address = None,
    namespace: Namespace = NAMESPACE,
) -> None:
    """End an A/B test before its time; the active model keeps the task."""
    with output.arbiter(address, namespace) as arbiter:
        _emit(arbiter.stop_ab_test(test_id, promote, if_match), as_json)


def _shares(text: str) -> list[float]:
    try:
        return [float(part) / 100 for part in text.split(",")]
    except ValueError:
        raise InvalidRequest(f"--weights {text!r}: give percentages, for example 20,20") from None


def _emit(record: dict[str, Any], as_json: bool) -> None:
    if as_json:
        output.emit_json(record)
        return
    output.emit(output.ab_test_line(record))
    output.emit(f"etag {record['etag']}")
    if record.get("waits"):
        output.emit(f"waits: {record['waits']}")
    if record["error"]:
        output.emit(f"not promoted: {record['error']}")
    if record["swap_id"]:
        output.emit(f"promoted by swap {record['swap_id']}")
    if record["report"] is not None:
        output.emit(ab_report.text(record["report"]))
