"""A/B tests under ``/admin/ab-tests``, and how a task begins one."""

from __future__ import annotations

from typing import Any

from pydantic import Field
from starlette.requests import Request
from starlette.routing import Route

from hotswap_ray.core.names import Name, Strict
from hotswap_ray.web.admin.http import (
    LONGEST_WAIT_S,
    Answer,
    body_of,
    number,
    parsed,
    quick,
    rows_asked,
)


class StopRequest(Strict):
    """Body of ``POST ab-tests/{id}/stop``."""

    promote: Name | None = Field(None, description="Variant that gets the task.")


class ABTestRoutes:
    """Beginning, watching and stopping A/B tests.

    Args:
        controller: ``SwapController`` or a proxy of it.
    """

    def __init__(self, controller: Any) -> None:
        self._controller = controller

    def routes(self) -> list[Route]:
        """The paths of this part, and what serves each."""
        return [
            Route("/tasks/{task}/ab-test", self._begin, methods=["POST"]),
            Route("/ab-tests", self._ab_tests),
            Route("/ab-tests/{test_id}", self._report),
            Route("/ab-tests/{test_id}/stop", self._stop, methods=["POST"]),
        ]

    async def _begin(self, request: Request) -> Answer:
        """The body is the spec; the test's id may come as ``Idempotency-Key``."""
        task, key = request.path_params["task"], request.headers.get("idempotency-key")
        return Answer(await quick(self._controller.ab_test(task, body_of(request), key, "admin")))

    async def _ab_tests(self, request: Request) -> Answer:
        return Answer({"ab_tests": await quick(self._controller.ab_tests(*rows_asked(request)))})

    async def _report(self, request: Request) -> Answer:
        wait_s = number("wait_s", request.query_params.get("wait_s"), 0.0, LONGEST_WAIT_S)
        report = self._controller.ab_test_report(request.path_params["test_id"], wait_s)
        return Answer(await quick(report, wait_s))

    async def _stop(self, request: Request) -> Answer:
        body, if_match = parsed(StopRequest, request), request.headers.get("if-match")
        test_id = request.path_params["test_id"]
        stop = self._controller.stop_ab_test(test_id, body.promote, "admin", if_match)
        return Answer(await quick(stop))
