"""The id of a tool call says which load of which model made the call.

The next turn of a tool loop has to go to the model that made the call, also when a swap came
between and another ingress replica gets the turn. Ingress replicas share no memory, and one
shared table would be one more thing to wait for; but every client sends a call's id back with
its result. So the id carries a mark: each replica of a model puts its mark on the ids that it
gives out, an ingress can read it, and the mark is taken off before an engine sees the id.
"""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import TypeVar

T = TypeVar("T")

_SIGNED = re.compile(r"(?s)(.+)\.h([0-9a-f]{8})")


def mark_of(model: str, generation: int) -> str:
    """The mark of one load of a model: 8 hex digits, the same in every process.

    Args:
        model: Model id.
        generation: Load number of the model.

    Example:
        >>> mark_of("quality", 3)
        'a4c26e09'
    """
    return blake2b(f"{model}/{generation}".encode(), digest_size=4).hexdigest()


def signed(id: T, mark: str) -> T | str:
    """The id of a tool call with the mark of its maker.

    Args:
        id: As the engine gave it. What is no string, or is empty as in the later deltas of a
            streamed call, comes back as it is.
        mark: Of ``mark_of``.

    Example:
        >>> signed("call_1", "0123abcd"), signed("", "0123abcd"), signed(None, "0123abcd")
        ('call_1.h0123abcd', '', None)
    """
    return f"{id}.h{mark}" if isinstance(id, str) and id else id


def plain(id: T) -> T | str:
    """The id as its engine knows it.

    Args:
        id: From a client. Without a mark it was made elsewhere and comes back as it is.

    Example:
        >>> plain("call_1.h0123abcd"), plain("call_1"), plain(None)
        ('call_1', 'call_1', None)
    """
    found = _SIGNED.fullmatch(id) if isinstance(id, str) else None
    return found[1] if found else id


def mark_in(id: object) -> str | None:
    """The mark that an id carries.

    Args:
        id: From a client.

    Returns:
        A mark to compare with ``mark_of``; ``None`` if the id was made elsewhere.

    Example:
        >>> mark_in("call_1.h0123abcd"), mark_in("call_1"), mark_in(None)
        ('0123abcd', None, None)
    """
    found = _SIGNED.fullmatch(id) if isinstance(id, str) else None
    return found[2] if found else None
