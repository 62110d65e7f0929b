"""What the benchmarks share: the machine in words, the load process, percentiles, a cluster."""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from hotswap_ray.ports import free_ports

os.environ["RAY_SERVE_ENABLE_HA_PROXY"] = "1"
os.environ["RAY_SERVE_THROUGHPUT_OPTIMIZED"] = "1"
os.environ.setdefault("RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S", "0")
os.environ.setdefault("RAY_worker_niceness", "0")  # as app.start does
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
# Fixed by default, so that a second cluster on the machine could not start.
for name, port in zip(("METRICS", "STATS"), free_ports(2), strict=True):
    os.environ.setdefault(f"RAY_SERVE_HAPROXY_{name}_PORT", str(port))

import psutil  # noqa: E402
import ray  # noqa: E402

from hotswap_ray import app, config  # noqa: E402


class Row(NamedTuple):
    """One request as the client saw it; times are of the monotonic clock, in seconds."""

    start: float
    first: float | None
    end: float
    kind: str
    header_model: str | None
    body_models: list[str]
    streamed: bool
    detail: str | None
    session: str | None = None

    @property
    def ms(self) -> float:
        """First byte out to last byte in."""
        return (self.end - self.start) * 1e3


class Load:
    """A running load process; see ``load.Spec`` for the arguments."""

    script = "load.py"
    row: type[Any] = Row

    def __init__(self, **spec: Any) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name(self.script)), json.dumps(spec)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.cpu_s = 0.0

    def rows(self) -> list[Any]:
        """Ask for the end (at once if it has no duration) and wait for it."""
        text, _ = self._process.communicate()
        if self._process.returncode:
            raise SystemExit(f"the load process failed with {self._process.returncode}")
        answer = json.loads(text)
        self.cpu_s = answer["cpu_s"]
        return [self.row(*row) for row in answer["rows"]]


def percentile(values: Sequence[float], share: float) -> float:
    """Nearest-rank percentile; NaN of nothing.

    Example:
        >>> percentile([3, 1, 2], 0.5)
        2
    """
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def median(values: Sequence[float]) -> float:
    """Median by nearest rank."""
    return percentile(values, 0.5)


def machine() -> dict[str, Any]:
    """Size of this machine and how busy it is now."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "cores": len(psutil.Process().cpu_affinity()),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "python": platform.python_version(),
        "ray": ray.__version__,
        "load_average": round(os.getloadavg()[0], 2),
    }


def wait_until(condition: Callable[[], Any], timeout_s: float, what: str) -> Any:
    """Poll until ``condition`` is truthy; its value."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.1)
    raise SystemExit(f"{what} did not hold within {timeout_s:g} s")


@contextmanager
def running(yaml_text: str) -> Iterator[config.Config]:
    """A local cluster with hotswap_ray, its resident models loaded; gone afterwards."""
    settings = config.loads(yaml_text)
    ray.init(num_cpus=64, include_dashboard=False, namespace="hotswap", log_to_driver=False)
    try:
        app.start(settings)
        resident = {name for name, spec in settings.models.items() if spec.resident}
        wait_until(
            lambda: (
                resident
                <= {
                    row["model"]
                    for row in controller("status")["models"]
                    if row["state"] == "ready"
                }
            ),
            300,
            "models loaded",
        )
        yield settings
    finally:
        ray.shutdown()


def controller(method: str, *args: Any, **kwargs: Any) -> Any:
    """Call the swap controller."""
    actor = ray.get_actor("swap_controller", namespace="hotswap")
    return ray.get(getattr(actor, method).remote(*args, **kwargs))


def report(result: dict[str, Any]) -> None:
    """Print the result as the last line: one JSON object."""
    print(json.dumps(result, allow_nan=True))
