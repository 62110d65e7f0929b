"""Schedules on a fake clock: batches, deferral, and deaths that neither lose nor repeat a swap."""

import asyncio

import pytest

from hotswap_ray.actors.controller.schedules import scheduler as module
from hotswap_ray.actors.controller.schedules.scheduler import Scheduler
from hotswap_ray.core.errors import Conflict, InvalidRequest, NotFound, StoreError
from hotswap_ray.core.spec.schedule import ScheduleSpec
from tests.worlds.controller import ControllerWorld, make_config, make_world
from tests.worlds.crash import crash_after_every_commit, restart
from tests.worlds.fakes import FakeClock
from tests.worlds.store import ScriptedStore

START_S = 1_700_000_000.0  # 22:13:20 UTC
DUE_S = START_S + 1000


def swap(task, model="b"):
    return {"task": task, "model": model}


def spec(*swaps, **changes):
    said = {"id": "s", "swaps": swaps or (swap("t"),)}
    if "cron" not in changes:
        said["at"] = "2023-11-14T22:30:00Z"  # DUE_S
    return ScheduleSpec.model_validate({**said, **changes})


class FakeSwaps:
    """Swaps that stay open until told how they end."""

    def __init__(self):
        self.phases = {}
        self.asked = []
        self.tasks = {}
        self.models = {}
        self.traffic = {}
        self.errors = {}

    async def begin(self, swap, swap_id):
        if error := self.errors.get(swap.task):
            raise error
        self.asked.append(swap_id)
        self.phases.setdefault(swap_id, "loading")
        self.tasks[swap_id] = swap.task

    async def phase(self, swap_id):
        return self.phases.get(swap_id)

    def model_of(self, task):
        return self.models.get(task, "a")

    def open_tasks(self):
        return [self.tasks[i] for i, phase in self.phases.items() if phase == "loading"]

    async def rates(self):
        return self.traffic

    def end(self, phase="succeeded"):
        """End all that is open."""
        for swap_id, now in self.phases.items():
            if now == "loading":
                self.phases[swap_id] = phase


class Stage:
    """A scheduler that can be replaced by its successor."""

    def __init__(self, path):
        self.store = ScriptedStore(f"sqlite:///{path}/s.sqlite")
        self.clock, self.swaps = FakeClock(START_S), FakeSwaps()
        self.scheduler = Scheduler(self.store, self.clock, self.swaps)

    async def restart(self, configured=()):
        self.scheduler = Scheduler(self.store, self.clock, self.swaps)
        await self.scheduler.load({one.id: one for one in configured})

    async def look(self, at_s=None):
        self.clock.now_s = at_s or self.clock.now_s
        return await self.scheduler.look()

    def events(self):
        return [row["doc"]["event"] for row in self.store.load_events()]

    def result(self, schedule="s"):
        """State and ends of the last run."""
        row = next(row for row in self.scheduler.rows() if row["schedule"] == schedule)
        last = row["results"][-1]
        return last["state"], [one["end"] for one in last["swaps"]]


@pytest.fixture
def stage(tmp_path):
    made = Stage(tmp_path)
    yield made
    made.store.close()


# --- a run -----------------------------------------------------------------------------------


async def test_a_swap_begins_when_it_is_due_and_only_once(stage):
    await stage.scheduler.set(spec())
    assert await stage.look(DUE_S - 30) == 30
    assert stage.swaps.asked == []
    await stage.look(DUE_S)
    assert stage.swaps.asked == [f"s-{int(DUE_S)}-0"]
    for _ in range(3):
        await stage.look(stage.clock.now_s + 60)
    stage.swaps.end()
    await stage.look()
    await stage.look(DUE_S + 86_400)
    assert len(stage.swaps.asked) == 1
    assert stage.result() == ("succeeded", ["succeeded"])
    assert stage.events() == ["started", "finished"]


async def test_it_sleeps_until_the_next_time_and_looks_at_the_clock_once_a_minute(stage):
    await stage.scheduler.set(spec())
    assert await stage.look() == module.LONGEST_S
    assert await stage.look(DUE_S - 7) == 7


async def test_a_batch_begins_in_order_with_so_many_at_once(stage):
    await stage.scheduler.set(spec(*map(swap, "tuvw"), at_once=2))
    await stage.look(DUE_S)
    assert [i[-1] for i in stage.swaps.asked] == ["0", "1"]
    stage.swaps.phases[stage.swaps.asked[0]] = "succeeded"
    await stage.look()
    assert [i[-1] for i in stage.swaps.asked] == ["0", "1", "2"]
    stage.swaps.end()
    await stage.look()
    stage.swaps.end()
    await stage.look()
    assert stage.result() == ("succeeded", ["succeeded"] * 4)


