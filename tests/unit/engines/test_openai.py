"""The engine for OpenAI-compatible servers, over streams as only some servers write them."""

import asyncio
import json

import orjson
import pytest

from hotswap_ray.core.errors import (
    ContextExceeded,
    EngineError,
    EngineTimeout,
    EngineUnavailable,
    InvalidRequest,
    Overloaded,
    Saturated,
)
from hotswap_ray.core.spec.task import ModelSpec
from hotswap_ray.engines.openai import OpenAIEngine
from hotswap_ray.engines.openai import engine as engine_module
from hotswap_ray.testing.upstream import Gate, Upstream, chat_chunk, usage, whole_answer
from tests.worlds.remote import TEXT, remote, said, streamed
from tests.worlds.until import until

FIRST = '{"choices": [{"index": 0, "text": "a\u2028b"}]}'
LAST = '{"choices": [{"index": 0, "text": "c", "finish_reason": "stop"}]}'


def sending(raw, piece=None, kind="text/event-stream", **options):
    """A script that sends bytes as the body of a stream."""

    async def script(_request, reply):
        await reply.start(kind=kind, **options)
        await reply.part(raw, piece)
        await reply.end()

    return script


def events(*values):
    return "".join(f"data: {json.dumps(value)}\n\n" for value in values)


async def chunks_of(script, body=TEXT, endpoint="completions", **options):
    async with Upstream(script=script) as upstream, remote(upstream, **options) as engine:
        return await streamed(engine, body, endpoint)


async def texts(raw):
    """What the engine makes of a stream that comes byte by byte."""
    chunks = await chunks_of(sending(raw, piece=1))
    return [choice["text"] for chunk in chunks for choice in chunk["choices"]]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("tail", ["data: [DONE]", ": bye", ""])
async def test_a_stream_is_read_however_its_lines_end_and_whatever_it_says_at_its_end(end, tail):
    lines = [": hi", f"data: {FIRST}", "", "data:", "", "event: x", f"data: {LAST}", "", tail, ""]
    assert await texts(end.join(lines).encode()) == ["a\u2028b", "c"]


async def test_nothing_is_read_after_the_end_of_a_stream():
    raw = f"data: {FIRST}\n\ndata: [DONE]\n\ndata: no json\n\n"
    assert await texts(raw.encode()) == ["a\u2028b"]


async def test_a_stream_that_ends_before_its_last_chunk_was_cut_off():
    with pytest.raises(EngineUnavailable, match="cut the stream off"):
        await texts(f"data: {FIRST}\n\n".encode())


async def test_one_of_two_choices_that_did_not_finish_was_cut_off():
    other = {"choices": [{"index": 1, "text": "b"}]}
    raw = f"data: {FIRST}\n\n{events(other)}data: {LAST}\n\n"
    with pytest.raises(EngineUnavailable, match="cut the stream off"):
        await texts(raw.encode())


async def test_an_event_may_have_several_lines_of_data():
    lines = json.dumps(json.loads(LAST), indent=1).splitlines()
    assert await texts("".join(f"data: {line}\n" for line in lines).encode() + b"\n") == ["c"]


@pytest.mark.parametrize("framed", [True, False])
async def test_text_is_whole_wherever_the_network_cuts_its_bytes(framed):
    chunk = {"choices": [{"text": "😀é€", "finish_reason": "stop"}]}
    raw = f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n"
    assert said(await chunks_of(sending(raw, piece=1, chunked=framed))) == "😀é€"


@pytest.mark.parametrize("ascii_only", [True, False])
async def test_half_an_emoji_in_a_chunk_is_replaced_and_breaks_nothing_behind(ascii_only):
    chunk = {"choices": [{"index": 0, "text": "a\ud83d", "\ud83d": 1, "finish_reason": "stop"}]}
    raw = f"data: {json.dumps(chunk, ensure_ascii=ascii_only)}\n\n"
    chunks = await chunks_of(sending(raw))
    assert said(chunks).startswith("a\ufffd")
    orjson.dumps(chunks)


