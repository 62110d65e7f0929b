"""Predictions and measurements that swaps get from the learnings and keep as facts.

The learnings may be away. A swap then goes on without these facts, since it must not fail for
want of a measurement.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any, Protocol

from hotswap_ray.actors.controller.models.pool import ModelPool
from hotswap_ray.actors.controller.swaps.golden_check import GoldenAnswer
from hotswap_ray.core.errors import HotswapError
from hotswap_ray.core.evidence.calibration import calibration, compare
from hotswap_ray.core.evidence.prediction import Known, Prediction, short
from hotswap_ray.core.outcome import Outcome, RoutingDecision
from hotswap_ray.core.swap.phases import Phase, Swap
from hotswap_ray.store import Store

HISTORY = 1000
LOADS = 200  # swaps searched for earlier loads; few enough that a check stays quick
STEADY_S = 60.0  # what counts as "before" when the price of a load is measured


class SwapLearningPort(Protocol):
    """What a swap asks of the learnings."""

    async def transfer(self, task: str, from_model: str, to_model: str) -> Any:
        """Carry task knowledge over; returns the record of what went."""
        ...

    async def latency_p99(self, since_s: float, until_s: float) -> dict[str, Any]:
        """99th percentile of requests that arrived in a span, as ``p99_ms`` and ``count``."""
        ...

    async def record(self, batch: Sequence[Outcome], batch_id: str) -> int:
        """Take a batch of outcomes in, once per ``batch_id``. See ``LearningActor.record``."""
        ...

    async def predict(self, task: str, model: str, known: Known) -> dict[str, Any]:
        """``Prediction.to_doc()`` of a model at a task."""
        ...

    async def actual(self, task: str, model: str, since_s: float) -> dict[str, Any] | None:
        """What ``observe`` makes of the answers since a Unix time."""
        ...


class SwapLearning:
    """Predictions and measurements of swaps.

    Args:
        store: For what earlier swaps measured.
        pool: Models.
        learning: Learnings.
        clock: Unix seconds.
    """

    def __init__(
        self, store: Store, pool: ModelPool, learning: SwapLearningPort, clock: Callable[[], float]
    ) -> None:
        self._store = store
        self._pool = pool
        self._learning = learning
        self._clock = clock

    async def known(self, model: str) -> Known:
        """What is known of a model apart from its answers.

        Raises:
            NotFound: Unknown model.
        """
        spec, loads = self._pool.spec(model), await self._loads(model)
        seconds = [load["seconds"]["loading"] for load in loads]
        memory = [load["facts"].get("memory_bytes", 0) for load in loads]
        generation = self._pool.generations.get(model)
        if generation is not None and generation.load_s and not seconds:
            seconds = [generation.load_s]
        measured = self._pool.measured_bytes.get(model, 0)
        return Known(
            memory_bytes=[size for size in {*memory, measured} if size],
            declared_memory_bytes=spec.resources.memory_bytes,
            price=spec.price,
            load_s=seconds,
            is_loaded=self._pool.is_ready(model),
        )

    async def _loads(self, model: str) -> list[dict[str, Any]]:
        """Latest swaps that have loaded a model."""
        docs = await asyncio.to_thread(self._store.load_swaps, None, False, LOADS)
        return [
            doc
            for doc in docs
            if doc["to_model"] == model
            and doc["facts"].get("loaded_here")
            and "validating" in doc["seconds"]  # the load was completed
        ]

    async def predict(self, task: str, model: str) -> dict[str, Any]:
        """What a model is expected to do at a task.

        Raises:
            NotFound: Unknown task or model.
        """
        return await self._learning.predict(task, model, await self.known(model))

    async def predicted(self, swap: Swap) -> Swap:
        """The swap with the fact ``predicted``, before anything is loaded."""
        try:
            prediction = await self.predict(swap.task, swap.to_model)
        except HotswapError:
            return swap
        fact = {
            key: value
            for key, value in prediction.items()
            if value and key not in ("task", "model")
        }
        return swap.with_facts(predicted=fact)

    async def actual(self, swap: Swap) -> Swap:
        """The swap with the fact ``actual``: its answers from the switch to the phase's begin."""
        if "predicted" not in swap.facts or "actual" in swap.facts:
            return swap
        served_s = sum(swap.seconds.get(phase, 0.0) for phase in (Phase.DRAINING, Phase.BAKING))
        try:
            measured = await self._learning.actual(
                swap.task, swap.to_model, swap.updated_at_s - served_s
            )
            facts = await self.known(swap.to_model)
        except HotswapError:
            return swap
        if measured is None:
            return swap
        cost_usd = facts.cost_usd(measured.pop("tokens_in", None), measured.pop("tokens_out", None))
        if cost_usd is not None:
            measured["cost_usd"] = short(cost_usd)
        if swap.facts.get("loaded_here") and "loading" in swap.seconds:
            measured["load_s"] = short(swap.seconds["loading"])
            measured.setdefault("memory_bytes", swap.facts.get("memory_bytes") or None)
        return swap.with_facts(actual=measured)

    async def calibration(self) -> dict[str, Any]:
        """Predictions of the latest 1,000 swaps against what they came to.

        Returns:
            ``quantities`` as ``core.evidence.calibration.calibration`` has them, and ``swaps``,
            the newest first, with ``swap_id, task, model`` and under ``compared`` each quantity.
        """
        docs = await asyncio.to_thread(self._store.load_swaps, None, False, HISTORY)
        rows = [
            {
                "swap_id": doc["swap_id"],
                "task": doc["task"],
                "model": doc["to_model"],
                "compared": compare(
                    Prediction.from_doc(
                        {"task": doc["task"], "model": doc["to_model"], **doc["facts"]["predicted"]}
                    ),
                    doc["facts"]["actual"],
                ),
            }
            for doc in docs
            if "predicted" in doc["facts"] and "actual" in doc["facts"]
        ]
        return {"quantities": calibration(row["compared"] for row in rows), "swaps": rows}

    async def record_golden(self, swap: Swap, answers: list[GoldenAnswer]) -> None:
        """Take the candidate's answers to golden prompts into its evidence."""
        name = f"golden-{swap.swap_id}-{swap.to_generation}"
        batch = [
            Outcome(
                request_id=f"{name}-{number}",
                task=swap.task,
                model=swap.to_model,
                generation=swap.to_generation,
                decision=RoutingDecision.GOLDEN,
                at_s=self._clock(),
                success=True,
                latency_ms=answer.latency_ms,
                tokens_in=answer.tokens_in,
                tokens_out=answer.tokens_out,
                quality=answer.quality,
            )
            for number, answer in enumerate(answers)
        ]
        with suppress(HotswapError):  # a swap does not fail for want of a measurement
            await self._learning.record(batch, name)

    async def price_of_load(self, swap: Swap, since_s: float, until_s: float) -> Swap:
        """The swap with what its load cost the requests that ran meanwhile."""
        try:
            during = await self._learning.latency_p99(since_s, until_s)
            before = await self._learning.latency_p99(since_s - STEADY_S, since_s)
        except HotswapError:
            return swap
        if not (during["count"] and before["count"]):
            return swap
        ratio = during["p99_ms"] / max(before["p99_ms"], 1e-3)
        return swap.with_facts(
            load_p99_ms=round(during["p99_ms"], 2),
            steady_p99_ms=round(before["p99_ms"], 2),
            load_p99_ratio=round(ratio, 3),
            load_requests=during["count"],
        )

    async def transfer(self, swap: Swap) -> Any:
        """Carry the task's knowledge over; plain values of what went.

        Raises:
            HotswapError: The learnings are away; this part a swap does not do without.
        """
        record = await self._learning.transfer(swap.task, swap.from_model, swap.to_model)
        return asdict(record) if hasattr(record, "__dataclass_fields__") else record
