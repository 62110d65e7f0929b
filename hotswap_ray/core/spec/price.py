"""What a model's tokens cost: the one place where tokens become dollars."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Tokens = TypeVar("Tokens", float, "NDArray[np.float64]")


@dataclass(frozen=True, slots=True)
class Price:
    """Price of a model's tokens; both 0 means that nobody stated it.

    Attributes:
        usd_per_million_tokens_in: US dollars per million prompt tokens.
        usd_per_million_tokens_out: US dollars per million answer tokens.
    """

    usd_per_million_tokens_in: float = 0.0
    usd_per_million_tokens_out: float = 0.0

    @property
    def is_stated(self) -> bool:
        """Whether tokens cost anything."""
        return self != NO_PRICE

    def cost_usd(self, tokens_in: Tokens, tokens_out: Tokens) -> Tokens:
        """Price of a request, in US dollars.

        Args:
            tokens_in: Tokens of the prompt, or an array with one value a request.
            tokens_out: Tokens of the answer, likewise.

        Example:
            >>> Price(1.0, 5.0).cost_usd(1000, 200)
            0.002
        """
        usd_in = tokens_in * self.usd_per_million_tokens_in
        return (usd_in + tokens_out * self.usd_per_million_tokens_out) / 1e6


NO_PRICE = Price()
