"""May this candidate replace that model for this task? A report of gaps, nothing else."""

from __future__ import annotations

from dataclasses import dataclass

from hotswap_ray.core.fit.capabilities import canonicals
from hotswap_ray.core.spec.task import ModelSpec, TaskSpec


@dataclass(frozen=True, slots=True)
class Gap:
    """One thing the candidate does not meet.

    Attributes:
        what: ``capabilities``, ``context``, ``memory``, ``hardware``, ``engine``, or what was
            probed (``core/fit/probes.py``).
        needed: What the task, or the old model, gives.
        offered: What the candidate gives.
        severity: ``error`` refuses the swap; ``warning`` refuses it in strict mode; ``note``
            never does.
    """

    what: str
    needed: str
    offered: str
    severity: str

    def __str__(self) -> str:
        return f"{self.severity}: {self.what}: needs {self.needed}, has {self.offered}"


@dataclass(frozen=True, slots=True)
class CompatibilityReport:
    """All gaps between a task's needs and a candidate."""

    gaps: tuple[Gap, ...]

    @property
    def errors(self) -> tuple[Gap, ...]:
        """Gaps that refuse the swap in every mode."""
        return tuple(gap for gap in self.gaps if gap.severity == "error")

    def accepts(self, strict: bool) -> bool:
        """Whether the candidate may go on.

        Args:
            strict: Warnings refuse too.
        """
        return not self.refusing(strict)

    def refusing(self, strict: bool) -> tuple[Gap, ...]:
        """Gaps that refuse the swap; in ``strict`` mode warnings are among them."""
        refuses = ("error", "warning") if strict else ("error",)
        return tuple(gap for gap in self.gaps if gap.severity in refuses)


def check_compatibility(
    task: TaskSpec,
    candidate: ModelSpec,
    current: ModelSpec | None,
    *,
    measured_memory_bytes: int = 0,
) -> CompatibilityReport:
    """Compare a candidate with what a task requires and what its current model offers.

    A hard requirement of the task gives an error. Less than the current model offers gives
    a warning, since a client may have come to rely on it. Capabilities are matched by
    meaning: ``tool_use`` is ``tools`` (``core/fit/capabilities.py``).

    Args:
        task: The task with its requirements.
        candidate: Model that should serve it.
        current: Model that serves it now, if any.
        measured_memory_bytes: Memory of the candidate seen in an earlier load; 0 if never.

    Example:
        >>> task = TaskSpec(id="t", model="a", requirements={"capabilities": ("tools",)})
        >>> b = ModelSpec(id="b", engine="openai")
        >>> [str(gap) for gap in check_compatibility(task, b, None).gaps]
        ['error: capabilities: needs tools, has chat, completions']
    """
    gaps: list[Gap] = []
    offered = ", ".join(candidate.capabilities) or "none"
    required = canonicals(task.requirements.capabilities)
    missing = sorted(required - canonicals(candidate.capabilities))
    if missing:
        gaps.append(Gap("capabilities", ", ".join(missing), offered, "error"))
    if candidate.context_tokens < task.requirements.context_tokens:
        gaps.append(
            Gap(
                "context",
                f"{task.requirements.context_tokens} tokens",
                f"{candidate.context_tokens} tokens",
                "error",
            )
        )
    gaps += _hardware(task, candidate)
    memory = measured_memory_bytes or candidate.resources.memory_bytes
    limit = task.requirements.max_memory_bytes
    if limit and memory > limit:
        gaps.append(
            Gap(
                "memory",
                f"at most {limit / 2**20:.0f} MiB",
                f"{memory / 2**20:.0f} MiB{' measured' if measured_memory_bytes else ''}",
                "error",
            )
        )
    if current is not None and current.id != candidate.id:
        gaps += _less_than_current(candidate, current, required)
    return CompatibilityReport(tuple(gaps))


def _hardware(task: TaskSpec, candidate: ModelSpec) -> list[Gap]:
    needed = task.requirements.accelerator
    offered = "gpu" if candidate.resources.num_gpus > 0 else "cpu"
    if needed == "any" or needed == offered:
        return []
    return [Gap("hardware", needed, offered, "error")]


def _less_than_current(
    candidate: ModelSpec, current: ModelSpec, required: frozenset[str]
) -> list[Gap]:
    gaps = []
    lost = sorted(canonicals(current.capabilities) - canonicals(candidate.capabilities) - required)
    if lost:
        gaps.append(
            Gap("capabilities", ", ".join(lost), ", ".join(candidate.capabilities), "warning")
        )
    if candidate.context_tokens < current.context_tokens:
        gaps.append(
            Gap(
                "context",
                f"{current.context_tokens} tokens as now",
                f"{candidate.context_tokens} tokens",
                "warning",
            )
        )

    def concurrency(spec: ModelSpec) -> int:
        return spec.max_ongoing_requests * spec.resources.min_replicas

    if concurrency(candidate) < concurrency(current):
        gaps.append(
            Gap(
                "engine",
                f"{concurrency(current)} requests at once as now",
                f"{concurrency(candidate)}",
                "warning",
            )
        )
    return gaps
