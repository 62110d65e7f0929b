"""Benchmarks with a real controller and store on a cluster in memory; and what they report."""

import asyncio
from xml.etree import ElementTree

import pytest

from hotswap_ray.actors.controller.bench import bench
from hotswap_ray.actors.controller.bench import loans as bench_loans
from hotswap_ray.actors.controller.bench import run as bench_run
from hotswap_ray.config import Config
from hotswap_ray.config.golden_set import golden_key
from hotswap_ray.core.errors import (
    ClusterUnavailable,
    ConfigError,
    Conflict,
    EngineUnavailable,
    InvalidRequest,
    NotFound,
)
from hotswap_ray.core.evidence.bench import GoldenResult, summarise
from hotswap_ray.core.fit.room import Room
from hotswap_ray.core.spec.golden import GoldenPrompt
from hotswap_ray.reports.bench import COLUMNS, cells, plot
from hotswap_ray.reports.charts import svg
from tests.worlds.controller import ControllerWorld, make_config
from tests.worlds.fakes import MIB, FakeFleet, FakeLearning

PROMPTS = [
    {"prompt": f"question {n}", "check": {"kind": "contains", "value": "right"}, "weight": n + 1}
    for n in range(4)
]
HOUR_S = 3600


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch):
    monkeypatch.setattr(bench, "LOOK_S", 0.005)
    monkeypatch.setattr(bench_loans, "WATCH_S", 0.01)
    monkeypatch.setattr(bench_run, "WATCH_S", 0.01)


class Learning(FakeLearning):
    """Away for some calls, as while its actor is being restarted."""

    away = 0

    async def record(self, batch, batch_id):
        if self.away:
            self.away -= 1
            raise ClusterUnavailable("the learning actor is being restarted")
        return await super().record(batch, batch_id)


class Fleet(FakeFleet):
    """Counts requests at work, and can hold them back or fail some."""

    def __init__(self, total=None):
        super().__init__(total)
        self.gate = asyncio.Event()
        self.gate.set()
        self.at_work = self.most_at_work = 0
        self.bodies = []
        self.on_generate = None

    async def call(self, app, method, *args):
        if method != "generate" or app not in self.apps:
            return await super().call(app, method, *args)
        self.at_work += 1
        self.most_at_work = max(self.most_at_work, self.at_work)
        self.bodies.append((app, args[1]))
        try:
            await self.gate.wait()
            if self.on_generate:
                await self.on_generate(app, args[1])
            return await super().call(app, method, *args)
        finally:
            self.at_work -= 1


class BenchWorld(ControllerWorld):
    """A world whose requests can be held back, and whose controller can be replaced."""

    def __init__(self, path, config=None, total=None):
        super().__init__(path, config, total)
        ingress, self.fleet = self.fleet.ingress, Fleet(total)
        self.fleet.ingress = ingress
        self.learning = Learning()

    def stop_loops(self):
        for loop in self.controller._loops:
            loop.cancel()

    async def restart(self):
        self.stop_loops()
        await self.start()

    async def bench(self, *args, **options):
        """Run one to its end; its status."""
        begun = await self.controller.bench(*args, **options)
        return await self.controller.bench_status(begun["bench_id"], 10)

    def events(self):
        return [e["doc"] for e in self.store.load_events(limit=1000) if e["kind"] == "benchmark"]


def bench_config(every_s=0, **models):
    prices = {"usd_per_million_tokens_in": 2, "usd_per_million_tokens_out": 4}
    config = make_config(
        {"a": prices, **models},
        {"t": {"model": "a", "golden": PROMPTS}, "u": {"model": "a"}},
    )
    return Config.model_validate({**config.model_dump(), "autoswap": {"bench_every_s": every_s}})


@pytest.fixture
async def world(tmp_path):
    made = BenchWorld(tmp_path, bench_config())
    await made.start()
    yield made
    assert made.fleet.harm == []


# --- what it does -----------------------------------------------------------------------


