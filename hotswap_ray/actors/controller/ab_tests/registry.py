"""A/B tests of the controller: begun, found, stopped, and resumed after a crash."""

from __future__ import annotations

import asyncio
import logging
import re
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from hotswap_ray.actors.cluster.background import Tasks
from hotswap_ray.actors.controller.ab_tests.models import ABTestModels
from hotswap_ray.actors.controller.ab_tests.run import ABTestParts, ABTestRun
from hotswap_ray.actors.controller.ab_tests.state import Overtaken
from hotswap_ray.actors.controller.models.pool import ModelPool
from hotswap_ray.actors.controller.models.publisher import Publisher
from hotswap_ray.actors.controller.swaps.canary import Observes
from hotswap_ray.actors.controller.swaps.phases import SwapActions
from hotswap_ray.actors.controller.swaps.requests import SwapRequests
from hotswap_ray.actors.controller.swaps.runner import SwapRunner
from hotswap_ray.config import Config
from hotswap_ray.config.checks import problems
from hotswap_ray.core.errors import Conflict, InvalidRequest, NotFound, PreconditionFailed
from hotswap_ray.core.rollout.ab_record import ABTest
from hotswap_ray.core.rollout.ab_report import ABTestSpec
from hotswap_ray.core.swap.etag import matches
from hotswap_ray.store import Store

ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,54}$"
"""Shorter than other names: the swap to a winner is called after the test."""
log = logging.getLogger("hotswap.ab_tests")


