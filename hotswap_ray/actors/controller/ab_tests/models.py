"""The models of A/B tests: loaded and validated as those of swaps, and given back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from hotswap_ray.actors.controller.models.pool import ModelPool
from hotswap_ray.actors.controller.models.publisher import Publisher
from hotswap_ray.actors.controller.models.retention import is_wanted
from hotswap_ray.actors.controller.swaps.phases import SwapActions
from hotswap_ray.actors.controller.swaps.requests import SwapRequests
from hotswap_ray.core.errors import Conflict, EngineUnavailable
from hotswap_ray.core.rollout.ab_record import ABTest
from hotswap_ray.core.routing.target import Target
from hotswap_ray.core.swap.phases import Swap


class ABTestModels:
    """Brings variants up and gives them back.

    Args:
        pool: Models.
        publisher: Route table.
        actions: How swaps check a candidate.
        requests: Makes the record of the swap that a variant would be.
        others: Models that open swaps, or other tests than this one, need.
        lent: Models loaded for open tests, and what they go back to.
        ack_timeout_s: Longest wait for the ingress.
    """

    def __init__(
        self,
        pool: ModelPool,
        publisher: Publisher,
        actions: SwapActions,
        requests: SwapRequests,
        others: Callable[[ABTest], Iterable[str]],
        lent: Callable[[], Mapping[str, str]],
        ack_timeout_s: float,
    ) -> None:
        self._pool = pool
        self._publisher = publisher
        self._actions = actions
        self._requests = requests
        self._others = others
        self._lent = lent
        self._ack_timeout_s = ack_timeout_s

    def check(self, test: ABTest) -> None:
        """Refuse variants that may not take the place of the control.

        Raises:
            NotFound: Unknown model.
            Incompatible: What it lacks.
            Conflict: It is being loaded or unloaded by somebody else.
        """
        for model in test.spec.variants:
            _report, refusal = self._actions.compatibility(self._draft(test, model))
            if refusal is not None:
                raise refusal
            if busy := self._pool.busy(model):
                raise Conflict(f"model {model!r} is {busy}; ask again when that is done", 5.0)

    def _draft(self, test: ABTest, model: str) -> Swap:
        by = f"ab-test:{test.id}"
        return self._requests.draft(test.task, model, f"{test.id}.{model}", None, {}, by)

    def loans(self, test: ABTest) -> dict[str, str]:
        """Variants that are not there, and what they go back to; saved before any is loaded."""
        loans: dict[str, str] = {}
        for model in test.spec.variants:
            held = self._pool.generations.get(model)
            if self._pool.is_ready(model):  # of two tests, the one that ends last gives it back
                back = self._lent().get(model)
            else:
                back = "sleep" if held is not None and held.state == "asleep" else "unload"
            loans |= {model: back} if back else {}
        return loans

    def is_there(self, test: ABTest, model: str) -> bool:
        """Whether the split has the generation of a variant that is loaded now."""
        split = self._publisher.table.routes[test.task].split
        if split is None or not self._pool.is_ready(model):
            return False
        target = self._pool.target(self._pool.generations[model])
        return any(share.target == target and not share.out for share in split.shares)

    async def bring(self, test: ABTest, model: str) -> Target:
        """Load a variant, ask its golden prompts, and have every ingress replica reach it.

        Raises:
            InsufficientResources: No room, after a bounded wait.
            EngineLoadFailed: It did not come up.
            ValidationFailed: Its answers are not good enough.
            EngineUnavailable: An ingress replica does not reach it.
        """
        await self._actions.validating(self._draft(test, model))
        target = self._pool.target(await self._pool.load(model))
        if not await self._publisher.prepare(target.app, self._ack_timeout_s):
            raise EngineUnavailable(f"not every ingress replica reached {target.app}")
        return target

    async def give_back(self, test: ABTest) -> None:
        """Unload, or put to sleep, what was loaded for the test, unless it is wanted by now."""
        for model, back in test.lent.items():
            if model not in self._pool.specs or self._is_needed(test, model):
                continue
            try:
                if back == "unload":
                    await self._pool.unload(model)
                elif self._pool.is_ready(model):
                    await self._pool.sleep(model)
            except Conflict:
                continue  # a task is served by it now

    def _is_needed(self, test: ABTest, model: str) -> bool:
        return is_wanted(self._pool, model) or model in self._others(test)
