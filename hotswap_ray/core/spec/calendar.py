"""What a calendar and a time zone make of clock times, daylight saving included.

A local time that a change of clocks leaves out is the first instant after it. One that happens
twice is the first of the two, but the second where a blackout ends (``stretch``): in doubt no
swap begins.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
LOOK_DAYS = 15  # a weekly window that daylight saving swallows opens a week later


@lru_cache(256)
def zone(name: str) -> ZoneInfo:
    """A time zone of the IANA database.

    Raises:
        ValueError: There is none of that name.
    """
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, OSError, ValueError):
        raise ValueError(f"no time zone {name!r}; use one like Europe/Berlin or UTC") from None


@lru_cache(4096)
def instant(text: str, zone_name: str, last: bool = False) -> float:
    """Unix seconds of an ISO time; one without offset is local.

    Args:
        text: For example ``2026-03-29T02:30`` or ``2026-03-29T02:30+01:00``.
        zone_name: Zone of a time without offset.
        last: The second of two where the local time happens twice.

    Raises:
        ValueError: It is no such time.

    Example:
        >>> instant("2026-03-29T02:30", "Europe/Berlin")  # left out: 03:00 summer time
        1774746000.0
        >>> instant("2026-10-25T02:30", "Europe/Berlin", last=True) - instant(
        ...     "2026-10-25T02:30", "Europe/Berlin")
        3600.0
    """
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is no ISO time, for example 2026-12-24T03:00+01:00") from None
    return _resolve(at, zone(zone_name), last) if at.tzinfo is None else at.timestamp()


def local_text(at_s: float, zone_name: str) -> str:
    """A Unix time as local ISO time with its offset.

    Example:
        >>> local_text(1774746000.0, "Europe/Berlin")
        '2026-03-29T03:00:00+02:00'
    """
    return datetime.fromtimestamp(at_s, zone(zone_name)).isoformat(timespec="seconds")


@lru_cache(4096)
def stretch(text: str, zone_name: str) -> tuple[float, float]:
    """Begin and end, in Unix seconds, of a day, or of ``FROM/TO`` with days or ISO times.

    Raises:
        ValueError: It is none of these, or ends before it begins.

    Example:
        >>> begin_s, end_s = stretch("2026-12-24/2026-12-26", "UTC")  # both included
        >>> (end_s - begin_s) / 86_400
        3.0
    """
    begin, _, end = text.partition("/")
    end = end or begin
    if len(end) == len("2026-12-24"):
        end = (_day(end) + timedelta(days=1)).isoformat()
    begin_s = instant(begin, zone_name)
    end_s = instant(end, zone_name, last=True)
    if end_s <= begin_s:
        raise ValueError(f"{text!r} ends before it begins")
    return begin_s, end_s


@lru_cache(4096)
def clock_minutes(text: str) -> int:
    """Minutes after midnight of ``HH:MM``, up to ``24:00``.

    Raises:
        ValueError: It is no such time.

    Example:
        >>> clock_minutes("22:30")
        1350
    """
    hour, _, minute = text.partition(":")
    numbers = hour.isascii() and hour.isdigit() and minute.isascii() and minute.isdigit()
    total = int(hour) * 60 + int(minute) if numbers and len(minute) == 2 else -1
    if not 0 <= total <= 1440 or int(minute) > 59:
        raise ValueError(f"{text!r} is no time of day; write it as 22:30")
    return total


def openings(
    after_s: float, zone_name: str, days: Collection[str], start: int, end: int
) -> tuple[tuple[float, float], ...]:
    """Stretches of a daily window, begin and end in Unix seconds, in order.

    The first may have ended before ``after_s``.

    Args:
        after_s: Unix time to look from, some two weeks on.
        zone_name: Zone of the clock times.
        days: Days on which it opens, of ``DAYS``.
        start: Minutes after midnight.
        end: As ``start``; not above it means on the next day.
    """
    today = datetime.fromtimestamp(after_s, zone(zone_name)).date()
    return _openings(today, zone_name, tuple(days), start, end)


@lru_cache(4096)  # schedules that wait ask again and again on the same day
def _openings(
    today: date, zone_name: str, days: tuple[str, ...], start: int, end: int
) -> tuple[tuple[float, float], ...]:
    local, stretches = zone(zone_name), []
    length = end - start if end > start else end + 1440 - start
    for ahead in range(-1, LOOK_DAYS):
        day = today + timedelta(days=ahead)
        if DAYS[day.weekday()] not in days:
            continue
        opens = datetime(day.year, day.month, day.day) + timedelta(minutes=start)  # noqa: DTZ001
        begin_s = _resolve(opens, local)
        end_s = _resolve(opens + timedelta(minutes=length), local)
        if begin_s < end_s:
            stretches.append((begin_s, end_s))
    return tuple(stretches)


def cron_runs(cron: str, zone_name: str, after_s: float) -> Iterator[float]:
    """Unix times at which a cron line is due, after a time.

    Lines with a fixed hour follow the clock on the wall: they are due once, whatever daylight
    saving does. Lines for every hour follow real time, as in Debian's cron.

    Args:
        cron: Five fields: minute, hour, day of month, month, day of week.
        zone_name: Zone of the fields.
        after_s: Unix time, excluded.

    Raises:
        ValueError: The line cannot be read, or names a day that never comes.
    """
    fields = cron.split()
    if len(fields) != 5:
        raise ValueError(f"cron {cron!r} must have 5 fields: minute hour day month weekday")
    if fields[0].startswith("*") and not fields[1].startswith("*"):
        fields[0] = fields[0].replace("*", "0-59", 1)  # else cronsim would take it as real time
    try:
        due_times = CronSim(" ".join(fields), datetime.fromtimestamp(after_s, zone(zone_name)))
    except CronSimError as error:
        raise ValueError(f"cron {cron!r}: {str(error).lower()}") from None
    last_s = after_s
    for at in due_times:
        if at.timestamp() > last_s:  # two local times may be one instant
            last_s = at.timestamp()
            yield last_s


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is no day, for example 2026-12-24") from None


def _resolve(local: datetime, within: ZoneInfo, last: bool = False) -> float:
    at = local.replace(tzinfo=within, fold=int(last))
    if _is_real(at):
        return at.timestamp()
    at = at.replace(second=0, microsecond=0)
    while not _is_real(at):
        at += timedelta(minutes=1)
    return at.timestamp()


def _is_real(at: datetime) -> bool:
    round_trip = at.astimezone(UTC).astimezone(at.tzinfo)
    return round_trip.replace(tzinfo=None) == at.replace(tzinfo=None)
