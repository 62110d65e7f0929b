"""A model may serve only if it answers the golden prompts; to be healthy is not enough."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from hotswap_ray.actors.cluster.fleet import Fleet
from hotswap_ray.actors.cluster.generation import Generation
from hotswap_ray.actors.cluster.judge_here import answer_text, judge_here
from hotswap_ray.core.answers.judge_messages import Job, Judging
from hotswap_ray.core.errors import ValidationFailed
from hotswap_ray.core.outcome import Endpoint
from hotswap_ray.core.spec.golden import Check, GoldenPrompt
from hotswap_ray.core.spec.task import TaskSpec

PASS = 0.5
"""Least score of an answer that passes."""
ANY_ANSWER = (GoldenPrompt(prompt="Hello", max_tokens=4, check=Check(kind="length")),)
"""Asked where a task has no golden prompts: no answer is too short or too long."""


@dataclass(frozen=True, slots=True)
class GoldenAnswer:
    """The result of one golden prompt; ``quality`` is ``None`` when no check could judge it."""

    latency_ms: float
    tokens_in: int
    tokens_out: int
    quality: float | None


async def _discard(answers: list[GoldenAnswer]) -> None:
    pass


async def validate(
    fleet: Fleet,
    task: TaskSpec,
    generation: Generation,
    limit_s: float,
    judge: Judging = judge_here,
    record: Callable[[list[GoldenAnswer]], Awaitable[None]] = _discard,
) -> dict[str, Any]:
    """Ask a task's golden prompts; judge the answers, their time and the memory.

    Args:
        fleet: The cluster.
        task: The task; without golden prompts any answer at all will do.
        generation: The loaded candidate.
        limit_s: Time to answer all of them.
        judge: Judges the answers; ``JudgeWatchdog.judge`` where a check might hang.
        record: Called with the answers of a task that has golden prompts, good or bad.

    Returns:
        What was measured: ``golden`` as passed/judged and ``golden_ms`` of the slowest.

    Raises:
        ValidationFailed: Which limit was missed, and the first wrong answer; or no answer
            could be judged.
        EngineError: The candidate failed.
    """
    model, needs = generation.model, task.requirements
    jobs: list[Job] = []
    usage: list[tuple[float, int, int]] = []
    try:
        async with asyncio.timeout(limit_s):
            for golden in task.golden or ANY_ANSWER:
                job, elapsed_ms, tokens_in, tokens_out = await _ask(fleet, generation.app, golden)
                jobs.append(job)
                usage.append((elapsed_ms, tokens_in, tokens_out))
    except TimeoutError:
        raise ValidationFailed(f"golden prompts took longer than {limit_s:g} s") from None
    verdicts = await judge(jobs)
    if error := next((verdict.error for verdict in verdicts if verdict.error), None):
        raise ValidationFailed(f"golden prompts of {task.id} cannot be judged: {error}")
    qualities = [verdict.quality for verdict in verdicts]
    if task.golden:
        await record([GoldenAnswer(*u, q) for u, q in zip(usage, qualities, strict=True)])
    judged = len(qualities) - qualities.count(None)
    slowest_ms = max(elapsed_ms for elapsed_ms, _, _ in usage)
    if not judged:
        raise ValidationFailed(f"no check of {task.id} could judge an answer of {model}")
    wrong = [job for job, q in zip(jobs, qualities, strict=True) if q is not None and q < PASS]
    passed = judged - len(wrong)
    if passed < task.golden_min_pass * judged:
        first = answer_text(wrong[0].endpoint, wrong[0].answer, streamed=False)
        raise ValidationFailed(
            f"{model} passed {passed} of {judged} golden prompts of {task.id}, "
            f"{task.golden_min_pass:.0%} are needed; first wrong answer: {first[:80]!r}"
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


async def _ask(fleet: Fleet, app: str, golden: GoldenPrompt) -> tuple[Job, float, int, int]:
    body: dict[str, Any] = {"max_tokens": golden.max_tokens, "temperature": 0}
    if golden.stop:
        body["stop"] = list(golden.stop)
    endpoint: Endpoint = "chat/completions"
    if golden.prompt is not None:
        endpoint, body["prompt"] = "completions", golden.prompt
    else:
        body["messages"] = list(golden.messages or ())
    started = time.perf_counter()
    answer, tokens_in, tokens_out, *_ = await fleet.call(app, "generate", endpoint, body)
    elapsed_ms = (time.perf_counter() - started) * 1e3
    return Job((golden.check,), endpoint, body, answer), elapsed_ms, tokens_in, tokens_out
