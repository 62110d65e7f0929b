"""Clients of the tour: the official ``openai`` package, and what they saw."""

from __future__ import annotations

import asyncio
import random
import statistics
import threading
import time
from collections import defaultdict, deque
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table

from hotswap_ray.demo.fewshot import TASKS

CLIENTS = 4
SHOWN = ("capitals", "translate_fr", "uppercase")


@dataclass
class Tally:
    """What clients saw of one model on one task."""

    requests: int = 0
    latencies_ms: deque[float] = field(default_factory=lambda: deque(maxlen=500))
    quality: float = 0.0


class Traffic:
    """Clients in a thread of their own: they go on whatever the tour does.

    Attributes:
        tasks: Tasks of the next requests, drawn at random; a single one gets all of them.
    """

    def __init__(self, url: str) -> None:
        self.tasks: tuple[str, ...] = SHOWN
        self.sent = 0
        self.answered = 0
        self.failures: list[str] = []
        self.mismatched = 0
        self.tallies: dict[tuple[str, str], Tally] = defaultdict(Tally)
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
            name = rng.choice(self.tasks)
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
            tally = self.tallies[name, model]
            tally.requests += 1
            tally.latencies_ms.append((time.perf_counter() - started) * 1e3)
            tally.quality += quality


def table(traffic: Traffic, serving: dict[str, str], title: str) -> Table:
    """Requests, latency, quality and the serving model, as clients saw them."""
    grid = Table(title=title, title_justify="left", expand=False)
    for column in ("task", "model", "serves now", "requests", "p50 ms", "quality"):
        grid.add_column(column, justify="left" if column in ("task", "model") else "right")
    for task in SHOWN:
        models = sorted({m for t, m in list(traffic.tallies) if t == task} | {serving[task]})
        for model in models:
            tally = traffic.tallies[task, model]
            p50 = f"{statistics.median(tally.latencies_ms):.0f}" if tally.latencies_ms else "-"
            quality = f"{tally.quality / tally.requests:.2f}" if tally.requests else "-"
            mark = "<--" if serving[task] == model else ""
            grid.add_row(task, model, mark, str(tally.requests), p50, quality)
    return grid
