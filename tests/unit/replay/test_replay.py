"""Replay: the contract, bad files, and the numbers on recorded results where they are at hand."""

from __future__ import annotations

import gzip
import json
import os
import random
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hotswap_ray.core.errors import ConfigError
from hotswap_ray.core.spec.task import Preferences
from hotswap_ray.replay.data import Recorded, read
from hotswap_ray.replay.replay import Options, replay

HEADER = "task_type,prompt_id,model,quality,latency_ms,cost_usd\n"
KEYS = {
    "random", "best_single", "oracle", "achieved", "share", "share_best_single", "final_share",
    "changes", "promotions", "rollbacks", "undecided",
}  # fmt: skip


def coins(worth: dict[str, dict[str, float]], prompts: int = 300, seed: int = 1) -> Recorded:
    """Recorded results of models that are right with the given probabilities."""
    rng = np.random.default_rng(seed)
    models = tuple(sorted(next(iter(worth.values()))))
    gap = np.full((prompts, len(models)), np.nan)
    return Recorded(
        models,
        {
            task: {
                "quality": (rng.random(gap.shape) < [row[m] for m in models]) * 1.0,
                **dict.fromkeys(("latency_ms", "cost_usd", "tokens_in", "tokens_out"), gap),
            }
            for task, row in worth.items()
        },
        0,
    )


TWO_TASKS = coins({"sums": {"a": 0.9, "b": 0.4}, "rhymes": {"a": 0.3, "b": 0.8}})


def written(path: Path, lines: list[str]) -> Path:
    path.write_text(HEADER + "".join(f"{line}\n" for line in lines))
    return path


def good_lines() -> list[str]:
    rng = random.Random(3)
    return [
        f"t,p{n},{model},{int(rng.random() < worth)},{latency},"
        for n in range(60)
        for model, worth, latency in (("a", 0.9, 100), ("b", 0.4, 50))
    ]


@pytest.mark.parametrize("mode", ["select", "autoswap"])
def test_a_replay_has_every_number_with_mean_and_spread_and_is_reproducible(mode):
    first = replay(TWO_TASKS, 200, 2, mode=mode).to_json()
    assert first.keys() >= KEYS
    for key in KEYS:
        assert first[key].keys() == {"mean", "std"}
    assert [row["task"] for row in first["tasks"]] == ["sums", "rhymes"]
    assert json.loads(json.dumps(first)) == first
    assert replay(TWO_TASKS, 200, 2, mode=mode).to_json() == first


def test_selection_finds_a_different_model_for_each_task():
    report = replay(TWO_TASKS, 400, 12)
    assert report.spreads["share"].mean > 0.75
    assert report.spreads["final_share"].mean > 0.9
    assert [row["final"] for row in report.tasks] == ["a", "b"]


def test_autoswap_promotes_what_is_better_and_settles():
    report = replay(TWO_TASKS, 600, 3, mode="autoswap")
    assert report.spreads["final_share"].mean == pytest.approx(1.0)
    assert report.spreads["promotions"].mean <= 2
    assert report.spreads["rollbacks"].mean == 0


def test_autoswap_does_not_promote_among_equal_models():
    # 20 tasks x 3 runs of 300 requests, two equal models: at most 5% each, and 9 or more
    # of 60 at 5% have probability 0.003.
    equal = coins({f"t{n}": {"a": 0.8, "b": 0.8} for n in range(20)}, prompts=4000)
    report = replay(equal, 300, 3, mode="autoswap")
    assert report.spreads["promotions"].mean * 3 < 9


@pytest.mark.parametrize("policy", ["fixed", "round_robin", "epsilon_greedy", "ucb", "threshold"])
def test_every_policy_can_be_replayed(policy):
    report = replay(TWO_TASKS, 60, 1, policy)
    assert 0 <= report.spreads["achieved"].mean <= 1


def test_preferences_count_in_a_replay(tmp_path):
    file = written(tmp_path / "r.csv", good_lines())
    fast = Options(preferences=Preferences(quality=0, latency=1))
    assert replay(file, 200, 1, options=fast).tasks[0]["final"] == "b"
    assert replay(file, 200, 1).tasks[0]["final"] == "a"


