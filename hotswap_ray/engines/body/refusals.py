"""What a model does not do, said so that the client knows which model it was and what to do."""

from __future__ import annotations

from typing import Any

from hotswap_ray.core.errors import ContextExceeded, InvalidRequest
from hotswap_ray.core.spec.task import ModelSpec


def does_not(spec: ModelSpec, what: str) -> InvalidRequest:
    """A capability that the model lacks.

    Example:
        >>> print(does_not(ModelSpec(id="small", engine="simulated"), "do tools"))
        small does not do tools (capabilities: chat, completions); choose a task whose model does
    """
    known = ", ".join(spec.capabilities) or "none"
    return InvalidRequest(
        f"{spec.id} does not {what} (capabilities: {known}); choose a task whose model does"
    )


def context_exceeded(model: str, tokens_in: int, context_tokens: int) -> ContextExceeded:
    """A prompt longer than the context, with both numbers and the words that clients look for.

    Example:
        >>> print(context_exceeded("small", 9, 8))  # doctest: +NORMALIZE_WHITESPACE
        the prompt has 9 tokens, but the context of small is 8 tokens
        (this model's maximum context length is 8 tokens); shorten it, or choose a task whose
        model has a longer one
    """
    return ContextExceeded(
        f"the prompt has {tokens_in} tokens, but the context of {model} is {context_tokens} "
        f"tokens (this model's maximum context length is {context_tokens} tokens); shorten it, "
        "or choose a task whose model has a longer one"
    )


def refuse_undone(spec: ModelSpec, body: dict[str, Any]) -> None:
    """Refuse what no engine here does, rather than answer as if it had not been asked.

    Args:
        spec: The model that was asked.
        body: Without nulls.

    Raises:
        InvalidRequest: The body asks for a suffix, the best of several answers, sound, or a
            search of the web.
    """
    if body.get("suffix"):
        raise InvalidRequest(
            f"{spec.id} does not fill text in before a suffix; ask without `suffix`"
        )
    if body.get("best_of", 1) > body.get("n", 1):
        raise InvalidRequest(
            f"{spec.id} does not choose the best of several answers; ask for them all by `n`"
        )
    if set(body.get("modalities") or ()) - {"text"} or body.get("audio"):
        raise InvalidRequest(f"{spec.id} answers with text only; ask without `audio`")
    if "web_search_options" in body:
        raise InvalidRequest(f"{spec.id} does not search the web; ask without `web_search_options`")
