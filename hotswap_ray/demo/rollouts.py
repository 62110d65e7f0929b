"""A candidate proves itself on a part of the traffic, or it does not; and swaps in the night."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from hotswap_ray.core.errors import SwapError
from hotswap_ray.demo.stage import Stage
from hotswap_ray.reports import ab_test as ab_report
from hotswap_ray.reports import charts


def without_canary(stage: Stage, task: str, model: str) -> None:
    """Somebody wants a quicker model, at once."""
    stage.command(f"swap {task} {model} --bake-s 0", "by hand; nobody is asked")
    swap_id = stage.arbiter.force_swap(task, model, wait=True, bake_s=0.0)["swap_id"]
    stage.ended(stage.arbiter.wait(swap_id, "end", 90))


def canary_with_a_crash(stage: Stage, task: str, model: str) -> dict[str, Any]:
    """Two steps that pass, though the controller dies in the first; another one goes on."""
    import ray

    stage.command(f"swap {task} {model} --canary 30,60", "controller killed in the first step")
    swap_id = stage.arbiter.force_swap(task, model, wait=False, canary="30,60")["swap_id"]

    def in_first_step() -> bool:
        canary = stage.arbiter.swap(swap_id)["facts"].get("canary", {})
        return bool(canary.get("step") == 1 and canary.get("requests"))

    stage.wait(in_first_step, "the first step")
    ray.kill(ray.get_actor("swap_controller", namespace="hotswap"), no_restart=False)
    stage.say("  controller killed; traffic goes on with the last route table")
    record = stage.ended(stage.arbiter.wait(swap_id, "end", 90))
    _checks(stage, record)
    return record


def canary_that_fails(stage: Stage, task: str, model: str) -> None:
    """A worse model that golden prompts let pass: the guardrails end it."""
    stage.command(f"swap {task} {model} --canary 50", "worse, but it passes the golden prompts")
    try:
        stage.arbiter.force_swap(task, model, wait=True, canary="50")
    except SwapError as error:
        stage.say(f"  and it goes back: {error}")
    else:
        raise AssertionError(f"{model} was let through for {task}")


def ab_test(stage: Stage, task: str, variants: list[str], plot: Path) -> dict[str, Any]:
    """Compare models side by side, with a report and its plot; nothing is promoted."""
    stage.command(f"ab-test start {task} {' '.join(variants)} --max-requests 200 --wait")
    record: dict[str, Any] = stage.arbiter.ab_test(task, variants, max_requests=200, wait=True)
    stage.say(ab_report.text(record["report"]), plain=True)
    charts.save(ab_report.plot(record["report"], record["history"]), plot)
    stage.say(f"  its plot: {plot}")
    return record


def refused(stage: Stage, task: str, model: str) -> None:
    """Ask for a model that cannot do the task: golden prompts keep it out."""
    stage.command(f"swap {task} {model}", "too weak for it")
    try:
        stage.arbiter.force_swap(task, model, wait=True)
    except SwapError as error:
        stage.say(f"  refused, as it should be: {error}")
    else:
        raise AssertionError(f"{model} was let through for {task}")


def scheduled_batch(stage: Stage, task: str, models: list[str]) -> list[dict[str, Any]]:
    """Swap at a time of day, one after the other."""
    at = datetime.now(UTC) + timedelta(seconds=2)
    spec = {
        "swaps": [{"task": task, "model": model, "bake_s": 0} for model in models],
        "at": at.isoformat(timespec="seconds"),
        "at_once": 1,
    }
    stage.command("schedule dry-run tonight.yaml", "a batch, one swap at a time")
    for row in stage.arbiter.schedule_dry_run("tonight", spec=spec):
        stage.say(f"  {row['action']} {row['begins']}: {', '.join(row['swaps'])}")
    stage.command("schedule set tonight.yaml")
    stage.arbiter.set_schedule("tonight", spec)

    def results() -> list[dict[str, Any]]:
        (row,) = stage.arbiter.schedules()
        return list(row["results"])

    stage.wait(results, "the batch")
    stage.say(f"  {results()[-1]['state']}")
    swaps = reversed(stage.arbiter.swaps().to_dict("records"))  # the first comes first
    return [stage.ended(row) for row in swaps if row["requested_by"] == "schedule"]


def _checks(stage: Stage, record: dict[str, Any]) -> None:
    for check in record["facts"]["canary"]["checks"]:
        stage.say(f"  {check['metric']} {check['result']}: {check['detail']}")
