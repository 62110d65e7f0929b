"""What many schedules cost the controller; one JSON object last.

Every schedule is looked at as in the product: on a clock that runs through hours in steps, at
each due time and at least once a minute. Swaps end at once, so what is measured is the
scheduler and its store.

python benchmarks/schedules.py [--entries N] [--hours H]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import tempfile
import time
from pathlib import Path

from hotswap_ray.actors.controller.schedules.scheduler import Scheduler
from hotswap_ray.core.schedule.due import QUIET_CHECK_S
from hotswap_ray.core.spec.schedule import ScheduledSwap, ScheduleSpec
from hotswap_ray.store import Store

ZONES = ("Europe/Berlin", "America/New_York", "Asia/Kolkata", "UTC")
START_S = 1_774_600_000.0  # a day before Berlin changes its clocks


class InstantSwaps:
    """Swaps that succeed as soon as they are asked for."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self._known: set[str] = set()

    async def begin(self, swap: ScheduledSwap, swap_id: str) -> None:
        """Succeed."""
        self.done.append(swap_id)
        self._known.add(swap_id)

    async def phase(self, swap_id: str) -> str | None:
        """Its end."""
        return "succeeded" if swap_id in self._known else None

    def model_of(self, task: str) -> str | None:
        """Never the model that is asked for."""
        return None

    def open_tasks(self) -> list[str]:
        """None is open."""
        return []

    async def rates(self) -> dict[str, float]:
        """Half of the tasks are busy."""
        return {f"task-{n}": float(n % 2) for n in range(1000)}


def schedules(number: int) -> dict[str, ScheduleSpec]:
    """Nightly and weekly batches in four zones, with windows, blackouts and bounds of traffic."""
    seeded = random.Random(1)
    found = {}
    for n in range(number):
        hour, minute = seeded.randrange(24), seeded.randrange(60)
        found[f"s{n}"] = ScheduleSpec.model_validate(
            {
                "id": f"s{n}",
                "swaps": [{"task": f"task-{n}", "model": "m"}],
                "cron": f"{minute} {hour} * * {seeded.choice(['*', 'mon', 'sat,sun'])}",
                "timezone": seeded.choice(ZONES),
                "window": {"start": "22:00", "end": "06:00"} if n % 3 == 0 else None,
                "blackouts": ["2026-12-24/2026-12-26"],
                "quiet_below_rps": 0.5 if n % 4 == 0 else None,
                "defer_s": 3600,
            }
        )
    return found


async def measure(entries: int, hours: float, path: Path) -> dict[str, float]:
    """Run the scheduler through hours on a clock of its own."""
    now_s, swaps = START_S, InstantSwaps()
    scheduler = Scheduler(Store(f"sqlite:///{path}/schedules.sqlite"), lambda: now_s, swaps)
    began_s = time.process_time()
    await scheduler.load(schedules(entries))
    load_s, looks, began_s = time.process_time() - began_s, 0, time.process_time()
    while now_s < START_S + hours * 3600:
        now_s += max(0.001, await scheduler.look())
        looks += 1
    cpu_s = time.process_time() - began_s
    repeats = 200
    began_s = time.process_time()
    for _ in range(repeats):
        await scheduler.look()
    idle_ms = (time.process_time() - began_s) / repeats * 1e3
    return {
        "looks": looks,
        "swaps": len(swaps.done),
        "swaps_twice": len(swaps.done) - len(set(swaps.done)),
        "load_cpu_s": round(load_s, 2),
        "cpu_s": round(cpu_s, 3),
        "idle_look_ms": round(idle_ms, 3),
        "core_share": round(cpu_s / (hours * 3600), 6),
    }


async def measure_waiting(entries: int, path: Path) -> dict[str, float]:
    """The worst case: all are due, and look at the traffic of a busy task every ten seconds."""
    now_s, looks = 1_774_843_260.0, 30
    scheduler = Scheduler(Store(f"sqlite:///{path}/waiting.sqlite"), lambda: now_s, InstantSwaps())
    said = {
        "swaps": [{"task": "task-1", "model": "m"}],
        "at": "2026-03-30T04:01:01Z",
        "timezone": "Europe/Berlin",
        "window": {"start": "02:00", "end": "08:00"},
        "blackouts": ["2026-12-24/2026-12-26"],
        "quiet_below_rps": 0.5,
    }
    names = [f"s{n}" for n in range(entries)]
    await scheduler.load(
        {name: ScheduleSpec.model_validate({**said, "id": name}) for name in names}
    )
    now_s += 10
    await scheduler.look()  # tells that each waits
    assert all("traffic" in row["waits"] for row in scheduler.rows())
    began_s = time.process_time()
    for _ in range(looks):
        now_s += await scheduler.look()
    cpu_s = (time.process_time() - began_s) / looks
    return {
        "waiting_look_ms": round(cpu_s * 1e3, 3),
        "waiting_core_share": round(cpu_s / QUIET_CHECK_S, 6),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=1000)
    parser.add_argument("--hours", type=float, default=24)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as path:
        found = asyncio.run(measure(given.entries, given.hours, Path(path)))
        found |= asyncio.run(measure_waiting(given.entries, Path(path)))
    result = {"entries": given.entries, "hours": given.hours, **found}
    print(
        json.dumps(
            {
                **result,
                "ok": max(result["core_share"], result["waiting_core_share"]) < 0.01
                and not result["swaps_twice"],
            }
        )
    )


if __name__ == "__main__":
    main()
