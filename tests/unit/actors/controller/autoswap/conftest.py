"""The loop that swaps by itself tries again at once."""

import pytest

from hotswap_ray.actors.controller.autoswap import loop


@pytest.fixture(autouse=True)
def _quick_loop(monkeypatch):
    monkeypatch.setattr(loop, "RETRY_S", 0.01)
