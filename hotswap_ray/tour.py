"""The tour of ``make demo``: real models, real traffic, swaps by proof, a rollback, a crash.

Three variants of Gemma 3 270M serve three checkable few-shot tasks. Clients use the official
``openai`` package and do not know that models change. The tour ends by itself and fails if
one request was lost.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from hotswap_ray.core.golden import Check
from hotswap_ray.fewshot import TASKS

QUICKSTART = Path(__file__).parent.parent / "deployments" / "quickstart.yaml"
CLIENTS = 4
SHOWN = ("capitals", "translate_fr", "uppercase")
WORST = "fast"
HARD, BEST_AT_HARD = "translate_fr", "quality"
# A task's live answers are judged by a callable; half of its requests are copied to another
# model, which is compared on the same prompts. The tour has no time for the usual cooldown.
CHECKS = (Check(kind="callable", value="hotswap_ray.fewshot:judge"),)
AUTOSWAP = {"mode": "on", "shadow": 0.5, "explore": 0.05, "cooldown_s": 5, "look_s": 0.5}


@dataclass
class Tally:
    """What clients saw of one model on one task."""

    requests: int = 0
    latencies_ms: deque[float] = field(default_factory=lambda: deque(maxlen=500))
    quality: float = 0.0


class Traffic:
    """Clients in a thread of their own: they go on whatever the tour does."""

    def __init__(self, url: str) -> None:
        self.sent = 0
        self.answered = 0
        self.failures: list[str] = []
        self.mismatched = 0
        self.seen: dict[tuple[str, str], Tally] = defaultdict(Tally)
        self.stop = threading.Event()
        self._url = url
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def start(self) -> None:
        """Begin sending."""
        self._thread.start()

    def end(self, timeout_s: float = 60) -> None:
        """Send nothing more and wait for the answers that are due."""
        self.stop.set()
        self._thread.join(timeout_s)

    async def _run(self) -> None:
        from openai import AsyncOpenAI

        # No retries: the client must not hide a lost request.
        client = AsyncOpenAI(base_url=f"{self._url}/v1", api_key="none", max_retries=0, timeout=60)
        await asyncio.gather(*(self._client(client, random.Random(n)) for n in range(CLIENTS)))
        await client.close()

    async def _client(self, client: Any, rng: random.Random) -> None:
        while not self.stop.is_set():
            name = rng.choice(SHOWN)
            task = TASKS[name]
            item = rng.choice(task.items)
            self.sent += 1
            started = time.perf_counter()
            try:
                raw = await client.completions.with_raw_response.create(
                    **task.body(item, model=f"auto:{name}")
                )
                answer = raw.parse()
            except Exception as error:  # noqa: BLE001 - the tour counts every kind of loss
                self.failures.append(f"{type(error).__name__}: {error}"[:200])
                continue
            self.answered += 1
            model = raw.headers["x-hotswap-model"]
            self.mismatched += model != answer.model
            quality = task.score(item, answer.choices[0].text)
            tally = self.seen[name, model]
            tally.requests += 1
            tally.latencies_ms.append((time.perf_counter() - started) * 1e3)
            tally.quality += quality


def table(traffic: Traffic, serving: dict[str, str], title: str) -> Table:
    """Requests, latency, quality and the serving model, as clients saw them."""
    out = Table(title=title, title_justify="left", expand=False)
    for column in ("task", "model", "serves now", "requests", "p50 ms", "quality"):
        out.add_column(column, justify="left" if column in ("task", "model") else "right")
    for task in SHOWN:
        models = sorted({m for t, m in list(traffic.seen) if t == task} | {serving[task]})
        for model in models:
            tally = traffic.seen[task, model]
            p50 = f"{statistics.median(tally.latencies_ms):.0f}" if tally.latencies_ms else "-"
            quality = f"{tally.quality / tally.requests:.2f}" if tally.requests else "-"
            mark = "<--" if serving[task] == model else ""
            out.add_row(task, model, mark, str(tally.requests), p50, quality)
    return out


class Tour:
    """The steps, one method each, told as they happen.

    Args:
        arbiter: A connected ``Arbiter``.
        traffic: The clients.
        console: Where to tell.
    """

    def __init__(self, arbiter: Any, traffic: Traffic, console: Console) -> None:
        self.records: list[dict[str, Any]] = []
        self.by_itself: list[dict[str, Any]] = []
        self._arbiter = arbiter
        self._traffic = traffic
        self._console = console

    def serving(self) -> dict[str, str]:
        """Model of each task now."""
        tasks = self._arbiter.status()["tasks"]
        return {task: tasks[task]["model"] for task in SHOWN}

    def watch(self, title: str, until: Callable[[], bool], limit_s: float = 60) -> None:
        """Show the live table until ``until`` holds; fails when it never does."""
        deadline = time.monotonic() + limit_s
        if not self._console.is_terminal:
            while not until():
                _check_time(title, deadline)
            self._console.print(table(self._traffic, self.serving(), title))
            return
        with Live(console=self._console, refresh_per_second=4) as live:
            while not until():
                _check_time(title, deadline)
                live.update(table(self._traffic, self.serving(), title))
            live.update(table(self._traffic, self.serving(), title))

    def some_traffic(self, title: str, requests: int) -> None:
        """Let clients get ``requests`` more answers."""
        goal = self._traffic.answered + requests
        self.watch(title, lambda: self._traffic.answered >= goal)

    def found_by_itself(self) -> None:
        """Wait until every task has left the model that is worst at it; tell each decision."""
        told: set[int] = set()

        def left() -> bool:
            rows = self._arbiter.decisions().to_dict("records")
            for row in sorted(rows, key=lambda row: row["id"]):
                if row["id"] not in told and isinstance(row["swap_id"], str):
                    told.add(row["id"])
                    self._console.print(f"  [green]decided:[/] {row['sentence']}")
            serving = self.serving()
            busy = self._arbiter.status()["open_swaps"]
            return not busy and WORST not in serving.values() and serving[HARD] == BEST_AT_HARD

        self.watch("The arbiter found a better model for every task", left, 180)
        swaps = self._arbiter.swaps().to_dict("records")
        self.by_itself = [row for row in swaps if row["requested_by"] == "autoswap"]

    def explain(self, subject: str) -> None:
        """What ``hotswap explain`` says."""
        self._console.print(f"\n[bold]$ hotswap explain {subject}[/]")
        found = self._arbiter.explain(subject)
        self._console.print(f"  {found['sentence']}")
        if change := found.get("what_would_change"):
            self._console.print(f"  What would change it: {change}")

    def worse_on_purpose(self, task: str, model: str) -> dict[str, Any]:
        """Force a worse model on a task; its golden prompts let it pass, its traffic does not."""
        self._console.print(f"\n[bold]$ hotswap swap {task} {model} --bake-s 120[/]")
        record = self._arbiter.force_swap(task, model, wait=True, bake_s=120.0)
        self._console.print(f"  {task} is served by {model} now; its old model stays warm")

        def over() -> bool:
            return bool(self._arbiter.swap(record["swap_id"])["phase"] == "rolled_back")

        self.watch("and the arbiter took it back by itself", over, 150)
        return self._ended(self._arbiter.swap(record["swap_id"]))

    def swap_with_a_crash(self, task: str, model: str) -> dict[str, Any]:
        """Kill the controller in mid-swap; the one that Ray restarts goes on."""
        import ray

        self._console.print(f"\n[bold]$ hotswap swap {task} {model}[/]   (controller killed)")
        record = self._arbiter.force_swap(task, model, wait=False)
        ray.kill(ray.get_actor("swap_controller", namespace="hotswap"), no_restart=False)
        self._console.print("  controller killed; traffic goes on with the last route table")
        return self._ended(self._arbiter.wait(record["swap_id"], 90))

    def refused(self, task: str, model: str) -> None:
        """Ask for a model that cannot do the task: golden prompts keep it out."""
        from hotswap_ray.core.errors import SwapError

        self._console.print(f"\n[bold]$ hotswap swap {task} {model}[/]   (too weak for it)")
        try:
            self._arbiter.force_swap(task, model, wait=True)
        except SwapError as error:
            self._console.print(f"  refused, as it should be: {error}")
        else:
            raise AssertionError(f"{model} was let through for {task}")

    def _ended(self, record: dict[str, Any]) -> dict[str, Any]:
        self.records.append(record)
        facts, old, new = record["facts"], record["from_model"], record["to_model"]
        if record["phase"] == "rolled_back":
            old, new = new, old
        names = {
            "golden": "golden prompts {}",
            "commit_ms": "commit {:.0f} ms",
            "rollback_ms": "whole rollback {:.0f} ms",
        }
        told = [text.format(facts[name]) for name, text in names.items() if name in facts]
        self._console.print(
            f"  {old} -> {new}: {record['phase']}; {', '.join([record['reason'], *told])}"
        )
        return record


def _check_time(title: str, deadline: float) -> None:
    if time.monotonic() > deadline:
        raise TimeoutError(f"{title!r} took too long")
    time.sleep(0.2)


def main() -> int:
    """Run the tour; 0 if nothing was lost."""
    os.environ.setdefault("RAY_DEDUP_LOGS", "1")
    console = Console()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="hotswap-tour-") as folder:
        from hotswap_ray import Arbiter, app, config

        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        settings = config.load(QUICKSTART, {"HOTSWAP_STORE_URL": f"sqlite:///{folder}/tour.sqlite"})
        judged = {"checks": CHECKS, "autoswap": AUTOSWAP, "model": WORST, "fallback": None}
        settings = settings.model_copy(
            update={
                # All three fit beside each other, so each can be compared on live traffic.
                "models": {
                    name: model.model_copy(update={"resident": True})
                    for name, model in settings.models.items()
                },
                "tasks": {
                    name: task.model_copy(update=judged) for name, task in settings.tasks.items()
                },
                "server": settings.server.model_copy(update={"port": port}),
                "swap": settings.swap.model_copy(update={"bake_s": 1.0}),
                "learning": settings.learning.model_copy(update={"flush_s": 0.2}),
            }
        )
        url = f"http://127.0.0.1:{port}"
        console.print("[bold]hotswap_ray[/]: starting Ray, the endpoint and the first models")
        app.start(settings, quiet=True)
        arbiter = Arbiter.connect()
        arbiter.wait_until_ready(120)
        console.print(f"ready after {time.monotonic() - started:.0f} s at {url}/v1\n")
        traffic = Traffic(url)
        tour = Tour(arbiter, traffic, console)
        traffic.start()
        tour.some_traffic(f"Every task begins on {WORST}, the quickest and worst model", 30)
        tour.found_by_itself()
        tour.explain("capitals")
        caught = tour.worse_on_purpose("uppercase", WORST)
        tour.explain(caught["swap_id"])
        for task in SHOWN:  # what follows is done by hand
            arbiter.set_autoswap(task, "off")
        other = "quality" if tour.serving()["uppercase"] == "balanced" else "balanced"
        crashed = tour.swap_with_a_crash("uppercase", other)
        tour.some_traffic("uppercase moved on, whoever drove the swap", 40)
        tour.refused(HARD, WORST)
        tour.some_traffic("At the end", 20)
        traffic.end()
        return summary(console, traffic, tour, crashed, time.monotonic() - started)


def summary(
    console: Console, traffic: Traffic, tour: Tour, crashed: dict[str, Any], seconds: float
) -> int:
    """Tell what happened; the exit status."""
    lost = traffic.sent - traffic.answered
    commits = [r["facts"]["commit_ms"] for r in tour.records if "commit_ms" in r["facts"]]
    ended = [r for r in tour.records if r["phase"] != "failed"]
    out = Table(title="Summary", title_justify="left", show_header=False)
    rows = {
        "requests sent": traffic.sent,
        "failed": lost,
        "answers by another model than the header says": traffic.mismatched,
        "swaps that the arbiter decided on": len(tour.by_itself),
        "of these refused by golden prompts": sum(r["phase"] == "failed" for r in tour.by_itself),
        "swaps and rollbacks by hand": f"{len(ended)} of {len(tour.records)}",
        "swap whose controller was killed": crashed["phase"],
        "slowest commit": f"{max(commits, default=0):.1f} ms",
        "time": f"{seconds:.0f} s",
    }
    for name, value in rows.items():
        out.add_row(name, str(value))
    console.print(out)
    for failure in traffic.failures[:5]:
        console.print(f"[red]lost:[/] {failure}")
    good = not lost and not traffic.mismatched and len(ended) == len(tour.records)
    console.print("[green]nothing was lost[/]" if good else "[red]something was lost[/]")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