async def test_models_are_asked_judged_and_remembered(world):
    world.fleet.scripts["b"].answer = "wrong"

    status = await world.bench("t")

    assert (status["state"], status["done"], status["of"]) == ("done", 12, 12)
    assert status["skipped"] == []
    rows = {row["model"]: row for row in status["rows"]}
    assert [rows[model]["quality"] for model in "abc"] == [1, 0, 1]
    assert rows["a"]["prompts"] == rows["a"]["judged"] == 4
    assert (rows["a"]["success_rate"], rows["a"]["tokens_out"]) == (1, 4)
    assert rows["a"]["cost_usd"] == pytest.approx(4 * (2 + 4) / 1e6)
    evidence = world.learning.recorded
    assert len(evidence) == 12
    assert {outcome.decision for outcome in evidence} == {"bench"}
    assert {o.quality for o in evidence if o.model == "b"} == {0.0}
    keys = [golden_key("t", GoldenPrompt.model_validate(doc)) for doc in PROMPTS]
    assert {o.request_id for o in evidence if o.model == "c"} == {
        f"bench-{status['bench_id']}-{key}-c" for key in keys
    }
    assert all(body["temperature"] == 0 for _, body in world.fleet.bodies)
    (event,) = world.events()
    assert (event["state"], event["best"]) == ("done", {"t": "a"})


async def test_what_was_loaded_for_it_is_unloaded_and_nothing_else(world):
    await world.controller.load("c")

    await world.bench("t")

    assert world.loaded() == {"a": "ready", "c": "ready"}
    assert world.nothing_is_left_of("b")
    assert world.fleet.bodies[0][0] == "m-a-g1"  # those that are loaded come first


async def test_a_model_that_slept_sleeps_again(world):
    await world.controller.load("b")
    await world.controller.sleep("b")

    await world.bench("t", "b")

    assert world.loaded() == {"a": "ready", "b": "asleep"}
    assert len(world.learning.recorded) == 4


async def test_loaded_only_loads_nothing(world):
    status = await world.bench("t", loaded_only=True)

    assert [row["model"] for row in status["rows"]] == ["a"]
    assert [entry for entry in world.fleet.log if entry[0] == "deploy"] == [("deploy", "m-a-g1")]


async def test_a_few_requests_at_a_time_and_never_more_than_the_model_takes(tmp_path):
    narrow = {"max_ongoing_requests": 1}
    world = BenchWorld(tmp_path, bench_config(b=narrow))
    await world.start()
    world.fleet.scripts["a"].answer_s = world.fleet.scripts["b"].answer_s = 0.005

    await world.bench("t", "a")
    assert world.fleet.most_at_work == 2
    world.fleet.most_at_work = 0
    await world.bench("t", "b")
    assert world.fleet.most_at_work == 1


async def test_prompts_of_the_caller_take_the_place_of_the_tasks_own(world):
    status = await world.bench("u", ["a"], [{"prompt": "own", "stop": ["."], "max_tokens": 3}])

    assert [row["task"] for row in status["rows"]] == ["u"]
    assert [body for _, body in world.fleet.bodies] == [
        {"prompt": "own", "stop": ["."], "max_tokens": 3, "temperature": 0}
    ]
    (result,) = await world.controller.bench_results()
    assert {"task", "key", "model", "quality", "latency_ms", "tokens_out", "cost_usd"} <= {*result}


async def test_all_tasks_at_once_and_those_without_prompts_are_named(world):
    status = await world.bench(model="a")

    assert [row["task"] for row in status["rows"]] == ["t"]
    assert status["skipped"] == [
        {"task": "u", "model": "", "reason": "the task has no golden prompts"}
    ]


async def test_by_default_only_the_candidates_and_the_active_model_are_asked(tmp_path):
    tasks = {"t": {"model": "a", "golden": PROMPTS, "autoswap": {"candidates": ["b"]}}}
    world = BenchWorld(tmp_path, make_config(tasks=tasks))
    await world.start()

    status = await world.bench("t")

    assert [row["model"] for row in status["rows"]] == ["a", "b"]


# --- what goes wrong --------------------------------------------------------------------


async def test_a_model_without_room_is_skipped_with_the_reason(tmp_path):
    world = BenchWorld(tmp_path, bench_config(), Room(cpus=1, gpus=0, memory_bytes=1000 * MIB))
    await world.start()

    status = await world.bench("t")

    assert [row["model"] for row in status["rows"]] == ["a"]
    assert [skip["model"] for skip in status["skipped"]] == ["b", "c"]
    assert "no room for model 'b'" in status["skipped"][0]["reason"]
    assert (status["state"], status["done"]) == ("done", status["of"])


async def test_a_model_that_does_not_load_is_skipped_and_leaves_nothing(world):
    world.fleet.scripts["b"].load = "raise"

    status = await world.bench("t")

    (skip,) = status["skipped"]
    assert (skip["model"], "no such weights" in skip["reason"]) == ("b", True)
    assert world.nothing_is_left_of("b")


