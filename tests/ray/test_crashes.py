"""Actors killed by signal in mid-swap, and engines that do not come up: no request notices."""

import itertools
import os
import signal
import threading

import httpx
import psutil
import pytest
from ray import serve

from hotswap_ray.core.errors import EngineLoadFailed
from tests.ray.conftest import wait_until as until

pytestmark = pytest.mark.ray

TASK = "delta"


def processes(title):
    """Our Ray processes with this title."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            words = process.cmdline()
        except psutil.NoSuchProcess:
            continue
        if words and words[0].startswith(f"ray::{title}"):
            found.append(process.pid)
    return found


def kill(actor):
    """SIGKILL the process of an actor."""
    pids = processes(actor)
    assert len(pids) == 1
    os.kill(pids[0], signal.SIGKILL)
    until(lambda: not psutil.pid_exists(pids[0]), what=f"end of {actor}")


class Traffic:
    """A client that asks one thing after another, half of it streamed."""

    def __init__(self, system, task):
        self.answers, self.failures = 0, []
        self._system, self._task = system, task
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self):
        headers = {"authorization": "Bearer test-key"}
        messages = [{"role": "user", "content": "hi"}]
        body = {"model": f"auto:{self._task}", "messages": messages}
        with httpx.Client(base_url=self._system.url, headers=headers, timeout=60) as client:
            for number in itertools.count():
                if self._stop.wait(0.02):
                    return
                answer = client.post(
                    "/v1/chat/completions", json={**body, "stream": bool(number % 2)}
                )
                whole = not number % 2 or answer.text.rstrip().endswith("data: [DONE]")
                if answer.status_code != 200 or not whole:
                    self.failures.append((answer.status_code, answer.text[-300:]))
                self.answers += 1

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()


@pytest.fixture(scope="module")
def candidate(system):
    """A known model, not loaded: a second to load, half a second for its golden answer."""
    system.load("candidate", load_s=1, ttft_ms=500)
    system.controller("unload", "candidate")
    return "candidate"


def state(system, model):
    rows = system.controller("status")["models"]
    return next(row["state"] for row in rows if row["model"] == model)


def in_phase(system, swap_id, phase):
    until(lambda: system.controller("wait", swap_id, 0)["phase"] == phase, what=phase)


@pytest.mark.parametrize(
    ("phase", "actor"),
    [
        ("loading", "SwapController"),
        ("loading", "LearningActor"),  # its next phase asks the learnings
        ("validating", "SwapController"),
        ("baking", "SwapController"),
    ],
)
def test_a_killed_actor_costs_no_request_and_no_swap(system, candidate, phase, actor):
    with Traffic(system, TASK) as traffic:
        bake_s = 3 if phase == "baking" else 0
        swap_id = system.controller("swap", TASK, candidate, bake_s=bake_s)["swap_id"]
        in_phase(system, swap_id, phase)
        kill(actor)
        record = system.controller("wait", swap_id, 60)
        assert record["phase"] == "succeeded", record
        served = traffic.answers
        until(lambda: traffic.answers > served + 2, what="traffic goes on")
        assert system.chat(f"auto:{TASK}").json()["model"] == candidate
        undo = system.controller("rollback", TASK)
        assert system.controller("wait", undo["swap_id"], 60)["phase"] == "rolled_back"

    assert traffic.failures == []
    assert traffic.answers > 5
    phases = [row["phase"] for row in system.controller("journal", swap_id)]
    assert len(phases) == len(set(phases)) == 11
    until(lambda: state(system, candidate) == "unloaded", what="candidate is gone")
    assert not processes("ServeReplica:m-candidate")


@pytest.mark.parametrize(
    ("how", "limit_s", "part"),
    [
        ("raise", 60, "simulated failure to load"),
        ("hang", 8, "was not ready after 8 s"),
        ("exit", 60, "did not load|was not ready"),
    ],
)
def test_an_engine_that_does_not_come_up_is_refused_and_nothing_is_left(system, how, limit_s, part):
    name = f"bad-{how}"
    spec = {
        "engine": "simulated",
        "resources": {"num_cpus": 0},
        "load_timeout_s": limit_s,
        "options": {"fail_on_load": how},
    }
    with pytest.raises(EngineLoadFailed, match=part):
        system.controller("load", name, spec)

    assert [app for app in serve.status().applications if app.startswith(f"m-{name}")] == []
    until(lambda: not processes(f"ServeReplica:m-{name}"), what="no process is left")
    assert state(system, name) == "unloaded"


def test_a_candidate_that_dies_while_it_is_validated_is_released(system, candidate):
    spec = {
        "engine": "simulated",
        "resources": {"num_cpus": 0},
        "options": {"ttft_ms": 60_000},
    }
    system.controller("load", "mortal", spec)
    system.controller("unload", "mortal")
    swap_id = system.controller("swap", TASK, "mortal")["swap_id"]
    in_phase(system, swap_id, "validating")
    for pid in processes("ServeReplica:m-mortal"):
        os.kill(pid, signal.SIGKILL)
    record = system.controller("wait", swap_id, 60)
    assert record["phase"] == "failed"
    assert system.serves(TASK) == "a"
    until(lambda: not processes("ServeReplica:m-mortal"), what="candidate is gone")
