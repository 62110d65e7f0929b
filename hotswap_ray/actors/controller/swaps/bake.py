"""After the switch the guardrails watch the new model while the old one is warm.

What is compared is not of the same time: the new model's requests since the switch, and those of
the old model just before it, the newest 1,000 of at most an hour. A busy hour, a cold cache or
another mix of requests can make a difference too, so nothing but a clear breach acts, one that
the test of ``core/rollout/guardrails.py`` has proven; what is inconclusive is only recorded. What
cannot be measured never rolls back, and neither does a breach whose old model is in no state to
take the task.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import asdict

from hotswap_ray.actors.cluster.application import ask, state_of
from hotswap_ray.actors.cluster.fleet import Fleet
from hotswap_ray.actors.controller.models.pool import ModelPool
from hotswap_ray.actors.controller.swaps.canary import Observes
from hotswap_ray.config import Config
from hotswap_ray.core.errors import HotswapError, ValidationFailed
from hotswap_ray.core.rollout.guardrails import GuardrailResult, Seen, check, failures
from hotswap_ray.core.swap.phases import Swap

BEFORE_S = 3600.0
BEFORE_REQUESTS = 1000
CALM = 10.0
"""Pause after a check, as a multiple of its duration: checks take at most a tenth of the time."""


class Bake:
    """Watches a model that has just got a task.

    Args:
        config: ``swap.bake_guardrails`` and ``swap.bake_check_s``.
        fleet: The cluster, to see whether the old model lives.
        pool: Models.
        learning: What became of the requests.
        clock: Unix seconds.
        note: Called with a swap whose facts changed.
    """

    def __init__(
        self,
        config: Config,
        fleet: Fleet,
        pool: ModelPool,
        learning: Observes,
        clock: Callable[[], float],
        note: Callable[[Swap], None],
    ) -> None:
        self._config = config.swap
        self._fleet = fleet
        self._pool = pool
        self._learning = learning
        self._clock = clock
        self._note = note

    async def run(self, swap: Swap, dry_run: bool = False) -> Swap:
        """Return when the bake time is over; an operator may end it either way.

        Args:
            swap: In the phase ``baking``.
            dry_run: A breach is only recorded.

        Raises:
            ValidationFailed: The new model breaches a guardrail, and the old one can take over.
        """
        left_s = swap.bake_s - max(0.0, self._clock() - swap.updated_at_s)
        ends = time.monotonic() + left_s
        spec, took_s = self._config.bake_guardrails, 0.0
        before: Seen | None = None
        while (left_s := ends - time.monotonic()) > 0:
            if spec is None:
                await asyncio.sleep(left_s)
                break
            await asyncio.sleep(min(left_s, max(self._config.bake_check_s, CALM * took_s)))
            started = time.monotonic()
            try:
                before = before or await self._before(swap)
                after = await self._after(swap)
                checks = check(spec, before, after)
                swap = _with_checks(swap, checks, len(after.success))
            except HotswapError as error:  # could not measure
                checks = [GuardrailResult("learning", "error", str(error)[:200])]
                swap = _with_checks(swap, checks, swap.facts.get("bake", {}).get("requests", 0))
            failed = "; ".join(failures(checks))
            if failed and not dry_run:
                swap = await self._breach(swap, failed)
            self._note(swap)
            took_s = time.monotonic() - started
        return swap

    async def _breach(self, swap: Swap, failed: str) -> Swap:
        self._note(swap)
        obstacle = await self._obstacle(swap.from_model)
        if not obstacle:
            raise ValidationFailed(f"{swap.to_model} after the switch: {failed}")
        message = f"{swap.to_model} is kept in spite of {failed}: {obstacle}"
        return swap.with_facts(bake={**swap.facts["bake"], "kept": message[:300]})

    async def _obstacle(self, model: str) -> str:
        """Why a model cannot take its task back at once; empty if it can."""
        generation = self._pool.generations.get(model)
        if generation is None or not self._pool.is_ready(model):
            return f"{model} is not loaded any more"
        try:
            if not (await state_of(self._fleet, generation)).running:
                return f"no replica of {model} runs"
            await ask(self._fleet, generation, "ping", self._config.ack_timeout_s)
        except HotswapError as error:
            return f"{model} does not answer: {error}"
        return ""

    async def _before(self, swap: Swap) -> Seen:
        switched_s = _switched_s(swap)
        observed = await self._observed(swap, switched_s - BEFORE_S)
        return observed[swap.from_model].where(
            lambda at_s: at_s < switched_s, newest=BEFORE_REQUESTS
        )

    async def _after(self, swap: Swap) -> Seen:
        switched_s = _switched_s(swap)
        observed = await self._observed(swap, switched_s)
        return observed[swap.to_model].where(lambda at_s: at_s >= switched_s)

    async def _observed(self, swap: Swap, since_s: float) -> dict[str, Seen]:
        models = (swap.from_model, swap.to_model)
        return await self._learning.observed(swap.task, models, since_s)


def _switched_s(swap: Swap) -> float:
    """When the candidate got the task: the bake begins when the old model has drained."""
    return swap.updated_at_s - swap.seconds.get("draining", 0.0)


def _with_checks(swap: Swap, checks: list[GuardrailResult], requests: int) -> Swap:
    results = [asdict(result) for result in checks]
    return swap.with_facts(
        bake={**swap.facts.get("bake", {}), "checks": results, "requests": requests}
    )
