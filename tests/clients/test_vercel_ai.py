"""The Vercel AI SDK, whose provider is the one for OpenAI-compatible servers."""

import pytest

pytestmark = pytest.mark.clients
TOLD = "The result is 21 degrees in Oslo."
CITY = {"name": "Oslo", "people": 700000}


@pytest.fixture(scope="module")
def seen(node):
    return node("vercel.mjs")


def test_generate_text_and_stream_text_say_the_same(seen):
    whole, stream = seen["generateText"], seen["streamText"]
    assert whole["text"]
    assert stream["text"] == whole["text"]
    assert stream["finish"] == whole["finish"]
    assert stream["usage"]["outputTokens"] == whole["usage"]["outputTokens"] > 0
    assert whole["served"] == "balanced"
    assert isinstance(seen["completion"], str)


def test_an_empty_answer_is_an_empty_text(seen):
    assert seen["empty"] == ""


def test_tool_loops_end_whole_and_streamed(seen):
    ended = {"text": TOLD, "steps": 2, "asked": ["Oslo"]}
    assert (seen["loop"], seen["loopStreamed"]) == (ended, ended)
    simulated = {"text": "simulated answer", "steps": 2, "asked": ["simulated"]}
    assert seen["loopSimulated"] == simulated


def test_objects_obey_their_schema(seen):
    assert seen["generateObject"] == CITY
    assert seen["generateObjectGemma"]["answer"] in ("yes", "no")
    assert seen["streamObject"]["object"] == CITY
    assert seen["streamObject"]["parts"] > 1


@pytest.mark.parametrize(
    ("case", "status", "code"),
    [
        ("unknown", 404, "not_found"),
        ("tooLong", 400, "context_length_exceeded"),
        ("keyless", 401, "unauthorized"),
    ],
)
def test_errors_are_api_call_errors_with_status_and_code(seen, case, status, code):
    error = seen[case]
    assert (error["kind"], error["status"], error["code"]) == ("APICallError", status, code)
