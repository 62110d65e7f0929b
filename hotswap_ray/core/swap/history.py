"""Which models served a task, and which of them are kept warm: read from its saved swaps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hotswap_ray.core.swap.phases import Phase, Swap

KEPT_WARM = "kept_warm"
"""Fact of a swap: the model that it left and that stays loaded, and its generation."""


@dataclass(frozen=True, slots=True)
class Served:
    """A model that served a task.

    Attributes:
        model: Model id.
        generation: The load of it that served last.
        since_s: Unix time when it last got the task; ``None`` where that is not known.
        swap_id: The swap that gave it the task; empty for the first model.
    """

    model: str
    generation: int
    since_s: float | None = None
    swap_id: str = ""


def served(swaps: Sequence[Swap]) -> list[Served]:
    """The distinct models that served a task, the newest first.

    A candidate that was taken back before its swap had succeeded is none of them.

    Args:
        swaps: Swaps of one task, the newest first.

    Example:
        >>> first = Swap("s1", "t", "a", 1, "b", 1, Phase.SUCCEEDED, updated_at_s=5)
        >>> second = Swap("s2", "t", "b", 1, "c", 1, Phase.SUCCEEDED, updated_at_s=9)
        >>> [row.model for row in served([second, first])]
        ['c', 'b', 'a']
    """
    records: dict[str, Served] = {}  # the newest last
    for swap in reversed(swaps):
        if swap.phase is Phase.SUCCEEDED:
            old, new = swap.from_model, swap.to_model
            earlier = records.get(old, Served(old, 0))
            records[old] = Served(old, swap.from_generation, earlier.since_s, earlier.swap_id)
            after_switch_s = sum(
                swap.seconds.get(p, 0.0) for p in ("draining", "baking", "retiring")
            )
            _put_newest(
                records,
                Served(new, swap.to_generation, swap.updated_at_s - after_switch_s, swap.swap_id),
            )
        elif swap.phase is Phase.ROLLED_BACK:
            old = swap.from_model
            _put_newest(records, Served(old, swap.from_generation, swap.updated_at_s, swap.swap_id))
    return [*reversed(records.values())]


def _put_newest(records: dict[str, Served], record: Served) -> None:
    records.pop(record.model, None)
    records[record.model] = record


def kept_warm(swaps: Iterable[Swap]) -> list[tuple[str, str, int]]:
    """Task, model and generation of what was kept warm, in the order of ``swaps``, each once.

    Example:
        >>> fact = {KEPT_WARM: {"model": "a", "generation": 3}}
        >>> kept_warm([Swap("s1", "t", "a", 3, "b", facts=fact)])
        [('t', 'a', 3)]
    """
    facts = ((swap.task, swap.facts[KEPT_WARM]) for swap in swaps if KEPT_WARM in swap.facts)
    return [*dict.fromkeys((task, fact["model"], fact["generation"]) for task, fact in facts)]
