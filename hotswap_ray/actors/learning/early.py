"""Scores that wait for the answer they are about to be recorded: bounded, and not for ever.

A client may score a stream that still runs, or an answer whose outcome waits in another ingress
replica. Its score is taken and applied when the outcome comes.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable

from hotswap_ray.core.errors import Overloaded
from hotswap_ray.store.pending import PendingScore

MOST = 10_000
MOST_OF_ONE = 2_000
"""Of one API key, so that one cannot take all the room."""
LONGEST_S = 86_400.0
"""No answer takes longer (``server.request_timeout_s``)."""
LEAST_ID = 16
"""Characters that an id has at least which may still turn up; shorter ones are not unique."""
MOST_ID = 256
log = logging.getLogger(__name__)


def may_come(request_id: str) -> bool:
    """Whether an id may be of an answer that is not recorded yet, and not a slip of a hand.

    Example:
        >>> may_come("0e3b4f9c2d7a4c51a1f6f0c2b8d9e7a6"), may_come("r1")
        (True, False)
    """
    return LEAST_ID <= len(request_id) <= MOST_ID and request_id.isprintable()


class EarlyScores:
    """Scores by the id of their answer, one for each.

    Args:
        kept: Those of an earlier life, the oldest first.

    Attributes:
        expired: Scores whose answer never came.
    """

    def __init__(self, kept: Iterable[PendingScore] = ()) -> None:
        self._scores = {score.request: score for score in kept}
        self._of_source = Counter(score.source for score in self._scores.values())
        self.expired = 0

    def __len__(self) -> int:
        return len(self._scores)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._scores

    def get(self, request_id: str) -> PendingScore | None:
        """The score that waits for an answer, if one does."""
        return self._scores.get(request_id)

    def add(self, score: PendingScore) -> None:
        """Take a score in; those that are too old go.

        Raises:
            Overloaded: Too many wait, in all or from this source; nothing was taken.
        """
        self._expire(score.at_s - LONGEST_S)
        of_one = self._of_source[score.source] if score.source is not None else 0
        if len(self._scores) >= MOST or of_one >= MOST_OF_ONE:
            raise Overloaded("too many scores wait for answers that are not recorded yet", 10.0)
        self._scores[score.request] = score
        self._of_source[score.source] += 1

    def pop(self, request_id: str) -> PendingScore:
        """The score of an answer, which waits no longer."""
        score = self._scores.pop(request_id)
        self._of_source[score.source] -= 1
        if not self._of_source[score.source]:
            del self._of_source[score.source]
        return score

    def _expire(self, before_s: float) -> None:
        old = []
        for score in self._scores.values():
            if score.at_s >= before_s:
                break
            old.append(score.request)
        for request_id in old:
            self.pop(request_id)
        if old:
            self.expired += len(old)
            log.warning("%d scores are forgotten: no answer had their ids", len(old))
