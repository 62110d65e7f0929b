"""Probes a loaded candidate for what its task requires."""

from __future__ import annotations

import time
from typing import Any

from hotswap_ray.actors.cluster.generation import Generation
from hotswap_ray.actors.controller.models.pool import ModelPool
from hotswap_ray.actors.controller.swaps.probing import Probing
from hotswap_ray.core.errors import Incompatible
from hotswap_ray.core.fit.probe_report import gaps, wanted
from hotswap_ray.core.spec.task import TaskSpec


async def verify(
    probing: Probing,
    pool: ModelPool,
    task: TaskSpec,
    generation: Generation,
    current: str,
    strict: bool,
) -> dict[str, Any]:
    """Probe a loaded candidate and compare with what the task requires.

    Args:
        probing: Asks the probes.
        pool: Models.
        task: The task.
        generation: The candidate.
        current: Model that serves now; compared where its load was probed before.
        strict: Whether warnings refuse too.

    Returns:
        Facts: ``probes`` (whether it has each capability; ``None`` where that could not be
        measured), ``probes_ms``, and ``probe_gaps`` where there are any.

    Raises:
        Incompatible: It lacks what the task requires (in strict mode also: what it declares).
    """
    started = time.perf_counter()
    spec, length = pool.spec(generation.model), task.requirements.context_tokens
    report = await probing.probe(spec, generation, wanted(spec, task), length)
    serving = pool.generations.get(current)
    serving_report = await probing.known(current, serving.generation) if serving else None
    findings = gaps(report, spec, task, serving_report)
    if refusing := findings.refusing(strict):
        raise Incompatible(
            f"{spec.id} may not serve {task.id}, as its probes showed: "
            + "; ".join(map(str, refusing))
        )
    facts: dict[str, Any] = {
        "probes": {name: probe.supported for name, probe in report.probes.items()},
        "probes_ms": round((time.perf_counter() - started) * 1e3, 1),
    }
    return {**facts, "probe_gaps": list(map(str, findings.gaps))} if findings.gaps else facts
