"""A model may serve only if it answers the golden prompts; to be healthy is not enough."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import orjson

from hotswap_ray.actors.cluster.fleet import Fleet
from hotswap_ray.actors.cluster.generation import Generation
from hotswap_ray.actors.cluster.judge_here import answer_text, judge_here
from hotswap_ray.actors.cluster.own_questions import Reply, ask_own
from hotswap_ray.core.answers.judge_messages import Job, Judging
from hotswap_ray.core.errors import InvalidRequest, NotSupported, ValidationFailed
from hotswap_ray.core.fit.own_questions import elsewhere, golden_question
from hotswap_ray.core.spec.golden import Check, GoldenPrompt
from hotswap_ray.core.spec.task import ModelSpec, TaskSpec

PASS = 0.5
"""Least score of an answer that passes."""
ANYTHING = ({"role": "user", "content": "Hello"},)
"""Asked where a task has no golden prompts."""
ANY_ANSWER = Check(kind="length")
"""Judges its answer: none is too short or too long."""
FEW_TOKENS = 4


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
    spec: ModelSpec | None = None,
) -> dict[str, Any]:
    """Ask a task's golden prompts; judge the answers, their time and the memory.

    Args:
        fleet: The cluster.
        task: The task; without golden prompts any answer at all will do.
        generation: The loaded candidate.
        limit_s: Time to answer all of them.
        judge: Judges the answers; ``JudgeWatchdog.judge`` where a check might hang.
        record: Called with the answers of a task that has golden prompts, good or bad.
        spec: The candidate, which says where and how it is to be asked.

    Returns:
        What was measured: ``golden`` as passed/judged and ``golden_ms`` of the slowest.

    Raises:
        ValidationFailed: Which limit was missed, and the first wrong answer; or no answer
            could be judged.
        EngineError: The candidate failed.
    """
    model, needs = generation.model, task.requirements
    spec, app = spec or ModelSpec(id=model, engine="simulated"), generation.app
    replies: list[Reply] = []
    try:
        async with asyncio.timeout(limit_s):
            for golden in task.golden:
                replies.append(await ask_own(fleet, app, *golden_question(spec, golden), spec=spec))
            if not task.golden:
                replies.append(await _ask_any(fleet, app, spec))
    except TimeoutError:
        raise ValidationFailed(f"golden prompts took longer than {limit_s:g} s") from None
    checks = [golden.check for golden in task.golden] or [ANY_ANSWER]
    verdicts = await judge(
        [
            Job((check,), reply.endpoint, reply.body, reply.value[0])
            for check, reply in zip(checks, replies, strict=True)
        ]
    )
    if error := next((verdict.failure for verdict in verdicts if verdict.failure), None):
        raise ValidationFailed(f"golden prompts of {task.id} cannot be judged: {error}")
    qualities = [verdict.quality for verdict in verdicts]
    if task.golden:
        await record(
            [
                GoldenAnswer(reply.latency_ms, reply.value[1], reply.value[2], quality)
                for reply, quality in zip(replies, qualities, strict=True)
            ]
        )
    judged = len(qualities) - qualities.count(None)
    slowest_ms = max(reply.latency_ms for reply in replies)
    if not judged:
        raise ValidationFailed(f"no check of {task.id} could judge an answer of {model}")
    wrong = [
        (reply, verdict.wrong_form)
        for reply, verdict in zip(replies, verdicts, strict=True)
        if verdict.quality is not None and verdict.quality < PASS
    ]
    passed = judged - len(wrong)
    if passed < task.golden_min_pass * judged:
        raise ValidationFailed(
            f"{model} passed {passed} of {judged} golden prompts of {task.id}, "
            f"{task.golden_min_pass:.0%} are needed; first wrong answer: {_shown(*wrong[0])}"
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


async def _ask_any(fleet: Fleet, app: str, spec: ModelSpec) -> Reply:
    """Any answer at all will do, at any endpoint; chat first, which most servers have."""
    golden = GoldenPrompt(messages=ANYTHING, max_tokens=FEW_TOKENS)
    endpoint, body = golden_question(spec, golden, room=False)
    try:
        return await ask_own(fleet, app, endpoint, body)
    except (InvalidRequest, NotSupported):
        if other := elsewhere(spec, endpoint, body):
            return await ask_own(fleet, app, *other)
        raise


def _shown(reply: Reply, why: str) -> str:
    """A wrong answer as a report shows it, with the reason where one is known."""
    text = answer_text(reply.endpoint, reply.value[0], streamed=False)
    choice = orjson.loads(reply.value[0])["choices"][0]
    if not text and choice.get("finish_reason") == "length":
        why = "all its tokens went into thinking; give it more (thinking_tokens)"
    return f"{text[:80]!r} ({why})" if why else f"{text[:80]!r}"
