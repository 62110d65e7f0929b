"""One benchmark: asks each model its golden prompts and judges and records the answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Literal, Protocol

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_exponential

from hotswap_ray.actors.cluster.application import state_of
from hotswap_ray.actors.cluster.background import watched
from hotswap_ray.actors.cluster.fleet import Fleet
from hotswap_ray.actors.cluster.generation import Generation
from hotswap_ray.actors.cluster.own_questions import ask_own
from hotswap_ray.actors.controller.bench.loans import WATCH_S, Loans
from hotswap_ray.actors.controller.models.pool import ModelPool
from hotswap_ray.config import Config
from hotswap_ray.core.answers.judge_messages import Job, Judging
from hotswap_ray.core.errors import (
    Conflict,
    EngineError,
    EngineTimeout,
    EngineUnavailable,
    HotswapError,
    RequestError,
)
from hotswap_ray.core.evidence.bench import GoldenResult, summarise
from hotswap_ray.core.fit.compatibility import check_compatibility
from hotswap_ray.core.fit.own_questions import golden_question
from hotswap_ray.core.outcome import Endpoint, Outcome, RoutingDecision
from hotswap_ray.core.spec.golden import GoldenPrompt
from hotswap_ray.core.spec.task import TaskSpec

AT_ONCE = 2
"""Requests to one model at a time; few, so that a benchmark does not slow live traffic."""
RECORD_S = 30.0
Prompts = Mapping[str, GoldenPrompt]
Plan = Mapping[str, Mapping[str, Prompts]]
"""Prompts by key, by task, by model; in the order in which they are asked."""
State = Literal["running", "done", "failed", "cancelled"]


class OutcomeSink(Protocol):
    """Takes evidence: the learning actor, or a proxy of it."""

    async def record(self, batch: Sequence[Outcome], batch_id: str) -> int:
        """Take a batch of outcomes in, once per ``batch_id``. See ``LearningActor.record``."""
        ...


@dataclass(frozen=True, slots=True)
class BenchParts:
    """What a benchmark works with: see ``Bench``."""

    config: Config
    pool: ModelPool
    fleet: Fleet
    learning: OutcomeSink
    judge: Judging
    clock: Callable[[], float]
    tasks: Mapping[str, TaskSpec]
    loans: Loans


@dataclass(frozen=True, slots=True)
class _Answer:
    """One prompt that was asked, and its answer or error."""

    key: str
    prompt: GoldenPrompt
    at_s: float
    latency_ms: float
    endpoint: Endpoint
    body: dict[str, Any]
    answer: bytes = b""
    tokens_in: int = 0
    tokens_out: int = 0
    memory_bytes: int = 0
    error: str = ""
    refused: bool = False
    """Whether the prompt was refused, which says nothing of how well the model answers."""


@dataclass(slots=True)
class BenchRun:
    """A benchmark and its results so far.

    Attributes:
        bench_id: Its id.
        plan: Prompts by model and task.
        parts: What it works with.
        state: ``running``, ``done``, ``failed`` or ``cancelled``.
        over: Prompts of the tasks and models that are done, asked or not.
        asking: Prompts asked so far of the model and task under way.
        now: What it does, in words.
        rows: See ``core.evidence.bench.summarise``.
        skipped: ``task, model, reason`` of what was not asked.
        results: One per prompt that was asked.
        error: Why it failed.
    """

    bench_id: str
    plan: Plan
    parts: BenchParts
    skipped: list[dict[str, str]] = field(default_factory=list)
    state: State = "running"
    over: int = 0
    asking: int = 0
    now: str = ""
    rows: list[dict[str, Any]] = field(default_factory=list)
    results: list[GoldenResult] = field(default_factory=list)
    error: str = ""

    def to_doc(self) -> dict[str, Any]:
        """The status, as plain values."""
        return {
            "bench_id": self.bench_id,
            "state": self.state,
            "done": self.over + self.asking,
            "of": sum(len(prompts) for tasks in self.plan.values() for prompts in tasks.values()),
            "now": self.now,
            "rows": list(self.rows),
            "skipped": list(self.skipped),
            "error": self.error,
        }

    def results_doc(self) -> list[dict[str, Any]]:
        """Results as plain values."""
        return [asdict(result) for result in self.results]

    async def go(self) -> None:
        """Ask all models, one after the other; cancelling leaves none loaded that was not.

        Raises:
            HotswapError: Results could not be recorded as evidence.
        """
        for model, tasks in self.plan.items():
            await self._model(model, tasks)
        self.now = ""

    async def _model(self, model: str, tasks: Mapping[str, Prompts]) -> None:
        pending = {}
        for task, prompts in tasks.items():
            if gaps := self._gaps(task, model):
                self._skip(task, model, gaps, prompts)
            else:
                pending[task] = prompts
        if not pending:
            return
        self.now = f"loading {model}"
        finished = []
        try:
            async with self.parts.loans.borrow(model) as generation:
                for task, prompts in list(pending.items()):
                    self.now = f"asking {model} the prompts of {task}"
                    answers = await self._ask_all(generation, prompts)
                    finished.append((task, generation, answers))
                    self._is_over(pending.pop(task))
        except HotswapError as error:
            for task, prompts in pending.items():
                self._skip(task, model, str(error), prompts)
        for task, generation, answers in finished:
            await self._finish(task, generation, answers)

    def _gaps(self, task: str, model: str) -> str:
        """Hard limits of a task that a model does not meet."""
        pool = self.parts.pool
        report = check_compatibility(
            self.parts.tasks[task],
            pool.spec(model),
            None,
            measured_memory_bytes=pool.measured_bytes.get(model, 0),
        )
        return "; ".join(map(str, report.errors))

    def _skip(self, task: str, model: str, reason: str, prompts: Prompts) -> None:
        self.skipped.append({"task": task, "model": model, "reason": reason})
        self._is_over(prompts)

    def _is_over(self, prompts: Prompts) -> None:
        self.over += len(prompts)
        self.asking = 0

    async def _ask_all(self, generation: Generation, prompts: Prompts) -> list[_Answer]:
        """Ask a few at a time, until all are asked or the model is dead.

        Raises:
            Conflict: The model was unloaded or loaded again meanwhile.
        """
        answers: list[_Answer] = []
        queue = iter(prompts.items())

        async def work() -> None:
            for key, prompt in queue:
                answers.append(await self._ask(generation, key, prompt))
                self.asking = len(answers)
                if answers[-1].error and await self._is_dead(generation):
                    return

        spec = self.parts.pool.spec(generation.model)
        workers = (work() for _ in range(min(AT_ONCE, spec.max_ongoing_requests)))
        for ended in await asyncio.gather(*workers, return_exceptions=True):
            if ended is not None:
                raise ended
        return answers

    async def _ask(self, generation: Generation, key: str, prompt: GoldenPrompt) -> _Answer:
        spec = self.parts.pool.spec(generation.model)
        endpoint, body = golden_question(spec, prompt)
        limit_s = self.parts.config.server.request_timeout_s
        call = ask_own(self.parts.fleet, generation.app, endpoint, body, spec=spec)
        at_s, started = self.parts.clock(), time.perf_counter()
        reply: tuple[bytes, int, int, int] = (b"", 0, 0, 0)
        error: HotswapError | None = None
        latency_ms = 0.0
        try:
            async with asyncio.timeout(limit_s):
                asked = await watched(call, partial(self._watch, generation), WATCH_S)
            reply, latency_ms = asked.value, asked.latency_ms
            endpoint, body = asked.endpoint, asked.body
        except TimeoutError:
            error = EngineTimeout(f"no answer within {limit_s:g} s")
        except (RequestError, EngineError) as raised:
            self._check_ours(generation)  # an error is not the model's own if it was unloaded
            error = raised
        latency_ms = latency_ms or (time.perf_counter() - started) * 1e3
        refused = isinstance(error, RequestError)
        text = "" if error is None else str(error)
        return _Answer(key, prompt, at_s, latency_ms, endpoint, body, *reply, text, refused)

    async def _watch(self, generation: Generation) -> None:
        """Raise when a model has died, or must not be asked any more."""
        self._check_ours(generation)
        await self.parts.loans.make_way(generation.model)
        if await self._is_dead(generation):
            raise EngineUnavailable(f"model {generation.model!r} died")

    def _check_ours(self, generation: Generation) -> None:
        current = self.parts.pool.generations.get(generation.model)
        if current is None or (current.app, current.state) != (generation.app, "ready"):
            raise Conflict(f"model {generation.model!r} was taken away meanwhile")

    async def _is_dead(self, generation: Generation) -> bool:
        try:
            return not (await state_of(self.parts.fleet, generation)).running
        except EngineError:
            return False  # if Ray cannot be asked, it may live

    async def _finish(self, task: str, generation: Generation, answers: Sequence[_Answer]) -> None:
        """Judge, record as evidence, and sum up."""
        model, parts = generation.model, self.parts
        self.now = f"judging {model} at {task}"
        counted = [answer for answer in answers if not answer.refused]
        answered = [answer for answer in counted if not answer.error]
        jobs = [Job((a.prompt.check,), a.endpoint, a.body, a.answer) for a in answered]
        verdicts = await parts.judge(jobs) if jobs else []
        quality = {
            answer.key: verdict.quality for answer, verdict in zip(answered, verdicts, strict=True)
        }
        outcomes = [
            Outcome(
                request_id=f"bench-{self.bench_id}-{answer.key}-{model}",
                task=task,
                model=model,
                generation=generation.generation,
                decision=RoutingDecision.BENCH,
                at_s=answer.at_s,
                success=not answer.error,
                latency_ms=answer.latency_ms,
                tokens_in=answer.tokens_in,
                tokens_out=answer.tokens_out,
                memory_bytes=answer.memory_bytes,
                quality=quality.get(answer.key),
            )
            for answer in counted
        ]
        price = parts.pool.spec(model).price
        results = [
            GoldenResult(
                task,
                answer.key,
                model,
                answer.prompt.weight,
                not answer.error,
                quality.get(answer.key),
                answer.latency_ms,
                answer.tokens_in,
                answer.tokens_out,
                cost_usd=price.cost_usd(answer.tokens_in, answer.tokens_out),
            )
            for answer in counted
        ]
        self.results += results
        errors = [answer.error for answer in answers if answer.error]
        errors += [verdict.failure for verdict in verdicts if verdict.failure]
        self.rows.append(summarise(task, model, results, errors[0] if errors else ""))
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type(HotswapError),
            stop=stop_after_delay(RECORD_S),
            wait=wait_exponential(0.1, max=5),
            reraise=True,
        ):
            with attempt:
                await parts.learning.record(outcomes, f"bench-{self.bench_id}-{task}-{model}")
