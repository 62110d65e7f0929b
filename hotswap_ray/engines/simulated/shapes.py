"""A plan as OpenAI objects: the choices of an answer, whole or streamed. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

from hotswap_ray.core.outcome import Endpoint
from hotswap_ray.engines.body.tools import calls_as_functions
from hotswap_ray.engines.simulated.plan import Plan

ANSWER_LOGPROB, PROMPT_LOGPROB = 0.0, -1.0
"""What it says of every token: it is certain of its answer, and no prompt surprises it."""


def usage_of(plans: list[Plan]) -> dict[str, int]:
    """OpenAI's ``usage`` of all answers together."""
    tokens_in = sum(plan.tokens_in for plan in plans)
    tokens_out = sum(plan.n * len(plan.pieces) for plan in plans)
    return {
        "prompt_tokens": tokens_in,
        "completion_tokens": tokens_out,
        "total_tokens": tokens_in + tokens_out,
    }


def whole_choice(
    endpoint: Endpoint, plan: Plan, index: int, *, call_id: str, thinks: bool
) -> dict[str, Any]:
    """One choice of a whole answer.

    Args:
        endpoint: Which of the two shapes it has.
        plan: What is answered.
        index: Its place among the choices.
        call_id: Of a tool call, if it is one.
        thinks: Whether a thought is told beside it.
    """
    text = "".join(plan.pieces)
    choice: dict[str, Any] = {"index": index, "finish_reason": plan.finish, "logprobs": None}
    if endpoint == "completions":
        choice["text"] = plan.prompt + text if plan.echo else text
        if plan.top_logprobs is not None:
            choice["logprobs"] = _legacy(plan, plan.pieces, with_prompt=plan.echo)
        return choice
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if thinks:
        message["reasoning_content"] = "simulated thought"
    if plan.call is not None:
        call = {"id": call_id, "type": "function", "function": plan.call}
        message |= {"content": None, "tool_calls": [call]}
    elif plan.top_logprobs is not None:
        choice["logprobs"] = _content(plan, plan.pieces)
    choice["message"] = message
    return calls_as_functions(choice) if plan.has_functions else choice


def chunk_choices(
    endpoint: Endpoint, plan: Plan, index: int, *, call_id: str
) -> Iterator[dict[str, Any]]:
    """One choice in the chunks of a stream; the arguments are those of ``whole_choice``."""
    if endpoint == "completions":
        yield from _text_chunks(plan, index)
        return
    last = chunk_count(plan) - 1
    for place, delta in enumerate(_deltas(plan, call_id)):
        choice: dict[str, Any] = {
            "index": index,
            "delta": {"role": "assistant", **delta} if place == 0 else delta,
            "finish_reason": plan.finish if place == last else None,
        }
        if plan.top_logprobs is not None and plan.call is None:
            choice["logprobs"] = _content(plan, (delta["content"],))
        yield calls_as_functions(choice) if plan.has_functions else choice


def chunk_count(plan: Plan) -> int:
    """How many chunks ``chunk_choices`` gives."""
    if plan.call is not None:
        return 2
    return max(1, len(plan.pieces) + plan.echo)


def _deltas(plan: Plan, call_id: str) -> Iterator[dict[str, Any]]:
    if plan.call is None:
        yield from ({"content": piece} for piece in plan.pieces)
        return
    name, arguments = plan.call["name"], plan.call["arguments"]
    begun = {"id": call_id, "type": "function", "function": {"name": name, "arguments": ""}}
    yield {"content": None, "tool_calls": [{"index": 0, **begun}]}
    yield {"tool_calls": [{"index": 0, "function": {"arguments": arguments}}]}


def _text_chunks(plan: Plan, index: int) -> Iterator[dict[str, Any]]:
    last, offset = chunk_count(plan) - 1, 0
    texts = chain((plan.prompt,) if plan.echo else (), plan.pieces)
    for place, text in enumerate(texts):
        choice: dict[str, Any] = {
            "index": index,
            "text": text,
            "finish_reason": plan.finish if place == last else None,
        }
        if plan.top_logprobs is not None:
            is_prompt = plan.echo and place == 0
            told = () if is_prompt else (text,)
            choice["logprobs"] = _legacy(plan, told, with_prompt=is_prompt, offset=offset)
        offset += len(text)
        yield choice


def _legacy(
    plan: Plan, pieces: tuple[str, ...], *, with_prompt: bool, offset: int = 0
) -> dict[str, list[Any]]:
    """Logprobs as text completions tell them."""
    words = plan.prompt.split(" ") if with_prompt else []
    asked = [word if place == 0 else f" {word}" for place, word in enumerate(words)]
    tokens = [*asked, *pieces]
    values: list[float | None] = [*[PROMPT_LOGPROB] * len(asked), *[ANSWER_LOGPROB] * len(pieces)]
    if asked:
        values[0] = None  # nothing is before it that could make it likely
    offsets = [offset + sum(map(len, tokens[:place])) for place in range(len(tokens))]
    pairs = zip(tokens, values, strict=True)
    return {
        "tokens": tokens,
        "token_logprobs": values,
        "top_logprobs": [None if value is None else {token: value} for token, value in pairs],
        "text_offset": offsets,
    }


def _content(plan: Plan, pieces: tuple[str, ...]) -> dict[str, Any]:
    """Logprobs as chat completions tell them."""
    told = [
        {"token": piece, "logprob": ANSWER_LOGPROB, "bytes": list(piece.encode())}
        for piece in pieces
    ]
    return {
        "content": [{**one, "top_logprobs": [one] if plan.top_logprobs else []} for one in told]
    }
