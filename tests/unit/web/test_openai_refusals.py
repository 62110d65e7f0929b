"""What the data plane refuses, with which status, and in OpenAI's shape."""

import asyncio
import json

import httpx
import pytest

from hotswap_ray.core.errors import (
    ContextExceeded,
    EngineError,
    InvalidRequest,
    ModelNotLoaded,
    NotFound,
    Overloaded,
    StoreError,
)
from tests.worlds.api import CHAT, PATHS, TABLE, ApiWorld, refused


@pytest.fixture
async def world():
    made = ApiWorld()
    await made.router.apply(TABLE)
    yield made
    await made.http.aclose()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b'{"score": NaN}', b"[1]", b'"x"', b"null"])
async def test_a_body_that_is_not_a_json_object_is_refused(world, path, body):
    refused(await world.http.post(path, content=body), 400, "invalid_request", "JSON")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"messages": []},
        {"messages": "hi"},
        {"messages": ["hi"]},
        {"messages": [{"content": "hi"}]},
        {**CHAT, "model": 5},
        {**CHAT, "metadata": "t"},
        {**CHAT, "metadata": []},
        {**CHAT, "metadata": {"task_type": 5}},
        {**CHAT, "metadata": {"task_type": ["t"]}},
        {**CHAT, "stream": "yes"},
        {**CHAT, "stream": "true"},
        {**CHAT, "stream": 1},
        {**CHAT, "stream": True, "stream_options": "usage"},
        {**CHAT, "stream": True, "stream_options": {"include_usage": "yes"}},
        {**CHAT, "stream": True, "stream_options": {"include_usage": 1}},
    ],
)
async def test_a_chat_with_wrong_types_is_refused_before_any_model_sees_it(world, body):
    response = await world.http.post("/v1/chat/completions", json=body)
    refused(response, 400, "invalid_request")
    assert not any(model.bodies for model in world.models.values())
    assert not world.router.recorder.outcomes


@pytest.mark.parametrize(
    ("message", "place"),
    [
        ({"content": "hi"}, "messages[1] must be an object with a role"),
        (["hi"], "messages[1] must be an object"),
        ({"role": None, "content": "hi"}, "messages[1].role must be a string such as user"),
        ({"role": ["user"], "content": "hi"}, "messages[1].role"),
        ({"role": "", "content": "hi"}, "messages[1].role"),
        ({"role": "user", "content": 5}, "messages[1].content must be a string or a list of parts"),
        ({"role": "user", "content": True}, "messages[1].content"),
        ({"role": "user", "content": {"type": "text"}}, "not an object"),
        ({"role": "user", "content": ["hi"]}, "messages[1].content[0] must be an object"),
        ({"role": "user", "content": [{"text": "hi"}]}, "messages[1].content[0].type"),
        ({"role": "user", "content": [{"type": 5}]}, "messages[1].content[0].type"),
        ({"role": "user", "content": [{"type": "text"}]}, "messages[1].content[0].text"),
        (
            {
                "role": "user",
                "content": [{"type": "text", "text": "a"}, {"type": "text", "text": 1}],
            },
            "messages[1].content[1].text must be a string, not a number",
        ),
    ],
)
async def test_what_is_no_message_is_refused_by_its_place(world, message, place):
    response = await world.chat(messages=[*CHAT["messages"], message])
    refused(response, 400, "invalid_request", place)
    assert not world.models["a"].bodies


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user"},
        {"role": "user", "content": None},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "c"}]},
        {"role": "tool", "tool_call_id": "c", "content": "4"},
        {"role": "wizard", "content": ""},
        {"role": "developer", "content": []},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]},
    ],
)
async def test_what_may_be_a_message_is_left_to_the_engine(world, message):
    assert (await world.chat(messages=[message])).status_code == 200


def nested(levels):
    return json.loads('{"x":' * (levels - 1) + "[]" + "}" * (levels - 1))


@pytest.mark.parametrize(("levels", "status"), [(63, 200), (64, 400), (200, 400)])
async def test_a_body_nested_too_deeply_is_the_clients_mistake_and_no_models(world, levels, status):
    wide = [{"type": "text", "text": "hi"}] * 10
    body = {"messages": [{"role": "user", "content": wide}], "extra": nested(levels)}
    response = await world.http.post("/v1/chat/completions", json=body)
    assert response.status_code == status
    if status == 400:
        refused(response, 400, "invalid_request", "64 levels")
        assert not world.router.recorder.outcomes


@pytest.mark.parametrize("body", [{}, {"prompt": None}, {"prompt": 5}, {"prompt": {"a": 1}}])
async def test_a_completion_without_a_prompt_is_refused(world, body):
    refused(await world.http.post("/v1/completions", json=body), 400, "invalid_request", "prompt")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("chunked", [True, False])
async def test_a_body_over_the_limit_is_refused_also_in_chunks_and_is_not_read_on(
    world, path, chunked
):
    sent = []

    async def chunks():
        for number in range(100):
            sent.append(number)
            yield b"x" * 1024

    content = chunks() if chunked else b"x" * 4096
    response = await world.http.post(path, content=content)
    refused(response, 413, "request_too_large", "2048", "max_body_bytes")
    assert len(sent) < 10