async def test_a_model_that_misses_a_hard_limit_is_not_even_loaded(tmp_path):
    tasks = {"t": {"model": "a", "golden": PROMPTS, "requirements": {"context_tokens": 2000}}}
    world = BenchWorld(tmp_path, make_config({"b": {"context_tokens": 100}}, tasks))
    await world.start()

    status = await world.bench("t", "b")

    assert status["rows"] == []
    assert "context: needs 2000 tokens, has 100 tokens" in status["skipped"][0]["reason"]
    assert not [entry for entry in world.fleet.log if "m-b" in entry[1]]


async def test_a_model_that_dies_in_the_middle_gives_failed_outcomes_not_a_failed_benchmark(world):
    async def die(app, body):
        if app == "m-b-g1" and body["prompt"] == "question 2":
            world.fleet.apps[app].running = 0
            await asyncio.Event().wait()  # as in Serve: for ever

    world.fleet.on_generate = die

    status = await world.bench("t")

    assert (status["state"], status["done"]) == ("done", 12)
    row = next(row for row in status["rows"] if row["model"] == "b")
    assert row["success_rate"] < 1
    assert "died" in row["note"]
    died = [o for o in world.learning.recorded if o.model == "b" and not o.success]
    assert died
    assert {o.quality for o in died} == {None}
    assert world.nothing_is_left_of("b")


async def test_an_answer_that_fails_is_a_failed_outcome_and_the_others_count(world):
    async def fail(app, body):
        if body["prompt"] == "question 1":
            raise EngineUnavailable("out of memory")

    world.fleet.on_generate = fail

    (row,) = (await world.bench("t", "a"))["rows"]

    assert (row["prompts"], row["judged"], row["success_rate"], row["quality"]) == (4, 3, 0.75, 1)
    assert row["note"] == "out of memory"


async def test_a_prompt_that_is_refused_says_nothing_of_the_model(world):
    async def refuse(app, body):
        if body["prompt"] == "question 1":
            raise InvalidRequest("the prompt is longer than the context")

    world.fleet.on_generate = refuse

    (row,) = (await world.bench("t", "a"))["rows"]

    assert (row["prompts"], row["success_rate"]) == (3, 1)
    assert row["note"] == "the prompt is longer than the context"
    assert len(world.learning.recorded) == 3


async def test_an_answer_that_never_comes_is_given_up(tmp_path):
    config = bench_config()
    server = {"request_timeout_s": 0.1, "first_byte_timeout_s": 0.1, "ingress_replicas": 2}
    world = BenchWorld(tmp_path, Config.model_validate({**config.model_dump(), "server": server}))
    await world.start()
    world.fleet.gate.clear()

    (row,) = (await world.bench("t", "a"))["rows"]

    assert (row["success_rate"], row["note"]) == (0, "no answer within 0.1 s")


async def test_results_wait_for_a_learning_actor_that_is_away(world):
    world.learning.away = 2

    status = await world.bench("t", "a")

    assert (status["state"], len(world.learning.recorded)) == ("done", 4)


async def test_results_that_cannot_be_recorded_fail_the_benchmark_but_are_shown(world, monkeypatch):
    monkeypatch.setattr(bench_run, "RECORD_S", 0.01)
    world.learning.away = 1000

    status = await world.bench("t", "b")

    assert (status["state"], status["rows"][0]["quality"]) == ("failed", 1)
    assert "learning actor" in status["error"]
    assert world.nothing_is_left_of("b")
    assert world.events()[0]["state"] == "failed"


# --- others at work ---------------------------------------------------------------------


async def test_a_second_benchmark_is_refused_while_one_runs(world):
    world.fleet.gate.clear()
    begun = await world.controller.bench("t", bench_id="first")

    with pytest.raises(Conflict, match="first runs"):
        await world.controller.bench("t")
    assert await world.controller.bench("t", bench_id="first") == begun
    world.fleet.gate.set()
    assert (await world.controller.bench_status("first", 10))["state"] == "done"
    assert (await world.bench("t", "a"))["state"] == "done"


async def test_cancelling_leaves_nothing_loaded_and_twice_is_harmless(world):
    begun = await world.controller.bench("t", "b")
    world.fleet.gate.clear()
    await world.until(lambda: world.fleet.at_work)

    ended = await asyncio.gather(
        world.controller.bench_cancel(begun["bench_id"]),
        world.controller.bench_cancel(begun["bench_id"]),
    )

    assert {status["state"] for status in ended} == {"cancelled"}
    assert world.nothing_is_left_of("b")
    assert world.fleet.at_work == 0
    assert world.learning.recorded == []
    assert world.events()[0]["state"] == "cancelled"


