"""A stand-in for an engine: seeded delays, answers and failures. It is never a model.

It exists to test and to measure everything around a model: every answer says
``"system_fingerprint": "simulated"``, and its text is looked up, not generated.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from itertools import count, zip_longest
from random import Random
from typing import Any, ClassVar, Literal

from pydantic import BaseModel

from hotswap_ray.core.errors import (
    EngineError,
    EngineLoadFailed,
    EngineUnavailable,
    NotSupported,
)
from hotswap_ray.core.fit.capabilities import canonicals
from hotswap_ray.core.outcome import Endpoint
from hotswap_ray.core.spec.task import ModelSpec
from hotswap_ray.engines.base import default_deployment_options, parse_options
from hotswap_ray.engines.simulated.options import SimulatedOptions
from hotswap_ray.engines.simulated.plan import Plan, Planner
from hotswap_ray.engines.simulated.shapes import chunk_choices, chunk_count, usage_of, whole_choice


class SimulatedEngine:
    """Answers by rule, after seeded delays. Never a model.

    The same seed and prompt give the same answer, whole or streamed.
    """

    Options: ClassVar[type[BaseModel]] = SimulatedOptions

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec
        self._options: SimulatedOptions = parse_options(SimulatedEngine, spec)
        self._random = Random(self._options.seed)
        self._ids, self._call_ids = count(1), count(1)
        self._state: Literal["new", "ready", "asleep", "stopped"] = "new"
        capacity = self._options.capacity
        self._slots: AbstractAsyncContextManager[None] = (
            asyncio.Semaphore(capacity) if capacity else nullcontext()
        )
        self._abilities = _abilities(spec, self._options)
        self._planner = Planner(spec, self._options, self._abilities)
        self.in_flight = 0
        """Requests being worked on now."""

    @classmethod
    def deployment_options(cls, spec: ModelSpec) -> dict[str, Any]:
        """Ray options that ``spec`` asks for."""
        return default_deployment_options(spec)

    @classmethod
    def can_sleep(cls, spec: ModelSpec) -> bool:
        """As the option ``can_sleep`` says."""
        return bool(parse_options(cls, spec).can_sleep)

    @classmethod
    def features(cls, spec: ModelSpec) -> dict[str, bool]:
        """What it has: the capabilities that are declared, without those that it ``lacks``.

        JSON that it does not declare is left open: it then answers with text, as a model does
        whose server only hopes for JSON.
        """
        lacks = set(parse_options(cls, spec).lacks)
        has = canonicals(spec.capabilities) - lacks
        known = {name: name in has for name in ("tools", "vision", "logprobs")}
        if "json" in has | lacks:
            known["json"] = "json" in has
        return {**known, "n": True}

    async def start(self) -> None:
        """Take ``load_s``, then fail as ``fail_on_load`` says or become ready."""
        await self._pause(self._options.load_s * 1000)
        match self._options.fail_on_load:
            case "raise":
                raise EngineLoadFailed(f"{self._spec.id}: simulated failure to load")
            case "hang":
                await asyncio.Event().wait()
            case "exit":
                os._exit(1)
        self._state = "ready"

    async def generate(self, endpoint: Endpoint, body: dict[str, Any]) -> dict[str, Any]:
        """Answer whole; see ``Engine.generate``."""
        async with self._working():
            plans = self._planner.plans(endpoint, body)
            fails = self._fails()
            tokens = max(len(plan.pieces) for plan in plans)
            await self._pause(self._options.ttft_ms + self._options.token_ms * max(0, tokens - 1))
            if fails:
                raise EngineError(f"{self._spec.id}: simulated failure")
        thinks = "reasoning" in self._abilities
        choices = [
            whole_choice(endpoint, plan, index, call_id=self._call_id(plan), thinks=thinks)
            for index, plan in _numbered(plans)
        ]
        head = self._head(endpoint, chunk=False)
        return {**head, "choices": choices, "usage": usage_of(plans)}

    async def stream(
        self, endpoint: Endpoint, body: dict[str, Any]
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Answer token by token; the last chunk has ``usage`` and no choices."""
        async with self._working():
            plans = self._planner.plans(endpoint, body)
            answers = [
                chunk_choices(endpoint, plan, index, call_id=self._call_id(plan))
                for index, plan in _numbered(plans)
            ]
            last = max(map(chunk_count, plans)) - 1
            fail_at = min(self._options.failure_at_token, last) if self._fails() else None
            head = self._head(endpoint, chunk=True)
            for index, choices in enumerate(zip_longest(*answers)):
                await self._pause(self._options.token_ms if index else self._options.ttft_ms)
                if index == fail_at:
                    raise EngineError(f"{self._spec.id}: simulated failure")
                for choice in choices:
                    if choice is not None:
                        yield {**head, "choices": [choice]}
            usage = usage_of(plans)
            if "stream_usage" not in self._abilities:
                usage = dict.fromkeys(usage, 0)
            yield {**head, "choices": [], "usage": usage}

    async def sleep(self) -> None:
        """Report a tenth of the memory until ``wake``."""
        if not self._options.can_sleep:
            raise NotSupported(f"{self._spec.id}: this simulated engine cannot sleep")
        self._check_ready()
        self._state = "asleep"

    async def wake(self) -> None:
        """Take ``wake_s`` and be ready again; at once if awake."""
        if not self._options.can_sleep:
            raise NotSupported(f"{self._spec.id}: this simulated engine cannot sleep")
        if self._state == "asleep":
            await self._pause(self._options.wake_s * 1000)
            self._state = "ready"

    async def stop(self) -> None:
        """Refuse further requests."""
        self._state = "stopped"

    def memory_bytes(self) -> int:
        """The memory stated in the options; nothing is measured."""
        stated = self._options.memory_bytes
        return max(1, stated // 10) if self._state == "asleep" else stated

    async def check_health(self) -> None:
        """Raise ``EngineUnavailable`` before ``start`` and after ``stop``."""
        if self._state in ("new", "stopped"):
            raise EngineUnavailable(f"{self._spec.id}: the simulated engine is {self._state}")

    def _check_ready(self) -> None:
        if self._state != "ready":
            raise EngineUnavailable(f"{self._spec.id}: the simulated engine is {self._state}")

    @asynccontextmanager
    async def _working(self) -> AsyncIterator[None]:
        async with self._slots:
            self._check_ready()
            self.in_flight += 1
            try:
                yield
            finally:
                self.in_flight -= 1

    def _fails(self) -> bool:
        return self._options.failure_rate > 0 and self._random.random() < self._options.failure_rate

    async def _pause(self, delay_ms: float) -> None:
        if delay_ms > 0:
            swing = 1 + self._options.jitter * self._random.uniform(-1, 1)
            await asyncio.sleep(delay_ms * swing / 1000)

    def _head(self, endpoint: Endpoint, *, chunk: bool) -> dict[str, Any]:
        if endpoint == "completions":
            prefix, kind = "cmpl", "text_completion"
        else:
            prefix, kind = "chatcmpl", "chat.completion.chunk" if chunk else "chat.completion"
        return {
            "id": f"{prefix}-{self._spec.id}-{next(self._ids)}",
            "object": kind,
            "created": int(time.time()),
            "model": self._spec.id,
            "system_fingerprint": "simulated",
        }

    def _call_id(self, plan: Plan) -> str:
        """An id that no other call of this engine has; none is used up where nothing is called."""
        return f"call-{next(self._call_ids)}" if plan.call is not None else ""


def _abilities(spec: ModelSpec, options: SimulatedOptions) -> frozenset[str]:
    """Capabilities it really has: every server knows some, and nothing has what it lacks."""
    known = canonicals(spec.capabilities) | {"stop", "stream_usage", "context"}
    return known - set(options.lacks)


def _numbered(plans: list[Plan]) -> Iterator[tuple[int, Plan]]:
    """Each choice's index, and the plan that it follows."""
    return enumerate(plan for plan in plans for _ in range(plan.n))
