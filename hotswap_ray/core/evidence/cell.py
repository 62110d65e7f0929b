"""What was observed of one model at one task: forgotten slowly, mergeable, bounded.

Every stream forgets by its own count: an observation has half its weight after
``HALF_LIFE`` later ones of the same stream. Rare feedback is thus not washed out by
frequent latencies. Success is a Beta, quality a mean and variance of the scores that
exist (a missing one is not an observation), the rest are sketches with 2% or 5% error.
Latency and tokens of a failed request do not count: a fast refusal is not a fast model. What a
model is not to blame for is only counted, by how it ended.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hotswap_ray.core.evidence.sketch import Sketch
from hotswap_ray.core.outcome import Ending, Outcome

HALF_LIFE = 500.0
"""Observations after which an old one counts half; about 720 count in the long run."""
ACCURACY = 0.02
TOKEN_ACCURACY = 0.05
TOKEN_BINS = 128

Cell = tuple[str, str]

# The upper ends are those of the store's columns: one row out of range must not block the log.
BOUNDS = (
    ("latency_ms", math.inf),
    ("ttft_ms", math.inf),
    ("tokens_in", 2**31),
    ("tokens_out", 2**31),
    ("generation", 2**31),
    ("memory_bytes", 2**62),
    ("status", 1000),
)


class Moments:
    """Exponentially forgotten weight, mean and variance (West 1979, with decay).

    Example:
        >>> moments = Moments(decay=1.0)
        >>> moments.extend([0.2, 0.4])
        >>> round(moments.mean, 3), round(moments.variance, 3)
        (0.3, 0.01)
    """

    __slots__ = ("decay", "mean", "squares", "weight")

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.weight = 0.0
        self.mean = 0.0
        self.squares = 0.0

    @property
    def variance(self) -> float:
        """Weighted population variance; 0 when empty."""
        return self.squares / self.weight if self.weight else 0.0

    def extend(self, values: Iterable[float]) -> None:
        """Take in values in their order."""
        decay, weight, mean, squares = self.decay, self.weight, self.mean, self.squares
        for value in values:
            weight = weight * decay + 1
            delta = value - mean
            mean += delta / weight
            squares = squares * decay + delta * (value - mean)
        self.weight, self.mean, self.squares = weight, mean, squares

    def merge(self, other: Moments) -> None:
        """Add what the other has seen (Chan et al. 1979)."""
        weight = self.weight + other.weight
        if weight:
            delta = other.mean - self.mean
            self.squares += other.squares + delta**2 * self.weight * other.weight / weight
            self.mean += delta * other.weight / weight
        self.weight = weight


class Evidence:
    """Evidence of one (task, model) cell; at most 10 KB whatever the traffic.

    Args:
        task: Task id.
        model: Model id; empty for observations that name no model.
        half_life: In observations, at least 1.

    Attributes:
        count: Outcomes ever seen, not forgotten.
        quality_count: Scores ever seen, not forgotten.
        successes: Forgotten count of successes.
        failures: Forgotten count of failures.
        quality: Moments of the scores in [0, 1].
        latency_ms: First byte in to last byte out, successes only.
        ttft_ms: Time to first token, streamed successes only.
        tokens_in: Prompt tokens of successes.
        tokens_out: Answer tokens of successes.
        memory_bytes: Last measured memory of a replica; 0 when unknown.
        last_at_s: Arrival of the newest outcome, Unix time.
        ends: Requests ever seen by how they ended (``Ending``), those that are no evidence too.
    """

    __slots__ = ("count", "decay", "ends", "failures", "half_life", "last_at_s", "latency_ms",
                 "memory_bytes", "model", "quality", "quality_count", "successes", "task",
                 "tokens_in", "tokens_out", "ttft_ms")  # fmt: skip

    def __init__(self, task: str, model: str, half_life: float = HALF_LIFE) -> None:
        self.task = task
        self.model = model
        self.half_life = half_life
        self.decay = decay = 0.5 ** (1 / half_life)
        self.count = 0
        self.quality_count = 0
        self.successes = 0.0
        self.failures = 0.0
        self.quality = Moments(decay)
        self.latency_ms = Sketch(ACCURACY, decay=decay)
        self.ttft_ms = Sketch(ACCURACY, decay=decay)
        self.tokens_in = Sketch(TOKEN_ACCURACY, TOKEN_BINS, decay)
        self.tokens_out = Sketch(TOKEN_ACCURACY, TOKEN_BINS, decay)
        self.memory_bytes = 0
        self.last_at_s = 0.0
        self.ends: Counter[str] = Counter()

    @property
    def success_rate(self) -> float | None:
        """Share of successes, forgotten; ``None`` when nothing was seen."""
        total = self.successes + self.failures
        return self.successes / total if total else None

    def update(self, outcome: Outcome) -> None:
        """Take in one outcome."""
        self.extend((outcome,))

    def extend(self, batch: Sequence[Outcome]) -> None:
        """Take in outcomes of this cell in their order; see ``problem`` for what is valid."""
        self.ends.update(str(outcome.end) for outcome in batch)
        batch = [outcome for outcome in batch if outcome.is_evidence]
        decay, successes, failures = self.decay, self.successes, self.failures
        latency: list[float] = []
        ttft: list[float] = []
        tokens_in: list[float] = []
        tokens_out: list[float] = []
        scores: list[float] = []
        for outcome in batch:
            successes *= decay
            failures *= decay
            if outcome.success:
                successes += 1
                latency.append(outcome.latency_ms)
                tokens_in.append(outcome.tokens_in)
                tokens_out.append(outcome.tokens_out)
                if outcome.ttft_ms is not None:
                    ttft.append(outcome.ttft_ms)
            else:
                failures += 1
            if outcome.quality is not None:
                scores.append(outcome.quality)
            if outcome.memory_bytes:
                self.memory_bytes = outcome.memory_bytes
            if outcome.at_s > self.last_at_s:
                self.last_at_s = outcome.at_s
        self.successes, self.failures = successes, failures
        self.count += len(batch)
        self.latency_ms.extend(latency)
        self.ttft_ms.extend(ttft)
        self.tokens_in.extend(tokens_in)
        self.tokens_out.extend(tokens_out)
        self.score(scores)

    def score(self, scores: Sequence[float]) -> None:
        """Take in qualities given after the fact, in [0, 1]."""
        if scores:
            self.quality.extend(scores)
            self.quality_count += len(scores)

    def merge(self, other: Evidence) -> None:
        """Add another observer's evidence of the same cell.

        Raises:
            ValueError: The other is of another model or task; that is never an observation.
        """
        if (other.task, other.model) != (self.task, self.model):
            raise ValueError(
                f"evidence of {other.model} at {other.task} is none of {self.model} at {self.task}"
            )
        self.count += other.count
        self.quality_count += other.quality_count
        self.successes += other.successes
        self.failures += other.failures
        self.ends.update(other.ends)
        self.quality.merge(other.quality)
        for sketch, other_sketch in zip(self._sketches(), other._sketches(), strict=True):
            sketch.merge(other_sketch)
        if other.last_at_s >= self.last_at_s:
            self.memory_bytes = other.memory_bytes or self.memory_bytes
            self.last_at_s = other.last_at_s

    def _sketches(self) -> tuple[Sketch, ...]:
        return self.latency_ms, self.ttft_ms, self.tokens_in, self.tokens_out

    def row(self) -> dict[str, Any]:
        """Flat numbers for a table; ``None`` where nothing was observed."""
        scored = self.quality.weight > 0
        return {
            "task": self.task,
            "model": self.model,
            "count": self.count,
            "success_rate": self.success_rate,
            "quality": self.quality.mean if scored else None,
            "quality_sd": math.sqrt(self.quality.variance) if scored else None,
            "quality_count": self.quality_count,
            "latency_p50_ms": self.latency_ms.quantile(0.5),
            "latency_p99_ms": self.latency_ms.quantile(0.99),
            "ttft_p50_ms": self.ttft_ms.quantile(0.5),
            "tokens_in": self.tokens_in.mean,
            "tokens_out": self.tokens_out.mean,
            "memory_bytes": self.memory_bytes or None,
            "last_at_s": self.last_at_s or None,
            **{ending.value: self.ends[ending] for ending in Ending if ending is not Ending.OK},
        }

    def to_doc(self) -> dict[str, Any]:
        """Plain values for the store; ``from_doc`` gives the same evidence back."""
        return {
            "task": self.task,
            "model": self.model,
            "half_life": self.half_life,
            "count": self.count,
            "quality_count": self.quality_count,
            "successes": self.successes,
            "failures": self.failures,
            "quality": [self.quality.weight, self.quality.mean, self.quality.squares],
            "sketches": [sketch.to_doc() for sketch in self._sketches()],
            "memory_bytes": self.memory_bytes,
            "last_at_s": self.last_at_s,
            "ends": dict(self.ends),
        }

    @classmethod
    def from_doc(cls, doc: Mapping[str, Any]) -> Evidence:
        """Inverse of ``to_doc``."""
        evidence = cls(doc["task"], doc["model"], doc["half_life"])
        for name in ("count", "quality_count", "successes", "failures"):
            setattr(evidence, name, doc[name])
        evidence.ends.update(doc.get("ends", {}))  # unknown before there were endings
        evidence.memory_bytes, evidence.last_at_s = doc["memory_bytes"], doc["last_at_s"]
        evidence.quality.weight, evidence.quality.mean, evidence.quality.squares = doc["quality"]
        for sketch, saved in zip(evidence._sketches(), doc["sketches"], strict=True):
            sketch.load(saved)
        return evidence


def group(batch: Iterable[Outcome]) -> dict[Cell, list[Outcome]]:
    """Outcomes by (task, model), each in its order."""
    cells: defaultdict[Cell, list[Outcome]] = defaultdict(list)
    for outcome in batch:
        cells[outcome.task, outcome.model].append(outcome)
    return cells


def problem(outcome: Outcome) -> str | None:
    """Why an outcome cannot be evidence, or ``None`` when it can.

    Example:
        >>> problem(Outcome("r", "t", "m", 1, "active", 0.0, True, latency_ms=-1.0))
        'latency_ms is -1.0; it must be in [0, inf)'
    """
    limit = math.inf
    for name, most in BOUNDS:
        value = getattr(outcome, name)
        if value is not None and not 0 <= value < most:
            return f"{name} is {value}; it must be in [0, {most})"
    if outcome.quality is not None and not 0 <= outcome.quality <= 1:
        return f"quality is {outcome.quality}; it must be in [0, 1]"
    if not -limit < outcome.at_s < limit:
        return f"at_s is {outcome.at_s}; it must be finite"
    if not isinstance(outcome.request_id, str):
        return "request_id is no text"
    for name in (outcome.task, outcome.model, outcome.decision, outcome.end):
        if len(name) > 256 or "\0" in name:
            return f"{name[:64]!r} is no name of a task, model, decision or ending"
    return None