async def test_cancelling_while_a_model_loads_leaves_nothing_of_it(world):
    world.fleet.scripts["b"].load_s = 60
    begun = await world.controller.bench("t", "b")
    await world.until(lambda: "m-b-g1" in world.fleet.apps)

    status = await world.controller.bench_cancel(begun["bench_id"])

    assert status["state"] == "cancelled"
    assert world.nothing_is_left_of("b")


async def test_a_model_that_a_task_came_to_need_stays(world):
    world.fleet.gate.clear()
    begun = await world.controller.bench("t", "b")
    await world.until(lambda: world.fleet.at_work)
    swap = await world.controller.swap("u", "b", bake_s=600)
    world.fleet.gate.set()
    status = await world.controller.bench_status(begun["bench_id"], 10)

    assert [row["model"] for row in status["rows"]] == ["b"]
    await world.in_phase(swap["swap_id"], "baking")
    assert (world.model_of("u"), world.loaded()["b"]) == ("b", "ready")


async def test_a_model_that_an_operator_loads_meanwhile_stays(world):
    world.fleet.gate.clear()
    begun = await world.controller.bench("t", "b")
    await world.until(lambda: world.fleet.at_work)
    await world.controller.load("b")
    world.fleet.gate.set()
    await world.controller.bench_status(begun["bench_id"], 10)

    assert world.loaded()["b"] == "ready"


async def test_it_makes_way_for_a_swap_that_may_need_the_room(world):
    world.fleet.gate.clear()
    begun = await world.controller.bench("t", "b")
    await world.until(lambda: world.fleet.at_work)
    world.fleet.scripts["c"].load_s = 0.2
    swap = await world.controller.swap("u", "c")

    status = await world.controller.bench_status(begun["bench_id"], 10)

    assert status["rows"] == []
    assert "makes way for swap" in status["skipped"][0]["reason"]
    assert world.nothing_is_left_of("b")
    world.fleet.gate.set()
    assert (await world.controller.wait(swap["swap_id"], 10))["phase"] == "succeeded"


async def test_a_model_that_is_taken_away_meanwhile_is_not_blamed(world):
    await world.controller.load("b")
    world.fleet.gate.clear()
    begun = await world.controller.bench("t", "b")
    await world.until(lambda: world.fleet.at_work)

    await world.controller.unload("b")

    status = await world.controller.bench_status(begun["bench_id"], 10)
    assert "taken away" in status["skipped"][0]["reason"]
    assert world.learning.recorded == []


async def test_a_loan_is_saved_while_it_lasts(world):
    world.fleet.gate.clear()
    begun = await world.controller.bench("t", "b")
    await world.until(lambda: world.fleet.at_work)
    assert world.store.load_settings()["bench_loans"] == {"b": "unload"}

    world.fleet.gate.set()
    await world.controller.bench_status(begun["bench_id"], 10)

    assert world.store.load_settings()["bench_loans"] == {}


async def test_what_a_crashed_controller_had_on_loan_is_given_back_after_the_restart(world):
    await world.controller.load("b")
    await world.controller.load("c")
    world.store.save_setting("bench_loans", {"b": "unload", "a": "unload", "gone": "unload"})

    await world.restart()
    await world.until(lambda: world.store.load_settings()["bench_loans"] == {})

    assert world.nothing_is_left_of("b")
    assert world.loaded() == {"a": "ready", "c": "ready"}


# --- what is refused --------------------------------------------------------------------


async def test_wrong_names_and_prompts_are_refused_before_anything_begins(world, tmp_path):
    bad = tmp_path / "bad.yaml"
    bad.write_text("- prompt: a\n  wait: 1\n")
    controller = world.controller
    with pytest.raises(NotFound, match="unknown task"):
        await controller.bench("tt")
    with pytest.raises(NotFound, match="unknown model"):
        await controller.bench("t", "bb")
    with pytest.raises(InvalidRequest, match="prompts are of one task"):
        await controller.bench(None, None, [{"prompt": "x"}])
    with pytest.raises(InvalidRequest, match=r"prompts\[0\]"):
        await controller.bench("t", None, [{"promt": "x"}])
    with pytest.raises(InvalidRequest, match="letters and digits"):
        await controller.bench("t", bench_id="a-b")
    with pytest.raises(NotFound, match="no benchmark"):
        await controller.bench_status("gone")
    spec = controller._tasks["t"]
    controller._tasks["t"] = spec.model_copy(update={"golden_file": str(bad)})
    with pytest.raises(ConfigError, match=r"bad\.yaml:2"):
        await controller.bench("t")


# --- by the clock -----------------------------------------------------------------------


