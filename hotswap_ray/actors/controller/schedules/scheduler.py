"""Does what schedules say, once, crashes included.

A run is durable before its first swap is asked for, each swap has an id made of the schedule
and the time the run was due, and the result of a swap is read from its record. So a restart
asks for the same swaps again, and the same id is the same swap.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from tenacity import wait_fixed

from hotswap_ray.actors.cluster.background import forever
from hotswap_ray.actors.controller.schedules.entry import ScheduleRecord, SwapPort, changed
from hotswap_ray.core.errors import Conflict, HotswapError, NotFound, StoreError
from hotswap_ray.core.names import did_you_mean
from hotswap_ray.core.schedule.due import Admission, admit, deadline, latest_due, next_run, plan
from hotswap_ray.core.spec.calendar import local_text
from hotswap_ray.core.spec.schedule import ScheduleSpec
from hotswap_ray.core.swap.phases import TERMINAL
from hotswap_ray.store import Store

SETTING = "schedule:"
KEPT_RESULTS = 50
LONGEST_S = 60.0
"""Longest sleep, so that a clock that was set forward is noticed soon."""
RETRY_S = 5.0
OPEN = "open"
GOOD = ("succeeded", "unneeded")
"""Ends of a swap after which a batch goes on; ``unneeded``: the model served already."""
log = logging.getLogger("hotswap.schedule")


class Scheduler:
    """One loop for all schedules.

    Args:
        store: Durable state.
        clock: Unix seconds.
        swaps: How swaps are begun and followed.
    """

    def __init__(self, store: Store, clock: Callable[[], float], swaps: SwapPort) -> None:
        self._store = store
        self._clock = clock
        self._swaps = swaps
        self._entries: dict[str, ScheduleRecord] = {}
        self._due_s: dict[str, tuple[float, float]] = {}  # the run to do, and the one after it
        self._over: dict[str, str] = {}  # swaps of runs in progress that have ended
        self._waits: dict[str, tuple[float, Admission]] = {}
        self._lock = asyncio.Lock()
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """A swap has ended, or something was set: look at once."""
        self._wake.set()

    async def load(self, configured: Mapping[str, ScheduleSpec]) -> None:
        """Read the store and take the file's schedules in; what was set at run time wins.

        A schedule that is new, or that changed in the file, runs when it is due from now on.
        """
        now_s = self._clock()
        for name, doc in (await asyncio.to_thread(self._store.load_settings)).items():
            if name.startswith(SETTING):
                self._entries[name.removeprefix(SETTING)] = ScheduleRecord.from_doc(doc)
        for schedule, entry in list(self._entries.items()):
            if entry.source == "config" and entry.spec and schedule not in configured:
                await self._save(schedule, changed(entry, None, "config", now_s))
        for schedule, spec in configured.items():
            entry = self._entries.get(schedule) or ScheduleRecord(None, "config", now_s)
            if entry.source == "config" and entry.spec != spec:
                await self._save(schedule, changed(entry, spec, "config", now_s))

    # --- what people ask ----------------------------------------------------------------

    async def set(self, spec: ScheduleSpec) -> dict[str, Any]:
        """Add a schedule or replace one; swaps that it began go on, its run does not."""
        async with self._lock:
            now_s = self._clock()
            entry = self._entries.get(spec.id) or ScheduleRecord(None, "runtime", now_s)
            await self._save(spec.id, changed(entry, spec, "runtime", now_s))
        self.wake()
        return self._row(spec.id)

    async def delete(self, schedule: str) -> dict[str, Any]:
        """Forget a schedule, one of the file too. Swaps that it began go on.

        Raises:
            NotFound: There is none of that id.
        """
        async with self._lock:
            self.find(schedule)
            entry = changed(self._entries[schedule], None, "runtime", self._clock())
            await self._save(schedule, entry)
        return {"schedule": schedule, "deleted": True}

    def find(self, schedule: str) -> ScheduleSpec:
        """A schedule by its id. Raises ``NotFound``."""
        entry = self._entries.get(schedule)
        if entry is None or entry.spec is None:
            names = [name for name, other in self._entries.items() if other.spec]
            raise NotFound(f"no schedule {schedule!r}{did_you_mean(schedule, names)}")
        return entry.spec

    def rows(self) -> list[dict[str, Any]]:
        """Every schedule, for people: when it is due next, what it waits for, its results."""
        return [self._row(name) for name in sorted(self._entries) if self._entries[name].spec]

    def dry_run(self, spec: ScheduleSpec | None, hours: float) -> list[dict[str, Any]]:
        """What would happen when, of one schedule or of all; see ``core.schedule.due.plan``."""
        specs = [spec] if spec else [entry.spec for entry in self._entries.values() if entry.spec]
        rows = [row for schedule in specs for row in plan(schedule, self._clock(), hours)]
        return sorted(rows, key=lambda row: (row["due_s"], row["schedule"]))

    def _row(self, schedule: str) -> dict[str, Any]:
        entry, spec = self._entries[schedule], self.find(schedule)
        next_s = next_run(spec, max(entry.handled_s, entry.due_s or 0.0, self._clock()))
        waits = self._waits.get(schedule)
        return {
            "schedule": schedule,
            "source": entry.source,
            "enabled": spec.enabled,
            "next": local_text(next_s, spec.timezone) if math.isfinite(next_s) else None,
            "next_s": next_s if math.isfinite(next_s) else None,
            "running_due_s": entry.due_s,
            "waits": waits[1].text if waits else "",
            "spec": spec.model_dump(mode="json"),
            "results": list(entry.results),
        }

    # --- the loop -----------------------------------------------------------------------

    async def run(self) -> None:
        """Look whenever something is due, has ended or was set; never returns."""
        wait = wait_fixed(RETRY_S)
        await forever(self._look_and_pause, "schedules", log, wait, sleep=self._pause)

    async def _look_and_pause(self) -> None:
        self._wake.clear()
        await self._pause(await self.look())

    async def _pause(self, pause_s: float) -> None:
        """Sleep until something was set or has ended, at most ``pause_s`` seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await self._wake.wait()

    async def look(self) -> float:
        """Do all that is due now; seconds until the next look."""
        now_s = self._clock()
        next_s = now_s + LONGEST_S
        rates: Mapping[str, float] | None = None
        for schedule in list(self._entries):
            entry = self._entries[schedule]
            if entry.spec is None:
                continue
            if entry.due_s is None and self._due(schedule, entry, now_s) > now_s:
                next_s = min(next_s, self._due_s[schedule][0])
                continue
            if rates is None and entry.spec.quiet_below_rps is not None:
                rates = await self._rates()
            async with self._lock:
                next_s = min(next_s, await self._advance(schedule, now_s, rates or {}))
        return max(0.0, next_s - self._clock())

    def _due(self, schedule: str, entry: ScheduleRecord, now_s: float) -> float:
        """Due time of the run to do now, or of the next."""
        assert entry.spec is not None
        cached = self._due_s.get(schedule)
        if cached is None or cached[1] <= now_s:
            due_s = latest_due(entry.spec, entry.handled_s, now_s)
            cached = self._due_s[schedule] = (due_s, next_run(entry.spec, due_s))
        return cached[0]

    async def _rates(self) -> Mapping[str, float]:
        try:
            return await self._swaps.rates()
        except HotswapError:
            return {}  # a rate that is missing does not count as quiet

    async def _advance(self, schedule: str, now_s: float, rates: Mapping[str, float]) -> float:
        """Do what can be done of a run that is due; returns the Unix time to look again."""
        entry = self._entries[schedule]
        spec = entry.spec
        if spec is None:
            return math.inf  # it was deleted during this look
        due_s = self._due(schedule, entry, now_s) if entry.due_s is None else entry.due_s
        ends: list[str] = []
        for number, swap in enumerate(spec.swaps):
            entry = self._entries[schedule]
            end = await self._end(entry, number)
            if end is None and spec.on_failure == "stop" and _failed(ends):
                end = "skipped"
            if end is None:
                admission = admit(
                    *(spec, swap.task, due_s, now_s, rates.get(swap.task)),
                    self._swaps.open_tasks(),
                )
                if admission.action == "start":
                    admission, end = await self._begin(schedule, due_s, number)
                if admission.action == "wait":
                    return await self._defer(
                        schedule, due_s, admission, is_reported=OPEN not in ends
                    )
                if admission.action == "expired":
                    end = f"expired: {admission.text}"
            assert end is not None
            ends.append(end)
        if OPEN in ends:
            return math.inf  # the end of the swap wakes the loop
        await self._finish(schedule, due_s, ends)
        return now_s

    async def _end(self, entry: ScheduleRecord, number: int) -> str | None:
        """The end of a swap of the run in progress, ``open``, or ``None`` before it has begun."""
        if entry.due_s is None or entry.spec is None:
            return None
        if (end := entry.ended.get(str(number))) is not None:
            return end
        swap_id = entry.spec.swap_id(entry.due_s, number)
        if swap_id in self._over:
            return self._over[swap_id]
        phase = await self._swaps.phase(swap_id)
        if phase in TERMINAL and phase is not None:
            self._over[swap_id] = phase
            return phase
        return None if phase is None else OPEN

    async def _begin(
        self, schedule: str, due_s: float, number: int
    ) -> tuple[Admission, str | None]:
        """Ask for a swap; returns that it must wait, or its end."""
        entry, spec = self._entries[schedule], self.find(schedule)
        swap, started = spec.swaps[number], Admission("start")
        if entry.due_s is None:
            entry = replace(entry, due_s=due_s)
            await self._save(schedule, entry, self._event("started", spec, due_s))
        if self._swaps.model_of(swap.task) == swap.model:
            end = "unneeded"
        else:
            try:
                await self._swaps.begin(swap, spec.swap_id(due_s, number))
                self._waits.pop(schedule, None)
                return started, OPEN
            except StoreError:
                raise
            except Conflict as error:
                until_s = self._clock() + max(RETRY_S, error.retry_after_s or 0.0)
                return Admission("wait", "task", error.message, until_s), None
            except HotswapError as error:
                end = f"refused: {error.message}"
        ended = {**entry.ended, str(number): end}
        await self._save(schedule, replace(entry, ended=ended))
        return started, end

    async def _defer(
        self, schedule: str, due_s: float, admission: Admission, is_reported: bool
    ) -> float:
        """Record that a run waits, unless for its own swaps; Unix time to look again."""
        spec = self.find(schedule)
        earlier = self._waits.get(schedule)
        if is_reported and (
            earlier is None or (earlier[0], earlier[1].reason) != (due_s, admission.reason)
        ):
            event = self._event("deferred", spec, due_s, reason=admission.text)
            await asyncio.to_thread(self._store.add_event, "schedule", event, self._clock())
        if is_reported:
            self._waits[schedule] = (due_s, admission)
        # One second later, so that the deadline has passed and the run expires.
        until_s = min(admission.until_s, deadline(spec, due_s) + 1)
        if self._entries[schedule].due_s is None:  # the next run may take its place
            until_s = min(until_s, self._due_s[schedule][1])
        return until_s

    async def _finish(self, schedule: str, due_s: float, ends: list[str]) -> None:
        entry, spec = self._entries[schedule], self.find(schedule)
        expired = all(end.startswith("expired") for end in ends)
        state = "expired" if expired else "succeeded" if all(e in GOOD for e in ends) else "failed"
        result = {
            "due_s": due_s,
            "ended_s": self._clock(),
            "state": state,
            "swaps": [
                {
                    "swap_id": spec.swap_id(due_s, number),
                    "task": swap.task,
                    "model": swap.model,
                    "end": end,
                }
                for number, (swap, end) in enumerate(zip(spec.swaps, ends, strict=True))
            ],
        }
        done = replace(
            entry,
            handled_s=max(due_s, entry.handled_s),
            due_s=None,
            ended={},
            results=(*entry.results, result)[-KEPT_RESULTS:],
        )
        kind = "expired" if expired else "finished"
        event = self._event(kind, spec, due_s, state=state, ends=sorted(set(ends)))
        await self._save(schedule, done, event)
        for number in range(len(ends)):
            self._over.pop(spec.swap_id(due_s, number), None)

    def _event(self, kind: str, spec: ScheduleSpec, due_s: float, **details: Any) -> dict[str, Any]:
        due = local_text(due_s, spec.timezone)
        return {"schedule": spec.id, "event": kind, "due": due, "due_s": due_s, **details}

    async def _save(
        self, schedule: str, entry: ScheduleRecord, event: Mapping[str, Any] | None = None
    ) -> None:
        """Save an entry and its event in one transaction; then use the entry."""

        def write() -> None:
            with self._store.transaction():
                self._store.save_setting(SETTING + schedule, entry.to_doc())
                if event is not None:
                    self._store.add_event("schedule", event, self._clock())

        await asyncio.to_thread(write)
        if entry.due_s is None:
            self._due_s.pop(schedule, None)
            self._waits.pop(schedule, None)
        self._entries[schedule] = entry


def _failed(ends: list[str]) -> bool:
    return any(end not in (*GOOD, OPEN) for end in ends)
