"""What a swap brought, held against what was predicted, and how far predictions can be trusted.

An interval of 90% should hold the actual value nine times in ten. The share that it does is its
calibration, and how narrow it is at that its sharpness (Gneiting, Balabdaoui and Raftery,
Probabilistic forecasts, calibration and sharpness, 2007).
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from hotswap_ray.core.evidence.prediction import (
    ANSWERS,
    LEAST,
    NOMINAL,
    QUANTITIES,
    Interval,
    Prediction,
    Z,
    short,
)


def observe(answers: Iterable[Mapping[str, Any]]) -> dict[str, Any] | None:
    """What a model really did, in the terms of a prediction.

    Args:
        answers: Outcomes of one model at one task, with ``success, quality, latency_ms,
            tokens_in, tokens_out, memory_bytes``.

    Returns:
        ``reward``, ``quality`` with ``judged`` (answers behind it), ``latency_ms``,
        ``tokens_in``, ``tokens_out``, ``memory_bytes`` and ``count``; without what nobody
        measured. ``None`` below 10 answers.
    """
    rows = list(answers)
    if len(rows) < LEAST:
        return None
    good = [row for row in rows if row["success"]]
    scores = [row["quality"] for row in rows if _is_number(row["quality"])]
    memory = [row["memory_bytes"] for row in rows if row["memory_bytes"]]
    rate = len(good) / len(rows)
    found: dict[str, Any] = {"count": len(rows), "reward": "quality" if scores else "success"}
    if len(scores) >= LEAST or not scores:
        found["quality"] = rate * statistics.fmean(scores) if scores else rate
        found["judged"] = len(scores) or len(rows)
    if len(good) >= LEAST:
        found["latency_ms"] = statistics.median(row["latency_ms"] for row in good)
        for name in ("tokens_in", "tokens_out"):
            found[name] = statistics.fmean(row[name] for row in good)
    if memory:
        found["memory_bytes"] = statistics.median(memory)
    return {key: short(v) if isinstance(v, float) else v for key, v in found.items()}


def compare(prediction: Prediction, actual: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Hold a prediction against what happened.

    Args:
        prediction: Made before.
        actual: ``observe``'s values, and ``cost_usd`` and ``load_s`` where known.

    Returns:
        Per quantity that is known on both sides ``predicted, low, high, actual, inside`` and
        ``relative_error`` (``None`` when 0 was predicted).

    Example:
        >>> said = Prediction("t", "a", latency_ms=Interval(80, 100, 130))
        >>> compare(said, {"latency_ms": 140.0})["latency_ms"]["relative_error"]
        0.4
    """
    found = {}
    for name in QUANTITIES:
        said, seen = getattr(prediction, name), actual.get(name)
        if said is None or seen is None:
            continue
        if name == "quality":
            if actual.get("reward", prediction.reward) != prediction.reward:
                continue  # predicted of success, measured of scores
            said = _for_answers(said, prediction.answer_sd, actual.get("judged", ANSWERS))
        found[name] = {
            "predicted": said.mid,
            "low": short(said.low),
            "high": short(said.high),
            "actual": seen,
            "inside": bool(said.low <= seen <= said.high),
            "relative_error": short((seen - said.mid) / said.mid) if said.mid else None,
        }
    return found


def _for_answers(said: Interval, answer_sd: float, judged: int) -> Interval:
    """The interval of a mean over another number of answers; a cut end stays cut."""
    more = (Z * answer_sd) ** 2 * (1 / judged - 1 / ANSWERS)
    down, up = (math.sqrt(max(half**2 + more, 0.0))
                for half in (said.mid - said.low, said.high - said.mid))  # fmt: skip
    low = max(said.mid - down, 0.0) if said.low > 0 else 0.0
    high = min(said.mid + up, 1.0) if said.high < 1 else 1.0
    return Interval(low, said.mid, high)


def calibration(compared: Iterable[Mapping[str, Mapping[str, Any]]]) -> dict[str, dict[str, Any]]:
    """How well the intervals of earlier predictions kept their promise.

    Args:
        compared: Results of ``compare``.

    Returns:
        Per quantity ``n``, the share ``inside`` its interval against ``nominal``, their
        distance ``calibration_error``, and the mean absolute ``relative_error``.

    Example:
        >>> said = Prediction("t", "a", load_s=Interval(1, 2, 4))
        >>> calibration([compare(said, {"load_s": s}) for s in (2.0, 5.0)])["load_s"]["inside"]
        0.5
    """
    by_name: defaultdict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for one in compared:
        for name, row in one.items():
            by_name[name].append(row)
    found = {}
    for name, rows in by_name.items():
        inside = statistics.fmean(row["inside"] for row in rows)
        errors = [abs(e) for row in rows if (e := row["relative_error"]) is not None]
        found[name] = {
            "n": len(rows),
            "inside": short(inside),
            "nominal": NOMINAL,
            "calibration_error": short(abs(inside - NOMINAL)),
            "relative_error": short(statistics.fmean(errors)) if errors else None,
        }
    return found


def _is_number(value: float | None) -> bool:
    return value is not None and not math.isnan(value)