@pytest.fixture
async def hourly(tmp_path):
    made = BenchWorld(tmp_path, bench_config(HOUR_S))
    await made.start()
    await made.until(lambda: made.store.load_settings().get("bench:t"))
    made.stop_loops()
    return made


async def test_a_restart_neither_loses_nor_repeats_a_scheduled_run(hourly):
    assert len(hourly.events()) == 1
    hourly.clock.now_s += HOUR_S - 1
    await hourly.controller._bench.look()
    await hourly.restart()
    hourly.stop_loops()
    await hourly.controller._bench.look()
    assert len(hourly.events()) == 1

    hourly.clock.now_s += 1
    await hourly.controller._bench.look()

    assert [event["of"] for event in hourly.events()] == [12, 12]
    assert hourly.loaded() == {"a": "ready"}


async def test_a_run_that_a_crash_cut_short_is_done_again(hourly):
    hourly.clock.now_s += HOUR_S
    hourly.fleet.gate.clear()
    look = asyncio.create_task(hourly.controller._bench.look())
    await hourly.until(lambda: hourly.fleet.at_work)
    look.cancel()
    await hourly.controller.bench_cancel(hourly.controller._bench._run.bench_id)
    hourly.fleet.gate.set()

    await hourly.restart()

    await hourly.until(lambda: [event["state"] for event in hourly.events()][2:] == ["done"])


async def test_the_schedule_waits_while_a_swap_is_open(hourly):
    swap_id = await hourly.swap_until("baking", "u", "b", bake_s=100 * HOUR_S)
    hourly.clock.now_s += HOUR_S
    await hourly.controller._bench.look()
    assert len(hourly.events()) == 1

    await hourly.controller.signal(swap_id, "promote")
    await hourly.controller.wait(swap_id, 10)
    await hourly.controller._bench.look()

    assert len(hourly.events()) == 2


async def test_a_clock_that_went_back_does_not_stop_the_schedule(hourly):
    hourly.clock.now_s -= 10 * HOUR_S
    await hourly.controller._bench.look()

    assert len(hourly.events()) == 2


async def test_a_golden_file_that_broke_is_told_and_does_not_stop_the_others(tmp_path, caplog):
    tasks = {
        "t": {"model": "a", "golden": PROMPTS},
        "u": {"model": "a", "golden_file": str(tmp_path / "gone.yaml")},
    }
    doc = make_config(tasks=tasks).model_dump()
    world = BenchWorld(
        tmp_path, Config.model_validate({**doc, "autoswap": {"bench_every_s": HOUR_S}})
    )
    await world.start()
    await world.until(world.events)

    assert world.events()[0]["best"] == {"t": "a"}
    assert "gone.yaml: No such file" in caplog.text


# --- the report -------------------------------------------------------------------------


def result(quality, weight=1.0, success=True, latency_ms=10.0):
    return GoldenResult("t", "k", "m", weight, success, quality, latency_ms, 5, 2, 0.001)


def test_a_row_weighs_its_prompts_and_leaves_out_what_is_not_known():
    row = summarise("t", "m", [result(1.0, 3), result(0.0), result(None, success=False)])

    assert (row["quality"], row["judged"], row["prompts"]) == (0.75, 2, 3)
    assert row["quality_low"] < 0.75 < row["quality_high"]
    assert row["success_rate"] == pytest.approx(2 / 3)
    assert row["tokens_in"] == 15


def test_nothing_judged_has_no_quality():
    row = summarise("t", "m", [result(None, success=False)])

    assert (row["quality"], row["quality_low"], row["latency_p50_ms"]) == (None, None, None)
    assert len(cells([row])[0]) == len(COLUMNS)
    assert 'id="dot:' not in svg(plot([row]))


def test_the_plot_has_a_panel_a_task_and_a_dot_a_model():
    rows = [
        summarise(task, model, [result(quality)])
        for task, model, quality in (("t", "a", 1.0), ("t", "<b>", 0.5), ("u", "a", 0.2))
    ]

    drawn = svg(plot(rows))

    assert ElementTree.fromstring(drawn).get("viewBox") == "0 0 720 800"
    assert drawn.count('id="dot:') == 3
    assert "t: quality" in drawn
    assert "u: quality" in drawn
    assert "&lt;b&gt;" in drawn


def test_the_best_model_of_each_task_stands_first():
    rows = [
        summarise("t", model, [result(quality)])
        for model, quality in (("a", 0.2), ("b", 0.9), ("c", None))
    ]

    assert [row[1] for row in cells(rows)] == ["b", "a", "c"]
