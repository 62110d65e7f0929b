"""Whether a server has a model: by its list, else by asking the model for one token."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from hotswap_ray.core.errors import (
    ContextExceeded,
    EngineTimeout,
    HotswapError,
    InvalidRequest,
    Overloaded,
)
from hotswap_ray.core.fit.capabilities import canonicals
from hotswap_ray.core.outcome import Endpoint
from hotswap_ray.core.spec.task import ModelSpec
from hotswap_ray.engines.openai.connection import Connection
from hotswap_ray.engines.openai.listing import has, listed, spoken
from hotswap_ray.engines.openai.options import OpenAIOptions

log = logging.getLogger("hotswap.engines")

Ask = Callable[[Endpoint, dict[str, Any]], Awaitable[Any]]
_ENDPOINTS: dict[str, Endpoint] = {"chat": "chat/completions", "completions": "completions"}
_LIMITS = ({"max_tokens": 1}, {"max_completion_tokens": 16})
"""One token; and for servers that know only the new name, and want room to think, a few."""


async def reason_against(
    model: str, spec: ModelSpec, options: OpenAIOptions, server: Connection, ask: Ask
) -> str:
    """Why a model cannot be served.

    Args:
        model: Its name on the server.
        spec: The model.
        options: ``check`` says how to look.
        server: Is asked for its list.
        ask: Answers a request whole.

    Returns:
        The end of a sentence about the server; empty if it has the model.

    Raises:
        HotswapError: The server does not answer at all.
    """
    if options.check == "none":
        return ""
    doubt = await _doubt(model, server) if options.check == "models" else ""
    if doubt is None:
        return ""
    refused = await _one_token(spec, ask)
    if not refused:
        return ""
    if options.check == "one_token":  # now the names that it has are worth a request
        with suppress(HotswapError):
            doubt = await _doubt(model, server)
    return f"{doubt or 'refuses the model'}; asked for one token, it answered: {refused}"


async def _doubt(model: str, server: Connection) -> str | None:
    """Why the server's list does not show that it has the model; ``None`` if it does."""
    got = await server.fetch("models")
    if got.refusal is not None:
        return f"does not list models as OpenAI does: {got.refusal}"
    try:
        names = listed(json.loads(got.body))
    except (ValueError, RecursionError):
        names = None
    if names is None:
        return "does not list models as OpenAI does"
    return None if has(names, model) else f"has no model {model!r}; it has: {spoken(names)}"


async def _one_token(spec: ModelSpec, ask: Ask) -> str:
    """What the model says against one token, on an endpoint that it declares; empty if nothing."""
    declared = canonicals(spec.capabilities)
    endpoints = [end for name, end in _ENDPOINTS.items() if name in declared]
    reasons: list[str] = []
    for endpoint in endpoints or ["chat/completions"]:
        asked = {"messages": [{"role": "user", "content": "hi"}]}
        body: dict[str, Any] = {"prompt": "hi"} if endpoint == "completions" else asked
        for limit in _LIMITS:
            try:
                await ask(endpoint, {**body, **limit})
                return ""
            except (Overloaded, ContextExceeded) as error:
                log.warning("%s: taken as loaded, though it answered: %s", spec.id, error)
                return ""
            except InvalidRequest as error:
                reasons.append(error.message)  # it may be the limit's name
            except EngineTimeout as error:
                return error.message
            except HotswapError as error:
                reasons.append(error.message)
                break
    return "; ".join(dict.fromkeys(reasons))
