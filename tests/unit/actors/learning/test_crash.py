"""Killed at any moment, the learning actor comes back with all that it acknowledged."""

import signal
import subprocess
import sys

import pytest

from hotswap_ray.actors.learning.actor import LearningActor
from hotswap_ray.core.evidence.cell import Evidence
from hotswap_ray.store import Store

CHILD = """
import asyncio, sys
from hotswap_ray.actors.learning.actor import LearningActor
from hotswap_ray.core.outcome import Outcome
from hotswap_ray.store import Store

async def main():
    actor = LearningActor(Store(sys.argv[1]), checkpoint_rows=70, retention_s=1e12)
    for n in range(10**9):
        batch = [Outcome(f"r{n}-{i}", "t", f"m{i % 2}", 1, "active", n, i % 3 > 0, 10.0 + i)
                 for i in range(10)]
        await actor.record(batch, f"b{n}")
        if n % 5 == 0:
            await actor.feedback(f"r{n}-1", 0.5, f"k{n}")
        sys.stdout.write(f"{n}\\n")
        sys.stdout.flush()

asyncio.run(main())
"""


@pytest.mark.parametrize("acknowledged", [1, 23, 60])
def test_after_kill_9_all_that_was_acknowledged_is_in_the_evidence_exactly(store_url, acknowledged):
    child = subprocess.Popen([sys.executable, "-c", CHILD, store_url], stdout=subprocess.PIPE)
    for _ in range(acknowledged):
        child.stdout.readline()
    child.send_signal(signal.SIGKILL)
    acknowledged = max([acknowledged - 1, *map(int, child.stdout.read().split())]) + 1
    child.wait()
    store = Store(store_url)
    frame = store.outcomes_frame(limit=10**9)
    assert len(frame) >= 10 * acknowledged
    learned = LearningActor(store)._learnings
    rows = {row["model"]: row for row in learned.rows()}
    for model, part in frame.groupby("model"):
        assert rows[model]["count"] == len(part)
    # Exactly: the same as one pass over the whole log.
    fresh = {key: Evidence(*key) for key in learned.cells}
    for _, item in store.outcomes_after(0):
        cell = fresh[item.task, item.model]
        cell.score([item.score]) if hasattr(item, "score") else cell.update(item)
    for key, cell in fresh.items():
        assert learned.cells[key].row() == pytest.approx(cell.row())
        assert learned.cells[key].latency_ms.weight == pytest.approx(cell.latency_ms.weight)
    store.close()
