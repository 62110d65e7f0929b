"""What the controller answers about A/B tests."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from hotswap_ray.actors.controller.ab_tests.registry import ABTests
from hotswap_ray.actors.controller.calls.starts import Starts
from hotswap_ray.store import Store

NOT_LISTED = ("report", "history", "spec")


class ABTestCalls(Starts):
    """Methods of ``SwapController`` about A/B tests."""

    _ab_tests: ABTests
    _store: Store

    async def ab_test(
        self,
        task: str,
        spec: Mapping[str, Any],
        test_id: str | None = None,
        requested_by: str = "operator",
    ) -> dict[str, Any]:
        """Begin an A/B test; returns its record at once, ``ab_test_report`` follows it.

        Args:
            task: Task whose conversations are divided.
            spec: ``core.spec.ab_test.ABTestSpec`` as a mapping.
            test_id: Asking again with it is the same test.
            requested_by: For the record.

        Raises:
            NotFound: Unknown task or model.
            InvalidRequest: Each field that is wrong; or the active model is a variant.
            Incompatible: What a variant lacks.
            Conflict: The task has an open swap or A/B test.
        """
        await self.start()
        return await self._ab_tests.start(task, spec, test_id, requested_by)

    async def ab_tests(self, task: str | None = None, limit: int = 50) -> list[dict[str, Any]]:
        """The latest A/B tests first, without their reports."""
        await self.start()
        docs = await asyncio.to_thread(self._store.load_ab_tests, task, False, limit)
        return [_row(doc) for doc in docs]

    async def ab_test_report(self, test_id: str, wait_s: float = 0) -> dict[str, Any]:
        """The record of an A/B test with its report, at its end or after ``wait_s``.

        Raises:
            NotFound: There is none with this id.
        """
        await self.start()
        return await self._ab_tests.wait(test_id, wait_s)

    async def stop_ab_test(
        self,
        test_id: str,
        promote: str | None = None,
        by: str = "operator",
        if_match: str | None = None,
    ) -> dict[str, Any]:
        """End an A/B test; all conversations go to the active model, or to ``promote``.

        Args:
            test_id: The test.
            promote: Variant that gets the task, by an ordinary swap.
            by: Who asks, for the record.
            if_match: Etag of the record as the caller saw it.

        Raises:
            NotFound: There is none with this id.
            InvalidRequest: ``promote`` is no variant of it.
            PreconditionFailed: It is not as ``if_match`` says.
            Conflict: It is over already.
        """
        await self.start()
        return await self._ab_tests.stop(test_id, promote, by, if_match)


def _row(doc: Mapping[str, Any]) -> dict[str, Any]:
    report = doc["report"] or {}
    return {
        **{name: value for name, value in doc.items() if name not in NOT_LISTED},
        "variants": doc["spec"]["variants"],
        "requests": report.get("requests", 0),
        "winner": report.get("winner"),
        "sentence": report.get("sentence", ""),
    }
