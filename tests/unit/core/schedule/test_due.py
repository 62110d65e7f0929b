"""When schedules are due in zones that change their clocks, and when a swap may begin."""

import itertools

import pytest
from pydantic import ValidationError

from hotswap_ray.core.schedule.due import admit, deadline, latest_due, plan, runs
from hotswap_ray.core.spec.calendar import instant, local_text, openings, stretch
from hotswap_ray.core.spec.schedule import ScheduleSpec

BERLIN, NEW_YORK = "Europe/Berlin", "America/New_York"
NIGHT = {"start": "22:00", "end": "06:00"}


def spec(**changes):
    """A swap of t to b, every night at 02:30 in Berlin."""
    said = {"id": "s", "swaps": [{"task": "t", "model": "b"}], "timezone": BERLIN}
    if "at" not in changes:
        said["cron"] = "30 2 * * *"
    return ScheduleSpec.model_validate({**said, **changes})


def due(schedule, after, count=3):
    """Local times of the next runs."""
    after_s = instant(after, schedule.timezone)
    found = itertools.islice(runs(schedule, after_s), count)
    return [local_text(at_s, schedule.timezone) for at_s in found]


def admission(schedule, at, due_at, rps=0.0, open_tasks=(), task="t"):
    """The verdict on a swap, with local times."""
    zone = schedule.timezone
    found = admit(schedule, task, instant(due_at, zone), instant(at, zone), rps, open_tasks)
    until = local_text(found.until_s, zone) if 0 < found.until_s < float("inf") else None
    return found.action, found.reason, until


# --- due times -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("zone", "before", "minute", "first"),
    [
        (BERLIN, "2026-03-28T12:00", "30 2", "2026-03-29T03:00:00+02:00"),
        (BERLIN, "2026-03-28T12:00", "*/30 2", "2026-03-29T03:00:00+02:00"),
        (BERLIN, "2026-03-28T12:00", "0,30 2,3", "2026-03-29T03:00:00+02:00"),
        (NEW_YORK, "2026-03-07T12:00", "30 2", "2026-03-08T03:00:00-04:00"),
        (NEW_YORK, "2026-03-07T12:00", "* 2", "2026-03-08T03:00:00-04:00"),
    ],
)
def test_a_local_time_that_does_not_exist_runs_at_the_first_instant_after_it(
    zone, before, minute, first
):
    found = due(spec(cron=f"{minute} * * *", timezone=zone), before, 40)
    assert found[0] == first
    assert len(found) == len(set(found))


@pytest.mark.parametrize(
    ("zone", "before", "minute", "first", "second"),
    [
        (BERLIN, "2026-10-24T12:00", "30 2", "2026-10-25T02:30:00+02:00", "2026-10-26T02:30"),
        (BERLIN, "2026-10-24T12:00", "*/60 2", "2026-10-25T02:00:00+02:00", "2026-10-26T02:00"),
        (NEW_YORK, "2026-10-31T12:00", "30 1", "2026-11-01T01:30:00-04:00", "2026-11-02T01:30"),
    ],
)
def test_a_local_time_that_exists_twice_runs_once(zone, before, minute, first, second):
    schedule = spec(cron=f"{minute} * * *", timezone=zone)
    found = due(schedule, before, 2)
    assert found[0] == first
    assert found[1].startswith(second)
    between_s = instant(first, zone) + 2000  # a restart, and the local time comes again
    assert local_text(next(runs(schedule, between_s)), zone) == found[1]


@pytest.mark.parametrize(("zone", "day"), [(BERLIN, "2026-10-25"), (NEW_YORK, "2026-11-01")])
def test_every_hour_is_of_real_time_on_the_day_that_has_25(zone, day):
    begin_s, end_s = stretch(day, zone)
    found = list(
        itertools.takewhile(
            lambda s: s < end_s, runs(spec(cron="0 * * * *", timezone=zone), begin_s - 1)
        )
    )
    assert len(found) == 25
    assert {b - a for a, b in itertools.pairwise(found)} == {3600.0}


def test_a_time_runs_once_and_one_without_offset_is_local():
    assert due(spec(at="2026-03-29T02:30"), "2026-01-01T00:00") == ["2026-03-29T03:00:00+02:00"]
    assert due(spec(at="2026-10-25T02:30"), "2026-01-01T00:00") == ["2026-10-25T02:30:00+02:00"]
    schedule = spec(at="2026-05-01T03:00+00:00")
    assert due(schedule, "2026-01-01T00:00") == ["2026-05-01T05:00:00+02:00"]
    assert due(schedule, "2026-05-01T05:00") == []


def test_nothing_is_due_after_the_end_or_while_it_is_disabled():
    assert len(due(spec(expires_at="2026-05-03T00:00"), "2026-05-01T00:00", 9)) == 2
    assert due(spec(enabled=False), "2026-05-01T00:00") == []


