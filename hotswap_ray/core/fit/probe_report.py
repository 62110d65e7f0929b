"""What was probed of a model, which probes matter, and the gaps that they show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from hotswap_ray.core.fit.capabilities import canonical, canonicals
from hotswap_ray.core.fit.compatibility import CompatibilityReport, Gap
from hotswap_ray.core.fit.probes import PROBES, Probe
from hotswap_ray.core.spec.task import ModelSpec, TaskSpec

ALWAYS = ("stop", "stream_usage")
"""Probed whatever is required or declared: clients rely on them and nobody declares them."""


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """All that was probed of one load of a model.

    Attributes:
        model: Model id.
        generation: Load number; another load may be another build with other abilities.
        probes: By capability.
        context_tokens: Length that the probe ``context`` was about; 0 if there was none.
    """

    model: str
    generation: int
    probes: Mapping[str, Probe]
    context_tokens: int = 0

    def to_doc(self) -> dict[str, Any]:
        """Plain values for the store."""
        return {
            "model": self.model,
            "generation": self.generation,
            "context_tokens": self.context_tokens,
            "probes": [asdict(probe) for probe in self.probes.values()],
        }

    @classmethod
    def from_doc(cls, doc: Mapping[str, Any]) -> ProbeReport:
        """Inverse of ``to_doc``."""
        probes = {row["name"]: Probe(**row) for row in doc["probes"]}
        return cls(doc["model"], doc["generation"], probes, doc["context_tokens"])


def wanted(spec: ModelSpec, task: TaskSpec | None = None) -> tuple[str, ...]:
    """Probes that matter: those always made, of what is declared, and what a task requires.

    Example:
        >>> wanted(ModelSpec(id="a", engine="simulated", capabilities=("chat", "tool-use")))
        ('stop', 'stream_usage', 'chat', 'tools')
    """
    names = [*ALWAYS, *spec.capabilities]
    if task is not None:
        names += task.requirements.capabilities
        names += ["context"] if task.requirements.context_tokens else []
    return tuple(name for name in dict.fromkeys(map(canonical, names)) if name in PROBES)


def gaps(
    report: ProbeReport, spec: ModelSpec, task: TaskSpec, current: ProbeReport | None = None
) -> CompatibilityReport:
    """What probes showed a candidate to lack. What could not be measured is no gap.

    Args:
        report: The candidate's probes.
        spec: The candidate; what it declares and lacks is a warning (chat and completions,
            which are declared by default, only a note).
        task: What it requires and the candidate lacks is an error.
        current: Probes of the model that serves now. What it was seen to have and the
            candidate lacks is a note, which refuses nothing, because nobody asked for it.

    Example:
        >>> spec = ModelSpec(id="b", engine="simulated")
        >>> task = TaskSpec(id="t", model="a", requirements={"capabilities": ("tool_use",)})
        >>> report = ProbeReport("b", 1, {"tools": Probe("tools", False, "answers with text")})
        >>> str(gaps(report, spec, task).gaps[0])
        'error: tools: needs tools, as the task requires, has answers with text'
    """
    required = canonicals(task.requirements.capabilities)
    if task.requirements.context_tokens:
        required |= {"context"}
    declared = canonicals(spec.capabilities) - {"chat", "completions"}
    missing = []
    for name, probe in report.probes.items():
        incumbent = current and current.probes.get(name)
        if probe.supported is not False:
            continue
        if name in required:
            missing.append(Gap(name, f"{name}, as the task requires", probe.detail, "error"))
        elif name in declared:
            missing.append(Gap(name, f"{name}, as it declares", probe.detail, "warning"))
        elif (incumbent and incumbent.supported) or name in canonicals(spec.capabilities):
            reason = f"as {current.model} has" if current and incumbent else "as it declares"
            missing.append(Gap(name, f"{name}, {reason}", probe.detail, "note"))
    return CompatibilityReport(tuple(missing))
