"""A candidate on a growing share of the conversations, until it is proven or given up.

Every step is saved together with the route table that makes it, so a controller that dies goes
on in the step it was in. Pausing keeps the share; nobody is moved back and forth.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from operator import not_
from typing import Any, Protocol

from tenacity import AsyncRetrying, retry_if_result, wait_fixed

from hotswap_ray.actors.controller.models.pool import ModelPool
from hotswap_ray.actors.controller.models.publisher import Publisher
from hotswap_ray.config import Config
from hotswap_ray.core.errors import EngineUnavailable, HotswapError, ValidationFailed
from hotswap_ray.core.rollout.canary import next_move
from hotswap_ray.core.rollout.conclusion import conclude
from hotswap_ray.core.rollout.guardrails import GuardrailResult, Seen, both_fail, check
from hotswap_ray.core.routing.split import Share, Split
from hotswap_ray.core.routing.table import RouteTable, with_split
from hotswap_ray.core.routing.target import Target
from hotswap_ray.core.spec.rollout import CanarySpec, CanaryStep
from hotswap_ray.core.swap.phases import Swap
from hotswap_ray.store import Store

RETRY_S = 1.0


class Observes(Protocol):
    """What a rollout asks of the learnings."""

    async def observed(self, task: str, models: Sequence[str], since_s: float) -> dict[str, Seen]:
        """Requests of each model since a Unix time."""
        ...


class Canary:
    """Takes swaps through their steps.

    Args:
        config: Defaults of a plan.
        store: For the one commit that saves swap and route table together.
        pool: Models.
        publisher: Route table.
        learning: What became of the requests.
        clock: Unix seconds.
        note: Called with a swap whose facts changed.
    """

    def __init__(
        self,
        config: Config,
        store: Store,
        pool: ModelPool,
        publisher: Publisher,
        learning: Observes,
        clock: Callable[[], float],
        note: Callable[[Swap], None],
    ) -> None:
        self._config = config
        self._store = store
        self._pool = pool
        self._publisher = publisher
        self._learning = learning
        self._clock = clock
        self._note = note

    def plan(self, swap: Swap) -> CanarySpec:
        """The plan of a swap: its own, or the configuration's."""
        stated = swap.facts.get("plan")
        return self._config.swap.canary if stated is None else CanarySpec.model_validate(stated)

    async def run(self, swap: Swap) -> Swap:
        """Return when the last step was passed.

        Raises:
            ValidationFailed: A guardrail failed, or the plan gives up when in doubt.
            EngineUnavailable: An ingress replica does not reach the candidate.
        """
        plan = self.plan(swap)
        if not plan.steps:
            return swap
        target = self._pool.target(await self._pool.load(swap.to_model))
        if not await self._publisher.prepare(target.app, self._config.swap.ack_timeout_s):
            raise EngineUnavailable(f"not every ingress replica reached {target.app}")
        if "canary" not in swap.facts:
            swap = await self._divide(swap, target, 0.0, 0)
            await asyncio.sleep(plan.settle_s)
        for number in range(max(_state(swap)["step"], 1), len(plan.steps) + 1):
            step = plan.steps[number - 1]
            swap = await self._divide(swap, target, step.weight, number)
            swap = await self._observe(swap, plan, step)
        return await self._conclude(swap)

    async def _conclude(self, swap: Swap) -> Swap:
        """The swap with what its candidate has proven."""
        try:
            observed = await self._observed(swap)
        except HotswapError:  # the canary has passed; only its numbers are missing
            return swap
        return swap.with_facts(
            canary={**_state(swap), **asdict(conclude(swap.from_model, swap.to_model, *observed))}
        )

    async def _divide(self, swap: Swap, target: Target, weight: float, number: int) -> Swap:
        """Give the candidate its share; conversations that began elsewhere stay there."""
        split, candidate = self._publisher.table.routes[swap.task].split, Share(target, 0.0)
        if split is None or split.shares[0] != replace(candidate, weight=split.weights[0]):
            split = Split(swap.swap_id, (candidate,))  # none yet, or of a load before a crash
        elif split.weights == (weight,) and not split.opening and _state(swap)["step"] == number:
            return swap
        moving: dict[int, int] = {}
        if weight > split.weights[0]:
            split = split.opened((weight,))
            # Until every ingress replica knows which conversations have to wait, none is moved.
            opening = AsyncRetrying(retry=retry_if_result(not_), wait=wait_fixed(RETRY_S))
            await opening(self._commit, swap, split)
            moving = self._publisher.moving(swap.task)
        now_s = self._clock()
        began_s = _state(swap)["began_s"] or now_s
        swap = swap.with_facts(
            canary={"step": number, "weight": weight, "began_s": began_s, "step_s": now_s}
        )
        await self._commit(swap, split.moved((weight,), moving))
        self._note(swap)
        return swap

    async def _commit(self, swap: Swap, split: Split) -> bool:
        """Save and publish; whether every live ingress replica uses it."""

        async def save(table: RouteTable) -> None:
            await asyncio.to_thread(self._store.commit_swap, swap.to_doc(), table.to_doc())

        timeout_s = self._config.swap.ack_timeout_s
        await self._publisher.commit(
            lambda table: with_split(table, swap.task, split), timeout_s, save
        )
        version = self._publisher.table.version
        return await self._publisher.wait(lambda listener: listener.version >= version, timeout_s)

    async def _observe(self, swap: Swap, plan: CanarySpec, step: CanaryStep) -> Swap:
        """Return when the step was passed; for ever while it is paused."""
        while True:
            if swap.facts.get("paused"):
                await asyncio.Event().wait()  # until an operator's event ends it
            state = _state(swap)
            if (now_s := self._clock()) < state["step_s"]:  # the clock went back: begin again
                state = {**state, "began_s": min(state["began_s"], now_s), "step_s": now_s}
                swap = swap.with_facts(canary=state)
            checks, requests, alarm = await self._check(swap, plan, state["step_s"])
            results = [asdict(result) for result in checks]
            swap = swap.with_facts(canary={**state, "requests": requests, "checks": results})
            self._note(swap)
            spent_s = self._clock() - state["step_s"]
            move, reason = next_move(plan, step, checks, requests, spent_s, alarm)
            if move == "out":
                raise ValidationFailed(f"{swap.to_model} at {step.weight:.0%}: {reason}")
            if move == "on":
                return swap
            if move == "wait":
                await asyncio.sleep(plan.check_s)
            elif plan.on_inconclusive == "abort":
                raise ValidationFailed(reason)
            else:
                swap = swap.with_facts(paused=reason[:300])
                await asyncio.to_thread(self._store.save_swap, swap.to_doc())
                self._note(swap)

    async def _check(
        self, swap: Swap, plan: CanarySpec, step_s: float
    ) -> tuple[list[GuardrailResult], int, str]:
        """What the guardrails find, the candidate's requests in this step, and an alarm."""
        try:
            active, candidate = await self._observed(swap)
        except HotswapError as error:  # what was not measured fails nothing
            return [GuardrailResult("learning", "error", str(error)[:200])], 0, ""
        in_step = int((candidate.at_s >= step_s).sum())
        alarm = "" if plan.dry_run else both_fail(plan.guardrails, active, candidate)
        return check(plan.guardrails, active, candidate), in_step, alarm

    async def _observed(self, swap: Swap) -> tuple[Seen, Seen]:
        models = (swap.from_model, swap.to_model)
        observed = await self._learning.observed(swap.task, models, _state(swap)["began_s"])
        return observed[swap.from_model], observed[swap.to_model]


def _state(swap: Swap) -> dict[str, Any]:
    return {"step": 0, "weight": 0.0, "began_s": 0.0, "step_s": 0.0, **swap.facts.get("canary", {})}
