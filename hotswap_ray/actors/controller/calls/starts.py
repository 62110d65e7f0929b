"""What the parts of the controller have in common: none answers before the start."""

from __future__ import annotations

from abc import ABC, abstractmethod


class Starts(ABC):
    """A part of an object that reads its store before it answers."""

    @abstractmethod
    async def start(self) -> None:
        """Read the store and go on from it; done once, by the first call."""