async def test_a_whole_answer_with_half_an_emoji_or_a_vast_number_can_be_passed_on():
    async def odd(_request, reply):
        answer = whole_answer("a\ud83d", chat=False) | {"created": 10**30}
        await reply.json(answer)

    async with Upstream(script=odd) as upstream, remote(upstream) as engine:
        answer = await engine.generate("completions", TEXT)
    assert answer["choices"][0]["text"] == "a\ufffd"
    orjson.dumps(answer)


@pytest.mark.parametrize("kind", ["application/json", "text/event-stream", "text/plain"])
@pytest.mark.parametrize("chat", [True, False])
async def test_a_whole_answer_where_a_stream_was_asked_for_becomes_chunks(kind, chat):
    answer = whole_answer("hi", chat=chat, counted=usage(7, 3))
    endpoint = "chat/completions" if chat else "completions"
    script = sending("\n " + json.dumps(answer), piece=5, kind=kind)
    chunks = await chunks_of(script, endpoint=endpoint)
    assert said(chunks) == "hi"
    reasons = [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]]
    assert reasons == ["stop"]
    assert chunks[0]["object"] == ("chat.completion.chunk" if chat else "text_completion")
    assert chunks[-1]["usage"]["completion_tokens"] == 3


async def test_a_stream_where_a_whole_answer_was_asked_for_is_put_together():
    script = sending(events(chat_chunk("a", thought="x"), chat_chunk("b", "stop")))
    async with Upstream(script=script) as upstream, remote(upstream) as engine:
        answer = await engine.generate("chat/completions", {})
    message = answer["choices"][0]["message"]
    assert (message["content"], message["thought"]) == ("ab", "x")
    assert answer["usage"]["completion_tokens"] == 2


ERRORS = [
    ({"error": {"message": "worker died", "code": 500}}, EngineError),
    ({"error": "worker died"}, EngineError),
    ({"object": "error", "message": "worker died", "code": 400}, EngineError),
    ({"error": {"message": "x", "code": "context_length_exceeded"}}, ContextExceeded),
    ({"error": {"message": "maximum context length is 8 tokens", "code": 400}}, ContextExceeded),
    ({"error": {"message": "x", "type": "rate_limit_error"}}, Overloaded),
    ({"error": {"message": "x", "code": 429}}, Overloaded),
    ({"error": {"message": "x", "type": "overloaded_error"}}, Saturated),
]


@pytest.mark.parametrize(("value", "ours"), ERRORS)
@pytest.mark.parametrize("before", [[], [chat_chunk("", role="assistant")]], ids=["first", "role"])
async def test_an_error_before_any_content_comes_before_any_chunk(value, ours, before):
    script = sending(events(*before, value))
    async with Upstream(script=script) as upstream, remote(upstream) as engine:
        with pytest.raises(ours) as raised:
            await anext(engine.stream("chat/completions", TEXT))
    assert type(raised.value) is ours


@pytest.mark.parametrize("value", [value for value, _ in ERRORS])
async def test_an_error_with_status_200_is_an_error_of_a_whole_answer_too(value):
    async def script(_request, reply):
        await reply.json(value)

    async with Upstream(script=script) as upstream, remote(upstream) as engine:
        for way in (engine.generate("completions", TEXT), streamed(engine)):
            with pytest.raises((EngineError, ContextExceeded, Overloaded)):
                await way


async def test_an_error_in_the_middle_of_a_stream_comes_after_what_was_said():
    script = sending(events(chat_chunk("half"), {"error": {"message": "worker died"}}))
    async with Upstream(script=script) as upstream, remote(upstream) as engine:
        stream = engine.stream("chat/completions", TEXT)
        assert said([await anext(stream)]) == "half"
        with pytest.raises(EngineError, match="worker died"):
            await anext(stream)
        await stream.aclose()


async def test_an_answer_that_never_says_anything_is_passed_on_with_its_role():
    script = sending(events(chat_chunk("", role="assistant"), chat_chunk(None, "stop")))
    chunks = await chunks_of(script, endpoint="chat/completions")
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert chunks[1]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["usage"]["completion_tokens"] == 0


