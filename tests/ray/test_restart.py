"""The whole of Ray killed at once, and started again on the same store."""

import json
import os
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from hotswap_ray.ports import free_port

pytestmark = pytest.mark.ray

SCRIPT = Path(__file__).with_name("restart_script.py")
# The session's own ports and flags are not for another Ray.
OWN_ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith("RAY_SERVE_")}


@contextmanager
def life(name, store):
    """A running system; at the end all its processes die by SIGKILL, as in a power cut."""
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), name, str(free_port()), str(store)],
        stdout=subprocess.PIPE,
        text=True,
        env=OWN_ENVIRONMENT,
    )
    try:
        yield json.loads(next(line for line in process.stdout if line.startswith("{")))
    finally:
        victims = psutil.Process(process.pid).children(recursive=True)
        for victim in [process, *victims]:
            with suppress(psutil.NoSuchProcess):
                victim.kill()
        process.wait()
        psutil.wait_procs(victims, timeout=10)


def test_everything_is_there_again_after_all_processes_were_killed(tmp_path):
    store = tmp_path / "store.sqlite"
    with life("first", store) as before:
        assert before["serves"] == "runtime"
    with life("second", store) as after:
        assert after["serves"] == "runtime"
        # Route, runtime models and the resident one; loaded anew, under new names.
        assert after["generations"] == {"a": None, "r": 2, "runtime": 2, "spare": 2}
        assert after["swaps"] == before["swaps"]
        assert after["swaps"][0][1] == "succeeded"
        assert after["journal"] == before["journal"]
        assert len(after["journal"]) == 11
        assert after["outcomes"] >= 11
        assert after["learnings"] == before["learnings"]
        assert ["t", "runtime"] in after["learnings"]
