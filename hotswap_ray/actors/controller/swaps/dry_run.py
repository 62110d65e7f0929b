"""The dry run of a swap: what it would do. Changes nothing."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from hotswap_ray.actors.cluster.fleet import Fleet, room_of
from hotswap_ray.actors.controller.models.pool import ModelPool
from hotswap_ray.actors.controller.swaps.learnings import SwapLearning
from hotswap_ray.actors.controller.swaps.phases import SwapActions
from hotswap_ray.actors.controller.swaps.requests import SwapRequests
from hotswap_ray.actors.controller.swaps.runner import SwapRunner
from hotswap_ray.core.errors import (
    HotswapError,
    InsufficientResources,
    PreconditionFailed,
)
from hotswap_ray.core.fit.room import Room
from hotswap_ray.core.swap.etag import require


class SwapPlan:
    """Answers what would come of a request for a swap, by the code that would act on it.

    Args:
        fleet: The cluster, for the room it has.
        pool: Models.
        requests: Makes the record of the swap, and says what would refuse it.
        runner: Open and ended swaps.
        actions: The checks that a swap begins with.
        learning: Predictions.
    """

    def __init__(
        self,
        fleet: Fleet,
        pool: ModelPool,
        requests: SwapRequests,
        runner: SwapRunner,
        actions: SwapActions,
        learning: SwapLearning,
    ) -> None:
        self._fleet = fleet
        self._pool = pool
        self._requests = requests
        self._runner = runner
        self._actions = actions
        self._learning = learning

    async def plan(
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
        if_match: str | None = None,
    ) -> dict[str, Any]:
        """What ``swap`` with the same arguments would do just now.

        Returns:
            ``accepted``, and under ``refusals`` each reason against it as ``code`` and
            ``message``; ``exists``: a swap with this id is there, nothing new would begin;
            ``gaps``; ``strategy`` (``None`` if there is no way) and its ``reason``; ``room`` as
            ``need`` and ``free``; ``canary``, its steps; ``prediction`` and of it ``load_s``,
            ``None`` where nothing says anything; ``bake_s``.

        Raises:
            NotFound: Unknown task or model.
            InvalidRequest: An option that does not exist or is out of range.
        """
        facts = self._requests.settings(swap_id, bake_s, strategy, compatibility, canary)
        draft = self._requests.draft(task, model, swap_id, bake_s, facts, requested_by)
        refusals: list[HotswapError] = []
        try:
            require(await self._runner.latest(task), if_match, task)
        except PreconditionFailed as error:
            refusals.append(error)
        if conflict := self._requests.refusal(task, model):
            refusals.append(conflict)
        report, incompatible = self._actions.compatibility(draft)
        if incompatible:
            refusals.append(incompatible)
        chosen, reason = await self._actions.strategy(draft)
        if chosen is None:
            refusals.append(InsufficientResources(f"no room for {model}: {reason}", 30.0))
        exists = swap_id is not None and await self._requests.same(swap_id) is not None
        prediction = await self._prediction(task, model)
        return {
            "dry_run": True,
            "accepted": exists or not refusals,
            "refusals": [{"code": error.code, "message": str(error)} for error in refusals],
            "exists": exists,
            "task": task,
            "from_model": draft.from_model,
            "to_model": model,
            "gaps": [str(gap) for gap in report.gaps],
            "strategy": chosen,
            "reason": reason,
            "room": {"need": _plain(self._need(model)), "free": _plain(await self._fleet.free())},
            "canary": [step["weight"] for step in facts["plan"].get("steps", ())],
            "prediction": prediction,
            "load_s": prediction and prediction["load_s"],
            "bake_s": draft.bake_s,
        }

    def _need(self, model: str) -> Room:
        if self._pool.is_ready(model):
            return Room()
        return room_of(self._pool.spec(model), self._pool.measured_bytes.get(model, 0))

    async def _prediction(self, task: str, model: str) -> dict[str, Any] | None:
        try:
            return await self._learning.predict(task, model)
        except HotswapError:  # a swap runs without the learnings too
            return None


def _plain(room: Room) -> dict[str, Any]:
    return {**asdict(room), "accelerator_types": sorted(room.accelerator_types)}
