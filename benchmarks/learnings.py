"""How fast outcomes are learned and kept, and what that takes; one JSON object last.

python benchmarks/learnings.py [--outcomes N] [--tasks T] [--models M] [--url URL]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator

import psutil

from hotswap_ray.actors.learning.actor import LearningActor
from hotswap_ray.core.evidence.cell import Evidence
from hotswap_ray.core.outcome import Outcome
from hotswap_ray.store import Store

BATCH = 500
SENDERS = 4


def traffic(number: int, tasks: int, models: int) -> Iterator[list[Outcome]]:
    """Batches as two ingress replicas would send them."""
    seeded = random.Random(1)
    now_s = time.time()
    for start in range(0, number, BATCH):
        yield [
            Outcome(
                request_id=f"req-{seeded.getrandbits(96):024x}",
                task=f"task-{seeded.randrange(tasks)}",
                model=f"model-{seeded.randrange(models)}",
                generation=1,
                decision="active",
                at_s=now_s + n / 1000,
                success=seeded.random() < 0.98,
                latency_ms=seeded.lognormvariate(5.5, 0.8),
                ttft_ms=seeded.lognormvariate(4, 0.6),
                tokens_in=seeded.randrange(20, 2000),
                tokens_out=seeded.randrange(1, 500),
                memory_bytes=430_000_000,
                quality=seeded.random() if seeded.random() < 0.3 else None,
            )
            for n in range(start, start + BATCH)
        ]


async def ingest(actor: LearningActor, batches: list[list[Outcome]]) -> tuple[float, float]:
    """Outcomes until all are durable, per second and per second of processor time."""
    numbered = iter(list(enumerate(batches)))

    async def sender() -> None:
        for number, batch in numbered:
            await actor.record(batch, f"batch-{number}")

    started, used = time.perf_counter(), time.process_time()
    await asyncio.gather(*(sender() for _ in range(SENDERS)))
    number = sum(map(len, batches))
    return number / (time.perf_counter() - started), number / (time.process_time() - used)


async def transfer_ms(actor: LearningActor) -> float:
    """Median of a task's transfer."""
    took = []
    for _ in range(200):
        started = time.perf_counter()
        await actor.transfer("task-0", "model-0", "model-1")
        took.append((time.perf_counter() - started) * 1e3)
    return statistics.median(took)


def bytes_per_cell(batches: list[list[Outcome]]) -> float:
    """Growth of the process per busy cell, with all that belongs to one."""
    outcomes = [outcome for batch in batches[:4] for outcome in batch]
    before = psutil.Process().memory_info().rss
    cells = [Evidence("task", f"model-{n}") for n in range(3000)]
    for cell in cells:
        cell.extend(outcomes)
    return (psutil.Process().memory_info().rss - before) / len(cells)


async def measure(options: argparse.Namespace, url: str) -> dict[str, object]:
    """All numbers."""
    batches = list(traffic(options.outcomes, 9, 5))
    store = Store(url)
    size_before = _used_bytes(store)
    actor = LearningActor(store)
    ingest_per_s, ingest_per_cpu_s = await ingest(actor, batches)
    size_after = _used_bytes(store)
    result: dict[str, object] = {
        "ingest_per_s": round(ingest_per_s),
        "ingest_per_cpu_s": round(ingest_per_cpu_s),
        "bytes_per_outcome_row": (
            None if store.is_postgres else round((size_after - size_before) / options.outcomes, 1)
        ),
        "transfer_ms": round(await transfer_ms(actor), 3),
    }
    await actor.close()

    # Evidence of every (task, model), then a start as after a crash: with rows to replay.
    fed = [outcome for batch in batches[:1] for outcome in batch]
    docs = []
    for task in range(options.tasks):
        for model in range(options.models):
            cell = Evidence(f"task-{task}", f"model-{model}")
            cell.extend(fed)
            docs.append(cell.to_doc())
    store.save_evidence(docs, store.last_outcome_id())
    store.close()
    started = time.perf_counter()
    again = LearningActor(Store(url))
    result["restart_s"] = round(time.perf_counter() - started, 3)
    result["restart_cells"] = (await again.health())["cells"]
    return result


def _used_bytes(store: Store) -> int:
    if store.is_postgres:
        return 0
    with store.transaction() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        return int(pages) * int(connection.exec_driver_sql("PRAGMA page_size").scalar_one())


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--outcomes", type=int, default=200_000)
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--models", type=int, default=20)
    parser.add_argument("--url", help="an empty store; by default SQLite in a temporary folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        url = options.url or f"sqlite:///{folder}/store.db"
        cell_bytes = bytes_per_cell(list(traffic(2000, 9, 5)))
        result = asyncio.run(measure(options, url))
    result = {
        **result,
        "bytes_per_cell": round(cell_bytes),
        "outcomes": options.outcomes,
        "restart_tasks": options.tasks,
        "restart_models": options.models,
        "cpus": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "machine": platform.machine(),
        "python": sys.version.split()[0],
        "store": "postgresql" if url.startswith("postgres") else "sqlite",
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
