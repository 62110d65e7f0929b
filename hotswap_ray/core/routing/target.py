"""One loaded generation of a model: where a request can go."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Target:
    """One loaded generation of a model.

    Attributes:
        model: Model id.
        generation: Load number of that model, from 1.
        limit: Requests that one ingress replica may have in flight on it; more get 429.
        context_tokens: Longest prompt plus answer.
    """

    model: str
    generation: int
    limit: int
    context_tokens: int = 0

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
