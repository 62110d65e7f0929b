"""The user's own log as recorded results: what ``hotswap replay`` reads.

Only judged answers can be replayed. Two answers stand under one prompt where it is known that
both are of it: those of one benchmark run, and a shadow with the request that it copied (the
store keeps no request ids, so it is known by the time of arrival that they share).

Live traffic gives each prompt to one model, so for the rest the n-th judged answer of each model
at a task stands for prompt n. That is sound for a replay: it draws prompts independently and
with replacement, so it needs right distributions per task and model, and no pairs. What it loses
is the saving by pairs, so the tests of a replay take longer than those of the cluster.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hotswap_ray.core.errors import InvalidRequest
from hotswap_ray.core.outcome import RoutingDecision
from hotswap_ray.core.spec.price import Price
from hotswap_ray.replay.data import OPTIONAL, REQUIRED
from hotswap_ray.store.outcomes import digest

SUFFIXES = (".csv", ".csv.gz", ".parquet")


@dataclass(frozen=True, slots=True)
class Recording:
    """Judged answers as a table, and what became of the log.

    Attributes:
        frame: Columns ``task_type, prompt_id, model, quality, latency_ms, cost_usd, tokens_in,
            tokens_out``; every prompt has one row a model.
        paired: Prompts that each model really answered, per task.
        unpaired: Prompts put together from answers to different ones, per task.
        left_out: Judged answers that are in no prompt, per model.
        unjudged: Answers without a quality.
    """

    frame: pd.DataFrame
    paired: Mapping[str, int]
    unpaired: Mapping[str, int]
    left_out: Mapping[str, int]
    unjudged: int

    def summary(self) -> dict[str, Any]:
        """Counts, for JSON."""
        return {
            "rows": len(self.frame),
            "models": sorted(self.frame["model"].unique()),
            "paired": dict(self.paired),
            "unpaired": dict(self.unpaired),
            "left_out": dict(self.left_out),
            "unjudged": self.unjudged,
        }


def is_recording(path: str | Path) -> bool:
    """Whether a file of this name is a table for ``replay``, by its ending.

    Example:
        >>> is_recording("log.csv"), is_recording("learnings.jsonl")
        (True, False)
    """
    return str(path).endswith(SUFFIXES)


def bench_prompts(rows: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Which stored answers of benchmark runs are to one prompt.

    Args:
        rows: One per answer, with ``bench_id, key, model`` (the key names the prompt).

    Returns:
        Name of the prompt by ``request_id`` as ``Store.outcomes_frame`` has it.
    """
    return {
        digest(f"bench-{row['bench_id']}-{row['key']}-{row['model']}").hex(): (
            f"bench-{row['bench_id']}-{row['key']}"
        )
        for row in rows
    }


