"""The mechanical judge of golden prompts and live answers."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hotswap_ray.core.answers.checkers import (
    find_checker,
    first_number,
    is_garbage,
    is_refusal,
    quality_of,
    score,
)
from hotswap_ray.core.errors import CheckerFailed, NotFound
from hotswap_ray.core.spec.golden import Check

HERE = "tests.unit.core.answers.test_checkers"
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name"],
}


def words_share(request, answer):
    """Share of the prompt's words that the answer has."""
    words = request["prompt"].split()
    return sum(word in answer for word in words) / len(words)


def cannot_tell(request, answer):
    return None


def raises(request, answer):
    raise KeyError("no such thing")


def leaves(request, answer):
    raise SystemExit(3)


def gives(request, answer):
    return {"one": 1, "true": True, "text": "0.5", "much": 1.01, "nan": math.nan, "list": []}[
        answer
    ]


NO_FUNCTION = 7


def call(name, weight=1.0):
    return Check(kind="callable", value=f"{HERE}:{name}", weight=weight)


@pytest.mark.parametrize(
    ("check", "answer", "passes"),
    [
        ({"kind": "contains", "value": "Paris"}, "paris is the capital", True),
        ({"kind": "contains", "value": "new york"}, "New\n  York", True),
        ({"kind": "contains", "value": "Paris"}, "Rome", False),
        ({"kind": "contains", "value": "!"}, "!!!!!!!!", False),
        ({"kind": "exact", "value": "Le chat"}, " le chat.", True),
        ({"kind": "exact", "value": "caf\u00e9"}, "CAFE\u0301", True),
        ({"kind": "exact", "value": "Le chat"}, "le chat noir", False),
        ({"kind": "exact", "value": "..."}, "!!!!", False),
        ({"kind": "exact", "value": "aaaa"}, "aaaa", True),
        ({"kind": "exact", "value": "C++"}, "C", False),
        ({"kind": "regex", "value": "^[A-Z]+$"}, "HELLO", True),
        ({"kind": "regex", "value": "^[A-Z]+$"}, "hello", False),
        ({"kind": "regex", "value": ".*"}, "!!!!!!", False),
        ({"kind": "numeric", "value": "12"}, "12", True),
        ({"kind": "numeric", "value": "12"}, "The answer is 12.", True),
        ({"kind": "numeric", "value": "12"}, "11 or 12", False),
        ({"kind": "numeric", "value": "-3.5", "tolerance": 0.1}, "\u22123.45", True),
        ({"kind": "numeric", "value": "12"}, "twelve", False),
        ({"kind": "numeric", "value": "12"}, "", False),
        ({"kind": "identical", "value": "a b"}, "a b", True),
        ({"kind": "identical", "value": "a b"}, "a b ", False),
        ({"kind": "identical", "value": "a b"}, "A b", False),
        ({"kind": "length", "min_chars": 2, "max_chars": 3}, " abc\n", True),
        ({"kind": "length", "min_chars": 2, "max_chars": 3}, " a ", False),
        ({"kind": "length", "min_chars": 2, "max_chars": 3}, "abcd", False),
        ({"kind": "json_schema", "json_schema": PERSON}, '{"name": "Ada"}', True),
        ({"kind": "json_schema", "json_schema": PERSON}, '{"age": 7}', False),
        ({"kind": "json_schema", "json_schema": PERSON}, "Ada", False),
        ({"kind": "json_schema", "json_schema": PERSON}, "", False),
        ({"kind": "json_schema", "json_schema": PERSON}, "[" * 100_000, False),
        (
            {"kind": "json_schema", "json_schema": PERSON},
            'Here it is:\n```json\n{"name": "Ada"}\n```\nDone.',
            True,
        ),
        ({"kind": "json_schema", "json_schema": PERSON}, 'So {x} is {"name": "Ada"}.', True),
        ({"kind": "json_schema", "json_schema": PERSON}, '{"a": 1} {"name": "Ada"}', False),
        ({"kind": "json_schema", "json_schema": {"type": "number"}}, "42", True),
        ({"kind": "json_schema", "json_schema": {"type": "number"}}, "NaN", False),
        ({"kind": "refusal"}, "Paris.", True),
        ({"kind": "refusal"}, "I'm sorry, but I can't help with that.", False),
        ({"kind": "non_empty"}, "ok", True),
        ({"kind": "non_empty"}, "7", True),
        ({"kind": "non_empty"}, " \n\t", False),
        ({"kind": "non_empty"}, "!!!!", False),
        ({"kind": "non_empty"}, "! ! ! ! !", False),
    ],
)
def test_an_answer_is_judged_by_its_kind_of_check(check, answer, passes):
    assert score(Check(**check), answer) == float(passes)


@pytest.mark.parametrize(
    ("text", "number"),
    [("1,200.5 km", 1200.5), ("1,2000", 1.0), (".5", 0.5), ("5.", 5.0), ("3-4", 3.0), ("-", None)],
)
def test_the_first_number_is_read_as_people_write_it(text, number):
    assert first_number(text) == number


@pytest.mark.parametrize(
    "check",
    [
        {"kind": "regex", "value": "("},
        {"kind": "numeric", "value": "twelve"},
        {"kind": "numeric", "value": "nan"},
        {"kind": "contains", "value": " "},
        {"kind": "exact"},
        {"kind": "callable"},
        {"kind": "json_schema"},
        {"kind": "json_schema", "json_schema": {"type": "objekt"}},
        {"kind": "json_schema", "json_schema": {"properties": {"a": {"pattern": "("}}}},
    ],
)
def test_a_check_that_could_never_work_is_refused_when_it_is_written(check):
    with pytest.raises(ValidationError):
        Check(**check)