def test_of_several_runs_that_were_missed_the_latest_counts_and_a_long_absence_is_told_once():
    schedule = spec(cron="*/10 * * * *", defer_s=1500)
    handled_s = instant("2026-05-01T00:00", BERLIN)
    assert latest_due(schedule, handled_s, handled_s + 599) == handled_s + 600
    assert latest_due(schedule, handled_s, handled_s + 1900) == handled_s + 1800
    nightly = spec(defer_s=3600)
    found = latest_due(nightly, handled_s, handled_s + 5 * 86_400)
    assert local_text(found, BERLIN) == "2026-05-01T02:30:00+02:00"
    assert admit(nightly, "t", found, handled_s + 5 * 86_400, 0, ()).action == "expired"


# --- conditions ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        ("2026-05-01T21:59", ("wait", "window", "2026-05-01T22:00:00+02:00")),
        ("2026-05-01T22:00", ("start", "", None)),
        ("2026-05-02T05:59", ("start", "", None)),  # it passed midnight
        ("2026-05-02T06:00", ("wait", "window", "2026-05-04T22:00:00+02:00")),  # a Monday
    ],
)
def test_a_window_may_pass_midnight_and_belongs_to_the_day_it_opened(at, expected):
    schedule = spec(window={**NIGHT, "days": ["fri", "mon"]}, defer_s=604_800)
    assert admission(schedule, at, "2026-05-01T21:00") == expected


@pytest.mark.parametrize(
    ("zone", "opens", "closes", "hours"),
    [
        (BERLIN, "2026-03-28T22:00", "2026-03-29T06:00", 7),
        (BERLIN, "2026-10-24T22:00", "2026-10-25T06:00", 9),
        (NEW_YORK, "2026-03-07T22:00", "2026-03-08T06:00", 7),
        (NEW_YORK, "2026-10-31T22:00", "2026-11-01T06:00", 9),
    ],
)
def test_a_window_is_of_the_clock_on_the_wall_when_that_changes(zone, opens, closes, hours):
    begin_s, end_s = instant(opens, zone), instant(closes, zone)
    everyday = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
    assert (begin_s, end_s) in list(openings(begin_s, zone, everyday, 1320, 360))
    assert end_s - begin_s == hours * 3600


def test_a_window_that_the_change_of_clocks_swallows_opens_the_next_day():
    schedule = spec(window={"start": "02:10", "end": "02:50"}, defer_s=604_800)
    assert admission(schedule, "2026-03-29T01:59", "2026-03-29T01:00") == (
        *("wait", "window"),
        "2026-03-30T02:10:00+02:00",
    )


def test_a_window_that_happens_twice_is_open_once_and_a_blackout_holds_both_times():
    schedule = spec(window={"start": "02:10", "end": "02:50"}, defer_s=604_800)
    first_s, again_s = (instant("2026-10-25T02:20", BERLIN, last) for last in (False, True))
    assert admit(schedule, "t", first_s, first_s, 0, ()).action == "start"
    assert admit(schedule, "t", first_s, again_s, 0, ()).reason == "window"
    dark = spec(blackouts=["2026-10-25T02:10/2026-10-25T02:50"])
    for at_s in (first_s, again_s):
        assert admit(dark, "t", first_s, at_s, 0, ()).reason == "blackout"


@pytest.mark.parametrize(
    ("text", "at", "until"),
    [
        ("2026-12-24", "2026-12-24T00:00", "2026-12-25T00:00:00+01:00"),
        ("2026-12-24/2026-12-26", "2026-12-26T23:59", "2026-12-27T00:00:00+01:00"),
        ("2026-12-24T18:00/2026-12-25T06:00", "2026-12-24T18:00", "2026-12-25T06:00:00+01:00"),
        ("2026-10-25", "2026-10-25T23:30", "2026-10-26T00:00:00+01:00"),
    ],
)
def test_nothing_begins_in_a_blackout(text, at, until):
    schedule = spec(blackouts=[text], defer_s=604_800)
    assert admission(schedule, at, at) == ("wait", "blackout", until)
    assert admission(schedule, until[:16], at) == ("start", "", None)


def test_it_begins_when_quiet_and_traffic_that_is_not_known_is_not_quiet():
    schedule = spec(quiet_below_rps=2)
    at = "2026-05-01T02:30"
    assert admission(schedule, at, at, 1.99)[0] == "start"
    for rps in (2.0, None):
        assert admission(schedule, at, at, rps)[:2] == ("wait", "quiet")


def test_it_waits_for_the_tasks_swap_and_for_a_free_place():
    at = "2026-05-01T02:30"
    assert admission(spec(at_once=5), at, at, open_tasks=("t",))[:2] == ("wait", "task")
    assert admission(spec(), at, at, open_tasks=("u",))[:2] == ("wait", "swaps")
    assert admission(spec(at_once=2), at, at, open_tasks=("u",))[0] == "start"