@pytest.mark.parametrize(
    ("on_failure", "ends"),
    [("stop", ["rolled_back", "skipped"]), ("continue", ["rolled_back", "succeeded"])],
)
async def test_a_swap_that_fails_stops_its_batch_or_does_not(stage, on_failure, ends):
    await stage.scheduler.set(spec(swap("t"), swap("u"), on_failure=on_failure))
    await stage.look(DUE_S)
    stage.swaps.end("rolled_back")
    await stage.look()
    stage.swaps.end()
    await stage.look()
    assert stage.result() == ("failed", ends)


async def test_a_swap_that_is_refused_is_told_and_a_model_that_serves_is_fine(stage):
    stage.swaps.models["t"] = "b"
    stage.swaps.errors["u"] = NotFound("no model 'b'")
    await stage.scheduler.set(spec(swap("t"), swap("u"), swap("v")))
    await stage.look(DUE_S)
    assert stage.result() == ("failed", ["unneeded", "refused: no model 'b'", "skipped"])
    assert stage.swaps.asked == []


async def test_swaps_of_others_are_waited_for_and_the_wait_is_told_once(stage):
    stage.swaps.phases["other"], stage.swaps.tasks["other"] = "loading", "t"
    await stage.scheduler.set(spec())
    for later_s in range(3):
        await stage.look(DUE_S + later_s)
    assert stage.events() == ["deferred"]
    assert "open swap" in stage.scheduler.rows()[0]["waits"]
    stage.swaps.end()
    await stage.look()
    assert stage.events() == ["deferred", "started"]
    assert stage.scheduler.rows()[0]["waits"] == ""


async def test_a_conflict_is_asked_again_until_it_is_gone_or_too_late(stage):
    stage.swaps.errors["t"] = Conflict("model 'b' is loading", 5.0)
    await stage.scheduler.set(spec(defer_s=100))
    assert await stage.look(DUE_S) == module.RETRY_S
    stage.swaps.errors.clear()
    await stage.look(DUE_S + 5)
    assert len(stage.swaps.asked) == 1


async def test_it_waits_for_quiet_and_expires_where_that_never_comes(stage):
    stage.swaps.traffic = {"t": 9.0}
    await stage.scheduler.set(spec(quiet_below_rps=2, defer_s=100))
    assert await stage.look(DUE_S) == 10
    assert await stage.look(DUE_S + 95) == 6  # so that its end is told in time
    await stage.look(DUE_S + 101)
    assert stage.result() == ("expired", ["expired: not begun within 100 s"])
    assert stage.events() == ["deferred", "expired"]
    assert stage.swaps.asked == []


@pytest.mark.parametrize("traffic", [{}, StoreError("away")])
async def test_learnings_that_know_nothing_are_not_quiet(stage, traffic):
    async def rates():
        if isinstance(traffic, Exception):
            raise traffic
        return traffic

    stage.swaps.rates = rates
    await stage.scheduler.set(spec(quiet_below_rps=2))
    await stage.look(DUE_S)
    assert stage.swaps.asked == []
    assert "unknown" in stage.scheduler.rows()[0]["waits"]


async def test_a_batch_that_takes_too_long_ends_with_what_it_began(stage):
    await stage.scheduler.set(spec(swap("t"), swap("u"), defer_s=100))
    await stage.look(DUE_S)
    await stage.look(DUE_S + 200)
    assert stage.scheduler.rows()[0]["running_due_s"] == DUE_S
    stage.swaps.end()
    await stage.look()
    assert stage.result() == ("failed", ["succeeded", "expired: not begun within 100 s"])


async def test_again_and_again_keeps_the_last_results_and_runs_that_were_missed_are_one(stage):
    await stage.scheduler.set(spec(cron="*/10 * * * *", defer_s=3600))
    for _ in range(55):
        await stage.look(stage.clock.now_s + 600)
        stage.swaps.end()
        await stage.look()
    assert len(stage.scheduler.rows()[0]["results"]) == 50
    assert len(stage.swaps.asked) == 55
    await stage.look(stage.clock.now_s + 3000)  # five of them
    assert len(stage.swaps.asked) == 56


# --- restarts and clocks ---------------------------------------------------------------------


async def test_a_clock_that_jumps_back_repeats_nothing(stage):
    await stage.scheduler.set(spec(cron="30 22 * * *"))
    await stage.look(DUE_S)
    stage.swaps.end()
    await stage.look()
    for restarted in (False, True):
        if restarted:
            await stage.restart()
        await stage.look(DUE_S - 3600)
        await stage.look(DUE_S + 1)
        assert len(stage.swaps.asked) == 1
    await stage.look(DUE_S + 86_400)
    assert len(stage.swaps.asked) == 2


async def test_a_run_that_was_due_while_nobody_was_there_is_done_within_its_deferral(stage):
    await stage.scheduler.set(spec(defer_s=600))
    await stage.restart()
    await stage.look(DUE_S + 599)
    assert stage.swaps.asked == [f"s-{int(DUE_S)}-0"]


