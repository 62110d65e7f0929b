"""Asks a loaded model what it can do, before it gets traffic; the questions are in the core.

Results are kept in the store with the generation they were measured of. That is only a cache: if
the store fails, the probes are repeated, and no swap is lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import orjson

from hotswap_ray.actors.cluster.fleet import Fleet
from hotswap_ray.actors.cluster.generation import Generation
from hotswap_ray.actors.cluster.own_questions import ask_own
from hotswap_ray.core.errors import (
    HotswapError,
    InvalidRequest,
    NotSupported,
    StoreError,
)
from hotswap_ray.core.fit.own_questions import endpoints, lacks_endpoint
from hotswap_ray.core.fit.probe_report import ProbeReport
from hotswap_ray.core.fit.probes import Answer, Probe, Question, Script, script
from hotswap_ray.core.spec.task import ModelSpec
from hotswap_ray.engines import sse
from hotswap_ray.store import Store

SETTING = "probes:"
AT_ONCE = 2
"""Questions that a candidate works on at the same time; it may serve other tasks."""


class Probing:
    """Probes generations, once each.

    Args:
        fleet: The cluster.
        store: Keeps the results.
        limit_s: Time for the probes of one generation; what is not done then is not measured.
    """

    def __init__(self, fleet: Fleet, store: Store, limit_s: float) -> None:
        self._fleet = fleet
        self._store = store
        self._limit_s = limit_s

    async def probe(
        self, spec: ModelSpec, generation: Generation, names: Iterable[str], context_tokens: int = 0
    ) -> ProbeReport:
        """Probe what is not yet known of a generation.

        Args:
            spec: The model.
            generation: Its load, awake.
            names: Probes, of ``core.fit.probes.PROBES``.
            context_tokens: Length to try, for the probe ``context``.

        Returns:
            The probes that were asked for. Never raises for what a model does.
        """
        wanted = list(names)
        earlier = await self.known(spec.id, generation.generation)
        probes = dict(earlier.probes) if earlier else {}
        if earlier and "context" in wanted and earlier.context_tokens != context_tokens:
            probes.pop("context", None)
        missing = [name for name in wanted if name not in probes or probes[name].supported is None]
        if missing:
            probe_round = _ProbeRound(self._fleet, generation.app)
            probes |= await probe_round.all(spec, missing, context_tokens, self._limit_s)
            length = (
                context_tokens if "context" in wanted else earlier.context_tokens if earlier else 0
            )
            report = ProbeReport(spec.id, generation.generation, probes, length)
            with suppress(StoreError):
                await asyncio.to_thread(
                    self._store.save_setting, SETTING + spec.id, report.to_doc()
                )
        return ProbeReport(
            spec.id, generation.generation, {name: probes[name] for name in wanted}, context_tokens
        )

    async def known(self, model: str, generation: int) -> ProbeReport | None:
        """What was probed of a generation before."""
        with suppress(StoreError):
            doc = (await asyncio.to_thread(self._store.load_settings)).get(SETTING + model)
            if doc and doc["generation"] == generation:
                return ProbeReport.from_doc(doc)
        return None


class _ProbeRound:
    """One round of questions; the same question is asked once, since the temperature is 0."""

    def __init__(self, fleet: Fleet, app: str) -> None:
        self._fleet = fleet
        self._app = app
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._answers: dict[bytes, asyncio.Task[Answer]] = {}

    async def all(
        self, spec: ModelSpec, names: list[str], context_tokens: int, limit_s: float
    ) -> dict[str, Probe]:
        """Run probes until they or the time are over."""
        tasks = {name: asyncio.create_task(self._run(name, spec, context_tokens)) for name in names}
        timed_out = Probe("", None, f"not measured within {limit_s:g} s (swap.probe_timeout_s)")
        try:
            done, _ = await asyncio.wait(tasks.values(), timeout=limit_s)
            return {
                name: task.result() if task in done else Probe(name, None, timed_out.detail)
                for name, task in tasks.items()
            }
        finally:
            for task in (*tasks.values(), *self._answers.values()):
                task.cancel()

    async def _run(self, name: str, spec: ModelSpec, context_tokens: int) -> Probe:
        """Run one probe, at the other endpoint too if the server does not have the first."""
        for endpoint in endpoints(spec):
            questions = script(name, spec, context_tokens, endpoint)
            found = await self._carry(name, questions)
            if not (found.detail and lacks_endpoint(found.detail)):
                break
        return found

    async def _carry(self, name: str, questions: Script) -> Probe:
        """Carry questions to the model and answers back to one probe."""
        question = next(questions)
        while True:
            try:
                answer = await self._ask(question)
            except (InvalidRequest, NotSupported) as error:
                return Probe(name, False if question.decides else None, str(error)[:200])
            except (HotswapError, ValueError) as error:
                return Probe(name, None, f"could not be asked: {error}"[:200])
            try:
                question = questions.send(answer)
            except StopIteration as ended:
                supported, detail = ended.value
                return Probe(name, supported, detail)
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                return Probe(name, None, f"an answer of another shape: {error!r}"[:200])

    async def _ask(self, question: Question) -> Answer:
        key = orjson.dumps((question.endpoint, question.body))
        if key not in self._answers:
            self._answers[key] = asyncio.create_task(self._call(question))
        return await asyncio.shield(self._answers[key])

    async def _call(self, question: Question) -> Answer:
        method = "frames" if question.streamed else "generate"
        async with self._slots:
            asked = await ask_own(
                self._fleet, self._app, question.endpoint, question.body, method=method
            )
        if question.streamed:
            return {"chunks": [orjson.loads(event) for event in sse.read(asked.value)]}
        answer: dict[str, Any] = orjson.loads(asked.value[0])
        return answer
