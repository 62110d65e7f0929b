"""A/B tests from Python; a part of Arbiter."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Any

from hotswap_ray.client.link import LONGEST_S, ClusterLink
from hotswap_ray.core.errors import EngineTimeout

WAIT_SLICE_S = 20.0


class ABTestClient:
    """Comparisons of models on a task's traffic that end by themselves."""

    _link: ClusterLink

    def ab_test(
        self,
        task: str,
        variants: Sequence[str],
        *,
        test_id: str | None = None,
        wait: bool = False,
        timeout_s: float = LONGEST_S,
        requested_by: str = "python",
        **spec: Any,
    ) -> dict[str, Any]:
        """Divide a task's conversations among its active model and some others.

        Args:
            task: Task.
            variants: Models to compare with its active one; they are loaded if they are not.
            test_id: The same id again is the same test.
            wait: Return at its end, else at once.
            timeout_s: Longest wait.
            requested_by: For the record.
            **spec: ``weights``, ``adaptive``, ``metric``, ``max_requests`` and what else
                ``core.spec.ab_test.ABTestSpec`` has.

        Returns:
            The record: ``id``, ``phase``, ``weights``, ``dropped``, ``reason``, ``report``,
            ``etag`` and more.

        Raises:
            NotFound: Unknown task or model.
            InvalidRequest: Each field that is wrong.
            Incompatible: What a variant lacks.
            Conflict: The task has an open swap or A/B test.
            EngineTimeout: It has not ended within ``timeout_s``; it goes on.
        """
        test_id = test_id or f"ab-{uuid.uuid4().hex[:12]}"
        full_spec = {**spec, "variants": list(variants)}
        record: dict[str, Any] = self._link.controller(
            "ab_test", task, full_spec, test_id, requested_by
        )
        return self._wait_for_end(test_id, timeout_s) if wait else record

    def _wait_for_end(self, test_id: str, timeout_s: float) -> dict[str, Any]:
        deadline = time.monotonic() + timeout_s
        while True:
            slice_s = min(WAIT_SLICE_S, max(0.0, deadline - time.monotonic()))
            record = self.ab_test_report(test_id, slice_s)
            if record["phase"] == "ended":
                return record
            if time.monotonic() >= deadline:
                state = f"is still {record['phase']} after {timeout_s:g} s"
                raise EngineTimeout(f"A/B test {test_id} {state}; it goes on")

    def ab_tests(self, task: str | None = None, limit: int = 50) -> list[dict[str, Any]]:
        """The latest A/B tests first, without their reports.

        Args:
            task: Only those of this task.
            limit: At most so many.
        """
        rows: list[dict[str, Any]] = self._link.controller("ab_tests", task, limit)
        return rows

    def ab_test_report(self, test_id: str, wait_s: float = 0) -> dict[str, Any]:
        """The record of an A/B test with its ``report`` and, at its end, ``history``.

        Args:
            test_id: The test.
            wait_s: Longest wait for its end, at most 40.

        Returns:
            As ``ab_test``, and ``waits``: what it waits for, if it cannot go on just now.

        Raises:
            NotFound: There is none with this id.
        """
        record: dict[str, Any] = self._link.controller("ab_test_report", test_id, wait_s)
        return record

    def stop_ab_test(
        self, test_id: str, promote: str | None = None, if_match: str | None = None
    ) -> dict[str, Any]:
        """End an A/B test before its time.

        Args:
            test_id: The test.
            promote: Variant that gets the task; else the active model keeps it.
            if_match: ``etag`` of the record as you saw it.

        Raises:
            NotFound: There is none with this id.
            InvalidRequest: ``promote`` is no variant of it.
            PreconditionFailed: It is not as ``if_match`` says.
            Conflict: It is over already.
        """
        record: dict[str, Any] = self._link.controller(
            "stop_ab_test", test_id, promote, "python", if_match
        )
        return record
