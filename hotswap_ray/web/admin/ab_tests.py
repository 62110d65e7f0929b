"""A/B tests under ``/admin/ab-tests``; a part of the control plane."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from pydantic import Field, ValidationError

from hotswap_ray.config.checks import problems
from hotswap_ray.core.errors import InvalidRequest
from hotswap_ray.core.names import Name, Strict
from hotswap_ray.web.admin.parts import NAME, query_of, quick
from hotswap_ray.web.openai_api import Scope, header

LONGEST_WAIT_S = 86_400


class StopRequest(Strict):
    """Body of ``POST ab-tests/{id}/stop``."""

    promote: Name | None = Field(None, description="Variant that gets the task.")


class ABTestApi:
    """Handlers of ``AdminApi``; each answers with what the controller says."""

    _controller: Any

    def _ab_test_routes(self) -> list[tuple[str, str, Callable[..., Awaitable[Any]]]]:
        return [
            ("POST", f"tasks/{NAME}/ab-test", self._begin_ab_test),
            ("GET", "ab-tests", self._ab_tests),
            ("GET", f"ab-tests/{NAME}", self._ab_test),
            ("POST", f"ab-tests/{NAME}/stop", self._stop_ab_test),
        ]

    async def _begin_ab_test(self, scope: Scope, body: Any, task: str) -> Any:
        """The body is the spec; the test's id may come as ``Idempotency-Key``."""
        key = header(scope, b"idempotency-key")
        return await quick(self._controller.ab_test(task, body, key, "admin"))

    async def _ab_tests(self, scope: Scope, body: Any) -> Any:
        task = query_of(scope).get("task")
        limit = int(_number(scope, "limit", 50, 10_000))
        return {"ab_tests": await quick(self._controller.ab_tests(task, limit))}

    async def _ab_test(self, scope: Scope, body: Any, test_id: str) -> Any:
        wait_s = _number(scope, "wait_s", 0, LONGEST_WAIT_S)
        return await quick(self._controller.ab_test_report(test_id, wait_s), wait_s)

    async def _stop_ab_test(self, scope: Scope, body: Any, test_id: str) -> Any:
        try:
            request = StopRequest.model_validate(body)
        except ValidationError as error:
            raise InvalidRequest(problems(error, StopRequest)) from None
        if_match = header(scope, b"if-match")
        return await quick(
            self._controller.stop_ab_test(test_id, request.promote, "admin", if_match)
        )


def _number(scope: Scope, name: str, default: float, most: float) -> float:
    try:
        value = float(query_of(scope).get(name, default))
    except ValueError:
        value = -1.0
    if not 0 <= value <= most:
        raise InvalidRequest(f"{name} must be a number from 0 to {most:g}")
    return value
