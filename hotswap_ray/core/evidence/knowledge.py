"""What is known of a task, whichever model serves it. It survives every swap whole.

The other half, what was observed of one model, is ``core/evidence/cell.py``; nothing here turns
one model's observations into another's. A new model gets a prior of the *task*: it is weak,
and its mass is reported.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

from hotswap_ray.core.evidence.cell import ACCURACY, TOKEN_ACCURACY, TOKEN_BINS, Evidence
from hotswap_ray.core.evidence.prior import Belief
from hotswap_ray.core.evidence.sketch import Sketch
from hotswap_ray.core.outcome import Criteria
from hotswap_ray.core.spec.task import Preferences, Requirements, TaskSpec

log = logging.getLogger(__name__)
T = TypeVar("T")
Complexity = Literal["low", "medium", "high"]
Quantiles = Mapping[str, float]

LEAST_SEEN = 10
"""Outcomes before the complexity is derived; until then it is medium."""


@dataclass(frozen=True, slots=True)
class TaskKnowledge:
    """Requirements and preferences as stated, and what traffic taught about the task.

    Attributes:
        task: Task id.
        requirements: Hard limits.
        preferences: Weights of quality, latency, cost and memory.
        quality_target: Quality to reach, in [0, 1].
        complexity: Derived from lengths and difficulty, unless stated.
        stated: Fields that a person set at run time; the configuration and the traffic
            do not change them any more.
        latency_ms: Reference quantiles ``p10 p50 p90 p99`` of answer time, all models.
        tokens_in: The same of prompt tokens.
        tokens_out: The same of answer tokens.
        success_rate: Share of successes over all models; ``None`` when nothing was seen.
        quality: Mean score over all models; ``None`` when nothing was scored.
        seen: Outcomes behind the references.
        updated_s: Unix time of the last change.
    """

    task: str
    requirements: Requirements = field(default_factory=lambda: Requirements())
    preferences: Preferences = field(default_factory=lambda: Preferences())
    quality_target: float = 0.8
    complexity: Complexity = "medium"
    stated: tuple[str, ...] = ()
    latency_ms: Quantiles = field(default_factory=dict)
    tokens_in: Quantiles = field(default_factory=dict)
    tokens_out: Quantiles = field(default_factory=dict)
    success_rate: float | None = None
    quality: float | None = None
    seen: int = 0
    updated_s: float = 0.0

    def configured(self, spec: TaskSpec) -> TaskKnowledge:
        """Take over what the configuration states, except what a person changed later."""
        configured: dict[str, Any] = {
            "requirements": spec.requirements,
            "preferences": spec.preferences,
            "quality_target": spec.quality_target,
        }
        return replace(self, **{k: v for k, v in configured.items() if k not in self.stated})

    def learn(
        self,
        now_s: float,
        preferences: Preferences | None = None,
        complexity: Complexity | None = None,
    ) -> TaskKnowledge:
        """State characteristics at run time; they outlast restarts.

        Example:
            >>> TaskKnowledge("t").learn(1.0, complexity="high").complexity
            'high'
        """
        changes: dict[str, Any] = {"preferences": preferences, "complexity": complexity}
        changes = {key: value for key, value in changes.items() if value is not None}
        stated = tuple(sorted({*self.stated, *changes}))
        return replace(self, **changes, stated=stated, updated_s=max(now_s, self.updated_s))

    def observe(self, cells: Sequence[Evidence], now_s: float) -> TaskKnowledge:
        """Renew the references from the evidence of every model at this task."""
        seen = sum(cell.count for cell in cells)
        if not seen:
            return self
        successes = sum(cell.successes for cell in cells)
        total = successes + sum(cell.failures for cell in cells)
        scored = sum(cell.quality.weight for cell in cells)
        success = successes / total
        quality = sum(c.quality.mean * c.quality.weight for c in cells) / scored if scored else None
        tokens_in = _pooled((c.tokens_in for c in cells), TOKEN_ACCURACY, TOKEN_BINS)
        tokens_out = _pooled((c.tokens_out for c in cells), TOKEN_ACCURACY, TOKEN_BINS)
        complexity = self.complexity
        if "complexity" not in self.stated and seen >= LEAST_SEEN:
            length = tokens_in.get("p50", 0) + tokens_out.get("p50", 0)
            spread = tokens_out.get("p90", 0) / max(tokens_out.get("p50", 0), 1)
            difficulty = 1 - (success if quality is None else quality)
            complexity = derive_complexity(length, difficulty, spread)
        return replace(
            self,
            latency_ms=_pooled((c.latency_ms for c in cells), ACCURACY, 320),
            tokens_in=tokens_in,
            tokens_out=tokens_out,
            success_rate=success,
            quality=quality,
            complexity=complexity,
            seen=seen,
            updated_s=max(now_s, self.updated_s),
        )

    def merge(self, other: TaskKnowledge) -> TaskKnowledge:
        """Join two observers' knowledge of one task: what a person stated wins, then the newer.

        Raises:
            ValueError: The other is of another task.
        """
        if other.task != self.task:
            raise ValueError(f"knowledge of {other.task} is none of {self.task}")
        newer, older = (self, other) if self.updated_s >= other.updated_s else (other, self)
        added = {name: getattr(older, name) for name in older.stated if name not in newer.stated}
        return replace(newer, **added, stated=tuple(sorted({*newer.stated, *older.stated})))

    def enhance(self, criteria: Criteria) -> Criteria:
        """Fill in what a request does not state; what it states is kept.

        Example:
            >>> TaskKnowledge("t", quality_target=0.9).enhance(Criteria("t")).quality_threshold
            0.9
        """
        limits = self.requirements

        def first(stated: T | None, default: T | None) -> T | None:
            return default if stated is None else stated

        capabilities = dict.fromkeys((*criteria.required_capabilities, *limits.capabilities))
        hardware = criteria.available_hardware
        if not hardware and limits.accelerator != "any":
            hardware = (limits.accelerator,)
        return replace(
            criteria,
            required_capabilities=tuple(capabilities),
            quality_threshold=first(criteria.quality_threshold, self.quality_target),
            max_latency_ms=first(criteria.max_latency_ms, limits.max_latency_ms),
            max_memory_bytes=first(criteria.max_memory_bytes, limits.max_memory_bytes),
            available_hardware=hardware,
            preferences=first(criteria.preferences, self.preferences),
        )

    def to_doc(self) -> dict[str, Any]:
        """Plain values for the store."""
        doc = {name: getattr(self, name) for name in self.__dataclass_fields__}
        doc["requirements"] = self.requirements.model_dump()
        doc["preferences"] = self.preferences.model_dump()
        return doc

    @classmethod
    def from_doc(cls, doc: Mapping[str, Any]) -> TaskKnowledge:
        """Inverse of ``to_doc``; keys of a newer version are ignored.

        An earlier version took a weight of energy, which nothing measures; it counts as 0.
        """
        values = {key: doc[key] for key in cls.__dataclass_fields__ if key in doc}
        values["requirements"] = Requirements.model_validate(values.get("requirements", {}))
        weights = dict(values.get("preferences", {}))
        if weights.pop("energy", 0):
            log.warning("task %s: its saved weight of energy counts as 0", values.get("task"))
        values["preferences"] = Preferences.model_validate(weights)
        values["stated"] = tuple(values.get("stated", ()))
        return cls(**values)


@dataclass(frozen=True, slots=True)
class TransferRecord:
    """What a new model got of its task's knowledge, and what it has to learn itself.

    Attributes:
        task: Task id.
        from_model: Model that served.
        to_model: Model that will serve.
        transferred: Parts of the task's knowledge that went over, whole.
        complexity: Of the task.
        prior_mass: Pseudo-samples the prior is worth, 0 to 12.
        prior_mean: Reward that the other tasks and models let expect, in [0, 1].
        prior_sd: Standard deviation of that expectation.
        own_count: Outcomes of ``to_model`` itself at this task, seen earlier.
        at_s: Unix time.
    """

    task: str
    from_model: str
    to_model: str
    transferred: tuple[str, ...]
    complexity: Complexity
    prior_mass: float
    prior_mean: float
    prior_sd: float
    own_count: int
    at_s: float


def transfer(
    knowledge: TaskKnowledge,
    evidence_of_task: Iterable[Evidence],
    from_model: str,
    to_model: str,
    now_s: float,
    prior: Belief,
) -> TransferRecord:
    """Hand a task over to another model.

    Args:
        knowledge: Of the task; goes over whole.
        evidence_of_task: Of every model at this task; only read, never copied.
        from_model: Model that serves now.
        to_model: Model that will serve.
        now_s: Unix time.
        prior: What is believed of ``to_model`` at the task without its own evidence.
    """
    parts = ("latency_ms", "tokens_in", "tokens_out")
    return TransferRecord(
        task=knowledge.task,
        from_model=from_model,
        to_model=to_model,
        transferred=(
            "requirements",
            "preferences",
            "quality_target",
            "complexity",
            *(part for part in parts if getattr(knowledge, part)),
        ),
        complexity=knowledge.complexity,
        prior_mass=round(prior.mass, 3),
        prior_mean=round(prior.prior, 4),
        prior_sd=round(prior.sd, 4),
        own_count=sum(cell.count for cell in evidence_of_task if cell.model == to_model),
        at_s=now_s,
    )


def derive_complexity(tokens: float, difficulty: float, spread: float = 1.0) -> Complexity:
    """Complexity of a task from its usual length, how often it goes wrong, and how it varies.

    Args:
        tokens: Median prompt plus answer.
        difficulty: One minus mean quality (or success), in [0, 1].
        spread: 90th percentile of the answers' lengths over their median, 1 and up.

    Example:
        >>> derive_complexity(100, 0.05), derive_complexity(1000, 0.2), derive_complexity(4000, 0.4)
        ('low', 'medium', 'high')
        >>> derive_complexity(1000, 0.2, spread=5)
        'high'
    """
    points = (tokens >= 256) + (tokens >= 2048) + (difficulty >= 0.1) + (difficulty >= 0.3)
    points += spread >= 4
    return "low" if points < 2 else "medium" if points == 2 else "high"


def _pooled(sketches: Iterable[Sketch], accuracy: float, bins: int) -> dict[str, float]:
    pool = Sketch(accuracy, bins)
    for sketch in sketches:
        pool.merge(sketch)
    quantiles = {f"p{q}": pool.quantile(q / 100) for q in (10, 50, 90, 99)}
    return {name: round(value, 3) for name, value in quantiles.items() if value is not None}
