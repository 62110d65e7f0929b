"""What probes say of models, to a swap and to people."""

from __future__ import annotations

import time
from typing import Any

from hotswap_ray.actors.generation import Generation
from hotswap_ray.actors.model_pool import ModelPool
from hotswap_ray.actors.probing import Probing
from hotswap_ray.actors.starts import Starts
from hotswap_ray.core.capabilities import canonicals
from hotswap_ray.core.compatibility import Report
from hotswap_ray.core.errors import Conflict, Incompatible
from hotswap_ray.core.probe_report import gaps, wanted
from hotswap_ray.core.probes import PROBES
from hotswap_ray.core.spec import TaskSpec


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
    other = await probing.known(current, serving.generation) if serving else None
    found = gaps(report, spec, task, other)
    if refusing := found.refusing(strict):
        raise Incompatible(
            f"{spec.id} may not serve {task.id}, as its probes showed: "
            + "; ".join(map(str, refusing))
        )
    facts: dict[str, Any] = {
        "probes": {name: probe.supported for name, probe in report.probes.items()},
        "probes_ms": round((time.perf_counter() - started) * 1e3, 1),
    }
    return {**facts, "probe_gaps": list(map(str, found.gaps))} if found.gaps else facts


class ProbeCalls(Starts):
    """Methods of ``SwapController`` about probes."""

    _pool: ModelPool
    _probing: Probing

    async def probe(self, model: str) -> dict[str, Any]:
        """Find out what a loaded model can do: every probe, once per load.

        Returns:
            ``model, generation`` and ``probes``: rows of ``name, declared, supported`` (``None``
            where it could not be measured) and ``detail``.

        Raises:
            NotFound: Unknown model.
            Conflict: It is not loaded, or sleeps.
        """
        await self.start()
        spec = self._pool.spec(model)
        if not self._pool.is_ready(model):
            raise Conflict(f"model {model!r} is not loaded; a probe asks the model itself")
        generation = self._pool.generations[model]
        report = await self._probing.probe(spec, generation, PROBES, spec.context_tokens)
        declared = canonicals(spec.capabilities) | {"context"}
        return {
            "model": model,
            "generation": generation.generation,
            "probes": [
                {
                    "name": probe.name,
                    "declared": probe.name in declared,
                    "supported": probe.supported,
                    "detail": probe.detail,
                }
                for probe in report.probes.values()
            ],
        }

    async def _probed(self, task: TaskSpec, model: str) -> Report:
        """Gaps that earlier probes of a model's load show; nothing is asked."""
        generation = self._pool.generations.get(model)
        known = await self._probing.known(model, generation.generation) if generation else None
        if known is None:
            return Report(())
        return gaps(known, self._pool.spec(model), task)
