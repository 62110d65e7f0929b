"""Which loaded model meets what one request asks for. A choice, not a change of route.

Capabilities, hardware, latency and memory are hard limits, and so is a quality threshold
that the caller stated. What was never measured does not exclude a model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from hotswap_ray.core.errors import Incompatible, InvalidRequest
from hotswap_ray.core.fit.capabilities import canonicals
from hotswap_ray.core.names import did_you_mean
from hotswap_ray.core.outcome import Criteria
from hotswap_ray.core.spec.task import ModelSpec

LEAST_SCORES = 10
"""Scores before a measured quality may exclude a model."""

Measured = Mapping[str, Any]
"""A row of learnings of one task and model; empty when nothing was observed."""

_CRITERIA = TypeAdapter(Criteria)


class Pick(NamedTuple):
    """Model for one request, and why it is not the task's active one (else empty)."""

    model: str
    reason: str


def parse_criteria(value: Criteria | Mapping[str, Any] | None) -> Criteria:
    """Criteria from what a caller wrote.

    Args:
        value: Criteria, or a mapping with its fields; ``task_type`` may be left out.

    Raises:
        InvalidRequest: An unknown field, or a value that does not fit.

    Example:
        >>> parse_criteria({"task_type": "sums", "max_latency_ms": 200}).max_latency_ms
        200.0
        >>> parse_criteria({"max_latency": 200})
        Traceback (most recent call last):
        hotswap_ray.core.errors.InvalidRequest: criteria: unknown field 'max_latency'; ...
    """
    if isinstance(value, Criteria):
        return value
    values = dict(value or {})
    names = [field.name for field in fields(Criteria)]
    for name in values:
        if name not in names:
            hint = did_you_mean(str(name), names) or f"; known: {', '.join(names)}"
            raise InvalidRequest(f"criteria: unknown field {name!r}{hint}")
    try:
        criteria = _CRITERIA.validate_python({"task_type": "", **values})
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        path = ".".join(map(str, first["loc"]))
        raise InvalidRequest(f"criteria: {path}: {first['msg']}") from None
    threshold = criteria.quality_threshold
    if threshold is not None and not 0 <= threshold <= 1:
        raise InvalidRequest("criteria: quality_threshold: must be from 0 to 1")
    return criteria


def meets(spec: ModelSpec, criteria: Criteria, measured: Measured) -> list[str]:
    """What a model lacks for a request; empty when it will do.

    Args:
        spec: The model.
        criteria: What the request asks for.
        measured: What was observed of it at the task. Latency is the median answer time.

    Example:
        >>> spec = ModelSpec(id="m", engine="simulated")
        >>> meets(spec, Criteria("t", max_latency_ms=50), {"latency_p50_ms": 80.0})
        ['latency 80 ms exceeds 50 ms']
    """
    gaps = []
    missing = sorted(canonicals(criteria.required_capabilities) - canonicals(spec.capabilities))
    if missing:
        gaps.append(f"lacks capability {', '.join(missing)}")
    hardware = "gpu" if spec.resources.num_gpus > 0 else "cpu"
    if criteria.available_hardware and hardware not in criteria.available_hardware:
        gaps.append(f"runs on {hardware}, not on {' or '.join(criteria.available_hardware)}")
    latency_ms, limit_ms = measured.get("latency_p50_ms"), criteria.max_latency_ms
    if latency_ms is not None and limit_ms is not None and latency_ms > limit_ms:
        gaps.append(f"latency {latency_ms:.0f} ms exceeds {limit_ms:.0f} ms")
    memory = measured.get("memory_bytes") or spec.resources.memory_bytes
    most = criteria.max_memory_bytes
    if most is not None and memory > most:
        gaps.append(f"memory {memory / 2**20:.0f} MiB exceeds {most / 2**20:.0f} MiB")
    quality, least = measured.get("quality"), criteria.quality_threshold
    scored = measured.get("quality_count", 0) >= LEAST_SCORES
    if scored and quality is not None and least is not None and quality < least:
        gaps.append(f"quality {quality:.2f} is below {least:.2f}")
    return gaps


def pick(
    criteria: Criteria,
    active: str,
    loaded: Mapping[str, ModelSpec],
    measured: Mapping[str, Measured],
) -> Pick:
    """The active model if it meets the criteria, else the best loaded one that does.

    Args:
        criteria: What the request asks for.
        active: Model that serves the task now.
        loaded: Models that can serve at once.
        measured: Observations by model.

    Raises:
        Incompatible: No loaded model meets them; what each lacks.

    Example:
        >>> small = ModelSpec(id="small", engine="simulated")
        >>> tools = ModelSpec(id="big", engine="simulated", capabilities=("chat", "tools"))
        >>> criteria = Criteria("t", required_capabilities=("tools",))
        >>> pick(criteria, "small", {"small": small, "big": tools}, {}).model
        'big'
    """
    gaps = {name: meets(spec, criteria, measured.get(name, {})) for name, spec in loaded.items()}
    if gaps.get(active) == []:
        return Pick(active, "")
    eligible = [name for name, missing in gaps.items() if not missing]
    if not eligible:
        reasons = "; ".join(f"{name} {', '.join(missing)}" for name, missing in gaps.items())
        raise Incompatible(f"no loaded model meets the criteria: {reasons or 'none is loaded'}")
    best = min(
        eligible, key=lambda name: (_cost(loaded[name], criteria, measured.get(name, {})), name)
    )
    reason = ", ".join(gaps[active]) if active in gaps else "is not loaded"
    return Pick(best, f"{active} {reason}")


def _cost(spec: ModelSpec, criteria: Criteria, measured: Measured) -> tuple[float, ...]:
    """Smaller is better: by the preferences, the heaviest first; the unknown comes last."""
    unknown = float("inf")
    quality, latency_ms = measured.get("quality"), measured.get("latency_p50_ms")
    costs = {
        "quality": unknown if quality is None else -quality,
        "latency": unknown if latency_ms is None else latency_ms,
        "cost": spec.price.cost_usd(1.0, 1.0),  # how long the answer will be is not known yet
        "memory": measured.get("memory_bytes") or spec.resources.memory_bytes,
    }
    weights = criteria.preferences.model_dump() if criteria.preferences else {}
    order = sorted(costs, key=lambda name: -weights.get(name, 0.0))
    return tuple(costs[name] for name in order)
