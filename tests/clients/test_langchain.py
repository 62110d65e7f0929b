"""LangChain's `ChatOpenAI` and `OpenAI`."""

import pytest

from tests.clients.asked import CAPITAL, OSLO, TOLD, TOO_LONG
from tests.clients.asked import weather as weather_of

langchain_openai = pytest.importorskip("langchain_openai")
import openai
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from pydantic import BaseModel

pytestmark = pytest.mark.clients


class City(BaseModel):
    """A city."""

    name: str
    people: int


@tool
def weather(city: str) -> str:
    """The weather of a city."""
    return weather_of(city)


@pytest.fixture(scope="module")
def chat(product):
    def make(model, **options):
        settings = {"base_url": product.url, "api_key": product.key, "max_retries": 0}
        return langchain_openai.ChatOpenAI(model=model, **settings, **options)

    return make


def test_a_real_model_says_the_same_whole_and_streamed(chat):
    model = chat(
        "auto:capitals",
        temperature=0,
        max_tokens=8,
        include_response_headers=True,
        stream_usage=True,
    )
    whole = model.invoke(CAPITAL)
    assert whole.response_metadata["headers"]["x-hotswap-model"] == "balanced"
    pieces = list(model.stream(CAPITAL))
    total = pieces[0]
    for piece in pieces[1:]:
        total += piece
    assert total.content == whole.content != ""
    assert total.usage_metadata["output_tokens"] == whole.usage_metadata["output_tokens"] == 8
    assert [answer.content for answer in model.batch([CAPITAL] * 2)] == [whole.content] * 2


async def test_it_streams_asynchronously(chat):
    assert "".join([piece.text async for piece in chat("up").astream("hi")]) == "far answer"


def test_text_completions_are_whole_and_streamed(product):
    model = langchain_openai.OpenAI(
        model="auto:capitals",
        base_url=product.url,
        api_key=product.key,
        temperature=0,
        max_tokens=8,
        max_retries=0,
    )
    assert model.invoke(CAPITAL, stop=["\n"]) == " Cairo"
    assert "".join(model.stream(CAPITAL, stop=["\n"])) == " Cairo"


def test_an_empty_answer_is_an_empty_text(chat):
    assert chat("up").invoke("say nothing").content == ""
    assert chat("balanced", temperature=0).invoke(CAPITAL, stop=[" "]).content == ""


@pytest.mark.parametrize("streams", [False, True])
def test_a_tool_loop_ends(chat, streams):
    model = chat("auto:agent", streaming=streams).bind_tools([weather])
    messages = [HumanMessage("weather?")]
    while True:
        answer = model.invoke(messages)
        messages.append(answer)
        if not answer.tool_calls:
            break
        messages += [weather.invoke(call) for call in answer.tool_calls]
    assert [type(message) for message in messages].count(ToolMessage) == 1
    assert answer.content == TOLD


def test_a_call_that_is_forced_is_made_or_refused(chat):
    forced = {"tools": [weather], "tool_choice": "any"}
    assert chat("up").bind_tools(**forced).invoke("hi").tool_calls[0]["args"] == {"city": "Oslo"}
    with pytest.raises(openai.BadRequestError, match="does not do tools"):
        chat("balanced").bind_tools(**forced).invoke("hi")


@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
def test_structured_output_works_by_every_method(chat, method):
    made = chat("auto:agent").with_structured_output(City, method=method).invoke("A city as JSON")
    assert made.model_dump() == OSLO


def test_a_real_model_obeys_a_schema(chat):
    schema = {
        "title": "answer",
        "type": "object",
        "properties": {"wet": {"type": "boolean"}},
        "required": ["wet"],
        "additionalProperties": False,
    }
    model = chat("auto:capitals", temperature=0, max_tokens=60)
    made = model.with_structured_output(schema, method="json_schema").invoke("Is water wet?")
    assert isinstance(made["wet"], bool)


def test_errors_are_those_of_openai(chat, product):
    with pytest.raises(openai.NotFoundError):
        chat("nope").invoke("hi")
    with pytest.raises(openai.BadRequestError) as long:
        chat("balanced").invoke(TOO_LONG)
    assert long.value.code == "context_length_exceeded"
    keyless = langchain_openai.ChatOpenAI(
        model="auto", base_url=product.url, api_key="wrong", max_retries=0
    )
    with pytest.raises(openai.AuthenticationError):
        keyless.invoke("hi")
