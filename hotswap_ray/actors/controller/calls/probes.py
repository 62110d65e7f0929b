"""What the controller answers about probes of models."""

from __future__ import annotations

from typing import Any

from hotswap_ray.actors.controller.calls.starts import Starts
from hotswap_ray.actors.controller.models.pool import ModelPool
from hotswap_ray.actors.controller.swaps.probing import Probing
from hotswap_ray.core.errors import Conflict
from hotswap_ray.core.fit.capabilities import canonicals
from hotswap_ray.core.fit.compatibility import CompatibilityReport
from hotswap_ray.core.fit.probe_report import gaps
from hotswap_ray.core.fit.probes import PROBES
from hotswap_ray.core.spec.task import TaskSpec


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

    async def _probed(self, task: TaskSpec, model: str) -> CompatibilityReport:
        """Gaps that earlier probes of a model's load show; nothing is asked."""
        generation = self._pool.generations.get(model)
        report = await self._probing.known(model, generation.generation) if generation else None
        if report is None:
            return CompatibilityReport(())
        return gaps(report, self._pool.spec(model), task)
