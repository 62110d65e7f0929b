"""Asks a loaded model our own questions, in the words in which its server takes them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from hotswap_ray.actors.cluster.fleet import Fleet
from hotswap_ray.core.errors import ContextExceeded, InvalidRequest
from hotswap_ray.core.fit.own_questions import elsewhere, in_other_words, lacks_endpoint
from hotswap_ray.core.outcome import Endpoint
from hotswap_ray.core.spec.task import ModelSpec


@dataclass(frozen=True, slots=True)
class Reply:
    """What a model answered.

    Attributes:
        value: What the replica's method returned.
        endpoint: Where it was asked in the end.
        body: The request that it took.
        latency_ms: Time for that request alone.
    """

    value: Any
    endpoint: Endpoint
    body: dict[str, Any]
    latency_ms: float


async def ask_own(
    fleet: Fleet,
    app: str,
    endpoint: Endpoint,
    body: dict[str, Any],
    *,
    method: str = "generate",
    spec: ModelSpec | None = None,
) -> Reply:
    """Ask a question of ours.

    What the server refuses by its name (``max_tokens``, ``temperature``) is asked again without.

    Args:
        fleet: The cluster.
        app: Application of the model.
        endpoint: Where to ask.
        body: The question.
        method: Of the replica.
        spec: The model, if the question may also be asked at its other endpoint where the server
            has not this one.

    Raises:
        HotswapError: The model failed, or refuses the question in every form; its first refusal.
    """
    first: InvalidRequest | None = None
    while True:
        started = time.perf_counter()
        try:
            value = await fleet.call(app, method, endpoint, body)
        except InvalidRequest as refusal:
            first = first or refusal
            if isinstance(refusal, ContextExceeded):  # names max_tokens, and means another number
                raise first from None
            if other := in_other_words(body, refusal.message):
                body = other
            elif (
                spec
                and lacks_endpoint(refusal.message)
                and (place := elsewhere(spec, endpoint, body))
            ):
                (endpoint, body), spec = place, None
            else:
                raise first from None
            continue
        return Reply(value, endpoint, body, (time.perf_counter() - started) * 1e3)