class ABTests:
    """One open A/B test a task.

    Args:
        config: Limits.
        store: Durable state.
        pool: Models.
        publisher: Route table.
        runner: Open swaps.
        requests: How swaps are begun.
        actions: How swaps check a candidate.
        learning: What became of the requests.
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
        actions: SwapActions,
        learning: Observes,
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._publisher = publisher
        self._runner = runner
        self._requests = requests
        self._clock = clock
        ack_timeout_s = config.swap.ack_timeout_s
        self._models = ABTestModels(
            *(pool, publisher, actions, requests),
            *(self._needed_by_others, self._lent, ack_timeout_s),
        )
        self._parts = ABTestParts(
            *(store, publisher, self._models, learning, clock, self._promote, ack_timeout_s)
        )
        self._runs: dict[str, ABTestRun] = {}
        self._work = Tasks(log)

    # --- what others ask ----------------------------------------------------------------

    def open(self) -> list[ABTest]:
        """Tests that have not ended."""
        return [run.test for run in self._runs.values()]

    def of(self, task: str) -> ABTest | None:
        """The test that has the conversations of a task, or is about to."""
        return next((test for test in self.open() if test.task == task and test.divides), None)

    def needed(self) -> set[str]:
        """Models that open tests need."""
        return {model for test in self.open() if test.divides for model in _needs(test)}

    def _needed_by_others(self, test: ABTest) -> set[str]:
        models = {
            model for swap in self._runner.open() for model in (swap.from_model, swap.to_model)
        }
        other_tests = (other for other in self.open() if other.id != test.id and other.divides)
        return models.union(*map(_needs, other_tests))

    def _lent(self) -> dict[str, str]:
        return {model: back for test in self.open() for model, back in test.lent.items()}

    def refusal(self, task: str) -> Conflict | None:
        """Why a task cannot have a swap, or another test, just now."""
        if (test := self.of(task)) is None:
            return None
        return Conflict(
            f"A/B test {test.id} of task {task!r} is {test.phase}; stop it first "
            f"(hotswap ab-test stop {test.id})",
            5.0,
        )

    # --- begin and end ------------------------------------------------------------------

    async def start(
        self,
        task: str,
        spec: Mapping[str, Any],
        test_id: str | None = None,
        requested_by: str = "operator",
    ) -> dict[str, Any]:
        """Begin an A/B test of a task. See ``SwapController.ab_test``."""
        wanted = _parsed(spec, test_id)
        if test_id is not None and (existing := await self._same(test_id)):
            if (existing.task, existing.spec) != (task, wanted):
                raise Conflict(
                    f"A/B test {test_id} is another one, of task {existing.task!r}; give this one "
                    "another id"
                )
            return existing.to_doc()
        now_s = self._clock()
        test = ABTest(
            id=test_id or f"ab-{uuid.uuid4().hex[:12]}",
            task=task,
            control=self._publisher.route(task).model,
            spec=wanted,
            requested_by=requested_by,
            requested_at_s=now_s,
            updated_at_s=now_s,
            phase_s=now_s,
        )
        if test.id in self._runs:
            return self._runs[test.id].test.to_doc()  # the same request came twice at the same time
        self._refuse(test)
        test = replace(test, lent=self._models.loans(test))
        run = self._runs[test.id] = ABTestRun(test, self._parts)
        fact = {"ab_test": test.id, "task": task, "phase": str(test.phase)}
        try:
            await asyncio.to_thread(self._store.save_ab_test, test.to_doc(), None, fact)
        except BaseException:
            del self._runs[test.id]
            raise
        self._resume(run)
        return test.to_doc()

    def _refuse(self, test: ABTest) -> None:
        if test.control in test.spec.variants:
            raise InvalidRequest(
                f"variants: {test.control!r} serves task {test.task!r}: it is the control of the "
                "test already"
            )
        self._models.check(test)
        if refusal := self.refusal(test.task) or self._requests.open_swap_of(test.task):
            raise refusal

    async def stop(
        self,
        test_id: str,
        promote: str | None = None,
        by: str = "operator",
        if_match: str | None = None,
    ) -> dict[str, Any]:
        """End a test, and swap to a variant if one is to be promoted.

        See ``SwapController.stop_ab_test``.
        """
        test = await self.find(test_id)
        if not matches(test, if_match):
            raise PreconditionFailed(
                f"A/B test {test_id} is {test.phase} by now (etag {test.etag}); it changed since "
                "you looked, so nothing was done: look again and decide anew"
            )
        if promote is not None and promote not in test.spec.variants:
            raise InvalidRequest(
                f"promote: {promote!r} is no variant of A/B test {test_id}; they are "
                f"{', '.join(test.spec.variants)}"
            )
        run = self._runs.get(test_id)
        try:
            if run is None:
                raise Overtaken
            await run.stop("stopped", by, promote)
        except Overtaken:
            latest = await self.find(test_id)
            if (latest.reason, latest.promote) != ("stopped", promote):
                raise Conflict(
                    f"A/B test {test_id} is over already ({latest.reason or latest.phase})"
                ) from None
            return latest.to_doc()  # the same request came twice
        return run.test.to_doc()

    async def end_for_rollback(self, task: str) -> None:
        """End the test of a task, if there is one, and return when it is undivided.

        Raises:
            NotFound: Unknown task.
        """
        self._publisher.route(task)
        if (test := self.of(task)) is None:
            return
        run = self._runs[test.id]
        with suppress(Overtaken):  # it ends by itself
            await run.stop("stopped", "rollback")
        await run.undivided()

    async def find(self, test_id: str) -> ABTest:
        """A test, open or ended. Raises ``NotFound``."""
        if (test := await self._same(test_id)) is None:
            raise NotFound(f"unknown A/B test {test_id!r}; `hotswap ab-test list` lists the latest")
        return test

    async def _same(self, test_id: str) -> ABTest | None:
        if test_id in self._runs:
            return self._runs[test_id].test
        doc = await asyncio.to_thread(self._store.load_ab_test, test_id)
        return None if doc is None else ABTest.from_doc(doc)

    async def wait(self, test_id: str, timeout_s: float) -> dict[str, Any]:
        """A test when it has ended, or as it is after ``timeout_s``, with what it waits for."""
        try:
            async with asyncio.timeout(timeout_s):
                while (run := self._runs.get(test_id)) is not None:
                    await run.state.changed.wait()
        except TimeoutError:
            pass
        run = self._runs.get(test_id)
        return {**(await self.find(test_id)).to_doc(), "waits": run.waits if run else ""}

    # --- after a crash ------------------------------------------------------------------

    async def load(self) -> None:
        """Take up the open tests of the store without running them; ``resume`` runs them."""
        docs = await asyncio.to_thread(self._store.load_ab_tests, None, True, 10_000)
        for test in map(ABTest.from_doc, docs):
            self._runs[test.id] = ABTestRun(test, self._parts)

    async def resume(self) -> None:
        """Go on with open tests; those whose task is gone wait for a configuration that has it."""
        for run in list(self._runs.values()):
            if run.test.task in self._publisher.table.routes:
                self._resume(run)
            else:
                run.waits = f"task {run.test.task!r} is not configured"

    def _resume(self, run: ABTestRun) -> None:
        self._work.spawn(self._drive(run), f"ab-test:{run.test.id}")

    async def _drive(self, run: ABTestRun) -> None:
        await run.run()
        del self._runs[run.test.id]
        run.state.changed.set()

    async def _promote(self, test: ABTest, model: str) -> str:
        by, swap_id = f"ab-test:{test.id}", f"promote-{test.id}"
        facts = self._requests.settings(swap_id)
        if test.lent.get(model) == "unload":
            facts["borrowed"] = True  # if the swap fails, it unloads what the test has loaded
        await self._requests.begin(test.task, model, swap_id, None, facts, by)
        return swap_id


def _needs(test: ABTest) -> set[str]:
    return {test.control, *test.live}


def _parsed(spec: Mapping[str, Any], test_id: str | None) -> ABTestSpec:
    if test_id is not None and not re.match(ID_PATTERN, test_id):
        raise InvalidRequest("the id of an A/B test is 1 to 55 letters, digits, '.', '_' and '-'")
    try:
        return ABTestSpec.model_validate(dict(spec))
    except ValidationError as error:
        raise InvalidRequest(f"A/B test: {problems(error, ABTestSpec)}") from None
