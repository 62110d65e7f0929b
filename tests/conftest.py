"""Unit tests cannot start Ray, and nobody's machine-wide settings leak in."""

import os

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_DEDUP_LOGS", "0")
# A busy machine is no failure; the last two as ``app.start`` has them.
os.environ.setdefault("RAY_raylet_start_wait_time_s", "300")
os.environ.setdefault("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "60")
os.environ.setdefault("RAY_worker_niceness", "0")

import pytest

pytest.register_assert_rewrite("tests.worlds")
NEEDS_RAY = ("ray", "vllm", "gpu", "clients")


@pytest.fixture(autouse=True)
def _no_ray_in_unit_tests(request, monkeypatch):
    """`ray.init` fails in a test that is not marked as one that needs it."""
    if any(request.node.get_closest_marker(name) for name in NEEDS_RAY):
        return
    import ray

    def refuse(*_args, **_kwargs):
        pytest.fail("a unit test may not start Ray; mark it `ray`")

    monkeypatch.setattr(ray, "init", refuse)
