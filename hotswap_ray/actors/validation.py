"""The golden prompts decide whether a model may serve, not that it says it is healthy."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import orjson

from hotswap_ray.actors.fleet import Fleet
from hotswap_ray.actors.generation import Generation
from hotswap_ray.core.checkers import score
from hotswap_ray.core.errors import ValidationFailed
from hotswap_ray.core.golden import GoldenPrompt
from hotswap_ray.core.spec import TaskSpec

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
        What was measured: ``golden`` as passed/asked and ``golden_ms`` of the slowest.

    Raises:
        ValidationFailed: Which limit was missed, and the first wrong answer.
        EngineError: The candidate failed.
    """
    passed, slowest_ms, wrong = 0, 0.0, ""
    prompts = task.golden or ANY_ANSWER
    try:
        async with asyncio.timeout(limit_s):
            for golden in prompts:
                text, elapsed_ms = await _ask(fleet, generation.app, golden)
                slowest_ms = max(slowest_ms, elapsed_ms)
                if not task.golden or score(golden.check, text):
                    passed += 1
                else:
                    wrong = wrong or f"; first wrong answer: {text[:80]!r}"
    except TimeoutError:
        raise ValidationFailed(f"golden prompts took longer than {limit_s:g} s") from None
    model, needs = generation.model, task.requirements
    if passed < task.golden_min_pass * len(prompts):
        raise ValidationFailed(
            f"{model} passed {passed} of {len(prompts)} golden prompts of {task.id}, "
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
    return {"golden": f"{passed}/{len(prompts)}", "golden_ms": round(slowest_ms, 1)}


async def _ask(fleet: Fleet, app: str, golden: GoldenPrompt) -> tuple[str, float]:
    body: dict[str, Any] = {"max_tokens": golden.max_tokens, "temperature": 0}
    if golden.stop:
        body["stop"] = list(golden.stop)
    started = time.perf_counter()
    if golden.prompt is not None:
        body["prompt"] = golden.prompt
        answer = (await fleet.call(app, "generate", "completions", body))[0]
        text = orjson.loads(answer)["choices"][0]["text"]
    else:
        body["messages"] = list(golden.messages or ())
        answer = (await fleet.call(app, "generate", "chat/completions", body))[0]
        text = orjson.loads(answer)["choices"][0]["message"]["content"]
    return str(text or ""), (time.perf_counter() - started) * 1e3
