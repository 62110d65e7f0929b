"""What becomes of requests when clients leave and processes die, by signal, in mid-work."""

import itertools
import signal
import threading
import time

import httpx
import openai
import psutil
import pytest

from hotswap_ray.actors.cluster.connection import ServeConnection
from hotswap_ray.actors.ingress.call import Call
from hotswap_ray.actors.ingress.router import Router
from hotswap_ray.config.sections import ServerConfig
from hotswap_ray.core.routing.table import Route, RouteTable
from hotswap_ray.core.routing.target import Target
from tests.ray.conftest import wait_until as until
from tests.worlds.system import kill

pytestmark = pytest.mark.ray

HI = [{"role": "user", "content": "hi"}]
DONE = b"data: [DONE]"


@pytest.fixture(scope="module")
def slow(system):
    """A model that takes one request at a time and 20 s for an answer."""
    spec = {
        "engine": "simulated",
        "resources": {"num_cpus": 0},
        "max_ongoing_requests": 1,
        "max_queued_requests": 7,
        "options": {"tokens": 200, "token_ms": 100},
    }
    system.controller("load", "slow", spec)
    yield "slow"
    system.controller("unload", "slow")


@pytest.fixture(scope="module")
def fragile(system):
    """A model that serves the task epsilon, streams for 20 s, and takes 3 s to come back."""
    record = system.load("fragile", tokens=200, token_ms=100, load_s=3)
    assert system.swap("epsilon", "fragile")["phase"] == "succeeded"
    yield f"m-fragile-g{record['generation']}"
    assert system.swap("epsilon", "a")["phase"] == "succeeded"


def stream(system, model, **body):
    payload = {"model": model, "messages": HI, "stream": True, **body}
    return system.http.stream("POST", "/v1/chat/completions", json=payload)


def is_free(system, model):
    """Whether the one slot of a model is free now: one token is answered soon."""
    try:
        answer = system.http.post(
            "/v1/completions", json={"model": model, "prompt": "hi", "max_tokens": 1}, timeout=3
        )
    except httpx.ReadTimeout:
        return False
    return answer.status_code == 200


def until_it_serves_again(system):
    """Serve restarts what died, and the requests return without being asked."""

    def served():
        answer = system.chat("auto:epsilon", max_tokens=1)
        return answer.headers.get("x-hotswap-model") == "fragile"

    until(served)


def test_a_client_that_leaves_in_mid_stream_frees_the_model(system, slow):
    with stream(system, slow) as response:
        assert next(response.iter_bytes())
    until(lambda: is_free(system, slow), 10)


def test_a_client_that_leaves_while_it_waits_for_a_whole_answer_frees_the_model(system, slow):
    with pytest.raises(httpx.ReadTimeout):
        system.http.post(
            "/v1/chat/completions", json={"model": slow, "messages": HI}, timeout=httpx.Timeout(1)
        )
    until(lambda: is_free(system, slow), 10)


def test_a_model_killed_while_it_streams_ends_the_stream_with_an_error_and_the_fallback_serves(
    system, fragile
):
    whole = {}

    def ask_whole():
        whole["answer"] = system.chat("auto:epsilon")

    waiting = threading.Thread(target=ask_whole)
    with stream(system, "auto:epsilon") as response:
        assert response.headers["x-hotswap-model"] == "fragile"
        pieces = response.iter_bytes()
        received = next(pieces)
        waiting.start()
        received += next(pieces)
        assert kill(f"ServeReplica:{fragile}:") == 1
        received += b"".join(pieces)
    assert DONE not in received
    last = received.strip().split(b"\n\n")[-1]
    assert last.startswith(b'data: {"error":')
    assert b"engine_unavailable" in last

    # While the process is away nobody waits for it.
    for _ in range(5):
        asked = time.monotonic()
        answer = system.chat("auto:epsilon", max_tokens=1)
        assert answer.status_code == 200, answer.text
        decided = (answer.headers["x-hotswap-model"], answer.headers["x-hotswap-decision"])
        assert decided == ("b", "fallback")
        assert time.monotonic() - asked < 3

    # Who insists on it waits for it, or is told to come back by an ingress that just met
    # the death; nobody else answers.
    def insisted():
        answer = system.chat("fragile", max_tokens=1)
        if answer.status_code == 503:
            assert int(answer.headers["retry-after"]) > 0
            return False
        return answer.headers["x-hotswap-model"] == "fragile"

    until(insisted)

    waiting.join(30)
    assert whole["answer"].status_code == 200
    assert whole["answer"].headers["x-hotswap-decision"] == "fallback"
    until_it_serves_again(system)


