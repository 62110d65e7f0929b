"""Back to any model that served a task: at once where it is warm, else by a swap.

What served is read from the saved swaps, so it outlives restarts. A model that is still loaded as
it was when it served has been validated then, and is given the task by one commit; one that
was loaded anew meanwhile, or is not loaded, is validated again, but needs no canary.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from hotswap_ray.actors.controller.models.pool import ModelPool
from hotswap_ray.actors.controller.models.publisher import Publisher
from hotswap_ray.actors.controller.models.retention import HISTORY
from hotswap_ray.actors.controller.swaps.requests import SwapRequests, check_request
from hotswap_ray.actors.controller.swaps.runner import SwapRunner
from hotswap_ray.config import Config
from hotswap_ray.core.errors import NotFound
from hotswap_ray.core.swap.etag import require
from hotswap_ray.core.swap.history import Served, served
from hotswap_ray.core.swap.phases import Phase, Swap
from hotswap_ray.store import Store


class Rollbacks:
    """The models that served each task, and the ways back to them.

    Args:
        config: The steps of a canary, which a way back does not take.
        store: Saved swaps.
        pool: Models.
        publisher: Route table.
        runner: Open swaps.
        requests: Begins swaps.
        clock: Unix seconds.
    """

    def __init__(
        self,
        config: Config,
        store: Store,
        pool: ModelPool,
        publisher: Publisher,
        runner: SwapRunner,
        requests: SwapRequests,
        clock: Callable[[], float],
    ) -> None:
        self._config = config
        self._store = store
        self._pool = pool
        self._publisher = publisher
        self._runner = runner
        self._requests = requests
        self._clock = clock

    async def generations(self, task: str) -> list[dict[str, Any]]:
        """The models that served a task, the newest first.

        Returns:
            ``model``; ``generation``, the load of it that served last; ``served_at_s``, since
            when (``None`` if that is not known); ``serves``, whether it does now; ``state``; and
            ``warm``, whether a rollback to it is one commit.

        Raises:
            NotFound: Unknown task.
        """
        current = self._publisher.route(task).model
        return [
            {
                "model": entry.model,
                "generation": entry.generation,
                "served_at_s": entry.since_s,
                "serves": entry.model == current,
                "state": loaded.state if loaded else "unloaded",
                "warm": self._is_warm(entry),
            }
            for entry in await self._served(task)
            for loaded in [self._pool.generations.get(entry.model)]
        ]

    async def back_to(
        self,
        task: str,
        model: str,
        swap_id: str | None = None,
        requested_by: str = "operator",
        if_match: str | None = None,
    ) -> dict[str, Any]:
        """Give a task back to a model that served it before.

        Raises:
            NotFound: Unknown task, or it was never served by this model; the text names those
                that did.
            Conflict: The model serves it already, or another swap is open.
            PreconditionFailed: The task's latest swap is not as ``if_match`` says.
        """
        check_request(swap_id)
        if swap_id is not None and (existing := await self._requests.same(swap_id)):
            return existing
        entry, current_swap_id = await self.find(task, model)
        latest = await self._runner.latest(task)
        # Nothing is awaited from here until the runner has the swap, so no other can come between.
        open_swap = next((s for s in self._runner.open() if s.task == task), None)
        if open_swap is not None and open_swap.from_model == model:
            return await self._requests.rollback(task, swap_id, requested_by, if_match)
        require(latest, if_match, task)
        if refusal := self._requests.refusal(task, model):
            raise refusal
        if not self._is_warm(entry):
            plan = self._config.swap.canary.model_copy(update={"steps": ()}).model_dump()
            # What this model lacks only warns: the task was served without it before.
            facts = {"plan": plan, "compatibility": "warn", "back_to": model}
            return await self._requests.begin(task, model, swap_id, None, facts, requested_by)
        undo = self._undo(task, entry, swap_id, requested_by, current_swap_id)
        await self._runner.begin(undo)
        return undo.to_doc()

    async def find(self, task: str, model: str) -> tuple[Served, str]:
        """When a model served a task, and the id of the swap to the model that serves it now.

        Raises:
            NotFound: Unknown task, or the model never served it.
        """
        history = await self._served(task)
        current = self._publisher.route(task).model
        by_model = {entry.model: entry for entry in history if entry.model in self._pool.specs}
        if model not in by_model:
            names = [name for name in by_model if name != current]
            advice = f"it can go back to: {', '.join(names)}" if names else "it had no other model"
            raise NotFound(f"task {task!r} was not served by {model!r}; {advice}")
        swap_id = next((entry.swap_id for entry in history if entry.model == current), "")
        return by_model[model], swap_id

    def _undo(self, task: str, entry: Served, swap_id: str | None, by: str, undoes: str) -> Swap:
        current = self._publisher.route(task).model
        draft = self._requests.draft(
            task, current, swap_id or f"undo-{uuid.uuid4().hex[:12]}", 0.0, {}, by
        )
        return replace(
            draft,
            from_model=entry.model,
            from_generation=entry.generation,
            to_generation=draft.from_generation,
            phase=Phase.ROLLING_BACK,
            strategy="overlap",
            reason=f"back to {entry.model}, which is warm",
            facts={"undoes": undoes, "back_to": entry.model},
        )

    def _is_warm(self, entry: Served) -> bool:
        """Whether a model is loaded as it was when it served."""
        loaded = self._pool.generations.get(entry.model)
        if loaded is None:
            return False
        return loaded.generation == entry.generation and loaded.state == "ready"

    async def _served(self, task: str) -> list[Served]:
        route = self._publisher.route(task)  # raises where there is no such task
        docs = await asyncio.to_thread(self._store.load_swaps, task, False, HISTORY)
        history = served([Swap.from_doc(doc) for doc in docs])
        if all(entry.model != route.model for entry in history):
            loaded = self._pool.generations.get(route.model)
            history.insert(0, Served(route.model, loaded.generation if loaded else 0))
        return history
