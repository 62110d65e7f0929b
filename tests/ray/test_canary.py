"""A rollout on real Ray under load: conversations keep their model, a bad candidate is out."""

import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.ray.conftest import wait_until

pytestmark = pytest.mark.ray
LENGTH = 10  # requests of a conversation: those under way stay, new ones are divided
HELLO = [{"role": "user", "content": "hello"}]


class Talk:
    """Conversations that go on in threads; who answered each, and when."""

    def __init__(self, system, task):
        self._system = system
        self._task = task
        self._stop = threading.Event()
        self.answers = defaultdict(list)
        self.failed = []

    def __enter__(self):
        self._pool = ThreadPoolExecutor(8)
        self._running = [self._pool.submit(self._run, n) for n in range(8)]
        return self

    def __exit__(self, *_):
        self._stop.set()
        for running in self._running:
            running.result(60)

    def _run(self, first):
        asked = 0
        while not self._stop.is_set():
            session = f"{self._task}-{first}-{asked // LENGTH}"
            asked += 1
            response = self._system.http.post(
                "/v1/chat/completions",
                json={
                    "model": f"auto:{self._task}",
                    "messages": [{"role": "user", "content": "x"}],
                },
                headers={"x-session-id": session},
            )
            if response.status_code != 200:
                self.failed.append(response.text)
                continue
            model = response.headers["x-hotswap-model"]
            self.answers[session].append((time.time(), model))


def test_every_conversation_keeps_its_model_until_the_candidate_has_the_task(system):
    system.load("rising")
    with Talk(system, "beta") as talk:
        record = system.controller("swap", "beta", "rising", canary="25,60")
        ended = system.controller("wait", record["swap_id"], 120, timeout=150)
    assert (ended["phase"], ended["error"], talk.failed) == ("succeeded", "", [])
    assert ended["facts"]["canary"]["step"] == 2
    journal = system.controller("journal", record["swap_id"])
    switched_s = next(row["at_s"] for row in journal if row["phase"] == "switching")
    began_s = next(row["at_s"] for row in journal if row["phase"] == "canary")
    during = [{m for answered_s, m in a if answered_s < switched_s} for a in talk.answers.values()]
    assert [models for models in during if len(models) > 1] == []
    before = [m for a in talk.answers.values() for s, m in a if began_s < s < switched_s]
    assert 0.05 < before.count("rising") / len(before) < 0.7
    system.controller("rollback", "beta")
    wait_until(lambda: system.serves("beta") == "a", what="beta is given back")


def test_a_candidate_that_fails_is_out_and_no_client_noticed(system):
    system.load("shaky", failure_rate=0.4, seed=5)
    with Talk(system, "delta") as talk:
        record = system.controller("swap", "delta", "shaky", canary="30", compatibility="warn")
        ended = system.controller("wait", record["swap_id"], 120, timeout=150)
    assert ended["phase"] == "failed"
    assert "shaky at 30%: error_rate" in ended["error"]
    assert talk.failed == []
    assert system.serves("delta") == "a"
