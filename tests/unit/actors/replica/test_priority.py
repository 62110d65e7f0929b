"""A process that loads a model steps back, and comes back."""

import os
import subprocess
import sys
import threading

import pytest

from hotswap_ray.actors.replica.priority import lowered_priority

NOBODY = 65_534


def niceness():
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def test_every_thread_steps_back_for_the_block_and_returns_to_where_it_was():
    before = niceness()
    begun, end, seen = threading.Event(), threading.Event(), []

    def other():
        begun.set()
        end.wait(10)
        seen.append(niceness())

    with lowered_priority(3) as lowered:
        inside = niceness()
        threading.Thread(target=other).start()
        begun.wait(10)
    thread = threading.enumerate()[-1]
    end.set()
    thread.join(10)

    assert inside == before + (3 if lowered else 0)
    assert niceness() == before
    assert seen == [before]


def test_the_priority_returns_when_loading_fails():
    before = niceness()
    with pytest.raises(ValueError, match="no weights"), lowered_priority(3):
        raise ValueError("no weights")
    assert niceness() == before


def test_without_the_right_to_raise_it_again_the_priority_stays():
    script = """
import os, resource
from hotswap_ray.actors.replica.priority import lowered_priority
resource.setrlimit(resource.RLIMIT_NICE, (0, 0))
if os.geteuid() == 0:
    os.setuid({nobody})
with lowered_priority(5) as lowered:
    print(lowered, os.getpriority(os.PRIO_PROCESS, 0))
"""
    before = os.getpriority(os.PRIO_PROCESS, 0)
    done = subprocess.run(
        [sys.executable, "-c", script.replace("{nobody}", str(NOBODY))],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.split() == ["False", str(before)], done.stderr


def test_no_steps_change_nothing():
    before = niceness()
    with lowered_priority(0) as lowered:
        assert not lowered
        assert niceness() == before
