"""The official `openai` client against the running system: what it sends works unchanged."""

import asyncio

import openai
import pytest

pytestmark = pytest.mark.ray

HI = [{"role": "user", "content": "hi"}]
NO_RETRY = {"api_key": "test-key", "max_retries": 0, "timeout": 60}


@pytest.fixture(scope="module")
def client(system):
    with openai.OpenAI(base_url=f"{system.url}/v1", **NO_RETRY) as made:
        yield made


@pytest.fixture(scope="module")
def narrow(system):
    """A model that works on one request and lets one wait, and is slow; 1 per ingress replica."""
    spec = {
        "engine": "simulated",
        "resources": {"num_cpus": 0},
        "max_ongoing_requests": 1,
        "max_queued_requests": 1,
        "context_tokens": 32,
        "options": {"ttft_ms": 2000},
    }
    system.controller("load", "narrow", spec)
    yield "narrow"
    system.controller("unload", "narrow")


def test_chat_and_completions_are_answered_whole(client):
    chat = client.chat.completions.create(model="auto", messages=HI)
    assert chat.choices[0].message.content == "simulated answer"
    assert chat.choices[0].finish_reason == "stop"
    assert chat.usage.total_tokens == chat.usage.prompt_tokens + chat.usage.completion_tokens
    text = client.completions.create(model="auto", prompt="hi", max_tokens=1)
    assert (text.choices[0].text, text.choices[0].finish_reason) == ("simulated", "length")
    assert (chat.object, text.object) == ("chat.completion", "text_completion")


def test_chat_and_completions_are_streamed_with_usage_when_asked_for(client):
    options = {"stream": True, "stream_options": {"include_usage": True}}
    with client.chat.completions.create(model="auto", messages=HI, **options) as stream:
        chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content for chunk in chunks if chunk.choices)
    assert text == "simulated answer"
    assert chunks[-1].usage.completion_tokens == 2
    with client.completions.create(model="auto", prompt="hi", stream=True) as stream:
        chunks = list(stream)
    assert "".join(chunk.choices[0].text for chunk in chunks) == "simulated answer"
    assert all(chunk.usage is None for chunk in chunks)


async def test_the_async_client_gets_many_answers_at_once(system):
    async with openai.AsyncOpenAI(base_url=f"{system.url}/v1", **NO_RETRY) as client:

        async def whole():
            answer = await client.chat.completions.create(model="auto", messages=HI)
            return answer.choices[0].message.content

        async def streamed():
            stream = await client.chat.completions.create(model="auto", messages=HI, stream=True)
            return "".join([chunk.choices[0].delta.content async for chunk in stream])

        answers = await asyncio.gather(*(kind() for _ in range(4) for kind in (whole, streamed)))
    assert set(answers) == {"simulated answer"}


def test_models_are_listed_and_found_by_name(client):
    listed = [model.id for model in client.models.list()]
    assert {"auto", "auto:beta", "a", "b"} <= set(listed)
    assert client.models.retrieve("auto:beta").id == "auto:beta"
    assert client.models.retrieve("a").owned_by == "hotswap_ray"


@pytest.mark.parametrize(
    ("how", "task", "decision"),
    [
        ({"model": "auto", "extra_headers": {"x-hotswap-task": "epsilon"}}, "epsilon", "active"),
        ({"model": "auto", "metadata": {"task_type": "epsilon"}}, "epsilon", "active"),
        ({"model": "auto:epsilon"}, "epsilon", "active"),
        ({"model": "auto"}, "alpha", "active"),
        ({"model": "b"}, None, "pinned"),
        ({"model": "b", "metadata": {"task_type": "epsilon"}}, "epsilon", "pinned"),
    ],
)
def test_the_task_and_the_model_can_be_named_and_the_headers_say_what_was_done(
    client, how, task, decision
):
    raw = client.chat.completions.with_raw_response.create(messages=HI, **how)
    assert raw.headers.get("x-hotswap-task") == task
    assert raw.headers["x-hotswap-decision"] == decision
    assert raw.headers["x-hotswap-model"] == raw.parse().model
    assert int(raw.headers["x-hotswap-generation"]) >= 1
    assert raw.headers["x-request-id"] == raw.parse()._request_id
    assert raw.headers["x-request-id"] == raw.headers["x-hotswap-request-id"]


@pytest.mark.parametrize("stream", [False, True])
def test_errors_are_the_clients_own_classes(system, client, stream):
    def create(**how):
        how = {"model": "auto", "messages": HI, "stream": stream, **how}
        return client.chat.completions.create(**how)

    with pytest.raises(openai.BadRequestError, match="at least one message"):
        create(messages=[])
    with pytest.raises(openai.BadRequestError, match="max_tokens"):
        create(max_tokens=-1)
    with pytest.raises(openai.NotFoundError, match="did you mean 'epsilon'"):
        create(model="auto:epsilom")
    with pytest.raises(openai.NotFoundError, match="unknown model"):
        create(model="ghost")
    with pytest.raises(openai.APIStatusError) as caught:
        create(messages=[{"role": "user", "content": "x" * 9 * 2**20}])
    assert caught.value.status_code == 413
    with pytest.raises(openai.AuthenticationError, match="bearer token"):
        client.with_options(api_key="wrong").models.list()
    error = caught.value
    assert (error.code, error.type) == ("request_too_large", "invalid_request_error")


def test_a_prompt_over_the_context_is_a_bad_request_that_names_both_lengths(client, narrow):
    with pytest.raises(openai.BadRequestError, match=r"51 tokens, .* is 32 tokens"):
        client.completions.create(model=narrow, prompt="x" * 200)


async def test_a_full_queue_is_a_rate_limit_at_once_and_never_a_hang(system, narrow):
    async with openai.AsyncOpenAI(base_url=f"{system.url}/v1", **NO_RETRY) as client:

        async def ask():
            try:
                await client.chat.completions.create(model=narrow, messages=HI)
            except openai.RateLimitError as error:
                return error
            return None

        answers = await asyncio.gather(*(ask() for _ in range(8)))
    refused = [error for error in answers if error]
    assert 1 <= len(answers) - len(refused) <= 2
    assert {error.code for error in refused} == {"overloaded"}
    assert all(int(error.response.headers["retry-after"]) >= 1 for error in refused)


def test_a_model_that_is_not_loaded_is_told_at_once_and_not_asked_again(system, client):
    system.load("gone")
    system.controller("unload", "gone")
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="gone", messages=HI)
    assert caught.value.code == "model_not_loaded"


def quality_of(system, task, model):
    rows = [r for r in system.learning("learnings") if (r["task"], r["model"]) == (task, model)]
    return rows[0] if rows else None


def test_feedback_reaches_the_learnings_once(system, client):
    raw = client.chat.completions.with_raw_response.create(model="auto:delta", messages=HI)
    subject, model = raw.headers["x-request-id"], raw.headers["x-hotswap-model"]

    def give(score, key, subject=subject):
        body = {"request_id": subject, "score": score, "comment": "as a test"}
        headers = {"idempotency-key": key}
        return system.http.post("/v1/feedback", json=body, headers=headers).status_code

    before = quality_of(system, "delta", model) or {}
    assert give(0.25, "one") == 200
    assert give(0.25, "one") == 200
    assert give(0.25, "two") == 409
    assert give(0.25, "one", "never-asked") == 404
    after = quality_of(system, "delta", model)
    assert after["quality_count"] == (before.get("quality_count") or 0) + 1
    assert after["quality"] is not None
