"""`hotswap predict` and `learnings export` for replay, on a real controller and learning actor."""

import asyncio
import json
from contextlib import contextmanager

import pytest
from typer.testing import CliRunner

from hotswap_ray.actors.learning.actor import LearningActor
from hotswap_ray.cli import app, output
from hotswap_ray.client.analytics import Analytics
from hotswap_ray.core.errors import InvalidRequest, NotFound
from hotswap_ray.core.outcome import Outcome
from hotswap_ray.replay.data import read
from tests.worlds.controller import ControllerWorld, make_config
from tests.worlds.link import LocalLink


class Link(LocalLink):
    """The benchmarks are what a test says that they are."""

    bench_results = ()

    def controller(self, method, *args, **options):
        if method == "bench_results":
            if not self.bench_results:
                raise NotFound("no benchmark is known")
            return self.bench_results
        return super().controller(method, *args, **options)


@pytest.fixture
async def world(tmp_path, monkeypatch, quick):
    made = ControllerWorld(tmp_path, make_config(models={"b": {"usd_per_million_tokens_out": 5}}))
    made.learning = LearningActor(made.store, list(made.config.tasks.values()), made.clock)
    await made.start()
    made.link = Link(made)

    @contextmanager
    def connected(address, namespace):
        yield Analytics(made.link)

    monkeypatch.setattr(output, "arbiter", connected)
    return made


async def answers(world, model, count, quality, task="t", decision="active", first=0):
    """So many answers of a model, one a second from now on."""
    batch = [
        Outcome(f"{task}-{model}-{decision}-{first + n}", task, model, 1, decision,
                world.clock() + n, True, 20.0 + n % 3, None, 10, 20, 0, quality)
        for n in range(count)
    ]  # fmt: skip
    await world.learning.record(batch, f"{task}-{model}-{decision}-{first}")


async def invoke(*arguments):
    return await asyncio.to_thread(CliRunner().invoke, app, list(arguments))


async def test_a_prediction_stands_beside_what_became_of_earlier_ones(world):
    await answers(world, "b", 60, 0.8)
    world.clock.now_s += 100
    swap_id = await world.swap_until("baking", "t", "b", bake_s=60)
    await answers(world, "b", 50, 0.8, first=100)
    await answers(world, "b", 50, 0.0, decision="shadow", first=200)  # no client saw these
    await world.controller.signal(swap_id, "promote")
    facts = (await world.controller.wait(swap_id, 10))["facts"]
    assert facts["actual"]["quality"] == pytest.approx(0.8)
    assert facts["actual"]["count"] == 50

    told = (await invoke("predict", "t", "b")).stdout
    said = json.loads((await invoke("predict", "t", "b", "--json")).stdout)

    assert said["calibration"]["latency_ms"]["inside"] == 1
    assert said["cost_usd"]["mid"] == pytest.approx(100e-6, rel=0.01)
    assert "may serve it" in told
    assert f"${said['cost_usd']['mid']:.3g}" in told


async def test_what_is_unknown_is_said_to_be_unknown(world):
    told = (await invoke("predict", "t", "c")).stdout
    assert told.count("unknown") == 5
    assert isinstance((await invoke("predict", "t", "x")).exception, NotFound)


async def test_the_judged_answers_are_exported_as_what_replay_reads(world, tmp_path):
    await answers(world, "a", 30, 0.5)
    await answers(world, "b", 20, 1.0)
    await answers(world, "c", 2, 1.0)
    await answers(world, "a", 5, None, first=100)
    file = tmp_path / "log.csv"
    told = (await invoke("learnings", "export", str(file))).stdout
    assert "left out: judged answers 10 of a, 2 of c; not judged 5" in told
    assert f"40 rows of a, b in {file}" in told
    assert len(read(file).values["t"]["quality"]) == 20
    assert (await invoke("replay", str(file), "--per-task", "20", "--seeds", "1")).exit_code == 0
    made = json.loads((await invoke("learnings", "export", str(file), "--json")).stdout)
    assert (made["unpaired"], made["rows"]) == ({"t": 20}, 40)


async def test_benchmarks_of_every_run_are_paired_by_the_prompts_of_the_last(world, tmp_path):
    world.link.bench_results = [{"key": f"k{n}"} for n in range(4)]
    for run in ("one", "two"):
        world.store.add_event("benchmark", {"bench_id": run}, world.clock())
        for model, quality in (("a", 0.5), ("b", 1.0)):
            batch = [
                Outcome(f"bench-{run}-k{n}-{model}", "t", model, 1, "bench", world.clock(), True,
                        20.0, None, 10, 20, 0, quality)
                for n in range(4)
            ]  # fmt: skip
            await world.learning.record(batch, f"bench-{run}-t-{model}")
    made = await asyncio.to_thread(Analytics(world.link).export_replay, tmp_path / "log.parquet")
    assert (made["paired"], made["unpaired"]) == ({"t": 8}, {"t": 0})


async def test_one_model_alone_and_a_wrong_name_are_refused(world, tmp_path):
    await answers(world, "a", 30, 0.5)
    done = await invoke("learnings", "export", str(tmp_path / "log.csv"))
    assert isinstance(done.exception, InvalidRequest)
    assert "a replay compares at least two models" in str(done.exception)
    assert not list(tmp_path.glob("log*"))
    assert (await invoke("learnings", "export", "log.csv", "--no-outcomes")).exit_code == 2
    with pytest.raises(InvalidRequest, match="end it in"):
        Analytics(None).export_replay("log.txt")


async def test_any_other_name_gets_json_lines(world, tmp_path):
    await answers(world, "a", 3, 0.5)
    file = tmp_path / "learnings.jsonl"
    assert (await invoke("learnings", "export", str(file))).exit_code == 0
    assert all(json.loads(line) for line in file.read_text().splitlines())
