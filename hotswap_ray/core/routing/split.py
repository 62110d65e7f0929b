"""How a task's conversations are divided among several models, and keep the one they began on.

A conversation's place is a number in [0, 1) from a hash of its key and the name of the rollout
or test: every ingress replica computes the same one, so none of them has to remember it. The
candidates have the first intervals, as wide as their weights; the active model has the rest.

When weights change, some places get another model, but conversations that began there must stay
with theirs, so the table must list them. Therefore a step is opened first: each replica reports
which of its conversations would move. A conversation that a replica does not know, and whose
place gets another model, waits for the commit that follows, some 20 ms later. A candidate that is
taken out is the exception: its conversations go to the active model, in one commit, and no other
conversation moves.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b

from hotswap_ray.core.outcome import RoutingDecision
from hotswap_ray.core.routing.target import Target

MOST_REMEMBERED = 50_000
"""Conversations of a rollout or test that a replica, and a table, remember; the oldest may move."""
ACTIVE = 0
"""Number of the active model; the candidates are 1, 2 and so on."""


@dataclass(frozen=True, slots=True)
class Share:
    """What one candidate gets.

    Attributes:
        target: Loaded generation that is tried.
        weight: Share of the conversations it answers, in [0, 1].
        out: It was taken out, or is gone: the active model answers in its place.
    """

    target: Target
    weight: float
    out: bool = False


@dataclass(frozen=True, slots=True)
class Split:
    """Who answers which conversations of a task while a rollout or an A/B test is under way.

    Attributes:
        salt: Name of the rollout or test: another one divides otherwise.
        shares: The candidates, always in the same order; their weights sum to 1 at most.
        opening: Weights that are about to follow; empty when none are.
        kept: Conversations whose place has changed hands, and who keeps them, oldest first.
        decision: Why a candidate gets a request: a canary divides, or an A/B test.
    """

    salt: str
    shares: tuple[Share, ...]
    opening: tuple[float, ...] = ()
    kept: Mapping[int, int] = field(default_factory=dict)
    decision: RoutingDecision = RoutingDecision.CANARY

    @property
    def weights(self) -> tuple[float, ...]:
        """Share of the conversations of each candidate."""
        return tuple(share.weight for share in self.shares)

    def mark(self, key: str) -> int:
        """The 64 bits that stand for a conversation here.

        Example:
            >>> split = Split("rollout-1", (Share(Target("b", 1, 4), 0.5),))
            >>> split.mark("session-7") == split.mark("session-7")
            True
        """
        return int.from_bytes(blake2b(f"{self.salt}/{key}".encode(), digest_size=8).digest())

    def arm(self, mark: int, began: int | None) -> int | None:
        """Who answers a conversation: its number, or ``None`` while it has to wait.

        Args:
            mark: From ``mark``.
            began: Who answered it before, where this replica knows.

        Example:
            >>> split = Split("x", (Share(Target("b", 1, 4), 0.5), Share(Target("c", 1, 4), 0.2)))
            >>> [split.arm(int(place * 2**64), None) for place in (0.4, 0.6, 0.8)]
            [1, 2, 0]
            >>> opened = replace(split, opening=(0.5, 0.0))
            >>> [opened.arm(int(0.6 * 2**64), began) for began in (None, 2)]
            [None, 2]
        """
        holder = self.kept.get(mark) if began is None else began
        if holder is not None:
            return self._serving_arm(holder)
        return None if self.changes(mark) else self._at(mark, self.weights)

    def _at(self, mark: int, weights: Sequence[float]) -> int:
        """Whose place a conversation has, at some weights."""
        place, edge = mark / 2**64, 0.0
        for number, weight in enumerate(weights, 1):
            edge += weight
            if place < edge:
                return self._serving_arm(number)
        return ACTIVE

    def _serving_arm(self, arm: int) -> int:
        return ACTIVE if arm and self.shares[arm - 1].out else arm

    def changes(self, mark: int) -> bool:
        """Whether the place of a conversation is about to change hands."""
        return bool(self.opening) and self._at(mark, self.weights) != self._at(mark, self.opening)

    def opened(self, weights: Sequence[float]) -> Split:
        """The split with other weights announced."""
        return replace(self, opening=tuple(weights))

    def moved(self, weights: Sequence[float], moving: Mapping[int, int]) -> Split:
        """The split with other weights in force.

        Args:
            weights: Of each candidate.
            moving: Conversations whose place changes hands, and who answers them: they stay.
        """
        kept = list({**self.kept, **moving}.items())[-MOST_REMEMBERED:]
        shares = zip(self.shares, weights, strict=True)
        reweighted = tuple(replace(share, weight=w) for share, w in shares)
        return replace(self, shares=reweighted, opening=(), kept=dict(kept))

    def without(self, model: str, unless: Target | None = None) -> Split:
        """The split with a candidate taken out; itself if there is none of that name.

        Args:
            model: Its model id.
            unless: Not if it is this generation.
        """
        return replace(
            self,
            shares=tuple(
                replace(share, out=True)
                if share.target.model == model and share.target != unless
                else share
                for share in self.shares
            ),
        )

    def with_target(self, target: Target) -> Split:
        """The split with a candidate back under a new generation."""
        return replace(
            self,
            shares=tuple(
                Share(target, share.weight) if share.target.model == target.model else share
                for share in self.shares
            ),
        )


class Conversations:
    """Who answered which conversations, as one replica saw them.

    Example:
        >>> conversations = Conversations()
        >>> conversations.add("rollout-1", 7, ACTIVE)
        >>> conversations.began("rollout-1", 7), conversations.began("rollout-2", 7)
        (0, None)
    """

    def __init__(self, most: int = MOST_REMEMBERED) -> None:
        self._most = most
        self._salts: dict[str, OrderedDict[int, int]] = {}

    def add(self, salt: str, mark: int, arm: int) -> None:
        """Remember a conversation."""
        marks = self._salts.setdefault(salt, OrderedDict())
        marks[mark] = arm
        marks.move_to_end(mark)
        if len(marks) > self._most:
            marks.popitem(last=False)

    def began(self, salt: str, mark: int) -> int | None:
        """Who answered a conversation; ``None`` if it is not remembered."""
        marks = self._salts.get(salt)
        return None if marks is None else marks.get(mark)

    def moving(self, split: Split) -> dict[int, int]:
        """Those whose place is about to change hands, and who answers them."""
        marks = self._salts.get(split.salt, OrderedDict[int, int]())
        return {mark: arm for mark, arm in marks.items() if split.changes(mark)}

    def keep(self, salts: Iterable[str]) -> None:
        """Forget every other rollout and test."""
        retained = set(salts)
        self._salts = {salt: marks for salt, marks in self._salts.items() if salt in retained}
