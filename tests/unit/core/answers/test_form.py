"""The form of an answer is what the client asked for, and what the task's checks demand."""

import orjson
import pytest

from hotswap_ray.actors.cluster.judge_here import judge_here, judge_one
from hotswap_ray.actors.ingress.call import Call
from hotswap_ray.actors.ingress.recorder import Recorder
from hotswap_ray.core.answers.form import form_of, has_form
from hotswap_ray.core.answers.judge_messages import Job, Judgement
from hotswap_ray.core.answers.thinking import without_thinking
from hotswap_ray.core.outcome import Outcome
from hotswap_ray.core.spec.golden import Check

JSON = {"response_format": {"type": "json_object"}}
SCHEMA = {"type": "object", "required": ["city"], "properties": {"city": {"type": "string"}}}


def by_schema(schema):
    wanted = {"name": "city", "schema": schema}
    return {"response_format": {"type": "json_schema", "json_schema": wanted}}


@pytest.mark.parametrize(
    ("request_", "answer", "expected"),
    [
        ({}, "anything", None),
        ({"response_format": None}, "anything", None),
        ({"response_format": {"type": "text"}}, "anything", None),
        (JSON, '{"a": 1}', True),
        (JSON, ' {"a": 1}\n', True),
        (JSON, "[1]", False),  # JSON, but no object
        (JSON, 'Sure: {"a": 1}', False),
        (JSON, '{"a": 1', False),
        (JSON, "[" * 100_000, False),
        (JSON | {"tools": [{}]}, "anything", None),
        (by_schema(SCHEMA), '{"city": "Paris"}', True),
        (by_schema(SCHEMA), '{"city": 7}', False),
        (by_schema(None), "7", True),
        (by_schema({"type": "no such type"}), "{}", None),
        (by_schema([1]), "{}", None),
    ],
)
def test_json_is_what_the_client_asked_for(request_, answer, expected):
    assert has_form([], answer, request_) is expected


def test_checks_of_the_form_must_all_pass_and_others_do_not_count():
    letters, short = Check(kind="regex", value="^[A-Z]+$"), Check(kind="length", max_chars=3)
    right = Check(kind="contains", value="PARIS")
    assert has_form([letters, short, right], "PARIS", {}) is False
    assert has_form([letters, right], "ROME", {}) is True
    assert has_form([right], "PARIS", {}) is None
    assert has_form([letters], "PARIS", JSON) is False


@pytest.mark.parametrize(
    ("request_", "answer", "why"),
    [
        (JSON, '<think>{}?</think>{"a": 1}', "not JSON: thinking before it"),
        (JSON, '{"a": 1?</think>{"a": 1}', "not JSON: thinking before it"),
        (JSON, 'Sure: {"a": 1}', "not JSON: text before it: 'Sure:'"),
        (JSON, '{"a": 1} Bye', "not JSON: text after it: 'Bye'"),
        (JSON, '```json\n{"a": 1}\n```', "not JSON: it stands in a code block"),
        (JSON, '{"a": 1', "not JSON: it ends too early"),
        (JSON, '{"a": "x', "not JSON: it ends too early"),
        (JSON, "{'a': 1}", "not JSON: Expecting property name"),
        (JSON, "  ", "not JSON: the answer is empty"),
        (JSON, "[" * 100_000, "not JSON: nested too deep"),
        (JSON, "no", "not JSON: 'no'"),
        (JSON, "[1]", "JSON, but no object"),
        (by_schema(SCHEMA), "{}", "property 'city' is missing"),
        (by_schema(SCHEMA), '{"city": 7}', "city: 7 is not of type 'string'"),
        (by_schema({"maxProperties": 0}), '{"a": "' + "x" * 9999 + '"}', "{'a': 'xxx"),
    ],
)
def test_a_wrong_form_says_what_is_wrong(request_, answer, why):
    found = form_of([], answer, request_)
    assert found.ok is False
    assert found.why.startswith(why)
    assert len(found.why) <= 200


def test_a_check_of_the_form_says_what_is_wrong():
    by_check = Check(kind="json_schema", json_schema=SCHEMA)
    assert form_of([by_check], 'Sure: {"town": 1}', {}).why == "property 'city' is missing"
    assert form_of([by_check], "Paris", {}).why == "not JSON: 'Paris'"
    assert form_of([Check(kind="regex", value="^[A-Z]+$")], "Rome", {}).why.startswith("nothing")
    assert (
        form_of([Check(kind="length", max_chars=3)], "Rome", {}).why == "4 characters, not 0 to 3"
    )


def test_checks_do_not_see_the_thinking_but_the_clients_parser_does():
    text = '<think>they want {}</think>{"a": 1}'
    short = Check(kind="length", max_chars=10)
    found = judge_one(job(text, JSON, short))
    assert (found.quality, found.failure, found.format_ok) == (1.0, "", False)
    assert found.error == "not JSON: thinking before it"
    assert judge_one(job(text, {}, short)) == Judgement(1.0, format_ok=True)


def job(text, request=JSON, *checks):
    answer = orjson.dumps({"choices": [{"index": 0, "text": text}]})
    return Job(checks, "completions", request, answer)


def test_a_verdict_has_both_quality_and_form():
    right = Check(kind="contains", value="1")
    assert judge_one(job('{"a": 1}', JSON, right)) == Judgement(1.0, format_ok=True)
    assert judge_one(job("1", JSON, right)) == Judgement(
        1.0, format_ok=False, wrong_form="JSON, but no object"
    )
    found = judge_one(job("no", JSON))
    assert (found.quality, found.failure, found.format_ok) == (None, "", False)
    assert found.error == found.wrong_form == "not JSON: 'no'"
    nowhere = by_schema({"$ref": "#/nowhere"})
    found = judge_one(job("{}", nowhere, Check(kind="contains", value="{")))
    assert (found.quality, found.format_ok) == (1.0, None)
    assert "a reference leads nowhere" in found.error


async def test_answers_in_json_are_judged_at_tasks_without_checks_too():
    recorder = Recorder({"t": ()})
    assert recorder.is_judged("t", JSON)
    assert not recorder.is_judged("t", {})
    for number, (body, text) in enumerate([(JSON, "no"), (JSON, "{}"), ({}, "no")]):
        call = Call(f"r{number}", "completions", body, "auto")
        outcome = Outcome(f"r{number}", "t", "m", 1, "active", 1.0, True, 5.0)
        recorder.add(call, outcome, job(text).answer, streamed=False)
    await recorder.judge_pending(judge_here)
    outcomes = recorder.take()
    assert {one.wrong_form for one in outcomes} == {"", "not JSON: 'no'"}
    found = {one.request_id: (one.quality, one.format_ok) for one in outcomes}
    assert found == {"r0": (None, False), "r1": (None, True), "r2": (None, None)}


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ("<thinking>17?</thinking>\n42", "42"),
        ("[THINK]17?[/THINK]42", "42"),
        ("[THINK]17?", ""),
        (" <think></think>" * 5000 + "42", "42"),
        ("<think>17?</think>write </think> at its end", "write </think> at its end"),
    ],
)
def test_thinking_is_no_answer_in_whatever_marks_it_stands(said, answer):
    assert without_thinking(said) == answer
