"""When a schedule is due, and whether a swap of it may begin now.

Pure: the time, the traffic and the open swaps are arguments. ``admit`` answers for one swap;
``plan`` follows its answers through the hours to come and says what would happen when.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from hotswap_ray.core.spec.calendar import (
    clock_minutes,
    cron_runs,
    instant,
    local_text,
    openings,
    stretch,
)
from hotswap_ray.core.spec.schedule import ScheduleSpec

QUIET_CHECK_S = 10.0
"""Time between two looks at the traffic of a task that is not quiet."""
MOST_WAITS = 500
INF = float("inf")

WaitReason = Literal["", "due", "late", "over", "blackout", "window", "task", "swaps", "quiet"]


@dataclass(frozen=True, slots=True)
class Admission:
    """Whether a swap that is due may begin.

    Attributes:
        action: ``start``; ``wait``; or ``expired``, for good.
        reason: Why not; empty for ``start``.
        text: The same for people.
        until_s: Unix time to ask again, or earlier when something changed.
    """

    action: Literal["start", "wait", "expired"]
    reason: WaitReason = ""
    text: str = ""
    until_s: float = 0.0


def runs(spec: ScheduleSpec, after_s: float) -> Iterator[float]:
    """Unix times at which a schedule is due, after a time; none of one that is disabled.

    Example:
        >>> spec = ScheduleSpec(id="s", swaps=[{"task": "t", "model": "m"}],
        ...                     cron="30 2 * * *", timezone="Europe/Berlin")
        >>> begin_s = instant("2026-03-28T12:00", "Europe/Berlin")
        >>> [local_text(at_s, spec.timezone) for at_s, _ in zip(runs(spec, begin_s), range(2))]
        ['2026-03-29T03:00:00+02:00', '2026-03-30T02:30:00+02:00']
    """
    if not spec.enabled:
        return
    last_s = INF
    if spec.expires_at is not None:
        last_s = instant(spec.expires_at, spec.timezone)
    if spec.at is not None:
        due_times = iter([instant(spec.at, spec.timezone)])
    else:
        assert spec.cron is not None
        due_times = cron_runs(spec.cron, spec.timezone, after_s)
    for at_s in due_times:
        if at_s > last_s:
            return
        if at_s > after_s:
            yield at_s


def next_run(spec: ScheduleSpec, after_s: float) -> float:
    """The first of ``runs``; infinite when there is none."""
    return next(runs(spec, after_s), INF)


def latest_due(spec: ScheduleSpec, after_s: float, now_s: float) -> float:
    """The run to do now, after one that was handled; in the future when none is due.

    Of several that are due only the latest counts. Those that are past their deferral count
    only when no other does: then the first, so that it is reported as expired.

    Args:
        spec: The schedule.
        after_s: Due time of the last run that was handled.
        now_s: Unix time.
    """
    run_s = next_run(spec, after_s)
    if run_s > now_s:
        return run_s
    # After a long absence only the runs that may still begin are walked through, not all of them.
    for at_s in runs(spec, max(after_s, now_s - spec.defer_s)):
        if at_s > now_s:
            break
        run_s = at_s
    return run_s


def deadline(spec: ScheduleSpec, due_s: float) -> float:
    """Unix time after which no swap of a run begins."""
    last_s = due_s + spec.defer_s
    if spec.expires_at is not None:
        last_s = min(last_s, instant(spec.expires_at, spec.timezone))
    return last_s


def admit(
    spec: ScheduleSpec,
    task: str,
    due_s: float,
    now_s: float,
    requests_per_s: float | None,
    open_tasks: Collection[str],
) -> Admission:
    """Whether a swap of a schedule may begin.

    Args:
        spec: The schedule.
        task: Task of the swap.
        due_s: When its run was due.
        now_s: Unix time.
        requests_per_s: Traffic of the task; ``None`` when it is not known, which is not quiet.
        open_tasks: Tasks that have an open swap.
    """
    if now_s < due_s:
        return Admission("wait", "due", "not due yet", due_s)
    last_s = deadline(spec, due_s)
    if now_s > last_s:
        if last_s < due_s + spec.defer_s:
            return Admission("expired", "over", f"the schedule ended at {spec.expires_at}")
        return Admission("expired", "late", f"not begun within {spec.defer_s:g} s")
    for text in spec.blackouts:
        begin_s, end_s = stretch(text, spec.timezone)
        if begin_s <= now_s < end_s:
            return Admission("wait", "blackout", f"blackout {text}", end_s)
    opens_s = _opens(spec, now_s)
    if opens_s > now_s:
        assert spec.window is not None
        text = f"outside the window {spec.window.start}-{spec.window.end}"
        return Admission("wait", "window", text, opens_s)
    if task in open_tasks:
        return Admission("wait", "task", f"task {task!r} has an open swap", INF)
    if len(open_tasks) >= spec.at_once:
        return Admission("wait", "swaps", f"{len(open_tasks)} of {spec.at_once} swaps open", INF)
    bound = spec.quiet_below_rps
    if bound is not None and (requests_per_s is None or requests_per_s >= bound):
        rate = "unknown" if requests_per_s is None else f"{requests_per_s:.3g} requests/s"
        text = f"traffic of {task} is {rate}, not below {bound:g}"
        return Admission("wait", "quiet", text, now_s + QUIET_CHECK_S)
    return Admission("start")


def _opens(spec: ScheduleSpec, now_s: float) -> float:
    """When the window is open next: now, later, or never in the next two weeks."""
    if spec.window is None:
        return now_s
    start, end = clock_minutes(spec.window.start), clock_minutes(spec.window.end)
    for begin_s, end_s in openings(now_s, spec.timezone, spec.window.days, start, end):
        if end_s > now_s:
            return max(begin_s, now_s)
    return INF


def plan(spec: ScheduleSpec, now_s: float, hours: float, limit: int = 1000) -> list[dict[str, Any]]:
    """What a schedule would do when, if the tasks are quiet and no other swap is open.

    Args:
        spec: The schedule.
        now_s: Unix time.
        hours: How far to look ahead.
        limit: At most so many runs.

    Returns:
        A row a run: ``schedule, due, due_s``, ``action`` (``start`` or ``expired``), ``begins``
        and ``begins_s`` of its first swap (``None`` if none begins), ``why`` it waits or
        expires, ``swaps`` in order and ``if``, the conditions that only then are known.
    """
    conditions = [f"open swaps below {spec.at_once}"]
    if spec.quiet_below_rps is not None:
        conditions.append(f"traffic below {spec.quiet_below_rps:g} requests/s")
    rows: list[dict[str, Any]] = []
    for due_s in runs(spec, now_s):
        if due_s > now_s + hours * 3600 or len(rows) >= limit:
            break
        admission, begins_s, why = _follow(spec, due_s)
        begins = admission.action == "start"
        rows.append(
            {
                "schedule": spec.id,
                "due": local_text(due_s, spec.timezone),
                "due_s": due_s,
                "action": admission.action,
                "begins": local_text(begins_s, spec.timezone) if begins else None,
                "begins_s": begins_s if begins else None,
                "why": "; ".join(why),
                "swaps": [f"{swap.task} to {swap.model}" for swap in spec.swaps],
                "if": conditions if begins else [],
            }
        )
    return rows


def _follow(spec: ScheduleSpec, due_s: float) -> tuple[Admission, float, list[str]]:
    """The end of a run's waiting, when that is, and what it waited for."""
    last_s, at_s, why = deadline(spec, due_s), due_s, list[str]()
    for _ in range(MOST_WAITS):
        admission = admit(spec, spec.swaps[0].task, due_s, at_s, 0.0, ())
        if admission.text and admission.text not in why:
            why.append(admission.text)
        if admission.action != "wait":
            return admission, at_s, why
        at_s = admission.until_s if admission.until_s <= last_s else last_s + 1
    return Admission("expired", "late"), at_s, why