async def test_a_run_that_nobody_could_do_in_time_is_told_as_expired(stage):
    await stage.scheduler.set(spec(defer_s=600))
    await stage.restart()
    await stage.look(DUE_S + 601)
    assert stage.result()[0] == "expired"
    assert stage.swaps.asked == []


async def test_a_store_that_refuses_delays_a_run_and_loses_nothing(stage):
    await stage.scheduler.set(spec())
    stage.store.refuses = True
    with pytest.raises(StoreError):
        await stage.look(DUE_S)
    assert stage.swaps.asked == []  # never before it is durable
    stage.store.refuses = False
    await stage.look(DUE_S + 5)
    assert len(stage.swaps.asked) == 1
    stage.swaps.end()
    stage.store.refuses = True
    with pytest.raises(StoreError):
        await stage.look()
    stage.store.refuses = False
    await stage.look()
    assert stage.events() == ["started", "finished"]


class Death(Exception):
    """Of the controller."""


async def mortal(path, fatal):
    """A stage with a batch, whose scheduler dies at a step: before or after a commit or begin."""
    stage, steps = Stage(path), 0
    await stage.scheduler.set(spec(swap("t"), swap("u"), swap("v"), at_once=2))
    stage.swaps.models["v"] = "b"  # it needs no swap
    begin, save, mine = stage.swaps.begin, stage.scheduler._save, stage.scheduler

    def step():
        nonlocal steps
        steps += 1
        if steps == fatal:
            raise Death

    async def dying(what, *args):
        if stage.scheduler is not mine:
            return await what(*args)
        step()
        await what(*args)
        step()

    stage.swaps.begin = lambda *args: dying(begin, *args)
    stage.scheduler._save = lambda *args: dying(save, *args)
    stage.clock.now_s = DUE_S
    return stage


async def test_a_death_before_and_after_every_step_loses_and_repeats_no_swap(tmp_path):
    for fatal in range(1, 100):
        path = tmp_path / str(fatal)
        path.mkdir()
        stage, died = await mortal(path, fatal), False
        for _ in range(4):
            try:
                await stage.look()
            except Death:
                died = True
                await stage.restart()
                await stage.look()
            stage.swaps.end()
            stage.swaps.models |= dict.fromkeys(stage.swaps.tasks.values(), "b")
        assert sorted(stage.swaps.phases) == [f"s-{int(DUE_S)}-{n}" for n in range(2)], fatal
        assert stage.result() == ("succeeded", ["succeeded", "succeeded", "unneeded"]), fatal
        assert stage.events() == ["started", "finished"], fatal
        stage.store.close()
        if not died:
            assert fatal > 8
            return
    raise AssertionError("the run has more steps than were tried")


# --- what is set, and the file ---------------------------------------------------------------


async def test_what_is_set_wins_over_the_file_and_outlasts_restarts(stage):
    filed, own = spec(cron="0 1 * * *"), spec(cron="0 2 * * *")
    await stage.restart([filed])
    assert stage.scheduler.rows()[0]["source"] == "config"
    await stage.scheduler.set(own)
    await stage.restart([filed])
    assert stage.scheduler.find("s") == own
    await stage.scheduler.delete("s")
    await stage.restart([filed])
    assert stage.scheduler.rows() == []
    with pytest.raises(NotFound):
        await stage.scheduler.delete("s")


async def test_a_schedule_of_the_file_keeps_its_place_and_one_that_changed_begins_anew(stage):
    filed = spec(cron="*/10 * * * *", defer_s=3600)
    await stage.restart([filed])
    await stage.restart([filed])
    await stage.look(START_S + 700)  # due at 22:20, while nobody looked
    assert len(stage.swaps.asked) == 1
    stage.swaps.end()
    await stage.look()
    stage.clock.now_s += 1200
    await stage.restart([spec(cron="*/5 * * * *", defer_s=3600)])
    await stage.look()
    assert len(stage.swaps.asked) == 1  # what the new line missed is not made up for
    await stage.restart([])
    assert stage.scheduler.rows() == []


async def test_replacing_a_schedule_ends_its_run_and_leaves_what_it_began(stage):
    await stage.scheduler.set(spec(swap("t"), swap("u")))
    await stage.look(DUE_S)
    await stage.scheduler.set(spec(swap("t"), swap("u"), at_once=2))
    stage.swaps.end()
    await stage.look()
    assert stage.swaps.asked == [f"s-{int(DUE_S)}-0"]
    assert stage.scheduler.rows()[0]["next"] is None


