"""litellm's SDK: as OpenAI's server, and as a hosted vLLM."""

import json
import os

import pytest

from tests.clients.asked import CAPITAL, OSLO, SHORT, TOLD, TOO_LONG, WEATHER, user, weather

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else it is fetched from outside
litellm = pytest.importorskip("litellm")
from pydantic import BaseModel

pytestmark = pytest.mark.clients
PROVIDERS = ["openai", "hosted_vllm"]


class City(BaseModel):
    name: str
    people: int


@pytest.fixture(scope="module")
def ask(product):
    def completion(model, messages, **options):
        settings = {"api_base": product.url, "api_key": product.key, "num_retries": 0}
        return litellm.completion(model, messages, **{**settings, **options})

    return completion


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_real_model_says_the_same_whole_and_streamed(ask, provider):
    model = f"{provider}/auto:capitals"
    whole = ask(model, user(CAPITAL), **SHORT)
    headers = whole._hidden_params["additional_headers"]
    assert headers["llm_provider-x-hotswap-model"] == "balanced"
    options = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = list(ask(model, user(CAPITAL), **SHORT, **options))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content != ""
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens > 0


def test_text_completions_work(product):
    done = litellm.text_completion(
        model="text-completion-openai/auto:capitals",
        prompt=CAPITAL,
        api_base=product.url,
        api_key=product.key,
        **SHORT,
    )
    assert done.choices[0].text == " Cairo"


def test_an_empty_answer_is_an_empty_text(ask):
    assert ask("openai/up", user("say nothing")).choices[0].message.content == ""


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_tool_loop_ends(ask, provider, streams):
    messages = user("weather?")
    while True:
        answer = ask(f"{provider}/auto:agent", messages, tools=[WEATHER], stream=streams)
        if streams:
            answer = litellm.stream_chunk_builder(list(answer), messages=messages)
        message = answer.choices[0].message
        messages.append(message.model_dump(exclude_none=True))
        if not message.tool_calls:
            break
        for call in message.tool_calls:
            result = weather(json.loads(call.function.arguments)["city"])
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    assert len(messages) == 4
    assert message.content == TOLD


def test_answers_obey_a_schema(ask):
    said = ask("openai/auto:agent", user("Which city?"), response_format=City)
    assert json.loads(said.choices[0].message.content) == OSLO


def test_an_overflow_is_of_the_class_that_fallbacks_wait_for(ask):
    for provider in PROVIDERS:
        with pytest.raises(litellm.ContextWindowExceededError):
            ask(f"{provider}/balanced", user(TOO_LONG))


def test_a_fallback_for_long_prompts_takes_over(product):
    def deployment(name, model):
        settings = {"model": f"openai/{model}", "api_base": product.url, "api_key": product.key}
        return {"model_name": name, "litellm_params": settings}

    router = litellm.Router(
        [deployment("small", "balanced"), deployment("large", "up")],
        context_window_fallbacks=[{"small": ["large"]}],
        num_retries=0,
    )
    assert router.completion("small", user(TOO_LONG)).choices[0].message.content == "far answer"


def test_errors_are_of_its_own_classes(ask):
    with pytest.raises(litellm.NotFoundError):
        ask("openai/nope", user("hi"))
    with pytest.raises(litellm.AuthenticationError):
        ask("openai/auto", user("hi"), api_key="wrong")
    with pytest.raises(litellm.BadRequestError, match="does not do tools"):
        ask("openai/balanced", user("hi"), tools=[WEATHER], tool_choice="required")
