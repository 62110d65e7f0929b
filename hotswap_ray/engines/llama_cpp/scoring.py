"""How likely a prompt's own tokens are.

llama.cpp tells logprobs of tokens that it generates only. So the prompt is generated: a grammar
leaves one token at each place, and what llama.cpp tells of it is what the model thought before the
grammar was asked. It takes as long as generating the prompt would.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from itertools import takewhile
from typing import Any

from hotswap_ray.core.errors import EngineError, EngineUnavailable

RUN_TOKENS = 256
"""Tokens forced by one grammar; the next run finds these in llama.cpp's cache."""
CERTAIN = 1000.0
"""Bias that no other token overcomes."""
MORE_AND_MORE = (100, 10_000, 10_000_000)
"""Likeliest tokens to look through for one; the last number is more than there are."""

Ask = Callable[[dict[str, Any]], AsyncGenerator[dict[str, Any], None]]


async def score_tokens(
    ask: Ask, tokens: list[int], top: int, *, whole: int, ends: set[int]
) -> list[dict[str, Any]]:
    """What the model thought of each token of a prompt but the first.

    Args:
        ask: Sends a body to llama.cpp's completions and gives its chunks.
        tokens: The prompt; at least one token.
        top: Likeliest tokens to tell of each place.
        whole: Any token that is text, not part of a character.
        ends: Tokens at which runs were seen to end; more are put in.

    Returns:
        An entry with ``id``, ``bytes``, ``logprob`` and ``top_logprobs`` for each.

    Raises:
        EngineError: llama.cpp does not tell it; nothing is guessed.
    """
    entries: list[dict[str, Any]] = []
    while (at := len(entries) + 1) < len(tokens):
        wanted = list(takewhile(lambda token: token not in ends, tokens[at : at + RUN_TOKENS]))
        found = await _by_grammar(ask, tokens[:at], wanted, top) if wanted else []
        if not found:
            found = [await _by_place(ask, tokens[:at], tokens[at], top, whole)]
            ends.add(tokens[at])
        entries += found
    return entries


async def _by_grammar(
    ask: Ask, prompt: list[int], wanted: list[int], top: int
) -> list[dict[str, Any]]:
    """What is told of the tokens that were wanted, as far as it goes."""
    grammar = "root ::= " + " ".join(f"<[{token}]>" for token in wanted)
    found: list[dict[str, Any]] = []
    try:
        async with aclosing(ask(_body(prompt, len(wanted), top, grammar=grammar))) as chunks:
            async for entry, is_whole in _entries(chunks):
                if not is_whole or len(found) == len(wanted) or entry["id"] != wanted[len(found)]:
                    break
                found.append(entry)
    except EngineUnavailable:
        raise
    except EngineError:
        # No grammar lets a token pass that ends an answer; llama.cpp gives the run up there.
        pass
    return found


async def _by_place(
    ask: Ask, prompt: list[int], wanted: int, top: int, whole: int
) -> dict[str, Any]:
    """What is told of one token where no run got on: it ends answers, or is part of a character.

    llama.cpp tells nothing of the latter when it is chosen, but tells it among the likeliest when
    another one is; in the worst case it takes the whole vocabulary.
    """
    for chosen, likeliest in ((wanted, top), *((whole, most) for most in MORE_AND_MORE)):
        body = _body(prompt, 1, likeliest, logit_bias=[[chosen, CERTAIN]])
        async with aclosing(ask(body)) as chunks:
            async for entry, _ in _entries(chunks):
                if entry["id"] == wanted:
                    return entry
                for other in entry["top_logprobs"]:
                    if other["id"] == wanted:
                        return {**other, "top_logprobs": entry["top_logprobs"][: max(top, 1)]}
    raise EngineError(f"llama.cpp does not tell how likely token {wanted} is at {len(prompt)}")


async def _entries(
    chunks: AsyncGenerator[dict[str, Any], None],
) -> AsyncGenerator[tuple[dict[str, Any], bool], None]:
    """Each token that is told, and whether nothing was kept back before it."""
    async for chunk in chunks:
        for choice in chunk["choices"]:
            for entry in (choice.get("logprobs") or {}).get("content") or ():
                yield entry, choice["text"].encode() == bytes(entry["bytes"])


def _body(prompt: list[int], n: int, top: int, **forced: Any) -> dict[str, Any]:
    return {
        "prompt": prompt,
        "max_tokens": n,
        "temperature": 0,
        "logprobs": max(top, 1),
        "stream": True,
        "stream_options": {"include_usage": True},
        **forced,
    }
