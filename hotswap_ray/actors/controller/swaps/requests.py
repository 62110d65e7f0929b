"""Requests for swaps: checked and turned into records, or refused.

A request whose id exists already gets the record that has it.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import uuid
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import Any

from pydantic import ValidationError

from hotswap_ray.actors.controller.models.pool import ModelPool
from hotswap_ray.actors.controller.models.publisher import Publisher
from hotswap_ray.actors.controller.swaps.runner import SwapRunner
from hotswap_ray.config import Config
from hotswap_ray.config.checks import problems
from hotswap_ray.config.sections import SwapConfig
from hotswap_ray.core.errors import (
    Conflict,
    IllegalTransition,
    InvalidRequest,
    NotFound,
    NothingToRollBack,
)
from hotswap_ray.core.names import NAME_PATTERN
from hotswap_ray.core.spec.rollout import CanarySpec, plan_of
from hotswap_ray.core.swap.etag import require
from hotswap_ray.core.swap.phases import Event, Phase, Swap, may
from hotswap_ray.store import Store

SETTINGS = ("strategy", "compatibility", "plan")
"""Facts that were asked for, and not measured."""
RETRYABLE = (Phase.FAILED, Phase.ROLLED_BACK)
MOST_CHARS = 63


class SwapRequests:
    """Begins swaps and undoes them.

    Args:
        config: Defaults of a swap.
        store: Ended swaps.
        pool: Models.
        publisher: Route table.
        runner: Open swaps.
        clock: Unix seconds.
        tested: Why a task cannot have a swap while an A/B test has its conversations.
    """

    def __init__(
        self,
        config: Config,
        store: Store,
        pool: ModelPool,
        publisher: Publisher,
        runner: SwapRunner,
        clock: Callable[[], float],
        tested: Callable[[str], Conflict | None] = lambda task: None,
    ) -> None:
        self._config = config
        self._store = store
        self._pool = pool
        self._publisher = publisher
        self._runner = runner
        self._clock = clock
        self._tested = tested

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
        if_match: str | None = None,
    ) -> dict[str, Any]:
        """Begin a swap of a task to a model. See ``SwapController.swap``."""
        facts = self.settings(swap_id, bake_s, strategy, compatibility, canary)
        return await self.begin(task, model, swap_id, bake_s, facts, requested_by, if_match)

    def settings(
        self,
        swap_id: str | None,
        bake_s: float | None = None,
        strategy: str | None = None,
        compatibility: str | None = None,
        canary: str | None = None,
    ) -> dict[str, Any]:
        """The options of a request, as facts of a swap. Raises ``InvalidRequest``."""
        check_request(swap_id, bake_s, strategy, compatibility)
        # Kept with the swap, so that a later configuration does not change a rollout under way.
        plan = _plan(canary, self._config.swap.canary)
        options = zip(SETTINGS, (strategy, compatibility, plan), strict=True)
        return {key: value for key, value in options if value is not None}

    async def begin(
        self,
        task: str,
        model: str,
        swap_id: str | None,
        bake_s: float | None,
        facts: dict[str, Any],
        requested_by: str,
        if_match: str | None = None,
    ) -> dict[str, Any]:
        """Begin a swap with these facts, or find the one that has its id."""
        if swap_id is not None and (existing := await self.same(swap_id)):
            if (existing["task"], existing["to_model"]) != (task, model):
                raise Conflict(
                    f"swap {swap_id} is of task {existing['task']!r} to {existing['to_model']!r}; "
                    "give this one another id"
                )
            return existing
        latest = await self._runner.latest(task)
        # Nothing is awaited from here until the runner has the swap, so no other can come between.
        swap = self.draft(task, model, swap_id, bake_s, facts, requested_by)
        for open_swap in self._runner.open():
            if (open_swap.task, open_swap.swap_id, open_swap.to_model) == (task, swap_id, model):
                return open_swap.to_doc()  # the same request came twice at the same time
        require(latest, if_match, task)
        if refusal := self.refusal(task, model):
            raise refusal
        await self._runner.begin(swap)
        return swap.to_doc()

    def refusal(self, task: str, model: str) -> Conflict | None:
        """Why a task cannot get a model just now, if it cannot."""
        if refusal := self.open_swap_of(task) or self._tested(task):
            return refusal
        if model == self._publisher.route(task).model:
            return Conflict(f"model {model!r} serves task {task!r} already")
        if busy := self._pool.busy(model):
            return Conflict(f"model {model!r} is {busy}; ask again when that is done", 5.0)
        return None

    def open_swap_of(self, task: str) -> Conflict | None:
        """The open swap that stands in the way of another one, if there is one."""
        for swap in self._runner.open():
            if swap.task == task:
                return Conflict(
                    f"swap {swap.swap_id} of task {task!r} is {swap.phase}; promote it, roll "
                    "it back or abort it first",
                    5.0,
                )
        return None

    def draft(
        self,
        task: str,
        model: str,
        swap_id: str | None,
        bake_s: float | None,
        facts: dict[str, Any],
        requested_by: str,
    ) -> Swap:
        """The record of a swap that begins now. Raises ``NotFound``."""
        current = self._publisher.route(task).model
        self._pool.spec(model)
        source = self._pool.generations.get(current)
        now_s = self._clock()
        return Swap(
            swap_id=swap_id or f"swap-{uuid.uuid4().hex[:12]}",
            task=task,
            from_model=current,
            from_generation=source.generation if source else 0,
            to_model=model,
            requested_by=requested_by,
            requested_at_s=now_s,
            updated_at_s=now_s,
            bake_s=self._config.swap.bake_s if bake_s is None else bake_s,
            facts=facts,
        )

    async def retry(
        self, swap_id: str, attempt: int | None = None, requested_by: str = "operator"
    ) -> dict[str, Any]:
        """Try a failed or rolled back swap again. See ``SwapController.retry``."""
        old = await self._runner.find(swap_id)
        if old.phase not in RETRYABLE or "undoes" in old.facts:
            raise IllegalTransition(
                f"swap {swap_id} is {old.phase}; only one that failed or was rolled back can be "
                "tried again, and no rollback"
            )
        for number in count(1) if attempt is None else (attempt,):
            new_id = retry_id(old, number)
            existing = await self.same(new_id)
            if existing and (attempt is not None or existing["phase"] not in RETRYABLE):
                return existing
            if existing is None:
                break
        facts = {key: old.facts[key] for key in SETTINGS if key in old.facts}
        facts["retries"] = old.swap_id
        return await self.begin(old.task, old.to_model, new_id, old.bake_s, facts, requested_by)

    async def rollback(
        self,
        task: str,
        swap_id: str | None = None,
        requested_by: str = "operator",
        if_match: str | None = None,
    ) -> dict[str, Any]:
        """Give a task back to the model before. See ``SwapController.rollback``."""
        check_request(swap_id)
        if swap_id is not None and (existing := await self.same(swap_id)):
            return existing
        self._publisher.route(task)  # raises where there is no such task
        docs = await asyncio.to_thread(self._store.load_swaps, task)
        require(await self._runner.latest(task), if_match, task)
        for swap in self._runner.open():
            if swap.task == task:
                event = Event.ROLLBACK if may(swap.phase, Event.ROLLBACK) else Event.ABORT
                try:
                    signalled = await self._runner.signal(
                        swap.swap_id, event, swap_id or "", requested_by, if_match
                    )
                except IllegalTransition as error:  # too late to end it, too early to undo it
                    raise Conflict(f"{error}; ask again when it has ended", 5.0) from None
                return signalled.to_doc()
        current = self._publisher.route(task).model
        ended = [Swap.from_doc(doc) for doc in docs]
        for swap in ended:
            if swap_id is not None and swap.facts.get("undo_id") == swap_id:
                return swap.to_doc()  # this request was made before
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

    async def same(self, swap_id: str) -> dict[str, Any] | None:
        """The swap that has this id already, open or ended, if there is one."""
        try:
            return (await self._runner.find(swap_id)).to_doc()
        except NotFound:
            return None


def retry_id(old: Swap, number: int) -> str:
    """The id of the n-th retry of a swap, and of its retries.

    Example:
        >>> retry_id(Swap("s1", "t", "a", 1, "b"), 1)
        's1-r1'
        >>> retry_id(Swap("s1-r1", "t", "a", 1, "b", facts={"retries": "s1"}), 2)
        's1-r2'
    """
    if number < 1:
        raise InvalidRequest("attempt must be 1 or more")
    root = re.sub(r"-r\d+$", "", old.swap_id) if "retries" in old.facts else old.swap_id
    end = f"-r{number}"
    if len(root) + len(end) > MOST_CHARS:
        digest = hashlib.sha256(root.encode()).hexdigest()[:8]
        root = f"{root[: MOST_CHARS - 16]}-{digest}"
    return root + end


def _plan(text: str | None, defaults: CanarySpec) -> dict[str, Any]:
    try:
        plan = defaults if text is None else plan_of(text, defaults)
        return plan.model_dump(mode="json", exclude_defaults=True)
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
    options = {"bake_s": bake_s, "strategy": strategy, "compatibility": compatibility}
    try:
        SwapConfig.model_validate({key: v for key, v in options.items() if v is not None})
    except ValidationError as error:
        raise InvalidRequest(problems(error, SwapConfig)) from None
