"""Asks a loaded model what it can do, before it gets traffic; the questions are in the core.

What was found is kept in the store with the generation it is true of. It is only a cache: a
store that refuses costs a repetition, never a swap.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import orjson

from hotswap_ray.actors.cluster.fleet import Fleet
from hotswap_ray.actors.cluster.generation import Generation
from hotswap_ray.core.errors import (
    HotswapError,
    InvalidRequest,
    NotSupported,
    StoreError,
)
from hotswap_ray.core.fit.probe_report import ProbeReport
from hotswap_ray.core.fit.probes import Answer, Probe, Question, script
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
        store: Keeps what was found.
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
            names: Probes, of ``core.probes.PROBES``.
            context_tokens: Length to try, for the probe ``context``.

        Returns:
            The probes that were asked for. Never raises for what a model does.
        """
        wanted = list(names)
        known = await self.known(spec.id, generation.generation)
        kept = dict(known.probes) if known else {}
        if known and "context" in wanted and known.context_tokens != context_tokens:
            kept.pop("context", None)
        missing = [n for n in wanted if n not in kept or kept[n].supported is None]
        if missing:
            asking = _Asking(self._fleet, generation.app)
            kept |= await asking.all(spec, missing, context_tokens, self._limit_s)
            length = context_tokens if "context" in wanted else known.context_tokens if known else 0
            report = ProbeReport(spec.id, generation.generation, kept, length)
            with suppress(StoreError):
                await asyncio.to_thread(
                    self._store.save_setting, SETTING + spec.id, report.to_doc()
                )
        return ProbeReport(
            spec.id, generation.generation, {n: kept[n] for n in wanted}, context_tokens
        )

    async def known(self, model: str, generation: int) -> ProbeReport | None:
        """What was probed of a generation before."""
        with suppress(StoreError):
            found = (await asyncio.to_thread(self._store.load_settings)).get(SETTING + model)
            if found and found["generation"] == generation:
                return ProbeReport.from_doc(found)
        return None


class _Asking:
    """One round of questions; the same question is asked once, since the temperature is 0."""

    def __init__(self, fleet: Fleet, app: str) -> None:
        self._fleet = fleet
        self._app = app
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._asked: dict[bytes, asyncio.Task[Answer]] = {}

    async def all(
        self, spec: ModelSpec, names: list[str], context_tokens: int, limit_s: float
    ) -> dict[str, Probe]:
        """Run probes until they or the time are over."""
        tasks = {name: asyncio.create_task(self._run(name, spec, context_tokens)) for name in names}
        late = Probe("", None, f"not measured within {limit_s:g} s (swap.probe_timeout_s)")
        try:
            done, _ = await asyncio.wait(tasks.values(), timeout=limit_s)
            return {
                name: task.result() if task in done else Probe(name, None, late.detail)
                for name, task in tasks.items()
            }
        finally:
            for task in (*tasks.values(), *self._asked.values()):
                task.cancel()

    async def _run(self, name: str, spec: ModelSpec, context_tokens: int) -> Probe:
        """Carry questions to the model and answers back to one probe."""
        asking = script(name, spec, context_tokens)
        question = next(asking)
        while True:
            try:
                answer = await self._ask(question)
            except (InvalidRequest, NotSupported) as error:
                return Probe(name, False if question.decides else None, str(error)[:200])
            except (HotswapError, ValueError) as error:
                return Probe(name, None, f"could not be asked: {error}"[:200])
            try:
                question = asking.send(answer)
            except StopIteration as ended:
                supported, detail = ended.value
                return Probe(name, supported, detail)
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                return Probe(name, None, f"an answer of another shape: {error!r}"[:200])

    async def _ask(self, question: Question) -> Answer:
        key = orjson.dumps((question.endpoint, question.body))
        if key not in self._asked:
            self._asked[key] = asyncio.create_task(self._call(question))
        return await asyncio.shield(self._asked[key])

    async def _call(self, question: Question) -> Answer:
        method = "frames" if question.streamed else "generate"
        async with self._slots:
            said = await self._fleet.call(self._app, method, question.endpoint, question.body)
        if question.streamed:
            return {"chunks": [orjson.loads(event) for event in sse.read(said)]}
        answer: dict[str, Any] = orjson.loads(said[0])
        return answer
