"""How fast each policy learns on recorded results, and what a choice costs; JSON last.

python benchmarks/learning_speed.py [--data DIR] [--seeds K] [--plot FILE.svg]

The data stands beside the project (``HOTSWAP_TEST_DATA``, else ``../shared/data``). Without
it only the time of a choice is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hotswap_ray.core.policies.selection import Arm, Snapshot, make_policy, policy_names
from hotswap_ray.replay.data import Recorded, read
from hotswap_ray.replay.replay import replay
from hotswap_ray.replay.report import ReplayReport
from hotswap_ray.reports import charts

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZES = (50, 100, 200, 500, 1000)
COMPARED = ("thompson", "ucb", "epsilon_greedy", "threshold")
BESIDE = Path(__file__).parents[2] / "shared" / "data"


def choice_us(policy: str, models: int = 10, number: int = 50_000) -> dict[str, float]:
    """Time of one choice among models of known and unknown worth, in microseconds."""
    rng = random.Random(1)
    arms = tuple(
        Arm(f"m{n}", 10.0 * n + 1, rng.random(), rng.random(), rng.random(), 0.1)
        for n in range(models)
    )
    snapshot = Snapshot("t", arms)
    chooser = make_policy(policy)
    took = []
    for _ in range(number):
        start = time.perf_counter_ns()
        chooser.select(snapshot, rng)
        took.append(time.perf_counter_ns() - start)
    took.sort()
    return {"p50": took[number // 2] / 1e3, "p99": took[number * 99 // 100] / 1e3}


def numbers(report: ReplayReport) -> dict[str, Any]:
    """What is quoted of a replay, rounded."""
    found = report.to_json()
    names = ("share", "final_share", "changes", "promotions", "rollbacks", "undecided")
    mean = {name: found[name]["mean"] for name in ("achieved", "best_single", *names)}
    return {
        **{name: None if value is None else round(value, 4) for name, value in mean.items()},
        "share_std": found["share"]["std"] and round(found["share"]["std"], 4),
    }


def chart(curves: Mapping[str, Sequence[float]], single: float) -> Figure:
    """A line a policy over the requests a task had, against the best single model."""
    with charts.style():
        drawn = charts.figure(charts.PANEL)
        axes = drawn.subplots()
        axes.axhline(single, color="#555555", linewidth=1, linestyle="--")
        axes.annotate("best single model, in hindsight", (SIZES[0], single), (0, 4),
                      textcoords="offset points", color="#555555")  # fmt: skip
        for policy, shares in curves.items():
            axes.plot(SIZES, shares, label=policy)
        axes.set(ylim=(0, 1), xscale="log", xlabel="requests per task")
        axes.set_xticks(SIZES, [str(size) for size in SIZES])
        axes.minorticks_off()
        axes.set_title("From chance (0) to the best model of each task (1)")
        axes.grid(axis="y")
        charts.legend(axes)
    return drawn


def learning(data: Recorded, seeds: int, plot: Path | None) -> dict[str, Any]:
    """Share of the way from chance to the oracle, by policy and requests a task."""
    reports = {policy: [replay(data, size, seeds, policy) for size in SIZES] for policy in COMPARED}
    if plot is not None:
        curves = {
            policy: [found.spreads["share"].mean or 0.0 for found in of_policy]
            for policy, of_policy in reports.items()
        }
        single = reports[COMPARED[0]][0].share_best_single or 0.0
        charts.save(chart(curves, single), plot)
    return {
        policy: {
            str(size): numbers(found)
            for size, found in zip(SIZES, of_policy, strict=True)
            if size in (200, 1000)
        }
        for policy, of_policy in reports.items()
    }


def main() -> None:
    """Run all and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default=os.environ.get("HOTSWAP_TEST_DATA", str(BESIDE)))
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    result: dict[str, Any] = {"choice_us": {name: choice_us(name) for name in policy_names()}}
    print(result["choice_us"])
    folder = Path(args.data)
    if (folder / "llmrouter.csv.gz").is_file():
        data = read(folder / "llmrouter.csv.gz")
        result["llmrouter"] = learning(data, args.seeds, args.plot)
        auto = replay(data, 1000, args.seeds, mode="autoswap")
        result["llmrouter_autoswap"] = {"1000": numbers(auto)}
        for name in ("llmrouter", "llmrouter_autoswap"):
            for policy, found in result[name].items():
                print(name, policy, found)
    if (folder / "routellm.csv.gz").is_file():
        fine = replay(folder / "routellm.csv.gz", 1000, max(args.seeds // 3, 1))
        result["routellm"] = {"1000": numbers(fine)}
        print("routellm", result["routellm"])
    print(json.dumps(result))


if __name__ == "__main__":
    main()
