"""The prompt of a text completion: one or several, as text or as tokens."""

from __future__ import annotations

from typing import Any

from hotswap_ray.core.errors import InvalidRequest

Prompt = str | list[int]
MOST_TOKEN = 2**31


def read_prompts(prompt: Any) -> list[Prompt]:
    """The prompts of a body, in their order.

    Args:
        prompt: A string, a list of strings, a list of token ids, or a list of such lists.

    Raises:
        InvalidRequest: It is something else, or one of them is empty.

    Example:
        >>> read_prompts("a"), read_prompts([2, 818]), read_prompts(["a", [2]])
        (['a'], [[2, 818]], ['a', [2]])
    """
    if isinstance(prompt, list) and prompt and all(map(_is_token, prompt)):
        return [prompt]
    prompts = prompt if isinstance(prompt, list) else [prompt]
    if not prompt or not all(map(_is_prompt, prompts)):
        raise InvalidRequest(
            "completions need a prompt that is not empty: a string, a list of token ids, or a "
            "list of such prompts"
        )
    return prompts


def _is_token(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MOST_TOKEN


def _is_prompt(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and all(map(_is_token, value))
    return isinstance(value, str) and value != ""
