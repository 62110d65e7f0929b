"""The tour of ``make demo``: real models, real traffic, swaps by proof, rollouts, a crash.

Three variants of Gemma 3 270M serve three checkable few-shot tasks. Clients use the official
``openai`` package and do not know that models change. The tour ends by itself and fails if
one request was lost.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from hotswap_ray.config import Config
from hotswap_ray.core.spec.golden import Check
from hotswap_ray.demo import learning, rollouts
from hotswap_ray.demo.learning import CLEAREST, HARD, WORST
from hotswap_ray.demo.stage import Stage
from hotswap_ray.demo.traffic import SHOWN, Traffic
from hotswap_ray.ports import free_port
from hotswap_ray.reports import charts

QUICKSTART = Path(__file__).parents[2] / "deployments" / "quickstart.yaml"
PLOT = Path("hotswap-tour-ab-test.svg")
# A task's live answers are judged by a callable; half of its requests are copied to another
# model, which is compared on the same prompts. The tour has no time for the usual cooldown.
CHECKS = (Check(kind="callable", value="hotswap_ray.demo.fewshot:check_answer"),)
AUTOSWAP = {"mode": "on", "shadow": 0.5, "explore": 0.05, "cooldown_s": 5, "look_s": 0.5}
# Three models on two cores: how slow one is depends on what the others do at the moment.
GUARDRAILS = {"latency_p95": 2, "ttft_p95": 2}
SWAP = {"bake_s": 1.0, "canary": {"settle_s": 1, "check_s": 0.5, "guardrails": GUARDRAILS}}


def main() -> int:
    """Run the tour; 0 if nothing was lost."""
    charts.require()
    os.environ.setdefault("RAY_DEDUP_LOGS", "1")
    console = Console()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="hotswap-tour-") as folder:
        from hotswap_ray import Arbiter, app

        port = free_port()
        url = f"http://127.0.0.1:{port}"
        console.print("[bold]hotswap_ray[/]: starting Ray, the endpoint and the first models")
        app.start(_settings(folder, port), quiet=True)
        arbiter = Arbiter.connect()
        arbiter.wait_until_ready(120)
        console.print(f"ready after {time.monotonic() - started:.0f} s at {url}/v1\n")
        traffic = Traffic(url)
        stage = Stage(arbiter, traffic, console)
        traffic.start()
        results = _steps(stage)
        traffic.end()
        return _summary(console, stage, results, time.monotonic() - started)


def _settings(folder: str, port: int) -> Config:
    from hotswap_ray import config

    store = f"sqlite:///{folder}/tour.sqlite"
    settings = config.load(QUICKSTART, {"HOTSWAP_STORE_URL": store}).model_dump()
    for model in settings["models"].values():
        model["resident"] = True  # all three fit, so each can be compared on live traffic
    for task in settings["tasks"].values():
        task |= {"checks": CHECKS, "autoswap": AUTOSWAP, "model": WORST, "fallback": None}
    # Here golden prompts let the worst model pass, so that its traffic has to find it out.
    settings["tasks"][CLEAREST]["golden_min_pass"] = 0.3
    settings["server"]["port"] = port
    settings["swap"] |= SWAP
    settings["learning"]["flush_s"] = 0.2
    return Config.model_validate(settings)


def _steps(stage: Stage) -> dict[str, Any]:
    """The tour itself; what the summary tells of it."""
    stage.some_traffic(f"Every task begins on {WORST}, the quickest and worst model", 30)
    decided = learning.found_by_itself(stage)
    learning.explain(stage, CLEAREST)
    stage.traffic.tasks = (CLEAREST,)
    learning.explain(stage, learning.worse_on_purpose(stage, CLEAREST, WORST))

    for task in SHOWN:  # what follows is done by hand
        stage.arbiter.set_autoswap(task, "off")
    rollouts.without_canary(stage, CLEAREST, WORST)
    crashed = rollouts.canary_with_a_crash(stage, CLEAREST, "balanced")
    rollouts.canary_that_fails(stage, CLEAREST, WORST)
    tested = rollouts.ab_test(stage, CLEAREST, [WORST, "quality"], PLOT)
    stage.traffic.tasks = SHOWN
    rollouts.refused(stage, HARD, WORST)
    batch = rollouts.scheduled_batch(stage, CLEAREST, ["quality", "balanced"])
    stage.some_traffic("At the end", 20)
    return {"decided": decided, "crashed": crashed, "tested": tested, "batch": batch}


def _summary(console: Console, stage: Stage, results: dict[str, Any], seconds: float) -> int:
    """Tell what happened; the exit status."""
    traffic, decided, batch = stage.traffic, results["decided"], results["batch"]
    report = results["tested"]["report"]
    lost = traffic.sent - traffic.answered
    commits = [r["facts"]["commit_ms"] for r in stage.records if "commit_ms" in r["facts"]]
    ended = [r for r in stage.records if r["phase"] != "failed"]
    out = Table(title="Summary", title_justify="left", show_header=False)
    rows = {
        "requests sent": traffic.sent,
        "failed": lost,
        "answers by another model than the header says": traffic.mismatched,
        "swaps that the arbiter decided on": len(decided),
        "of these refused by golden prompts": sum(r["phase"] == "failed" for r in decided),
        "other swaps and rollbacks that were to succeed": f"{len(ended)} of {len(stage.records)}",
        "canary whose controller was killed": results["crashed"]["phase"],
        "A/B test": f"{report['requests']} requests, {report['reason']}",
        "swaps of the scheduled batch": len(batch),
        "slowest commit": f"{max(commits, default=0):.1f} ms",
        "time": f"{seconds:.0f} s",
    }
    for name, value in rows.items():
        out.add_row(name, str(value))
    console.print(out)
    for failure in traffic.failures[:5]:
        console.print(f"[red]lost:[/] {failure}")
    passed = not lost and not traffic.mismatched and len(ended) == len(stage.records)
    passed = passed and results["crashed"]["phase"] == "succeeded" and len(batch) == 2
    console.print("[green]nothing was lost[/]" if passed else "[red]something was lost[/]")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
