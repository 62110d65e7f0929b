"""Public helpers for tests: the contracts that every engine and every policy keep.

A third party's engine is right when this passes::

    async def test_my_engine_keeps_the_contract():
        await check_engine(MyEngine(ModelSpec(id="m", engine="my_package:MyEngine", ...)))
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

from hotswap_ray.core.errors import EngineError, InvalidRequest, NotSupported
from hotswap_ray.core.outcome import Endpoint
from hotswap_ray.engines.base import Engine
from hotswap_ray.testing.policies import check_policy

__all__ = ["check_engine", "check_policy"]

ENDPOINTS: tuple[Endpoint, ...] = ("chat/completions", "completions")


async def check_engine(
    engine: Engine,
    *,
    context_tokens: int | None = 2048,
    memory_known: bool = True,
    within_s: float = 30,
) -> None:
    """Check that an engine keeps the contract of ``engines.base.Engine``.

    Args:
        engine: A new engine, not started; it is stopped at the end.
        context_tokens: Its context, to exceed it; ``None`` if it has no limit.
        memory_known: Whether ``memory_bytes`` must be positive (a remote server's is not
            known).
        within_s: Longest time one short request may take, in seconds.

    Raises:
        AssertionError: What the engine does otherwise.
    """
    await engine.start()
    try:
        for endpoint in ENDPOINTS:
            await _whole_equals_streamed(engine, endpoint, within_s)
            await _bad_bodies_are_refused(engine, endpoint, context_tokens, within_s)
        await _concurrent_requests_are_answered(engine, within_s)
        await _cancelling_frees_the_engine(engine, within_s)
        await _sleeps_or_says_it_cannot(engine, within_s)
        await engine.check_health()
        memory = engine.memory_bytes()
        assert memory > 0 if memory_known else memory >= 0, f"memory_bytes() is {memory}"
    finally:
        await engine.stop()
        await engine.stop()
    await _refuses(engine, "a stopped engine answered")


def body_of(endpoint: Endpoint, **changes: Any) -> dict[str, Any]:
    """A small greedy request for ``endpoint``.

    Example:
        >>> body_of("completions", max_tokens=1)
        {'prompt': 'One two three four', 'max_tokens': 1, 'temperature': 0}
    """
    text = "One two three four"
    body: dict[str, Any] = {"prompt": text}
    if endpoint == "chat/completions":
        body = {"messages": [{"role": "user", "content": text}]}
    return {**body, "max_tokens": 8, "temperature": 0, **changes}


def text_of(answer: dict[str, Any]) -> str:
    """The text of the first choice of an answer or a chunk; empty if it has none.

    Example:
        >>> text_of({"choices": [{"delta": {"content": "hi"}}]})
        'hi'
    """
    if not answer["choices"]:
        return ""
    choice = answer["choices"][0]
    part = choice.get("message") or choice.get("delta") or {}
    return str(choice.get("text") or part.get("content") or "")


async def _whole_equals_streamed(engine: Engine, endpoint: Endpoint, within_s: float) -> None:
    async with asyncio.timeout(2 * within_s):
        whole = await engine.generate(endpoint, body_of(endpoint))
        chunks = [chunk async for chunk in engine.stream(endpoint, body_of(endpoint))]
    kind = "text_completion" if endpoint == "completions" else "chat.completion"
    assert whole["object"] == kind, f"{endpoint}: object is {whole['object']!r}, not {kind!r}"
    streamed = "".join(map(text_of, chunks))
    assert text_of(whole), f"{endpoint}: the answer is empty"
    assert streamed == text_of(whole), (
        f"{endpoint}: streamed {streamed!r}, whole {text_of(whole)!r}"
    )
    assert whole["choices"][0]["finish_reason"], f"{endpoint}: no finish_reason"
    reasons = [choice.get("finish_reason") for chunk in chunks for choice in chunk["choices"]]
    assert sum(map(bool, reasons)) == 1, f"{endpoint}: finish reasons streamed are {reasons}"
    for answer in (whole, chunks[-1]):
        usage = answer["usage"]
        assert usage["prompt_tokens"] > 0, f"{endpoint}: usage is {usage}"
        assert 0 < usage["completion_tokens"] <= 8, f"{endpoint}: usage is {usage}"


async def _bad_bodies_are_refused(
    engine: Engine, endpoint: Endpoint, context_tokens: int | None, within_s: float
) -> None:
    bad: list[dict[str, Any]] = [{}, body_of(endpoint, max_tokens=-1)]
    if context_tokens is not None:
        text = "long " * (4 * context_tokens)
        bad.append({"prompt": text, "messages": [{"role": "user", "content": text}]})
    for body in bad:
        for way in (_answer, _drain):
            try:
                async with asyncio.timeout(within_s):
                    await way(engine, endpoint, body)
            except InvalidRequest:
                continue
            raise AssertionError(f"{endpoint}: accepted {str(body)[:100]}")
    async with asyncio.timeout(within_s):
        await engine.generate(endpoint, body_of(endpoint))


async def _concurrent_requests_are_answered(engine: Engine, within_s: float) -> None:
    async with asyncio.timeout(4 * within_s), asyncio.TaskGroup() as group:
        for number in range(8):
            way, endpoint = (_answer, _drain)[number % 2], ENDPOINTS[number // 2 % 2]
            group.create_task(way(engine, endpoint, body_of(endpoint)))


async def _cancelling_frees_the_engine(engine: Engine, within_s: float) -> None:
    long = body_of("completions", max_tokens=1000, ignore_eos=True)
    for _ in range(3):
        stream = engine.stream("completions", long)
        await anext(stream)
        await _close(stream)
        task = asyncio.create_task(engine.generate("completions", long))
        await asyncio.wait([task], timeout=0.05)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    async with asyncio.timeout(within_s):
        await engine.generate("completions", body_of("completions"))


async def _sleeps_or_says_it_cannot(engine: Engine, within_s: float) -> None:
    before = await engine.generate("completions", body_of("completions"))
    try:
        await engine.sleep()
    except NotSupported:
        return
    await _refuses(engine, "an engine that sleeps answered")
    await engine.wake()
    await engine.wake()
    async with asyncio.timeout(within_s):
        after = await engine.generate("completions", body_of("completions"))
    assert text_of(after) == text_of(before), "another answer after sleep and wake"


async def _refuses(engine: Engine, complaint: str) -> None:
    try:
        await engine.generate("completions", body_of("completions"))
    except EngineError:
        return
    raise AssertionError(complaint)


async def _answer(engine: Engine, endpoint: Endpoint, body: dict[str, Any]) -> None:
    await engine.generate(endpoint, body)


async def _drain(engine: Engine, endpoint: Endpoint, body: dict[str, Any]) -> None:
    async for _ in engine.stream(endpoint, body):
        pass


async def _close(stream: AsyncIterator[dict[str, Any]]) -> None:
    close = getattr(stream, "aclose", None)
    assert close is not None, "a stream must be an async generator, to be closed"
    await close()
