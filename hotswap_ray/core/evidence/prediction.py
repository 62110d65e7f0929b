"""What a model is expected to do at a task: predicted before a swap, compared after it.

Every interval is nominally 90%. For quality, latency and cost it is one for the *mean or
median over the next answers*, so it holds both what is not known of the model and the chance
in those answers. ``core/evidence/calibration.py`` measures whether they keep their promise. What
cannot be known is ``None``, never a guess.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from hotswap_ray.core.evidence.beliefs import Beliefs
from hotswap_ray.core.evidence.cell import ACCURACY, Cell, Evidence
from hotswap_ray.core.evidence.sketch import Sketch
from hotswap_ray.core.evidence.utility import Moment, reward_moment
from hotswap_ray.core.spec.price import NO_PRICE, Price

NOMINAL = 0.9
Z = statistics.NormalDist().inv_cdf((1 + NOMINAL) / 2)
ANSWERS = 50
"""Answers after the switch that an interval is for."""
LEAST = 10
"""Answers that make a model's own latency or tokens, or the actual of a swap."""
SPREAD_MASS = 4.0
"""Pseudo-samples of the spreads below."""
LATENCY_SPREAD, COST_SPREAD, LOAD_SPREAD = 0.4, 0.4, 0.3
MEMORY_SPREAD, DECLARED_SPREAD = 0.05, 0.25
"""Standard deviations of logarithms before any is seen: 0.4 is a factor of 1.5."""

Reward = Literal["quality", "success"]
QUANTITIES = ("quality", "latency_ms", "memory_bytes", "cost_usd", "load_s")