def test_a_run_expires_after_its_deferral_or_at_the_end_of_its_schedule():
    assert admission(spec(defer_s=600), "2026-05-01T02:40", "2026-05-01T02:30")[0] == "start"
    late = admission(spec(defer_s=600), "2026-05-01T02:41", "2026-05-01T02:30")
    assert late[:2] == ("expired", "late")
    over = spec(expires_at="2026-05-01T02:35")
    assert admission(over, "2026-05-01T02:36", "2026-05-01T02:30")[:2] == ("expired", "over")


def test_a_clock_that_jumps_back_waits_for_the_time_again():
    assert admission(spec(), "2026-05-01T01:30", "2026-05-01T02:30") == (
        *("wait", "due"),
        "2026-05-01T02:30:00+02:00",
    )


# --- the dry run -----------------------------------------------------------------------------


def test_the_dry_run_says_what_would_happen_when_and_why():
    schedule = spec(
        cron="0 20 * * *",
        window={"start": "22:00", "end": "06:00"},
        blackouts=["2026-05-02", "2026-05-03"],
        defer_s=8 * 3600,
        quiet_below_rps=2,
    )
    first, second, third = plan(schedule, instant("2026-05-01T12:00", BERLIN), 72)
    assert (first["due"], first["begins"]) == (
        "2026-05-01T20:00:00+02:00",
        "2026-05-01T22:00:00+02:00",
    )
    assert first["why"] == "outside the window 22:00-06:00"
    assert first["swaps"] == ["t to b"]
    assert first["if"] == ["open swaps below 1", "traffic below 2 requests/s"]
    assert (second["action"], second["begins"]) == ("expired", None)
    assert second["why"] == "blackout 2026-05-02; blackout 2026-05-03; not begun within 28800 s"
    assert (third["action"], third["begins"]) == ("start", "2026-05-04T00:00:00+02:00")


def test_the_dry_run_never_promises_what_the_judge_refuses():
    schedule = spec(cron="*/40 * * * *", window=NIGHT, defer_s=7200, blackouts=["2026-10-25"])
    rows = plan(schedule, instant("2026-10-23T00:00", BERLIN), 80)
    assert {row["action"] for row in rows} == {"start", "expired"}
    for row in rows:
        if row["action"] == "start":
            assert admit(schedule, "t", row["due_s"], row["begins_s"], 0, ()).action == "start"
            assert row["begins_s"] <= deadline(schedule, row["due_s"])


# --- what is refused -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"at": "2026-05-01T03:00", "cron": "0 3 * * *"}, "either at or cron"),
        ({"cron": None}, "either at or cron"),
        ({"at": "tomorrow"}, "no ISO time"),
        ({"cron": "0 3 * *"}, "5 fields"),
        ({"cron": "0 0 3 * * *"}, "5 fields"),
        ({"cron": "61 * * * *"}, "bad minute"),
        ({"cron": "0 0 30 2 *"}, "bad day-of-month"),
        ({"timezone": "Europe/Atlantis"}, "no time zone"),
        ({"timezone": "../../etc/passwd"}, "no time zone"),
        ({"window": {"start": "25:00", "end": "06:00"}}, "no time of day"),
        ({"window": {"start": "2:5", "end": "06:00"}}, "no time of day"),
        ({"window": {"days": ["funday"], **NIGHT}}, "mon"),
        ({"blackouts": ["Christmas"]}, "no ISO time"),
        ({"blackouts": ["2026-12-26/2026-12-24"]}, "ends before"),
        ({"expires_at": "soon"}, "no ISO time"),
        ({"swaps": []}, "at least 1"),
        ({"at_once": 0}, "greater than or equal to 1"),
        ({"quiet_below_rps": 0}, "greater than 0"),
        ({"id": "x" * 46}, "at most 45"),
        ({"on_failur": "stop"}, "Extra inputs"),
        ({"swaps": [{"task": "t", "model": "b", "canary": "25,5"}]}, "must rise"),
        ({"swaps": [{"task": "t", "model": "b", "canary": "few"}]}, "give percentages"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(changes, said):
    with pytest.raises(ValidationError, match=said):
        spec(**changes)


def test_what_yaml_makes_of_times_is_understood():
    import yaml

    text = "{start: 22:00, end: 06:00}"
    schedule = spec(
        window=yaml.safe_load(text),
        blackouts=yaml.safe_load("[2026-12-24, 2026-12-25/2026-12-26]"),
        expires_at=yaml.safe_load("2027-01-01T00:00:00+01:00"),
    )
    assert (schedule.window.start, schedule.window.end) == ("22:00", "06:00")
    assert schedule.blackouts == ("2026-12-24", "2026-12-25/2026-12-26")
    assert ScheduleSpec.model_validate(schedule.model_dump(mode="json")) == schedule


def test_the_id_of_a_swap_is_the_same_whenever_it_is_asked():
    assert spec().swap_id(1_774_746_000.0, 2) == "s-1774746000-2"
