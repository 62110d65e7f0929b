"""What people ask of swaps, turned into records: checked, refused, or the same as before."""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from hotswap_ray.actors.model_pool import ModelPool
from hotswap_ray.actors.publisher import Publisher
from hotswap_ray.actors.swap_runner import SwapRunner
from hotswap_ray.config import Config, SwapConfig
from hotswap_ray.config_checks import problems
from hotswap_ray.core.errors import Conflict, InvalidRequest, NotFound, NothingToRollBack
from hotswap_ray.core.rollout import CanarySpec, plan_of
from hotswap_ray.core.strict import NAME_PATTERN
from hotswap_ray.core.swap import Event, Phase, Swap, may
from hotswap_ray.store import Store


class SwapRequests:
    """Begins swaps and undoes them.

    Args:
        config: Defaults of a swap.
        store: Ended swaps.
        pool: Models.
        publisher: Route table.
        runner: Open swaps.
        clock: Unix seconds.
    """

    def __init__(
        self,
        config: Config,
        store: Store,
        pool: ModelPool,
        publisher: Publisher,
        runner: SwapRunner,
        clock: Callable[[], float],
    ) -> None:
        self._config = config
        self._store = store
        self._pool = pool
        self._publisher = publisher
        self._runner = runner
        self._clock = clock

    async def swap(
        self,
        task: str,
        model: str,
        swap_id: str | None = None,
        *,
        bake_s: float | None = None,
        strategy: str | None = None,
        compatibility: str | None = None,
        canary: str | None = None,
        requested_by: str = "operator",
    ) -> dict[str, Any]:
        """See ``SwapController.swap``."""
        check_request(swap_id, bake_s, strategy, compatibility)
        plan = None if canary is None else _plan(canary, self._config.swap.canary)
        if swap_id is not None and (same := await self._same(swap_id)):
            if (same["task"], same["to_model"]) != (task, model):
                raise Conflict(
                    f"swap {swap_id} is of task {same['task']!r} to {same['to_model']!r}; "
                    "give this one another id"
                )
            return same
        current = self._publisher.route(task).model
        self._pool.spec(model)
        for other in self._runner.open():
            if other.task == task:
                if other.swap_id == swap_id and other.to_model == model:
                    return other.to_doc()  # asked for twice at the same time
                raise Conflict(
                    f"swap {other.swap_id} of task {task!r} is {other.phase}; promote it, roll "
                    "it back or abort it first",
                    5.0,
                )
        if model == current:
            raise Conflict(f"model {model!r} serves task {task!r} already")
        if busy := self._pool.busy(model):
            raise Conflict(f"model {model!r} is {busy}; ask again when that is done", 5.0)
        source = self._pool.generations.get(current)
        overrides = {"strategy": strategy, "compatibility": compatibility, "plan": plan}
        now_s = self._clock()
        swap = Swap(
            swap_id=swap_id or f"swap-{uuid.uuid4().hex[:12]}",
            task=task,
            from_model=current,
            from_generation=source.generation if source else 0,
            to_model=model,
            requested_by=requested_by,
            requested_at_s=now_s,
            updated_at_s=now_s,
            bake_s=self._config.swap.bake_s if bake_s is None else bake_s,
            facts={key: value for key, value in overrides.items() if value},
        )
        await self._runner.begin(swap)
        return swap.to_doc()

    async def rollback(
        self, task: str, swap_id: str | None = None, requested_by: str = "operator"
    ) -> dict[str, Any]:
        """See ``SwapController.rollback``."""
        check_request(swap_id)
        if swap_id is not None and (same := await self._same(swap_id)):
            return same
        current = self._publisher.route(task).model
        for swap in self._runner.open():
            if swap.task == task:
                event = Event.ROLLBACK if may(swap.phase, Event.ROLLBACK) else Event.ABORT
                signalled = await self._runner.signal(
                    swap.swap_id, event, swap_id or "", requested_by
                )
                return signalled.to_doc()
        docs = await asyncio.to_thread(self._store.load_swaps, task)
        ended = [Swap.from_doc(doc) for doc in docs]
        for swap in ended:
            if swap_id is not None and swap.facts.get("undo_id") == swap_id:
                return swap.to_doc()  # asked for before
        undone = {swap.facts.get("undoes") for swap in ended}
        last = next(
            (
                swap
                for swap in ended
                if swap.phase is Phase.SUCCEEDED
                and swap.to_model == current
                and swap.swap_id not in undone
            ),
            None,
        )
        if last is None or last.from_model not in self._pool.specs:
            raise NothingToRollBack(f"task {task!r} has no earlier model to go back to")
        now_s = self._clock()
        undo = replace(
            last,
            swap_id=swap_id or f"undo-{uuid.uuid4().hex[:12]}",
            phase=Phase.ROLLING_BACK,
            reason=f"undoes {last.swap_id}",
            requested_by=requested_by,
            requested_at_s=now_s,
            updated_at_s=now_s,
            seconds={},
            error="",
            facts={"undoes": last.swap_id},
        )
        await self._runner.begin(undo)
        return undo.to_doc()

    async def _same(self, swap_id: str) -> dict[str, Any] | None:
        try:
            return (await self._runner.find(swap_id)).to_doc()
        except NotFound:
            return None


def _plan(text: str, defaults: CanarySpec) -> dict[str, Any]:
    try:
        return plan_of(text, defaults).model_dump()
    except ValueError as error:
        raise InvalidRequest(f"canary: {error}") from None


def check_request(
    swap_id: str | None,
    bake_s: float | None = None,
    strategy: str | None = None,
    compatibility: str | None = None,
) -> None:
    """Check what a person may say about one swap, with the bounds of the configuration.

    Raises:
        InvalidRequest: What is wrong.

    Example:
        >>> check_request("nightly-7", strategy="overlap")
    """
    if swap_id is not None and not re.match(NAME_PATTERN, swap_id):
        raise InvalidRequest("a swap id is 1 to 63 letters, digits, '.', '_' and '-'")
    said = {"bake_s": bake_s, "strategy": strategy, "compatibility": compatibility}
    try:
        SwapConfig.model_validate({key: v for key, v in said.items() if v is not None})
    except ValidationError as error:
        raise InvalidRequest(problems(error, SwapConfig)) from None