@dataclass(frozen=True, slots=True)
class Interval:
    """A value and the range that holds it with probability 0.9."""

    low: float
    mid: float
    high: float


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a model apart from its answers.

    Attributes:
        memory_bytes: Measured in earlier loads.
        declared_memory_bytes: ``resources.memory_bytes``; 0 when not stated.
        price: Of its tokens; unless it is stated the cost is not known.
        load_s: Seconds that earlier loads took.
        is_loaded: Whether it answers now, so that nothing needs to be loaded.
    """

    memory_bytes: Sequence[float] = ()
    declared_memory_bytes: int = 0
    price: Price = NO_PRICE
    load_s: Sequence[float] = ()
    is_loaded: bool = False

    def cost_usd(self, tokens_in: float | None, tokens_out: float | None) -> float | None:
        """Cost of a request; ``None`` without a price or without tokens."""
        if not self.price.is_stated or tokens_in is None or tokens_out is None:
            return None
        return self.price.cost_usd(tokens_in, tokens_out)


@dataclass(frozen=True, slots=True)
class Prediction:
    """What is expected of a model at a task; ``None`` where there is no evidence.

    Attributes:
        task: Task id.
        model: Model id.
        quality: Mean over the next 50 answers of quality times success, or of success.
        latency_ms: Median answer time.
        memory_bytes: Of a replica.
        cost_usd: Mean cost of a request.
        load_s: Seconds to load; 0 when it is loaded.
        reward: What ``quality`` is of: scores, or success where a task has none.
        answer_sd: Spread of ``quality`` from one answer to the next.
    """

    task: str
    model: str
    quality: Interval | None = None
    latency_ms: Interval | None = None
    memory_bytes: Interval | None = None
    cost_usd: Interval | None = None
    load_s: Interval | None = None
    reward: Reward = "quality"
    answer_sd: float = 0.0

    def to_doc(self) -> dict[str, Any]:
        """Plain values to four digits, for the store and for JSON."""
        doc = asdict(self)
        doc["answer_sd"] = short(self.answer_sd)
        for name in QUANTITIES:
            if doc[name] is not None:
                doc[name] = {key: short(value) for key, value in doc[name].items()}
        return doc

    @classmethod
    def from_doc(cls, doc: Mapping[str, Any]) -> Prediction:
        """Inverse of ``to_doc``; keys of a newer version are ignored."""
        values = {key: doc[key] for key in cls.__dataclass_fields__ if key in doc}
        for name in QUANTITIES:
            if values.get(name) is not None:
                values[name] = Interval(**values[name])
        return cls(**values)


def predict(
    task: str, model: str, cells: Mapping[Cell, Evidence], known: Known | None = None
) -> Prediction:
    """Predict a model at a task from all evidence there is.

    Args:
        task: Task id.
        model: Model id.
        cells: Evidence by (task, model); reports that name no model are left out.
        known: What else is known of the model.

    Example:
        >>> cell = Evidence("t", "a")
        >>> cell.score([0.8, 1.0] * 20)
        >>> quality = predict("t", "a", {("t", "a"): cell}).quality
        >>> quality.low < 0.9 < quality.high
        True
    """
    known = known or Known()
    cells = {key: cell for key, cell in cells.items() if key[1]}
    quality, reward, answer_sd = _quality(task, model, cells)
    loaded = Interval(0.0, 0.0, 0.0) if known.is_loaded else None
    declared = [known.declared_memory_bytes] if known.declared_memory_bytes else []
    return Prediction(
        task,
        model,
        quality=quality,
        latency_ms=_latency(task, model, cells),
        memory_bytes=lognormal(known.memory_bytes, MEMORY_SPREAD)
        or lognormal(declared, DECLARED_SPREAD),
        cost_usd=_cost(task, model, cells, known),
        load_s=loaded or lognormal(known.load_s, LOAD_SPREAD),
        reward=reward,
        answer_sd=answer_sd,
    )


def _quality(
    task: str, model: str, cells: Mapping[Cell, Evidence]
) -> tuple[Interval | None, Reward, float]:
    """The belief that the selection uses, widened by the chance in the next answers."""
    tasks = sorted({task, *(name for name, _ in cells)})
    models = sorted({model, *(name for _, name in cells)})
    beliefs = Beliefs(cells, tasks, models)
    scored = beliefs.scored[task]
    reward: Reward = "quality" if scored else "success"
    if not any(
        reward_moment(cell, beliefs.scored[key[0]]) != Moment()
        for key, cell in cells.items()
        if task == key[0] or model == key[1]
    ):
        return None, reward, 0.0
    arm = beliefs.arm(task, model, cells.get((task, model)))
    variance = float(beliefs.prior.sigma2[tasks.index(task)])
    samples = variance / arm.sd**2  # the prior's included
    half = _student(samples) * math.sqrt(arm.sd**2 + variance / ANSWERS)
    mid = min(max(arm.belief, 0.0), 1.0)
    return Interval(max(mid - half, 0.0), mid, min(mid + half, 1.0)), reward, math.sqrt(variance)


def _latency(task: str, model: str, cells: Mapping[Cell, Evidence]) -> Interval | None:
    """Median answer time: its own at this task, else by its relative speed at others.

    Own: the quantiles around the median that a median of ``ANSWERS`` falls between, given
    that this one is of ``weight`` (David and Nagaraja, Order Statistics, 2003, 7.1).
    Relative: log(median) = task + model, a two-way layout (Tukey, Exploratory Data Analysis,
    1977, 10), compared only with models that were seen at both tasks.
    """
    own = cells.get((task, model))
    if own is not None and _enough(own.latency_ms):
        reach = Z * 0.5 * math.sqrt(1 / own.latency_ms.weight + 1 / ANSWERS)
        low, mid, high = (own.latency_ms.quantile(0.5 + side * reach) or 0.0 for side in (-1, 0, 1))
        return Interval(low * (1 - ACCURACY), mid, high * (1 + ACCURACY))
    medians = {
        key: math.log(median)
        for key, cell in cells.items()
        if _enough(cell.latency_ms) and (median := cell.latency_ms.quantile(0.5))
    }
    gaps: defaultdict[str, list[float]] = defaultdict(list)
    for (other, rival), rival_there in medians.items():
        rival_here, model_there = medians.get((task, rival)), medians.get((other, model))
        if other != task and rival != model and rival_here is not None and model_there is not None:
            gaps[other].append(rival_here + model_there - rival_there)
    return lognormal([math.exp(statistics.fmean(gap)) for gap in gaps.values()], LATENCY_SPREAD)


def _cost(task: str, model: str, cells: Mapping[Cell, Evidence], known: Known) -> Interval | None:
    """Mean cost of a request: its prices times its own tokens, else those of the others."""
    own = cells.get((task, model))
    if own is not None and _enough(own.tokens_in):
        mid = known.cost_usd(own.tokens_in.mean, own.tokens_out.mean)
        spread = known.cost_usd(_sd(own.tokens_in), _sd(own.tokens_out))
        if mid is None or spread is None:
            return None
        half = Z * spread * math.sqrt(1 / own.tokens_in.weight + 1 / ANSWERS)
        return Interval(max(mid - half, 0.0), mid, mid + half)
    costs = [
        known.cost_usd(cell.tokens_in.mean, cell.tokens_out.mean)
        for (name, _), cell in cells.items()
        if name == task and _enough(cell.tokens_in)
    ]
    return lognormal([cost for cost in costs if cost], COST_SPREAD)


def _enough(sketch: Sketch) -> bool:
    return sketch.weight > LEAST - 1  # forgetting makes ten answers weigh a little less than ten


def _sd(sketch: Sketch) -> float:
    """Standard deviation, from the 10th and 90th percentile as of a normal distribution."""
    low, high = sketch.quantile(0.1), sketch.quantile(0.9)
    return ((high or 0.0) - (low or 0.0)) / (2 * 1.2816)


def lognormal(samples: Sequence[float], spread: float) -> Interval | None:
    """Prediction interval of one more positive value: median, and Student's t on logarithms.

    The spread of few samples is joined with a default one, as in the rest of the package
    (``core/evidence/prior.py``), so that one sample gives an interval too.

    Args:
        samples: Values seen; those not above 0 are left out.
        spread: Standard deviation of their logarithms to assume, 4 pseudo-samples strong.

    Returns:
        ``None`` without samples.

    Example:
        >>> interval = lognormal([2.0, 2.2, 1.9], 0.3)
        >>> round(interval.low, 1), interval.mid, round(interval.high, 1)
        (1.1, 2.0, 3.5)
    """
    logs = [math.log(value) for value in samples if value > 0]
    if not logs:
        return None
    mid, count = statistics.median(logs), len(logs)
    freedom = count - 1 + SPREAD_MASS
    squares = sum((value - mid) ** 2 for value in logs) + SPREAD_MASS * spread**2
    half = _student(freedom) * math.sqrt(squares / freedom * (1 + 1 / count))
    return Interval(math.exp(mid - half), math.exp(mid), math.exp(mid + half))


def _student(freedom: float) -> float:
    """Quantile of Student's t by its expansion (Abramowitz and Stegun 1964, 26.7.5)."""
    first, second = (Z**3 + Z) / 4, (5 * Z**5 + 16 * Z**3 + 3 * Z) / 96
    return Z + first / freedom + second / freedom**2


def short(value: float) -> float:
    """A value to four digits: facts of a swap stay small."""
    return float(f"{value:.4g}")
