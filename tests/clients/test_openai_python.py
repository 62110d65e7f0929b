"""The official `openai` package with real models; what simulated ones show is in tests/ray."""

import json

import httpx
import pytest

from tests.clients.asked import CAPITAL, OSLO, SHORT, TOLD, TOO_LONG, WEATHER, user, weather

openai = pytest.importorskip("openai")
pydantic = pytest.importorskip("pydantic")
pytestmark = pytest.mark.clients


class City(pydantic.BaseModel):
    name: str
    people: int


@pytest.fixture(scope="module")
def client(product):
    with openai.OpenAI(base_url=product.url, api_key=product.key, max_retries=0) as made:
        yield made


def test_the_list_tells_tasks_from_models_and_loaded_from_unloaded(client):
    rows = {row.id: row for row in client.models.list()}
    assert (rows["auto:agent"].kind, rows["up"].kind) == ("task", "model")
    assert (rows["balanced"].state, rows["quality"].state) == ("loaded", "unloaded")
    assert rows["balanced"].created > 1_700_000_000
    assert rows["balanced"].context_length == 2048


def test_a_real_model_says_the_same_whole_and_streamed(client):
    body = {"model": "auto:capitals", "messages": user(CAPITAL), **SHORT}
    whole = client.chat.completions.with_raw_response.create(**body)
    assert whole.headers["x-hotswap-model"] == "balanced"
    said = whole.parse()
    assert said._request_id == whole.headers["x-request-id"]
    stream = client.chat.completions.create(
        **body, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == said.choices[0].message.content != ""
    assert chunks[-1].usage.completion_tokens == said.usage.completion_tokens
    done = client.completions.create(model="auto:capitals", prompt=CAPITAL, **SHORT)
    assert done.choices[0].text == " Cairo"
    assert done.id.startswith("cmpl-")


def test_an_empty_answer_is_an_empty_text(client):
    begins_with_a_space = {"temperature": 0, "stop": [" "], "messages": user(CAPITAL)}
    for body in (
        {"model": "auto:capitals", **begins_with_a_space},
        {"model": "auto:agent", "messages": user("say nothing")},
    ):
        message = client.chat.completions.create(**body).choices[0].message
        assert message.content == ""


@pytest.mark.parametrize("task", ["agent", "simulation"])
def test_a_loop_of_streamed_tool_calls_ends(client, task):
    messages = user("weather?")
    while True:
        with client.chat.completions.stream(
            model=f"auto:{task}", messages=messages, tools=[WEATHER]
        ) as stream:
            message = stream.get_final_completion().choices[0].message
        if not message.tool_calls:
            break
        (call,) = message.tool_calls
        city = json.loads(call.function.arguments)["city"]
        messages += [
            message.model_dump(exclude_none=True, exclude={"parsed"}),
            {"role": "tool", "tool_call_id": call.id, "content": weather(city)},
        ]
    assert len(messages) == 3
    assert message.content == {"agent": TOLD, "simulation": "simulated answer"}[task]


def test_two_calls_of_one_answer_are_told_apart(client):
    more = {**WEATHER, "function": {**WEATHER["function"], "name": "time"}}
    body = {"model": "up", "messages": user("both"), "tools": [WEATHER, more]}
    whole = client.chat.completions.create(**body).choices[0].message.tool_calls
    with client.chat.completions.stream(**body) as stream:
        streamed = stream.get_final_completion().choices[0].message.tool_calls
    assert [call.function.name for call in whole] == ["weather", "time"]
    assert [call.id for call in streamed] == [call.id for call in whole]
    assert [call.function.arguments for call in streamed] == ['{"city": "Oslo"}'] * 2


def test_answers_are_parsed_by_a_model_of_pydantic(client):
    body = {"messages": user("Which city?"), "response_format": City}
    done = client.chat.completions.parse(model="auto:agent", **body)
    assert done.choices[0].message.parsed.model_dump() == OSLO
    assert client.chat.completions.parse(model="sim", **body).choices[0].message.parsed


def test_tools_are_not_dropped_in_silence(client):
    body = {"messages": user("hi"), "tools": [WEATHER], "tool_choice": "required"}
    with pytest.raises(openai.BadRequestError, match="does not do tools"):
        client.chat.completions.create(model="balanced", **body)
    done = client.chat.completions.with_raw_response.create(model="auto:capitals", **body)
    assert done.headers["x-hotswap-decision"] == "escalated"
    assert done.parse().choices[0].message.tool_calls[0].function.name == "weather"


def test_logprobs_of_text_completions_have_openais_old_shape(client):
    text = "The capital of France is Paris"
    done = client.completions.create(
        model="balanced", prompt=text, max_tokens=1, logprobs=2, echo=True
    )
    choice = done.choices[0]
    assert choice.text.startswith(text)
    told = choice.logprobs
    lengths = map(len, (told.tokens, told.token_logprobs, told.top_logprobs, told.text_offset))
    assert len(set(lengths)) == 1
    assert told.token_logprobs[0] is None
    assert all(number <= 0 for number in told.token_logprobs[1:])


def test_errors_are_of_its_own_classes(client, product):
    chat = client.chat.completions.create
    with pytest.raises(openai.NotFoundError) as unknown:
        chat(model="nope", messages=user("hi"))
    with pytest.raises(openai.BadRequestError) as long:
        chat(model="auto:capitals", messages=user(TOO_LONG))
    with pytest.raises(openai.NotFoundError) as unloaded:
        chat(model="quality", messages=user("hi"))
    with pytest.raises(openai.AuthenticationError) as keyless:
        openai.OpenAI(base_url=product.url, api_key="wrong", max_retries=0).models.list()
    assert [error.value.code for error in (unknown, long, unloaded, keyless)] == [
        "not_found",
        "context_length_exceeded",
        "model_not_loaded",
        "unauthorized",
    ]
    assert "maximum context length" in str(long.value)


def test_what_gateways_look_for_is_there(product):
    with httpx.Client(base_url=product.root, trust_env=False) as http:
        codes = {path: http.get(path).status_code for path in ("/health", "/version", "/metrics")}
        assert set(codes.values()) == {200}
        headers = {"authorization": f"Bearer {product.key}"}
        assert http.get("/v1/models/", headers=headers).status_code == 200
        lost = http.post("/chat/completions", headers=headers, json={})
        assert (lost.status_code, "/v1" in lost.text) == (404, True)
