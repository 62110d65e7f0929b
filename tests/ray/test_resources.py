"""CPUs, GPUs, accelerator types, sharding and replicas on a Ray with four logical GPUs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hotswap_ray.ports import free_port

pytestmark = pytest.mark.ray

SCRIPT = Path(__file__).with_name("resources_script.py")
# The session's own ports and flags are not for another Ray.
OWN_ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith("RAY_SERVE_")}


@pytest.fixture(scope="module")
def found():
    """What the script saw; it has a Ray of its own, since the session's has no GPUs."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(free_port())],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env=OWN_ENVIRONMENT,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_a_model_gets_the_gpus_of_its_spec(found):
    assert found["one_gpu"] == {"running": 1, "gpus_free": 3}


def test_a_sharded_model_gets_a_placement_group_and_gives_it_back(found):
    assert found["sharded"] == {"running": 1, "gpus_free": 2}
    assert found["gpus_after"] == 4


@pytest.mark.parametrize(
    ("scene", "part"),
    [
        ("too_many_gpus", "GPUs: 4 needed, 3 free"),
        ("sharded_too_wide", "GPUs: 3 needed, 2 free"),
        ("type", "accelerator: H100 needed"),
        ("cpus", "CPUs: 99 needed, 16 free"),
    ],
)
def test_want_of_hardware_is_refused_by_name_and_leaves_nothing(found, scene, part):
    assert found[scene]["error"] == "insufficient_resources"
    assert part in found[scene]["text"]
    assert found[scene]["apps"] == []


def test_a_model_is_loaded_when_all_its_replicas_run(found):
    assert found["replicas"]["running"] == 3
    assert found["autoscale"]["running"] == 2


def test_a_swap_without_room_fails_and_says_what_is_missing(found):
    assert found["swap"]["phase"] == "failed"
    assert "accelerator: H100 needed" in found["swap"]["error"]
    assert found["serving"] == "a"