async def test_the_loop_wakes_for_what_is_set_and_goes_on_after_trouble(stage, monkeypatch):
    monkeypatch.setattr(module, "RETRY_S", 0.005)
    stage.clock.now_s = DUE_S - 1
    loop = asyncio.create_task(stage.scheduler.run())
    try:
        async with asyncio.timeout(10):
            await asyncio.sleep(0)
            await stage.scheduler.set(spec())
            stage.clock.now_s, stage.store.refuses = DUE_S, True
            stage.scheduler.wake()
            await asyncio.sleep(0)
            stage.store.refuses = False
            while not stage.swaps.asked:  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(0.002)
    finally:
        loop.cancel()


# --- with the real controller ----------------------------------------------------------------


@pytest.fixture
def eager(monkeypatch):
    monkeypatch.setattr(module, "RETRY_S", 0.01)


def scheduled(**changes):
    """A configuration with a schedule that swaps t to b and u to c."""
    config = make_config()
    one = spec(swap("t", "b"), swap("u", "c"), **changes)
    return config.model_copy(update={"schedules": {"s": one}})


async def done(world):
    """The schedule's run is over and nothing is open."""
    async with asyncio.timeout(10):
        while not (await world.controller.schedules())[0]["results"]:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    await world.until(lambda: not world.controller._runner.open())


async def test_the_controller_swaps_at_the_time_and_says_so(tmp_path, eager):
    world = await make_world(tmp_path, scheduled())
    world.clock.now_s = DUE_S
    world.controller._scheduler.wake()
    await done(world)
    assert (world.model_of("t"), world.model_of("u")) == ("b", "c")
    (row,) = await world.controller.schedules()
    assert row["results"][-1]["state"] == "succeeded"
    assert {record["requested_by"] for record in world.store.load_swaps()} == {"schedule"}
    heir = await restart(world)
    heir.clock.now_s = DUE_S + 60
    await heir.controller._scheduler.look()
    assert len(heir.store.load_swaps()) == 2


async def test_a_scheduled_swap_may_have_a_canary_of_its_own(tmp_path, eager):
    config = make_config()
    one = spec({**swap("t", "b"), "canary": "5,25"})
    world = await make_world(tmp_path, config.model_copy(update={"schedules": {"s": one}}))
    world.clock.now_s = DUE_S
    world.controller._scheduler.wake()
    await world.until(lambda: world.controller._runner.open())
    (record,) = world.controller._runner.open()
    assert [step["weight"] for step in record.facts["plan"]["steps"]] == [0.05, 0.25]


async def test_the_controller_refuses_what_cannot_be_and_tells_what_would_be(tmp_path, eager):
    world = await make_world(tmp_path)
    ask = world.controller.set_schedule
    said = {"swaps": [swap("t")], "cron": "0 3 * * *"}
    for wrong, error in (
        ({**said, "swaps": [swap("nowhere")]}, NotFound),
        ({**said, "swaps": [swap("t", "nobody")]}, NotFound),
        ({**said, "id": "other"}, InvalidRequest),
        ({**said, "cron": "x"}, InvalidRequest),
        ({"swaps": [swap("t")], "at": "2020-01-01T00:00Z"}, InvalidRequest),
    ):
        with pytest.raises(error):
            await ask("s", wrong)
    rows = await world.controller.schedule_dry_run(hours=48, spec=said)
    assert [row["begins"] for row in rows] == [
        "2023-11-15T03:00:00+00:00",
        "2023-11-16T03:00:00+00:00",
    ]
    assert await world.controller.schedules() == []
    assert (await ask("s", said))["next"] == "2023-11-15T03:00:00+00:00"
    assert await world.controller.schedule_dry_run("s", 48) == [
        {**row, "schedule": "s"} for row in rows
    ]
    with pytest.raises(InvalidRequest):
        await world.controller.schedule_dry_run("s", 0)
    assert await world.controller.delete_schedule("s") == {"schedule": "s", "deleted": True}


def test_a_controller_that_dies_after_any_commit_swaps_each_task_once(tmp_path, eager):
    async def run(world):
        world.clock.now_s = DUE_S
        world.controller._scheduler.wake()
        await done(world)

    async def go_on(heir):
        heir.clock.now_s = DUE_S + 30
        await heir.start()
        await done(heir)

    def check(world):
        records = {record["swap_id"]: record for record in world.store.load_swaps()}
        assert sorted(records) == [f"s-{int(DUE_S)}-{n}" for n in range(2)]
        assert {record["phase"] for record in records.values()} == {"succeeded"}
        assert (world.model_of("t"), world.model_of("u")) == ("b", "c")
        assert world.fleet.harm == []
        kinds = [r["doc"]["event"] for r in world.store.load_events() if r["kind"] == "schedule"]
        assert (kinds.count("started"), kinds.count("finished")) == (1, 1)

    config = scheduled(at_once=2)
    crash_after_every_commit(
        run, check, tmp_path, lambda path: ControllerWorld(path, config), go_on=go_on
    )
