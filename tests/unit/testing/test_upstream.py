"""The scriptable upstream does what a script says, from a thread and in a loop."""

from contextlib import suppress

import httpx
import pytest

from hotswap_ray.testing.upstream import Gate, Upstream, in_turn, well

BODY = {"model": "far", "messages": [{"role": "user", "content": "hi"}]}


def post(upstream, path="chat/completions", **body):
    return httpx.post(f"{upstream.url}/{path}", json={**BODY, **body}, trust_env=False)


def test_without_a_script_it_answers_well_and_lists_its_models():
    with Upstream(["a", "b"]) as upstream:
        listed = httpx.get(f"{upstream.url}/models", trust_env=False).json()
        streamed = post(upstream, stream=True).text
        whole = post(upstream, "completions").json()
    assert [row["id"] for row in listed["data"]] == ["a", "b"]
    assert streamed.endswith("data: [DONE]\n\n")
    assert whole["choices"][0]["text"] == "far answer"
    assert [request.method for request in upstream.seen] == ["GET", "POST", "POST"]


def test_a_gate_holds_an_answer_back_until_a_test_in_another_thread_opens_it():
    gate = Gate()

    async def held(request, reply):
        await reply.start()
        await reply.comment("wait")
        await gate.wait()
        await reply.done()

    with (
        Upstream(script=held) as upstream,
        httpx.stream(
            "POST", f"{upstream.url}/chat/completions", json=BODY, trust_env=False
        ) as response,
    ):
        parts = response.iter_text()
        assert next(parts) == ": wait\n\n"
        gate.open()
        assert next(parts) == "data: [DONE]\n\n"


@pytest.mark.parametrize("reset", [True, False])
def test_a_connection_is_dropped_after_the_bytes_that_were_said(reset):
    async def script(_request, reply):
        await reply.raw(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf", piece=2)
        reply.drop(reset=reset)

    with Upstream(script=script) as upstream, pytest.raises(httpx.TransportError):
        post(upstream)


def test_scripts_take_turns_and_a_connection_is_counted():
    async def teapot(_request, reply):
        await reply.json({}, 418, {"x-a": "b"})

    with (
        Upstream(script=in_turn(teapot, well)) as upstream,
        httpx.Client(trust_env=False) as client,
    ):
        answers = [client.post(f"{upstream.url}/chat/completions", json=BODY) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [418, 200, 200]
    assert answers[0].headers["x-a"] == "b"
    assert [request.number for request in upstream.seen] == [1, 2, 3]
    assert upstream.connections == 1


def test_a_mistake_of_a_script_is_a_mistake_of_the_test():
    async def wrong(request, _reply):
        request.body["no such field"]

    with (
        pytest.raises(KeyError, match="no such field"),
        Upstream(script=wrong) as upstream,
        suppress(httpx.TransportError),
    ):
        post(upstream)


async def test_inside_a_loop_it_runs_in_that_loop():
    async with Upstream() as upstream, httpx.AsyncClient(trust_env=False) as client:
        answer = await client.post(f"{upstream.url}/chat/completions", json=BODY)
    assert answer.json()["usage"]["completion_tokens"] == 2
    assert upstream.posts[0].body == BODY