async def test_a_body_of_exactly_the_limit_is_taken(world):
    text = json.dumps({"prompt": ""})
    body = json.dumps({"prompt": "x" * (2048 - len(text))})
    assert (await world.http.post("/v1/completions", content=body)).status_code == 200


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer wrong", "Bearer secret2", "Basic secret", "Bearer \xfc"]
)
@pytest.mark.parametrize("path", [*PATHS, "/v1/models", "/v1/models/a"])
async def test_a_missing_or_wrong_token_is_refused_on_every_path_of_v1(world, path, header):
    headers = {} if header is None else {"authorization": header.encode("latin-1")}
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(world.api), base_url="http://test", headers=headers
    ) as http:
        ask = http.post(path, json=CHAT) if path in PATHS else http.get(path)
        refused(await ask, 401, "unauthorized", "token")


@pytest.mark.parametrize("key", ["secret", "schlüssel"])
async def test_each_of_the_keys_is_taken(world, key):
    response = await world.chat({"authorization": f"Bearer {key}".encode()})
    assert response.status_code == 200


async def test_an_unknown_model_or_task_is_refused_with_a_suggestion(world):
    refused(await world.chat(model="colt"), 404, "not_found", "colt", "did you mean 'cold'")
    refused(await world.chat({"x-hotswap-task": "tt"}), 404, "not_found", "did you mean 't'")
    refused(await world.chat(model="auto:tu"), 404, "not_found", "unknown task 'tu'")
    refused(await world.http.get("/v1/models/colt"), 404, "not_found", "did you mean 'cold'")


async def test_a_model_that_is_not_loaded_says_what_loads_it_and_is_not_asked_again(world):
    refused(await world.chat(model="cold"), 404, "model_not_loaded", "hotswap models load cold")


async def test_a_full_queue_is_429_with_the_time_to_come_back(world):
    world.models["a"].error = world.models["b"].error = Overloaded("queue is full", 1.2)
    response = await world.chat()
    refused(response, 429, "overloaded", "queue is full")
    assert response.headers["retry-after"] == "2"


async def test_a_prompt_over_the_context_is_400_in_the_words_of_the_engine(world):
    world.models["a"].error = InvalidRequest("the prompt has 900 tokens, the context is 512")
    refused(await world.chat(), 400, "invalid_request", "900", "512")


async def test_a_context_that_is_exceeded_has_the_code_and_the_words_that_clients_know(world):
    world.models["a"].error = world.models["b"].error = ContextExceeded(
        "the prompt has 900 tokens, the context is 512"
    )
    error = refused(await world.chat(), 400, "context_length_exceeded", "900", "512")
    assert error["type"] == "invalid_request_error"
    # litellm knows it by these words alone
    assert "is longer than the model's context length" in error["message"]
    assert (await world.chat(stream=True)).status_code == 400


async def test_a_model_that_is_known_and_not_loaded_has_a_code_that_is_not_tried_again():
    assert (ModelNotLoaded.http_status, ModelNotLoaded.code) == (404, "model_not_loaded")
    assert not ModelNotLoaded.retryable
    assert issubclass(ModelNotLoaded, NotFound)


async def test_a_model_that_fails_with_its_fallback_is_500_and_a_surprise_is_not_shown(world):
    world.models["a"].error = world.models["b"].error = EngineError("broken")
    refused(await world.chat(), 500, "engine_error", "broken")

    world.desk.error = RuntimeError("password in here")
    response = await world.http.post("/v1/feedback", json={"request_id": "r1", "score": 1})
    error = refused(response, 500, "internal_error", "RuntimeError")
    assert "password" not in error["message"]


@pytest.mark.parametrize(
    "body",
    [
        '{"request_id": "r1"}',
        '{"score": 1}',
        '{"request_id": 5, "score": 1}',
        '{"request_id": "r1", "score": 1.01}',
        '{"request_id": "r1", "score": -0.01}',
        '{"request_id": "r1", "score": 1e999}',
        '{"request_id": "r1", "score": NaN}',
        '{"request_id": "r1", "score": "1"}',
        '{"request_id": "r1", "score": true}',
        '{"request_id": "r1", "success": 1}',
        '{"request_id": "r1", "score": 1, "comment": 5}',
    ],
)
async def test_feedback_out_of_range_or_of_another_type_is_refused(world, body):
    refused(await world.http.post("/v1/feedback", content=body), 400, "invalid_request")
    assert not world.desk.given


async def test_feedback_for_an_unknown_request_is_404_and_a_second_score_409(world):
    async def give(subject, score, **headers):
        body = {"request_id": subject, "score": score}
        return await world.http.post("/v1/feedback", json=body, headers=headers)

    refused(await give("r2", 1), 404, "not_found", "r2")
    assert (await give("r1", 1)).status_code == 200
    assert (await give("r1", 1)).status_code == 200
    refused(await give("r1", 0), 409, "conflict", "scored already")
    refused(await give("r1", 1, **{"idempotency-key": "other"}), 409, "conflict")


async def test_feedback_while_the_store_refuses_is_503_so_that_the_client_keeps_it(world):
    world.desk.error = StoreError("the disk is full", 1.0)
    response = await world.http.post("/v1/feedback", json={"request_id": "r1", "score": 1})
    refused(response, 503, "store_error", "disk")


async def test_a_full_ingress_refuses_at_once_and_never_hangs():
    world = ApiWorld(max_in_flight=1)
    await world.router.apply(TABLE)
    entered, gate = asyncio.Event(), asyncio.Event()

    async def slow(endpoint, body):
        entered.set()
        await gate.wait()
        return b"{}", 0, 0, 0

    world.models["a"].generate = slow
    first = asyncio.create_task(world.chat())
    await entered.wait()
    refused(await world.chat(), 429, "overloaded")
    gate.set()
    assert (await first).status_code == 200
    await world.http.aclose()
