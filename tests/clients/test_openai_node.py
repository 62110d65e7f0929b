"""The official `openai` package for Node: what a script of it saw, checked here."""

import pytest

pytestmark = pytest.mark.clients
TOLD = "The result is 21 degrees in Oslo."


@pytest.fixture(scope="module")
def seen(node):
    return node("openai.mjs")


def test_it_lists_tasks_and_models(seen):
    assert {"auto", "auto:capitals", "auto:agent", "balanced", "sim", "up"} <= set(seen["list"])


def test_it_reads_whole_and_streamed_answers_of_a_real_model(seen):
    chat, stream = seen["chat"], seen["stream"]
    assert chat["text"]
    assert (chat["served"], len(chat["request_id"])) == ("balanced", 32)
    assert stream["text"] == chat["text"]
    assert stream["usage"]["completion_tokens"] == chat["usage"]["completion_tokens"] > 0
    assert seen["completion"].strip() == "Cairo"


def test_it_may_leave_a_stream(seen):
    assert seen["abort"] == 2


def test_an_empty_answer_is_an_empty_text(seen):
    assert seen["empty"] == ["", "", ""]


def test_its_tool_loops_end_whole_and_streamed(seen):
    assert seen["runTools"] == {"text": TOLD, "asked": ["Oslo"]}
    assert seen["runToolsStreamed"] == {"text": TOLD, "streamed": TOLD, "asked": ["Oslo"]}
    assert seen["runToolsSimulated"] == {"text": "simulated answer"}


def test_it_parses_what_a_zod_schema_asks_for(seen):
    assert seen["parse"] == {"name": "Oslo", "people": 700000}


@pytest.mark.parametrize(
    ("case", "kind", "status", "code"),
    [
        ("unknown", "NotFoundError", 404, "not_found"),
        ("tooLong", "BadRequestError", 400, "context_length_exceeded"),
        ("keyless", "AuthenticationError", 401, "unauthorized"),
        ("toolless", "BadRequestError", 400, "invalid_request"),
    ],
)
def test_errors_are_of_its_own_classes(seen, case, kind, status, code):
    error = seen[case]
    assert (error["kind"], error["status"], error["code"]) == (kind, status, code)
