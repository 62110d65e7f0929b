"""How a candidate gets its room: beside the old model, after putting it to sleep, or after it.

Both shapes of the availability/resource trade-off of TensorFlow Serving's aspired-version
policies, plus sleep; chosen by what was measured, not configured.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Strategy = Literal["overlap", "sleep", "drain_first"]


@dataclass(frozen=True, slots=True)
class Room:
    """Logical and physical room for a model.

    Attributes:
        cpus: CPUs, free or needed.
        gpus: GPUs, free or needed.
        memory_bytes: Memory, free or needed; 0 needed means not known.
        accelerator_types: Ray accelerator types, present or needed.
    """

    cpus: float = 0
    gpus: float = 0
    memory_bytes: int = 0
    accelerator_types: frozenset[str] = frozenset()

    def lacks(self, need: Room) -> list[str]:
        """What is missing for ``need``, in words; empty if it fits.

        Example:
            >>> Room(cpus=1).lacks(Room(cpus=2, gpus=1))
            ['CPUs: 2 needed, 1 free', 'GPUs: 1 needed, 0 free']
        """
        missing = []
        if need.cpus > self.cpus + 1e-6:
            missing.append(f"CPUs: {need.cpus:g} needed, {self.cpus:g} free")
        if need.gpus > self.gpus + 1e-6:
            missing.append(f"GPUs: {need.gpus:g} needed, {self.gpus:g} free")
        if need.memory_bytes > self.memory_bytes:
            missing.append(
                f"memory: {need.memory_bytes / 2**20:.0f} MiB needed, "
                f"{self.memory_bytes / 2**20:.0f} MiB free"
            )
        for kind in sorted(need.accelerator_types - self.accelerator_types):
            present = ", ".join(sorted(self.accelerator_types)) or "none"
            missing.append(f"accelerator: {kind} needed, {present} free")
        return missing

    def plus(self, other: Room) -> Room:
        """This room after ``other`` was given back."""
        return Room(
            self.cpus + other.cpus,
            self.gpus + other.gpus,
            self.memory_bytes + other.memory_bytes,
            self.accelerator_types | other.accelerator_types,
        )


def choose_strategy(
    free: Room,
    need: Room,
    old: Room,
    *,
    loaded: bool,
    old_can_sleep: bool,
    old_is_shared: bool,
    wanted: Literal["auto"] | Strategy = "auto",
) -> tuple[Strategy | None, str]:
    """Choose how to bring up a candidate.

    Args:
        free: Room free now.
        need: Room the candidate needs.
        old: Room the old model occupies.
        loaded: The candidate is loaded and awake already.
        old_can_sleep: The old engine can give memory back without ending.
        old_is_shared: The old model serves another task, so it may not be stopped.
        wanted: The operator's choice; ``auto`` decides here.

    Returns:
        The strategy and the reason; ``None`` and what is missing when there is no way.

    Example:
        >>> choose_strategy(Room(1), Room(2), Room(2), loaded=False,
        ...                 old_can_sleep=False, old_is_shared=False)[0]
        'drain_first'
    """
    if loaded:
        return "overlap", "the candidate is loaded already"
    missing = free.lacks(need)
    if wanted == "overlap" or (wanted == "auto" and not missing):
        if missing:
            return None, f"overlap was asked for but does not fit: {'; '.join(missing)}"
        return "overlap", "both models fit side by side"
    reason = "asked for" if wanted != "auto" else f"both do not fit ({'; '.join(missing)})"
    if old_is_shared:
        return None, f"{reason}, and the old model also serves another task"
    # A sleeping engine gives back memory, not the CPUs and GPUs that Ray reserved for it.
    after_sleep = free.plus(Room(memory_bytes=old.memory_bytes))
    if wanted == "sleep" and not old_can_sleep:
        return None, "sleep was asked for but the old model's engine cannot sleep"
    if wanted in ("auto", "sleep") and old_can_sleep and not after_sleep.lacks(need):
        return "sleep", f"{reason}; with the old model asleep the candidate fits"
    if wanted == "sleep":
        return None, f"even with the old model asleep: {'; '.join(after_sleep.lacks(need))}"
    after_unload = free.plus(old)
    if after_unload.lacks(need):
        return None, f"even without the old model: {'; '.join(after_unload.lacks(need))}"
    return "drain_first", f"{reason}; the old model is unloaded first and requests wait meanwhile"