@pytest.mark.parametrize("framed", [True, False])
async def test_a_connection_that_breaks_after_the_last_choice_finished_cut_nothing_off(framed):
    async def script(_request, reply):
        await reply.start(chunked=framed)
        await reply.event(chat_chunk("all", "stop"))
        reply.drop()

    assert said(await chunks_of(script, endpoint="chat/completions")) == "all"


async def test_a_stream_that_finished_and_is_left_open_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(engine_module, "FINISH_GRACE_S", 0.05)
    gate = Gate()

    async def script(_request, reply):
        await reply.start()
        await reply.event(chat_chunk("all", "stop"))
        await gate.wait()

    assert said(await chunks_of(script, endpoint="chat/completions")) == "all"
    gate.open()


async def test_a_choice_that_begins_long_after_the_one_before_finished_is_waited_for(monkeypatch):
    monkeypatch.setattr(engine_module, "FINISH_GRACE_S", 0)
    first, second = chat_chunk("a", "stop"), chat_chunk("b", "stop")
    second["choices"][0]["index"] = 1
    gate = Gate()

    async def script(_request, reply):
        await reply.start()
        await reply.event(first)
        await gate.wait()
        await reply.event(second)
        await reply.done()

    async with Upstream(script=script) as upstream, remote(upstream) as engine:
        stream = engine.stream("chat/completions", {"prompt": ["x", "y"]})
        chunks = [await anext(stream)]
        rest = asyncio.create_task(anext(stream))
        await asyncio.wait([rest], timeout=0.05)
        gate.open()
        chunks.append(await rest)
        await stream.aclose()
    assert said(chunks) == "ab"


async def test_a_connection_that_breaks_before_the_second_choice_began_cut_it_off():
    async def script(_request, reply):
        await reply.start()
        await reply.event(chat_chunk("all", "stop"))
        reply.drop()

    with pytest.raises(EngineUnavailable):
        await chunks_of(script, {"n": 2})


async def test_a_body_that_is_no_json_is_the_clients_mistake():
    async with Upstream() as upstream, remote(upstream) as engine:
        with pytest.raises(InvalidRequest, match="JSON"):
            await engine.generate("completions", {"prompt": "\ud83d"})
    assert upstream.seen == []


async def test_a_stream_that_is_silent_in_the_middle_is_a_timeout():
    gate = Gate()

    async def script(_request, reply):
        await reply.start()
        await reply.event(chat_chunk("half"))
        await gate.wait()

    with pytest.raises(EngineTimeout):
        await chunks_of(script, first_byte_timeout_s=0.1)
    gate.open()


async def test_leaving_a_stream_is_seen_by_the_server():
    left = []

    async def script(_request, reply):
        await reply.start()
        await reply.event(chat_chunk("half"))
        await reply.client_left()
        left.append(True)
        reply.drop()

    async with Upstream(script=script) as upstream, remote(upstream) as engine:
        stream = engine.stream("chat/completions", TEXT)
        await anext(stream)
        await stream.aclose()
        await until(lambda: left)


USAGES = {
    "in every chunk": [
        chat_chunk("a") | {"usage": usage(7, 1)},
        chat_chunk("b") | {"usage": usage(7, 2)},
        chat_chunk("c", "stop") | {"usage": usage(7, 5)},
    ],
    "with the finish and again": [
        chat_chunk("a"),
        chat_chunk("b", "stop") | {"usage": usage(7, 5)},
        {"choices": [], "usage": usage(7, 5)},
    ],
    "in an empty chunk after the finish": [
        chat_chunk("a", "stop"),
        chat_chunk() | {"usage": usage(7, 5)},
    ],
    "last, after nulls": [
        chat_chunk("a") | {"usage": None},
        chat_chunk("b", "stop") | {"usage": {"prompt_tokens": None}},
        {"choices": None, "usage": {"prompt_tokens": 7.0, "completion_tokens": "5"}},
    ],
    "nothing said last": [
        chat_chunk("a", "stop") | {"usage": usage(7, 5)},
        {"choices": [], "usage": None},
    ],
}


@pytest.mark.parametrize("how", USAGES)
async def test_the_usage_that_comes_last_counts(how):
    chunks = await chunks_of(sending(events(*USAGES[how])), endpoint="chat/completions")
    assert chunks[-1]["usage"] == usage(7, 5)
    assert all("usage" not in chunk for chunk in chunks[:-1])


