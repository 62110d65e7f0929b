"""instructor over the `openai` package, in its modes."""

import pytest

from tests.clients.asked import OSLO, TOO_LONG, user

instructor = pytest.importorskip("instructor")
import openai
from instructor import Mode
from instructor.core.exceptions import InstructorRetryException
from pydantic import BaseModel

pytestmark = pytest.mark.clients


class City(BaseModel):
    name: str
    people: int


@pytest.fixture(scope="module")
def client(product):
    with openai.OpenAI(base_url=product.url, api_key=product.key, max_retries=0) as plain:
        yield lambda mode: instructor.from_openai(plain, mode=mode)


@pytest.mark.parametrize("mode", [Mode.TOOLS, Mode.TOOLS_STRICT, Mode.JSON, Mode.JSON_SCHEMA])
def test_an_object_comes_in_every_mode(client, mode):
    made, raw = client(mode).chat.completions.create_with_completion(
        model="auto:agent", messages=user("Which city?"), response_model=City, max_retries=1
    )
    assert made.model_dump() == OSLO
    assert raw.model == "up"


@pytest.mark.parametrize("mode", [Mode.TOOLS, Mode.JSON, Mode.JSON_SCHEMA])
def test_parts_of_an_object_are_streamed(client, mode):
    parts = list(
        client(mode).chat.completions.create_partial(
            model="auto:agent", messages=user("Which city?"), response_model=City
        )
    )
    assert len(parts) > 1
    assert parts[-1].model_dump() == OSLO


def test_a_real_model_obeys_a_schema(client):
    class Answer(BaseModel):
        wet: bool

    made = client(Mode.JSON_SCHEMA).chat.completions.create(
        model="auto:capitals",
        messages=user("Is water wet?"),
        response_model=Answer,
        temperature=0,
        max_tokens=100,
    )
    assert isinstance(made.wet, bool)


@pytest.mark.parametrize(
    ("mode", "model", "prompt", "told"),
    [
        (Mode.TOOLS, "nope", "hi", "unknown model"),
        (Mode.TOOLS, "balanced", "hi", "does not do tools"),
        (Mode.JSON_SCHEMA, "balanced", TOO_LONG, "maximum context length"),
    ],
)
def test_what_cannot_be_is_refused_and_says_why(client, mode, model, prompt, told):
    with pytest.raises((openai.APIStatusError, InstructorRetryException), match=told):
        client(mode).chat.completions.create(
            model=model, messages=user(prompt), response_model=City, max_retries=0
        )
