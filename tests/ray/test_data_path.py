"""The data path end to end: refusals, tool loops, clients that leave, and long waits."""

import itertools
import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from hotswap_ray.core.errors import NotFound
from hotswap_ray.testing.upstream import Upstream, well
from tests.ray.conftest import wait_until

pytestmark = pytest.mark.ray

TOOLS = [{"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}]


async def refuses_half(request, reply):
    """Answers 400 to every second client; golden prompts and probes it answers well."""
    if '"odd' in request.raw.decode():
        await reply.json({"error": {"message": "I do not take this", "code": "no"}}, 400)
    else:
        await well(request, reply)


@pytest.fixture(scope="module")
def picky(system):
    """A model on another server that refuses every second request."""
    with Upstream(models=["picky"], script=refuses_half) as upstream:
        spec = {
            "engine": "openai",
            "resources": {"num_cpus": 0},
            "options": {"base_url": upstream.url},
        }
        system.controller("load", "picky", spec)
        yield "picky"
        system.controller("unload", "picky")


class Clients:
    """Eight clients that ask a task until told to stop, every second time for what is refused."""

    def __init__(self, system, task):
        self.answers = []
        self._system, self._task = system, task
        self._numbers = itertools.count()
        self._stops = False

    def __enter__(self):
        self._pool = ThreadPoolExecutor(8)
        self._running = [self._pool.submit(self._run) for _ in range(8)]
        return self

    def __exit__(self, *_):
        self._stops = True
        for running in self._running:
            running.result(60)

    def _run(self):
        while not self._stops:
            number = next(self._numbers)
            said = f"{('even', 'odd')[number % 2]} {number}"
            self.answers.append(
                self._system.chat(
                    f"auto:{self._task}",
                    messages=[{"role": "user", "content": said}],
                    stream=number % 4 > 1,
                )
            )

    def check(self):
        """No client saw a 400; returns the answers that the active model gave in its place."""
        assert {answer.status_code for answer in self.answers} == {200}
        return [a for a in self.answers if a.headers["x-hotswap-decision"] == "fallback"]


def refusals(system, task):
    rows = system.learning("learnings")
    return sum(row["refusal"] for row in rows if (row["task"], row["model"]) == (task, "picky"))


def explained(system, name):
    try:
        return system.controller("explain", name)
    except NotFound:  # its outcome is still on the way
        return None


def test_a_candidate_that_refuses_goes_back_by_itself_and_no_client_saw_it(system, picky):
    with Clients(system, "delta") as clients:
        wait_until(lambda: len(clients.answers) > 30, what="traffic before")
        record = system.controller("swap", "delta", picky, canary="50", compatibility="warn")
        ended = system.controller("wait", record["swap_id"], 60, timeout=90)
    assert ended["phase"] == "failed"
    assert "picky at 50%: refusal_rate" in ended["error"]
    assert system.serves("delta") == "a"
    refused = clients.check()
    assert {answer.headers["x-hotswap-model"] for answer in refused} == {"a"}
    wait_until(lambda: refusals(system, "delta") == len(refused), 20, "the refusals are learned")
    name = refused[0].headers["x-request-id"]
    told = wait_until(lambda: explained(system, name), 20, "the outcome")
    assert [(o["model"], o["ending"], o["status"]) for o in told["outcomes"]] == [
        ("picky", "refusal", 400),
        ("a", None, 0),
    ]
    assert "picky" in told["sentence"]
    assert "Then a answered" in told["sentence"]


def test_a_model_that_refuses_after_the_switch_is_rolled_back_and_no_client_saw_it(system, picky):
    with Clients(system, "epsilon") as clients:
        wait_until(lambda: len(clients.answers) > 30, what="traffic before")
        record = system.controller("swap", "epsilon", picky, compatibility="warn", bake_s=300)
        ended = system.controller("wait", record["swap_id"], 60, timeout=90)
    assert ended["phase"] == "rolled_back"
    assert "picky after the switch: refusal_rate" in ended["error"]
    checks = ended["facts"]["bake"]["checks"]
    assert next(c for c in checks if c["metric"] == "refusal_rate")["result"] == "failed"
    assert system.serves("epsilon") == "a"
    assert {answer.headers["x-hotswap-model"] for answer in clients.check()} == {"a"}


def test_what_an_explored_candidate_refuses_no_client_sees(system, picky):
    system.controller("load", picky)  # no task wants it, so the swap before left it unloaded
    system.controller("set_autoswap", "choosy", "on")
    try:
        with Clients(system, "choosy") as clients:
            wait_until(lambda: refusals(system, "choosy") >= 5, 30, "refusals")
    finally:
        system.controller("set_autoswap", "choosy", "off")
    assert len(clients.check()) >= 5
    decided = {answer.headers["x-hotswap-decision"] for answer in clients.answers}
    assert decided == {"active", "explore", "fallback"}


def test_the_result_of_a_call_goes_to_the_model_that_was_replaced_and_then_it_drains(system):
    spec = {
        "engine": "simulated",
        "resources": {"num_cpus": 0},
        "capabilities": ["chat", "completions", "tools"],
    }
    system.controller("load", "caller", spec)
    assert system.swap("gamma", "caller")["phase"] == "succeeded"
    asked = [{"role": "user", "content": "look it up"}]
    first = system.chat("auto:gamma", messages=asked, tools=TOOLS)
    message = first.json()["choices"][0]["message"]
    (call,) = message["tool_calls"]
    swap_id = system.controller("swap", "gamma", "a", compatibility="warn")["swap_id"]
    wait_until(lambda: system.serves("gamma") == "a", what="the switch")
    assert system.chat("auto:gamma").headers["x-hotswap-model"] == "a"
    result = {"role": "tool", "tool_call_id": call["id"], "content": "17"}
    second = system.chat("auto:gamma", messages=[*asked, message, result], tools=TOOLS)
    decided = (second.headers["x-hotswap-model"], second.headers["x-hotswap-decision"])
    assert decided == ("caller", "conversation")
    assert second.json()["choices"][0]["message"]["content"] == "simulated answer"
    ended = system.controller("wait", swap_id, 60)
    assert (ended["phase"], ended["facts"].get("still_in_flight")) == ("succeeded", None)
    states = {row["model"]: row["state"] for row in system.controller("status")["models"]}
    assert states.get("caller") != "ready"


def test_a_stream_that_is_left_is_an_outcome_of_its_own(system):
    system.load("dawdler", tokens=200, token_ms=100)
    body = {"model": "dawdler", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    body["metadata"] = {"task_type": "gamma"}
    with system.http.stream("POST", "/v1/chat/completions", json=body) as response:
        name = response.headers["x-request-id"]
        assert next(response.iter_bytes())
    told = wait_until(lambda: explained(system, name), 20, "the outcome")
    assert told["inputs"]["ending"] == "cancelled"
    assert told["inputs"]["tokens_out"] > 0
    system.controller("unload", "dawdler")


def test_a_client_that_waits_for_long_gets_comments_until_the_answer_comes(system):
    silence_s = system.settings.server.stream_comment_s
    system.load("late", ttft_ms=silence_s * 1000 + 1000)
    body = {"model": "late", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    begun = time.monotonic()
    with system.http.stream("POST", "/v1/chat/completions", json=body) as response:
        assert response.status_code == 200
        assert time.monotonic() - begun < silence_s + 1
        lines = [line for line in response.iter_lines() if line]
    assert lines[0].startswith(":")
    chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    text = "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks if c["choices"])
    assert (text, lines[-1]) == ("simulated answer", "data: [DONE]")
    system.controller("unload", "late")
