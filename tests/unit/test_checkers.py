"""The mechanical judge of golden prompts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hotswap_ray.core.checkers import first_number, is_garbage, score
from hotswap_ray.core.golden import Check


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
        ({"kind": "non_empty"}, "ok", True),
        ({"kind": "non_empty"}, "7", True),
        ({"kind": "non_empty"}, " \n\t", False),
        ({"kind": "non_empty"}, "!!!!", False),
        ({"kind": "non_empty"}, "! ! ! ! !", False),
    ],
)
def test_an_answer_is_judged_by_its_kind_of_check(check, answer, passes):
    assert score(Check(**check), answer) is passes


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
        assert score(Check(kind=kind, value=value), text) in (True, False)
