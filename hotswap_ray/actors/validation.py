"""The golden prompts decide whether a model may serve, not that it says it is healthy."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from hotswap_ray.actors.fleet import Fleet
from hotswap_ray.actors.generation import Generation
from hotswap_ray.actors.judge import answer_text
from hotswap_ray.core.checkers import score
from hotswap_ray.core.errors import CheckerFailed, ValidationFailed
from hotswap_ray.core.golden import GoldenPrompt
from hotswap_ray.core.spec import TaskSpec
from hotswap_ray.core.types import Endpoint

PASS = 0.5
"""Least score of an answer that passes."""
ANY_ANSWER = (GoldenPrompt(prompt="Hello", max_tokens=4),)


async def validate(
    fleet: Fleet, task: TaskSpec, generation: Generation, limit_s: float
) -> dict[str, Any]:
    """Ask a task's golden prompts; judge the answers, their time and the memory.

    Args:
        fleet: The cluster.
        task: The task; without golden prompts any answer at all will do.
        generation: The loaded candidate.
        limit_s: Time to answer all of them.

    Returns:
        What was measured: ``golden`` as passed/judged and ``golden_ms`` of the slowest.

    Raises:
        ValidationFailed: Which limit was missed, and the first wrong answer; or no answer
            could be judged.
        EngineError: The candidate failed.
    """
    passed, judged, slowest_ms, wrong = 0, 0, 0.0, ""
    prompts = task.golden or ANY_ANSWER
    try:
        async with asyncio.timeout(limit_s):
            for golden in prompts:
                body = _body(golden)
                text, elapsed_ms = await _ask(fleet, generation.app, body)
                slowest_ms = max(slowest_ms, elapsed_ms)
                quality = score(golden.check, text, body) if task.golden else 1.0
                if quality is None:
                    continue
                judged += 1
                if quality >= PASS:
                    passed += 1
                else:
                    wrong = wrong or f"; first wrong answer: {text[:80]!r}"
    except CheckerFailed as error:
        raise ValidationFailed(f"a golden prompt of {task.id} cannot be judged: {error}") from error
    except TimeoutError:
        raise ValidationFailed(f"golden prompts took longer than {limit_s:g} s") from None
    model, needs = generation.model, task.requirements
    if not judged:
        raise ValidationFailed(f"no check of {task.id} could judge an answer of {model}")
    if passed < task.golden_min_pass * judged:
        raise ValidationFailed(
            f"{model} passed {passed} of {judged} golden prompts of {task.id}, "
            f"{task.golden_min_pass:.0%} are needed{wrong}"
        )
    if needs.max_latency_ms and slowest_ms > needs.max_latency_ms:
        raise ValidationFailed(
            f"{model} took {slowest_ms:.0f} ms, {needs.max_latency_ms:g} ms are allowed"
        )
    if needs.max_memory_bytes and generation.memory_bytes > needs.max_memory_bytes:
        raise ValidationFailed(
            f"{model} uses {generation.memory_bytes / 2**20:.0f} MiB, "
            f"{needs.max_memory_bytes / 2**20:.0f} MiB are allowed"
        )
    return {"golden": f"{passed}/{judged}", "golden_ms": round(slowest_ms, 1)}


def _body(golden: GoldenPrompt) -> dict[str, Any]:
    body: dict[str, Any] = {"max_tokens": golden.max_tokens, "temperature": 0}
    if golden.stop:
        body["stop"] = list(golden.stop)
    if golden.prompt is not None:
        return {**body, "prompt": golden.prompt}
    return {**body, "messages": list(golden.messages or ())}


async def _ask(fleet: Fleet, app: str, body: dict[str, Any]) -> tuple[str, float]:
    endpoint: Endpoint = "completions" if "prompt" in body else "chat/completions"
    started = time.perf_counter()
    answer = (await fleet.call(app, "generate", endpoint, body))[0]
    elapsed_ms = (time.perf_counter() - started) * 1e3
    return answer_text(endpoint, answer, streamed=False), elapsed_ms
