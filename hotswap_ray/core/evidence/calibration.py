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
    actual: dict[str, Any] = {"count": len(rows), "reward": "quality" if scores else "success"}
    if len(scores) >= LEAST or not scores:
        actual["quality"] = rate * statistics.fmean(scores) if scores else rate
        actual["judged"] = len(scores) or len(rows)
    if len(good) >= LEAST:
        actual["latency_ms"] = statistics.median(row["latency_ms"] for row in good)
        for name in ("tokens_in", "tokens_out"):
            actual[name] = statistics.fmean(row[name] for row in good)
    if memory:
        actual["memory_bytes"] = statistics.median(memory)
    return {key: short(v) if isinstance(v, float) else v for key, v in actual.items()}


def compare(prediction: Prediction, actual: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Hold a prediction against what happened.

    Args:
        prediction: Made before.
        actual: ``observe``'s values, and ``cost_usd`` and ``load_s`` where known.

    Returns:
        Per quantity that is known on both sides ``predicted, low, high, actual, inside`` and
        ``relative_error`` (``None`` when 0 was predicted).

    Example:
        >>> prediction = Prediction("t", "a", latency_ms=Interval(80, 100, 130))
        >>> compare(prediction, {"latency_ms": 140.0})["latency_ms"]["relative_error"]
        0.4
    """
    rows = {}
    for name in QUANTITIES:
        band, value = getattr(prediction, name), actual.get(name)
        if band is None or value is None:
            continue
        if name == "quality":
            if actual.get("reward", prediction.reward) != prediction.reward:
                continue  # predicted of success, measured of scores
            band = _for_answers(band, prediction.answer_sd, actual.get("judged", ANSWERS))
        rows[name] = {
            "predicted": band.mid,
            "low": short(band.low),
            "high": short(band.high),
            "actual": value,
            "inside": bool(band.low <= value <= band.high),
            "relative_error": short((value - band.mid) / band.mid) if band.mid else None,
        }
    return rows


def _for_answers(band: Interval, answer_sd: float, judged: int) -> Interval:
    """The interval of a mean over another number of answers; a cut end stays cut."""
    variance = (Z * answer_sd) ** 2 * (1 / judged - 1 / ANSWERS)
    down, up = (math.sqrt(max(half**2 + variance, 0.0))
                for half in (band.mid - band.low, band.high - band.mid))  # fmt: skip
    low = max(band.mid - down, 0.0) if band.low > 0 else 0.0
    high = min(band.mid + up, 1.0) if band.high < 1 else 1.0
    return Interval(low, band.mid, high)


def calibration(compared: Iterable[Mapping[str, Mapping[str, Any]]]) -> dict[str, dict[str, Any]]:
    """How well the intervals of earlier predictions kept their promise.

    Args:
        compared: Results of ``compare``.

    Returns:
        Per quantity ``n``, the share ``inside`` its interval against ``nominal``, their
        distance ``calibration_error``, and the mean absolute ``relative_error``.

    Example:
        >>> forecast = Prediction("t", "a", load_s=Interval(1, 2, 4))
        >>> calibration([compare(forecast, {"load_s": s}) for s in (2.0, 5.0)])["load_s"]["inside"]
        0.5
    """
    by_name: defaultdict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for comparison in compared:
        for name, row in comparison.items():
            by_name[name].append(row)
    report = {}
    for name, rows in by_name.items():
        inside = statistics.fmean(row["inside"] for row in rows)
        errors = [abs(e) for row in rows if (e := row["relative_error"]) is not None]
        report[name] = {
            "n": len(rows),
            "inside": short(inside),
            "nominal": NOMINAL,
            "calibration_error": short(abs(inside - NOMINAL)),
            "relative_error": short(statistics.fmean(errors)) if errors else None,
        }
    return report


def _is_number(value: float | None) -> bool:
    return value is not None and not math.isnan(value)
