"""hotswap_ray: an arbiter that swaps language models on Ray without losing a request."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hotswap_ray.client.arbiter import Arbiter, TaskResult
    from hotswap_ray.core.errors import HotswapError
    from hotswap_ray.core.outcome import Criteria

__version__ = "0.1.0"

_HOMES = {
    "Arbiter": "hotswap_ray.client.arbiter",
    "Criteria": "hotswap_ray.core.outcome",
    "HotswapError": "hotswap_ray.core.errors",
    "TaskResult": "hotswap_ray.client.arbiter",
}

__all__ = ["Arbiter", "Criteria", "HotswapError", "TaskResult", "__version__"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: importing the package stays cheap."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
