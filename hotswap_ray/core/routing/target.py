"""One loaded generation of a model: where a request can go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Target:
    """One loaded generation of a model.

    Attributes:
        model: Model id.
        generation: Load number of that model, from 1.
        limit: Requests that one ingress replica may have in flight on it; more get 429.
        context_tokens: Longest prompt plus answer; 0 where it is not known.
        does: Features it surely has, by the names of ``core/fit/capabilities.py``.
        lacks: Features it surely lacks; of others nothing is known.
        has_affinity: Whether a conversation keeps to one of its replicas.
    """

    model: str
    generation: int
    limit: int
    context_tokens: int = 0
    does: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()
    has_affinity: bool = False

    @classmethod
    def from_doc(cls, doc: Mapping[str, Any]) -> Target:
        """Inverse of ``dataclasses.asdict``, after JSON has made lists of tuples."""
        lists = {name: tuple(doc.get(name, ())) for name in ("does", "lacks")}
        return cls(**{**doc, **lists})

    @property
    def app(self) -> str:
        """Name of its Ray Serve application; never used twice."""
        return app_name(self.model, self.generation)


def app_name(model: str, generation: int) -> str:
    """Ray Serve application of a generation.

    Example:
        >>> app_name("qwen-7b", 3)
        'm-qwen-7b-g3'
    """
    return f"m-{model}-g{generation}"