def test_requests_leave_a_model_that_hangs_for_the_fallback_and_return_when_it_goes_on(
    system, fragile
):
    def asked():
        begun = time.monotonic()
        answer = system.chat("auto:epsilon", max_tokens=1)
        assert answer.status_code == 200
        assert answer.headers["x-hotswap-model"] == "b"
        return time.monotonic() - begun

    assert kill(f"ServeReplica:{fragile}:", signal.SIGSTOP) == 1
    try:
        assert asked() < 15  # finds out
        until(lambda: max(asked() for _ in range(6)) < 1)  # so did the other ingress replica
    finally:
        kill(f"ServeReplica:{fragile}:", signal.SIGCONT)
    until_it_serves_again(system)


def test_the_openai_client_sees_a_stream_cut_by_a_death_as_an_error(system, fragile):
    with openai.OpenAI(base_url=f"{system.url}/v1", api_key="test-key") as client:
        chunks = client.chat.completions.create(model="auto:epsilon", messages=HI, stream=True)
        next(chunks)
        assert kill(f"ServeReplica:{fragile}:") == 1
        with pytest.raises(openai.APIError, match="the model failed"):
            list(chunks)
    until_it_serves_again(system)


def test_an_ingress_replica_killed_under_traffic_loses_nothing_that_a_client_retries(system):
    stop = threading.Event()
    answers, errors = [], []

    def ask():
        with openai.OpenAI(
            base_url=f"{system.url}/v1", api_key="test-key", max_retries=8, timeout=20
        ) as client:
            while not stop.is_set():
                try:
                    raw = client.chat.completions.with_raw_response.create(
                        model="auto:beta", messages=HI
                    )
                    answers.append((raw.headers["x-hotswap-model"], raw.parse().model))
                except openai.OpenAIError as error:
                    errors.append(error)

    def names():
        return set(system.controller("status")["ingress"])

    before = names()
    askers = [threading.Thread(target=ask) for _ in range(4)]
    for asker in askers:
        asker.start()
    until(lambda: len(answers) > 20)
    assert kill_one_ingress() == 1
    records = [system.swap("beta", model) for model in ("b", "a")]
    count = len(answers)
    until(lambda: len(answers) > count + 20)
    stop.set()
    for asker in askers:
        asker.join(30)

    assert [record["phase"] for record in records] == ["succeeded", "succeeded"]
    assert not errors
    assert all(header == body for header, body in answers)
    until(lambda: len(names()) == 2 and names() != before)
    assert len(before & names()) == 1
    assert system.swap("beta", "b")["phase"] == "succeeded"
    assert system.swap("beta", "a")["phase"] == "succeeded"


def kill_one_ingress():
    """SIGKILL one of the ingress replicas."""
    for process in psutil.Process().children(recursive=True):
        if process.cmdline()[:1] and process.cmdline()[0].startswith(
            "ray::ServeReplica:hotswap:ingress"
        ):
            process.kill()
            return 1
    return 0


def test_with_both_actors_killed_traffic_flows_and_the_outcomes_arrive_when_they_are_back(system):
    def learned():
        rows = system.learning("learnings")
        return sum(row["count"] for row in rows if row["task"] == "gamma")

    table = system.controller("status")["tasks"]
    before = learned()
    assert kill("SwapController") == 1
    assert kill("LearningActor") == 1
    answers = [system.chat("auto:gamma") for _ in range(30)]
    assert [answer.status_code for answer in answers] == [200] * 30
    assert {answer.headers["x-hotswap-model"] for answer in answers} == {"a"}
    assert system.controller("status")["tasks"] == table
    until(lambda: learned() >= before + 30, what="30 outcomes learned")
    assert learned() == before + 30
    assert system.swap("gamma", "b")["phase"] == "succeeded"
    assert system.swap("gamma", "a")["phase"] == "succeeded"


async def test_a_model_slower_than_the_limit_for_the_first_byte_gives_way_to_the_fallback(system):
    """A router of our own, so that its limit can be short; the connections are Serve's."""
    late = Target("late", system.load("late", ttft_ms=30_000)["generation"], 4)
    row = next(r for r in system.controller("status")["models"] if r["model"] == "b")
    good = Target("b", row["generation"], 4)
    router = Router(ServerConfig(first_byte_timeout_s=1), ServeConnection)
    await router.apply(RouteTable(1, "t", {"t": Route("late", late, good)}))
    opened = await router.open(Call("r1", "chat/completions", {"messages": HI}, "auto"))
    items = [opened.first, *[item async for item in opened.rest]]
    assert opened.assignment.target == good
    assert items[-2].endswith(b"data: [DONE]\n\n")
    assert [(o.model, o.success) for o in router.recorder.outcomes] == [
        ("late", False),
        ("b", True),
    ]
    assert not router.in_flight
    system.controller("unload", "late")


@pytest.mark.parametrize("chunked", [True, False])
def test_a_body_that_never_ends_is_refused_before_it_is_read_to_its_end(system, chunked):
    limit = system.settings.server.max_body_bytes
    pieces = (b"x" * 2**20 for _ in itertools.repeat(None, limit // 2**20 + 2))
    content = pieces if chunked else b"".join(pieces)
    answer = system.http.post("/v1/chat/completions", content=content)
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "request_too_large"
