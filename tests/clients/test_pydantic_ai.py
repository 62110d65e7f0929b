"""pydantic-ai with `OpenAIChatModel`."""

import pytest

from tests.clients.asked import CAPITAL, OSLO, TOLD, TOO_LONG
from tests.clients.asked import weather as weather_of

pydantic_ai = pytest.importorskip("pydantic_ai")
from openai import AsyncOpenAI
from pydantic import BaseModel
from pydantic_ai import Agent, ModelHTTPError, NativeOutput, PromptedOutput, ToolOutput
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

pytestmark = pytest.mark.clients


class City(BaseModel):
    name: str
    people: int


@pytest.fixture
def model(product):
    """Makes models; a client belongs to one event loop."""

    def make(name, key=product.key):
        client = AsyncOpenAI(base_url=product.url, api_key=key, max_retries=0)
        return OpenAIChatModel(name, provider=OpenAIProvider(openai_client=client))

    return make


@pytest.fixture
def agent(model):
    made = Agent(model("auto:agent"))

    @made.tool_plain
    def weather(city: str) -> str:
        """The weather of a city."""
        return weather_of(city)

    return made


async def test_a_real_model_says_the_same_whole_and_streamed(model):
    agent = Agent(model("auto:capitals"), model_settings={"temperature": 0.0, "max_tokens": 8})
    whole = await agent.run(CAPITAL)
    async with agent.run_stream(CAPITAL) as stream:
        streamed = await stream.get_output()
    assert streamed == whole.output != ""
    assert whole.usage.output_tokens == 8


async def test_a_tool_loop_ends(agent):
    ended = await agent.run("weather?")
    assert ended.output == TOLD
    assert ended.usage.requests == 2


async def test_a_streamed_tool_loop_ends(agent):
    async with agent.run_stream("weather?") as stream:
        pieces = [piece async for piece in stream.stream_text(delta=True, debounce_by=None)]
    assert "".join(pieces) == TOLD
    assert len(pieces) > 1


async def test_a_loop_with_a_simulated_model_ends(model):
    agent = Agent(model("auto:simulation"))
    asked = []

    @agent.tool_plain
    def weather(city: str) -> str:
        asked.append(city)
        return "fine"

    async with agent.run_stream("weather?") as stream:
        assert await stream.get_output() == "simulated answer"
    assert len(asked) == 1


@pytest.mark.parametrize("way", [ToolOutput, NativeOutput, PromptedOutput])
async def test_output_has_its_type_in_every_way(model, way):
    agent = Agent(model("auto:agent"), output_type=way(City))
    assert (await agent.run("Which city?")).output.model_dump() == OSLO
    async with agent.run_stream("Which city?") as stream:
        assert (await stream.get_output()).model_dump() == OSLO


async def test_errors_carry_status_and_code(model):
    cases = {
        "nope": (404, "not_found", "hi"),
        "balanced": (400, "context_length_exceeded", TOO_LONG),
    }
    for name, (status, code, prompt) in cases.items():
        with pytest.raises(ModelHTTPError) as error:
            await Agent(model(name)).run(prompt)
        assert (error.value.status_code, error.value.body["code"]) == (status, code)
    with pytest.raises(ModelHTTPError) as error:
        await Agent(model("auto", key="wrong")).run("hi")
    assert error.value.status_code == 401


async def test_an_output_tool_of_a_model_without_tools_is_refused(model):
    agent = Agent(model("balanced"), output_type=ToolOutput(City))
    with pytest.raises(ModelHTTPError, match="does not do tools"):
        await agent.run("Which city?")