@given(st.characters(), st.integers(4, 40))
def test_one_character_repeated_is_never_an_answer(character, times):
    assert is_garbage(character * times)
    assert not score(Check(kind="non_empty"), character * times)


@given(st.floats(-1e9, 1e9))
def test_a_number_is_found_again_however_python_prints_it(number):
    assert first_number(f"so: {number!r}!") == number


@given(st.text())
def test_any_text_at_all_can_be_judged(text):
    for kind, value in (("contains", "a"), ("exact", "a"), ("regex", "a"), ("numeric", "1")):
        assert score(Check(kind=kind, value=value), text) in (0, 1)
    for kind in ("json_schema", "length", "refusal", "non_empty"):
        assert score(Check(kind=kind, json_schema=PERSON), text) in (0, 1)


@pytest.mark.parametrize(
    ("answer", "refuses"),
    [
        ("I cannot assist with that request.", True),
        ("I\u2019m sorry, but I can\u2019t share that.", True),
        ("Sorry, I won't do that.", True),
        ("As an AI language model, I have no opinion.", True),
        ("Unfortunately, I am unable to browse the web.", True),
        ("  I'm not able to help you here.", True),
        ("I must decline.", True),
        ("I can't believe how blue the sea is.", False),
        ("Sorry is a word of five letters.", False),
        ("He said: I cannot help you.", False),
        ("In England, I could not write a word.", False),
    ],
)
def test_a_refusal_is_known_by_how_it_begins(answer, refuses):
    assert is_refusal(answer) is refuses


def test_a_reference_in_a_schema_is_followed_inside_it_and_never_over_the_network():
    inside = {"$ref": "#/$defs/n", "$defs": {"n": {"type": "integer"}}}
    assert score(Check(kind="json_schema", json_schema=inside), "1") == 1
    for nowhere in ("#/$defs/m", "https://example.invalid/schema"):
        with pytest.raises(CheckerFailed, match="a reference leads nowhere"):
            score(Check(kind="json_schema", json_schema={"$ref": nowhere}), "1")


def test_a_callable_gets_the_request_and_the_answer():
    assert score(call("words_share"), "red fish", {"prompt": "red blue"}) == 0.5
    assert score(call("gives"), "one") == 1
    assert score(call("gives"), "true") == 1
    assert score(call("cannot_tell"), "x") is None


@pytest.mark.parametrize("answer", ["text", "much", "nan", "list"])
def test_a_callable_that_gives_no_score_is_an_error_never_a_quality(answer):
    with pytest.raises(CheckerFailed, match=f"{HERE}:gives"):
        quality_of([call("gives")], answer)


@pytest.mark.parametrize("name", ["raises", "leaves", "is_missing"])
def test_a_callable_that_raises_or_leaves_or_is_missing_is_named(name):
    with pytest.raises(CheckerFailed, match=f"{HERE}:{name}"):
        quality_of([Check(kind="contains", value="a"), call(name)], "a")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("nobody", "no checker 'nobody'; known: none is installed; or write module:function"),
        ("not_there_at_all:f", "cannot be imported: ModuleNotFoundError"),
        (f"{HERE}:is_missing", "cannot be imported: AttributeError"),
        (f"{HERE}:NO_FUNCTION", "is not callable"),
    ],
)
def test_a_checker_that_cannot_be_found_is_told_with_the_reason(name, text):
    with pytest.raises(NotFound, match=text):
        find_checker(name)


def test_a_checker_is_found_by_its_entry_point(monkeypatch):
    class Point:
        name = "share_of_words"

        def load(self):
            return words_share

    monkeypatch.setattr(
        "hotswap_ray.core.answers.checkers.entry_points",
        lambda *, group: [Point()] if group else [],
    )
    with pytest.raises(NotFound, match="did you mean 'share_of_words'"):
        find_checker("share_of_word")
    find_checker.cache_clear()
    assert find_checker("share_of_words") is words_share
    find_checker.cache_clear()


def test_a_guard_that_fails_makes_the_answer_worthless_and_one_that_passes_says_nothing():
    guard, right = Check(kind="length", max_chars=5), Check(kind="contains", value="Paris")
    assert quality_of([guard], "Paris") == 1
    assert quality_of([guard, right], "Paris") == 1
    assert quality_of([guard, right], "Rome") == 0
    assert quality_of([right, guard], "Paris, of course") == 0


def test_a_failed_guard_spares_the_other_checks():
    assert quality_of([call("raises"), Check(kind="non_empty")], "") == 0


def test_a_check_that_cannot_tell_drops_out_and_missing_is_never_zero():
    right, wrong = Check(kind="contains", value="a", weight=3), Check(kind="contains", value="b")
    assert quality_of([right, wrong, call("cannot_tell", 100)], "a") == 0.75
    assert quality_of([call("cannot_tell")], "a") is None
    assert quality_of([Check(kind="non_empty"), call("cannot_tell")], "a") is None
    assert quality_of([], "a") is None


@given(st.lists(st.tuples(st.floats(1e-6, 1000), st.booleans()), min_size=1, max_size=20))
def test_a_quality_is_always_between_zero_and_one(weighed):
    checks = [Check(kind="contains", value="ab"[bad], weight=weight) for weight, bad in weighed]
    quality = quality_of(checks, "a")
    assert 0 <= quality <= 1
    if len({bad for _, bad in weighed}) == 1:
        assert quality == (not weighed[0][1])
