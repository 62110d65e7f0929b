"""One's own log as input of a replay: what is paired, what is put together, what is left out."""

import random

import pandas as pd
import pytest

from hotswap_ray.core.errors import InvalidRequest
from hotswap_ray.core.outcome import Outcome
from hotswap_ray.core.spec.price import Price
from hotswap_ray.replay.data import read
from hotswap_ray.replay.export import bench_prompts, is_recording, record, write
from hotswap_ray.replay.replay import replay
from hotswap_ray.store import Store

WORTH = {"a": 0.9, "b": 0.4}


@pytest.fixture
def store():
    opened = Store("sqlite://")
    yield opened
    opened.close()


def outcome(number, model, quality, task="t", decision="active", request_id=None, at_s=None):
    return Outcome(
        request_id or f"r{number}", task, model, 1, decision, at_s or 1_000.0 + number, True,
        10.0 + number, None, 100, 20, 0, quality,
    )  # fmt: skip


def live(count=200, models="ab", task="t", start=0, seed=1):
    """Live traffic: each request went to one model."""
    rng = random.Random(seed)
    return [
        outcome(start + n, model, float(rng.random() < WORTH.get(model, 0.5)), task)
        for n in range(count)
        for model in [rng.choice(models)]
    ]


def frame_of(store, outcomes):
    store.add_outcomes(outcomes)
    return store.outcomes_frame(limit=100_000)


def test_a_log_of_live_traffic_can_be_replayed(store, tmp_path):
    made = record(frame_of(store, [*live(), *live(100, task="u", start=1000)]))
    write(made.frame, tmp_path / "log.csv")
    report = replay(tmp_path / "log.csv", per_task=200, seeds=2)
    assert report.to_json()["skipped"] == 0
    assert report.to_json()["achieved"]["mean"] > report.to_json()["random"]["mean"]
    assert made.paired == {"t": 0, "u": 0}
    assert made.unpaired["t"] > 80
    assert len(made.frame) == 2 * sum(made.unpaired.values())


@pytest.mark.parametrize("name", ["log.csv", "log.csv.gz", "log.parquet"])
def test_what_is_written_is_what_is_read(store, tmp_path, name):
    made = record(frame_of(store, live()), prices={"a": Price(1.0, 5.0), "b": Price()})
    write(made.frame, tmp_path / name)
    assert [path.name for path in tmp_path.glob("log*")] == [name]
    table = read(tmp_path / name).values["t"]
    wide = made.frame.pivot_table(
        index="prompt_id", columns="model", values=["quality", "latency_ms"]
    )
    assert (table["quality"] == wide["quality"].to_numpy()).all()
    assert (table["latency_ms"] == wide["latency_ms"].to_numpy()).all()
    assert table["cost_usd"][0, 0] == pytest.approx(200e-6)
    assert pd.isna(table["cost_usd"][0, 1])


def test_a_shadow_shares_the_prompt_of_the_request_it_copied(store):
    pairs = [
        row
        for n in range(20)
        for row in (
            outcome(n, "a", 1.0),
            outcome(n, "b", 0.0, decision="shadow", request_id=f"shadow-r{n}"),
        )
    ]
    made = record(frame_of(store, [*pairs, *live(50, start=500)]))
    assert made.paired == {"t": 20}
    paired = made.frame[made.frame["prompt_id"].str.startswith("request-")]
    assert (paired.pivot_table(index="prompt_id", columns="model", values="latency_ms")
            .nunique(axis=1) == 1).all()  # fmt: skip


def test_answers_of_one_benchmark_run_share_their_prompts_and_runs_do_not_mix(store):
    rows = [
        {"bench_id": run, "key": f"k{n}", "model": model}
        for run in ("r1", "r2")
        for n in range(5)
        for model in "ab"
    ]
    answers = [
        outcome(n, row["model"], n / 100, decision="bench",
                request_id="bench-{bench_id}-{key}-{model}".format(**row))
        for n, row in enumerate(rows)
    ]  # fmt: skip
    made = record(frame_of(store, answers), bench_prompts(rows))
    assert (made.paired, made.unpaired) == ({"t": 10}, {"t": 0})
    assert set(made.frame["prompt_id"]) == {
        f"bench-{r}-k{n}" for r in ("r1", "r2") for n in range(5)
    }
    gap = made.frame.pivot_table(index="prompt_id", columns="model", values="quality")
    assert (gap["b"] - gap["a"]).round(6).eq(0.01).all()
    assert record(frame_of(store, [])).unpaired == {"t": 10}


def test_the_newest_answers_are_put_together_up_to_the_least_common_count(store):
    made = record(frame_of(store, [outcome(n, "a" if n < 10 else "b", n / 100) for n in range(14)]))
    a = made.frame[made.frame["model"] == "a"]
    assert a["quality"].tolist() == [0.06, 0.07, 0.08, 0.09]
    assert (made.unpaired, made.left_out) == ({"t": 4}, {"a": 6})


def test_missing_quality_is_left_out_and_counted(store):
    made = record(frame_of(store, [*live(100), *(outcome(900 + n, "a", None) for n in range(7))]))
    assert made.unjudged == 7
    assert made.frame["quality"].notna().all()


def test_a_model_with_few_answers_does_not_void_the_others(store):
    few = [outcome(900 + n, "c", 0.5) for n in range(3)]
    made = record(frame_of(store, [*live(), *few, *live(60, task="u", start=2000)]))
    assert made.summary()["models"] == ["a", "b"]
    assert made.left_out["c"] == 3


def test_a_task_that_one_model_alone_served_is_left_out(store):
    made = record(frame_of(store, [*live(), *live(30, "a", task="u", start=2000)]))
    assert set(made.frame["task_type"]) == {"t"}
    assert made.left_out["a"] >= 30


@pytest.mark.parametrize(
    ("outcomes", "told"),
    [
        ([], "no model has judged answers"),
        (live(20, "a"), "a has judged answers; a replay compares at least two models"),
        ([*live(20, "a"), *live(20, "b", task="u", start=50)], "no task has judged answers of two"),
    ],
    ids=["empty", "one model", "no shared task"],
)
def test_a_log_that_compares_nothing_is_refused(store, outcomes, told):
    with pytest.raises(InvalidRequest, match=told):
        record(frame_of(store, outcomes))


def test_reports_that_name_no_model_are_no_model(store):
    with pytest.raises(InvalidRequest, match="a has judged answers"):
        record(frame_of(store, [*live(20, "a"), *live(20, [""], start=50)]))


def test_the_ending_says_what_is_written(tmp_path):
    names = ("x.csv", "x.csv.gz", "x.parquet", "x.jsonl", "csv")
    assert [name for name in names if is_recording(name)] == ["x.csv", "x.csv.gz", "x.parquet"]
    with pytest.raises(InvalidRequest, match="must end in"):
        write(pd.DataFrame(), tmp_path / "x.txt")