def record(
    outcomes: pd.DataFrame,
    prompts: Mapping[str, str] | None = None,
    prices: Mapping[str, Price] | None = None,
) -> Recording:
    """Make recorded results of a log.

    Models with too few judged answers are left out, where keeping them would cost more rows of
    the others than they bring: a replay needs every model at every prompt.

    Args:
        outcomes: As ``Store.outcomes_frame`` gives it, in order of arrival.
        prompts: Name of the prompt by ``request_id``, see ``bench_prompts``.
        prices: Of tokens, by model; the cost of a model without one is missing.

    Raises:
        InvalidRequest: Fewer than two models have judged answers at one task.
    """
    judged = outcomes[outcomes["quality"].notna() & (outcomes["model"] != "")]
    counts = judged.groupby(["task", "model"]).size().unstack(fill_value=0)
    if len(counts.columns) < 2:
        names = ", ".join(counts.columns) or "no model"
        raise InvalidRequest(
            f"{names} has judged answers; a replay compares at least two models. Quality comes "
            "from feedback, from tasks.<task>.checks and from `hotswap bench`"
        )
    models = _models(counts)
    usable = judged[judged["model"].isin(models)]
    usable = usable.assign(
        prompt_id=_prompts(usable, prompts or {}), cost_usd=_cost(usable, prices or {})
    )
    parts, paired, unpaired = [], {}, {}
    for task, of_task in usable.groupby("task"):
        if of_task["model"].nunique() < len(models):
            continue
        matched = of_task.groupby("prompt_id")["model"].transform("size") == len(models)
        unmatched = of_task[~matched]
        fewest = min((unmatched["model"] == model).sum() for model in models)
        unmatched = unmatched.groupby("model").tail(fewest)
        position = unmatched.groupby("model").cumcount()
        parts += [
            of_task[matched],
            unmatched.assign(prompt_id=[f"answer-{n:06d}" for n in position]),
        ]
        paired[str(task)], unpaired[str(task)] = int(matched.sum()) // len(models), int(fewest)
    if not parts:
        raise InvalidRequest("no task has judged answers of two models; a replay compares models")
    frame = pd.concat(parts).rename(columns={"task": "task_type"})
    missing = judged["model"].value_counts() - frame["model"].value_counts().reindex(
        judged["model"].unique(), fill_value=0
    )
    return Recording(
        frame[[*REQUIRED, *OPTIONAL]]
        .sort_values(["task_type", "prompt_id", "model"])
        .reset_index(drop=True),
        paired,
        unpaired,
        {str(model): int(count) for model, count in sorted(missing.items()) if count},
        len(outcomes) - len(judged),
    )


def write(frame: pd.DataFrame, path: str | Path) -> None:
    """Write a table as CSV or Parquet, by its name's ending; whole or not at all.

    Raises:
        InvalidRequest: The ending is neither, or pyarrow is missing.
    """
    path = Path(path)
    part = path.with_name(path.name + ".part")
    try:
        if path.suffix == ".parquet":
            frame.to_parquet(part, index=False)
        elif is_recording(path):
            frame.to_csv(part, index=False, compression="gzip" if path.suffix == ".gz" else None)
        else:
            raise InvalidRequest(f"{path}: the name must end in {', '.join(SUFFIXES)}")
    except ImportError:
        raise InvalidRequest(f"{path}: writing Parquet needs pyarrow; install it") from None
    part.replace(path)


def _models(counts: pd.DataFrame) -> list[str]:
    """The models that give most rows; one is dropped while that gains rows."""
    models = list(counts.columns)

    def rows(names: list[str]) -> int:
        return int(counts[names].min(axis=1).sum()) * len(names)

    while len(models) > 2:
        best = max(([m for m in models if m != dropped] for dropped in models), key=rows)
        if rows(best) <= rows(models):
            break
        models = best
    return models


def _prompts(judged: pd.DataFrame, prompts: Mapping[str, str]) -> pd.Series[Any]:
    """The prompt of each answer, missing where it is not known."""
    prompt_ids = judged["request_id"].map(prompts).astype("object")
    arrived = judged["at_s"].where(judged["decision"] == RoutingDecision.SHADOW)
    # Of one task, at the same float of a second: that is the same request.
    shadowed = (
        judged.assign(arrived=arrived).groupby(["task", "at_s"])["arrived"].transform("count") > 0
    )
    times = judged["at_s"].map(lambda at_s: f"request-{at_s!r}")
    prompt_ids = prompt_ids.fillna(times.where(shadowed))
    # A prompt has one answer of each model, so a model's second answer to it belongs to none.
    is_repeated = judged.assign(prompt=prompt_ids).duplicated(["task", "model", "prompt"])
    return prompt_ids.mask(is_repeated)


def _cost(judged: pd.DataFrame, prices: Mapping[str, Price]) -> pd.Series[Any]:
    costs = pd.Series(np.nan, index=judged.index)
    for model, price in prices.items():
        if price.is_stated:
            of_model = judged["model"] == model
            tokens_in, tokens_out = (
                judged.loc[of_model, name].to_numpy(dtype=float, na_value=np.nan)
                for name in ("tokens_in", "tokens_out")
            )
            costs[of_model] = price.cost_usd(tokens_in, tokens_out)
    return costs
