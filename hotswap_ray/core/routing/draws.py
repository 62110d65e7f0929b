"""Whom exploration drew for a conversation, and how ingress replicas hear of each other's draws.

A policy draws from beliefs that change and from what it drew before, so no other replica could
draw the same: who was drawn has to be told. A conversation is told by a number, the answer by a
model's name. Replicas write to one log and follow it; the last entry of a conversation holds, so
two that drew at the same moment come to agree.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable
from hashlib import blake2b

from hotswap_ray.core.routing.split import MOST_REMEMBERED

ACTIVE_ONE = ""
"""Drawn was the active model, whichever that is when the next turn comes."""
Draw = tuple[int, str]
Place = tuple[str, int]
"""How far a log was read: its name, and the number of the next entry."""
UNREAD: Place = ("", 0)


def mark_of_conversation(task: str, key: str) -> int:
    """The 64 bits that stand for a conversation, the same in every process.

    Example:
        >>> mark_of_conversation("t", "s-1") == mark_of_conversation("t", "s-1")
        True
        >>> mark_of_conversation("t", "s-1") == mark_of_conversation("t", "s-2")
        False
    """
    return int.from_bytes(blake2b(f"{task}/{key}".encode(), digest_size=8).digest())


class Drawn:
    """What one replica knows, its own draws and those of others; the oldest are forgotten.

    Attributes:
        fresh: Draws of its own that it has not told yet.

    Example:
        >>> drawn = Drawn()
        >>> drawn.add(7, "b")
        >>> drawn.take([(8, ACTIVE_ONE)])
        >>> drawn.of(7), drawn.of(8), drawn.of(9), drawn.fresh
        ('b', '', None, [(7, 'b')])
    """

    def __init__(self, most: int = MOST_REMEMBERED) -> None:
        self.fresh: list[Draw] = []
        self._most = most
        self._models: OrderedDict[int, str] = OrderedDict()

    def of(self, mark: int) -> str | None:
        """Who was drawn for a conversation; ``None`` if nobody is known."""
        model = self._models.get(mark)
        if model is not None:
            self._models.move_to_end(mark)
        return model

    def add(self, mark: int, model: str) -> None:
        """Remember a draw of this replica, and keep it to be told."""
        self.take([(mark, model)])
        self.fresh.append((mark, model))
        del self.fresh[: -self._most]

    def take(self, draws: Iterable[Draw]) -> None:
        """Remember draws that were told."""
        for mark, model in draws:
            self._models[mark] = model
            self._models.move_to_end(mark)
        while len(self._models) > self._most:
            self._models.popitem(last=False)


class DrawLog:
    """The latest draws of all replicas, in the order in which they were told.

    Args:
        name: Of this log: who has read another one begins anew.
        most: Entries that are kept.

    Example:
        >>> log = DrawLog("one")
        >>> log.extend([(7, "b")])
        >>> place, draws = log.after(UNREAD)
        >>> place, draws, log.after(place)[1]
        (('one', 1), [(7, 'b')], [])
    """

    def __init__(self, name: str, most: int = MOST_REMEMBERED) -> None:
        self._name = name
        self._entries: deque[Draw] = deque(maxlen=most)
        self._count = 0

    def extend(self, draws: Iterable[Draw]) -> None:
        """Write down what a replica tells."""
        for draw in draws:
            self._entries.append(draw)
            self._count += 1

    def after(self, place: Place) -> tuple[Place, list[Draw]]:
        """The entries from a place on that are still kept, and the place after the last one."""
        name, number = place
        unread = self._count - number if name == self._name else self._count
        skipped = max(0, len(self._entries) - unread)
        news = [self._entries[n] for n in range(skipped, len(self._entries))] if unread else []
        return (self._name, self._count), news