def test_csv_gzip_and_parquet_read_the_same(tmp_path):
    plain = written(tmp_path / "r.csv", good_lines())
    packed = tmp_path / "r.csv.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    frame = tmp_path / "r.parquet"
    pd.read_csv(plain).to_parquet(frame)
    results = [replay(path, 50, 1).to_json() for path in (plain, packed, frame)]
    assert results[0] == results[1] == results[2]


def test_prompts_without_a_result_of_each_model_are_skipped_and_counted(tmp_path):
    lines = [*good_lines(), "t,alone,a,1,,", "u,p0,b,1,,"]
    data = read(written(tmp_path / "r.csv", lines))
    assert data.skipped == 2
    assert data.tasks == ("t",)


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (["t,p,a,1,,", "t,p,b,1.5,,"], "line 3: quality is 1.5; it must be in"),
        (["t,p,a,nan,,"], "line 2: quality is nan; it must be in"),
        (["t,p,a,inf,,"], "line 2: quality is inf"),
        (["t,p,a,good,,"], "line 2: quality is 'good', no number"),
        (["t,p,a,,,"], "line 2: quality is '', no number"),
        (["t,p,a,1,-5,"], "line 2: latency_ms is -5"),
        (["t,p,a,1,inf,"], "line 2: latency_ms is inf"),
        (["t,p,a,1,,", "t,p,a,0,,"], "line 3: a second result of a"),
        ([",p,a,1,,"], "line 2: task_type is empty"),
        (["t,p,a"], "line 2: has not the header's 6 columns"),
        (["t,p,a,1,,,7"], "line 2: has not the header's 6 columns"),
        ([], "holds no results"),
        (["t,p,a,1,,", "t,q,b,1,,"], "no prompt has a result of all 2 models"),
    ],
)
def test_a_bad_line_is_named(tmp_path, lines, says):
    with pytest.raises(ConfigError, match=says):
        read(written(tmp_path / "r.csv", lines))


def test_a_bad_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        read(tmp_path / "none.csv")
    with pytest.raises(ConfigError, match="cannot be read"):
        read(tmp_path)
    bad = tmp_path / "bad.csv"
    bad.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="UTF-8"):
        read(bad)
    bad.write_text("task_type,model\n")
    with pytest.raises(ConfigError, match="line 1: column prompt_id is missing"):
        read(bad)
    for name in ("bad.csv.gz", "bad.parquet"):
        (tmp_path / name).write_bytes(b"nothing of the kind")
        with pytest.raises(ConfigError, match=name):
            read(tmp_path / name)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ({"per_task": 0}, "per_task is 0"),
        ({"seeds": 0}, "seeds is 0"),
        ({"policy": "thomson"}, "did you mean thompson"),
        ({"mode": "both"}, "mode is 'both'"),
    ],
)
def test_a_bad_argument_is_refused(args, says):
    with pytest.raises(ConfigError, match=says):
        replay(TWO_TASKS, **args)


def test_equal_models_give_no_share_rather_than_a_wrong_one():
    same = coins({"t": {"a": 1.0, "b": 1.0}})
    report = replay(same, 20, 1)
    assert report.to_json()["share"] == {"mean": None, "std": None}
    assert any(line.startswith("share ") and line.endswith("-") for line in report.lines())


def recorded(name: str) -> Path:
    """A data set that stands beside the project, never in it."""
    beside = Path(__file__).parents[4] / "shared" / "data"
    path = Path(os.environ.get("HOTSWAP_TEST_DATA", beside)) / name
    if not path.is_file():
        pytest.skip(f"{name} is not here; HOTSWAP_TEST_DATA names its folder")
    return path


def test_nine_models_at_fourteen_tasks_are_told_apart():
    report = replay(recorded("llmrouter.csv.gz"), 200, 3)
    assert report.spreads["share"].mean >= 0.65  # 0.75 over 16 seeds, sd 0.05 a seed
    assert report.spreads["changes"].mean <= 65


def test_splitting_into_58_fine_tasks_loses_little_against_the_best_single_model():
    report = replay(recorded("routellm.csv.gz"), 200, 1)
    assert report.spreads["achieved"].mean >= report.best_single - 0.02
