"""How a rollout divides a task's conversations between two models, and keeps each where it is.

A conversation's place is a number in [0, 1) from a hash of its key and the rollout's name: every
ingress replica computes the same one, nobody has to remember who got what. Places below the
weight belong to the candidate. When the weight rises, conversations that began on the active
model and lie below the new weight must stay there; these have to be known. So a step is opened
first: each replica tells which of its conversations would move, and those that it does not know
and that lie between the two weights wait for the commit that follows, some 20 ms later.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal

from hotswap_ray.core.target import Target

MOST_REMEMBERED = 50_000
"""Conversations on the active model that a replica remembers; the oldest may move."""
Side = Literal["active", "candidate", "wait"]


@dataclass(frozen=True, slots=True)
class Split:
    """Who answers which conversations of a task while a rollout is under way.

    Attributes:
        candidate: Loaded generation that is tried.
        weight: Share of the conversations it answers, in [0, 1].
        salt: Name of the rollout: another one divides otherwise.
        opening: Weight that is about to follow; 0 when none is.
        kept: Conversations below ``weight`` that began on the active model and stay there.
    """

    candidate: Target
    weight: float
    salt: str
    opening: float = 0.0
    kept: frozenset[int] = frozenset()

    def mark(self, key: str) -> int:
        """The 64 bits that stand for a conversation in this rollout.

        Example:
            >>> split = Split(Target("b", 1, 4), 0.5, "rollout-1")
            >>> split.mark("session-7") == split.mark("session-7")
            True
        """
        return int.from_bytes(blake2b(f"{self.salt}/{key}".encode(), digest_size=8).digest())

    def side(self, mark: int, began_here: bool) -> Side:
        """Who answers a conversation.

        Args:
            mark: From ``mark``.
            began_here: Whether this replica knows that it began on the active model.
        """
        if began_here or mark in self.kept:
            return "active"
        place = mark / 2**64
        if place < self.weight:
            return "candidate"
        return "wait" if place < self.opening else "active"


class Conversations:
    """Conversations that began on the active model, as one replica saw them.

    Example:
        >>> seen = Conversations()
        >>> seen.add("rollout-1", 7)
        >>> seen.knows("rollout-1", 7), seen.knows("rollout-2", 7)
        (True, False)
    """

    def __init__(self, most: int = MOST_REMEMBERED) -> None:
        self._most = most
        self._salts: dict[str, OrderedDict[int, None]] = {}

    def add(self, salt: str, mark: int) -> None:
        """Remember a conversation."""
        marks = self._salts.setdefault(salt, OrderedDict())
        marks[mark] = None
        marks.move_to_end(mark)
        if len(marks) > self._most:
            marks.popitem(last=False)

    def knows(self, salt: str, mark: int) -> bool:
        """Whether a conversation is remembered."""
        return mark in self._salts.get(salt, ())

    def moving(self, split: Split) -> list[int]:
        """Those that would move when the weight rises to ``split.opening``."""
        marks = self._salts.get(split.salt, ())
        return [mark for mark in marks if mark / 2**64 < split.opening]

    def keep(self, salts: Iterable[str]) -> None:
        """Forget every other rollout."""
        wanted = set(salts)
        self._salts = {salt: marks for salt, marks in self._salts.items() if salt in wanted}
