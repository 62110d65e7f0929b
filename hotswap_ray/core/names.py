"""A name that does not exist, and the one that was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown name; empty if nothing is close.

    Example:
        >>> did_you_mean("qwen7", ["qwen-7b", "llama"])
        "; did you mean 'qwen-7b'?"
        >>> did_you_mean("gpt", ["llama"])
        ''
    """
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
