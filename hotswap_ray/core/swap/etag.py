"""Two operators at once: whoever acts on an outdated view of a swap is refused."""

from __future__ import annotations

from typing import Protocol

from hotswap_ray.core.errors import PreconditionFailed
from hotswap_ray.core.swap.phases import Swap


class HasEtag(Protocol):
    """A record that changes."""

    @property
    def etag(self) -> str:
        """Another one after every change."""
        ...


def matches(record: HasEtag, if_match: str | None) -> bool:
    """Whether a condition holds, in the form of HTTP's ``If-Match``.

    Args:
        record: As it is now.
        if_match: An etag, quoted or not, several with commas, or ``*``; no condition when
            ``None``. A weak etag (``W/"..."``) never matches.

    Example:
        >>> swap = Swap("s1", "t", "a", 1, "b")
        >>> matches(swap, f'"old", "{swap.etag}"'), matches(swap, '"old"'), matches(swap, "*")
        (True, False, True)
    """
    if if_match is None:
        return True
    tags = {part.strip().strip('"') for part in if_match.split(",")}
    return bool(tags & {record.etag, "*"})


def mismatch(swap: Swap) -> PreconditionFailed:
    """The error of a condition that does not hold; its text gives the swap's phase and etag."""
    return PreconditionFailed(
        f"swap {swap.swap_id} is {swap.phase} by now (etag {swap.etag}); it changed since you "
        "looked, so nothing was done: look again and decide anew"
    )


def require(swap: Swap | None, if_match: str | None, task: str = "") -> None:
    """Refuse to act on a swap that changed since the caller saw it.

    Args:
        swap: The record as it is now; ``None`` if the task has had no swap.
        if_match: See ``matches``.
        task: The task, for the message.

    Raises:
        PreconditionFailed: The condition does not hold.
    """
    if if_match is None:
        return
    if swap is None:
        raise PreconditionFailed(f"task {task!r} has had no swap, so there is no etag to match")
    if not matches(swap, if_match):
        raise mismatch(swap)
