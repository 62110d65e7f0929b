"""What the parts of the controller have in common: it has to have started first."""

from __future__ import annotations

from abc import ABC, abstractmethod


class Starts(ABC):
    """A part of an object that reads its store before it answers."""

    @abstractmethod
    async def start(self) -> None:
        """Read the store and go on; once, whoever asks first."""
