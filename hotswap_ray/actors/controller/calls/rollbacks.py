"""What the controller offers to go back: the models that served a task, and the way to them."""

from __future__ import annotations

from typing import Any

from hotswap_ray.actors.controller.ab_tests.registry import ABTests
from hotswap_ray.actors.controller.calls.starts import Starts
from hotswap_ray.actors.controller.swaps.requests import SwapRequests
from hotswap_ray.actors.controller.swaps.rollbacks import Rollbacks


class RollbackCalls(Starts):
    """Methods of ``SwapController`` that go back to an earlier model."""

    _ab_tests: ABTests
    _requests: SwapRequests
    _rollbacks: Rollbacks

    async def generations(self, task: str) -> list[dict[str, Any]]:
        """The models that served a task, the newest first; see ``Rollbacks.generations``."""
        await self.start()
        return await self._rollbacks.generations(task)

    async def rollback(
        self,
        task: str,
        swap_id: str | None = None,
        if_match: str | None = None,
        to: str | None = None,
    ) -> dict[str, Any]:
        """Give a task back to the model it had before, or to any earlier one.

        An open swap is rolled back, or aborted before its switch. Otherwise the last swap
        that succeeded is undone: by one commit if its old model is still warm. With ``to`` see
        ``Rollbacks.back_to``. An open A/B test of the task is stopped first.

        Raises:
            NotFound: Unknown task, or ``to`` never served it.
            Conflict: ``to`` serves already, or a swap to another model is open.
            NothingToRollBack: The task never changed its model, or went back already.
            PreconditionFailed: The task's latest swap is not as ``if_match`` says.
        """
        await self.start()
        if to is not None:
            await self._rollbacks.find(task, to)
        await self._ab_tests.end_for_rollback(task)
        if to is not None:
            return await self._rollbacks.back_to(task, to, swap_id, if_match=if_match)
        return await self._requests.rollback(task, swap_id, if_match=if_match)
