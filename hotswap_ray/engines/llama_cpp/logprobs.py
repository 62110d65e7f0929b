"""How likely tokens were, in OpenAI's two shapes. Pure."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Entry = Mapping[str, Any]
"""One token as chat completions tell it: ``id``, ``bytes``, ``logprob``, ``top_logprobs``."""


def token_name(token: int, piece: bytes) -> str:
    r"""A token as a string, which its bytes need not be.

    Example:
        >>> token_name(7, b" a"), token_name(8, b"\xf0\x9f"), token_name(106, b"")
        (' a', 'bytes:\\xf0\\x9f', 'token_id:106')
    """
    if not piece:  # of a control token, which has no text
        return f"token_id:{token}"
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)


@dataclass(slots=True)
class LegacyLogprobs:
    """Makes the logprobs of ``/v1/completions`` out of those of chat completions, chunk by chunk.

    Attributes:
        top: Likeliest tokens to tell of each place; the chosen one is told in any case.
        offset: Where in the text the next token begins, in characters.

    Example:
        >>> told = LegacyLogprobs(1).add([{"id": 1, "bytes": [97], "logprob": -0.5,
        ...     "top_logprobs": [{"id": 2, "bytes": [98], "logprob": -0.1}]}])
        >>> told["tokens"], told["token_logprobs"], told["top_logprobs"], told["text_offset"]
        (['a'], [-0.5], [{'b': -0.1, 'a': -0.5}], [0])
    """

    top: int
    offset: int = 0
    _decoder: codecs.IncrementalDecoder = field(
        default_factory=lambda: codecs.getincrementaldecoder("utf-8")("replace")
    )

    def add(self, entries: Iterable[Entry], text: str | None = None) -> dict[str, list[Any]]:
        """The old shape of some more tokens.

        Args:
            entries: One for each token.
            text: What they are together, where that is known otherwise; llama.cpp tells nothing
                of tokens that are part of a character.
        """
        after = None if text is None else self.offset + len(text)
        told: dict[str, list[Any]] = {
            "tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []
        }  # fmt: skip
        for entry in entries:
            piece = bytes(entry["bytes"])
            name = token_name(entry["id"], piece)
            likely: dict[str, float] = {}
            for other in entry["top_logprobs"][: self.top]:
                likely.setdefault(token_name(other["id"], bytes(other["bytes"])), other["logprob"])
            told["tokens"].append(name)
            told["token_logprobs"].append(entry["logprob"])
            told["top_logprobs"].append(
                None if entry["logprob"] is None else likely | {name: entry["logprob"]}
            )
            told["text_offset"].append(self.offset)
            self.offset += len(self._decoder.decode(piece))
        if after is not None:
            self.offset = after
        return told


def first_entry(token: int, piece: bytes) -> dict[str, Any]:
    """The first token of a prompt: nothing is before it that could make it likely."""
    return {"id": token, "bytes": list(piece), "logprob": None, "top_logprobs": []}
