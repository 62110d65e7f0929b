"""Names: their form, and the one that was probably meant; and values that refuse unknown keys."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"
Name = Annotated[str, Field(pattern=NAME_PATTERN)]


class Strict(BaseModel):
    """A frozen value that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """The end of a sentence about an unknown name; empty if nothing is close.

    Example:
        >>> did_you_mean("qwen7", ["qwen-7b", "llama"])
        "; did you mean 'qwen-7b'?"
        >>> did_you_mean("gpt", ["llama"])
        ''
    """
    matches = difflib.get_close_matches(name, list(names), n=1)
    return f"; did you mean {matches[0]!r}?" if matches else ""