@pytest.mark.parametrize("odd", [None, [], "many", 3, {"completion_tokens": "many"}, {}])
async def test_a_usage_that_cannot_be_read_is_estimated(odd):
    values = [chat_chunk("a"), chat_chunk(" b", "stop") | {"usage": odd}]
    chunks = await chunks_of(sending(events(*values)), endpoint="chat/completions")
    assert chunks[-1]["usage"]["completion_tokens"] == 2
    assert chunks[-1]["usage"]["prompt_tokens"] == 0


DETAILS = {
    "prompt_tokens_details": {"cached_tokens": 4},
    "completion_tokens_details": {"reasoning_tokens": 3},
    "cost": 0.5,
}


async def test_fields_that_are_not_known_here_are_kept_in_a_stream():
    first = chat_chunk(None, reasoning_content="hm", reasoning="hm") | {"service_tier": "flex"}
    first["choices"][0] |= {"logprobs": {"content": []}, "stop_reason": 7}
    second = chat_chunk("a", "stop", annotations=[{"type": "url"}])
    last = {"choices": [], "usage": usage(7, 5, **DETAILS), "provider": "p"}
    script = sending(events(first, second, last))
    chunks = await chunks_of(script, endpoint="chat/completions")
    assert chunks[0]["choices"] == first["choices"]
    assert chunks[0]["service_tier"] == "flex"
    assert chunks[1]["choices"] == second["choices"]
    assert chunks[-1]["usage"] == usage(7, 5, **DETAILS)
    assert chunks[-1]["provider"] == "p"


async def test_fields_that_are_not_known_here_are_kept_in_a_whole_answer():
    answer = whole_answer("a", chat=True, counted=usage(7, 5, **DETAILS)) | {"service_tier": "flex"}
    answer["choices"][0]["message"] |= {"reasoning_content": "hm", "annotations": []}
    answer["choices"][0]["logprobs"] = {"content": []}

    async def script(_request, reply):
        await reply.json(answer)

    async with Upstream(script=script) as upstream, remote(upstream) as engine:
        got = await engine.generate("chat/completions", {})
    assert got == {**answer, "model": "remote"}


@pytest.mark.parametrize("counted", [None, [], {"prompt_tokens": None}, {"prompt_tokens": "7.0"}])
async def test_an_odd_usage_of_a_whole_answer_does_no_harm(counted):
    async def script(_request, reply):
        await reply.json(whole_answer("a", chat=True) | {"usage": counted})

    async with Upstream(script=script) as upstream, remote(upstream) as engine:
        got = await engine.generate("chat/completions", {})
    assert got["usage"]["completion_tokens"] == 0
    assert all(isinstance(count, int) for count in got["usage"].values())


@pytest.mark.parametrize("body", ["[]", "null", '"hi"', "{}", '{"choices": []}', "<html>", ""])
async def test_a_body_that_is_no_answer_is_an_error_of_the_server(body):
    async def script(_request, reply):
        await reply.body(body)

    async with Upstream(script=script) as upstream, remote(upstream) as engine:
        with pytest.raises(EngineError):
            await engine.generate("chat/completions", {})
        with pytest.raises(EngineError):
            await streamed(engine)


def test_what_a_remote_model_surely_does_is_what_it_declares():
    spec = ModelSpec(id="m", engine="openai", capabilities=("chat", "tool-use", "images", "poetry"))
    assert OpenAIEngine.features(spec) == {"tools": True, "vision": True}


async def test_an_emoji_that_two_chunks_brought_in_halves_is_whole_again():
    def of(text, finish=None):
        delta = f'{{"content": "{text}"}}'
        end = json.dumps(finish)
        return (
            f'data: {{"choices": [{{"index": 0, "delta": {delta}, "finish_reason": {end}}}]}}\n\n'
        )

    raw = of(r"a\ud83d") + of(r"\ude00b") + of(r"\ud83d", "stop") + "data: [DONE]\n\n"
    chunks = await chunks_of(sending(raw.encode()), endpoint="chat/completions")
    assert said(chunks) == "a😀b\ufffd"
    orjson.dumps(chunks)
