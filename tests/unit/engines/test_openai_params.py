"""The operator's changes to a body: default, rename, drop, set, in this order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotswap_ray.engines.openai.params import Params, applied


@pytest.mark.parametrize(
    ("params", "body", "sent"),
    [
        ({}, {"a": 1, "b": None, "c": 0}, {"a": 1, "c": 0}),
        ({"default": {"a": 1}}, {"a": None}, {"a": 1}),
        ({"default": {"a": 1}}, {"a": 0}, {"a": 0}),
        ({"default": {"a": 1}, "rename": {"a": "b"}}, {}, {"b": 1}),
        ({"default": {"b": 1}, "rename": {"a": "b"}}, {"a": 2}, {"b": 2}),
        ({"default": {"a": 1}, "rename": {"a": "b"}}, {"b": 2}, {"b": 2}),
        ({"rename": {"a": "b"}}, {"a": 1, "b": 2}, {"b": 2}),
        ({"rename": {"a": "b", "b": "a"}}, {"a": 1, "b": 2}, {"a": 2, "b": 1}),
        ({"rename": {"a": "b"}, "drop": ["b"]}, {"a": 1}, {}),
        ({"rename": {"a": "b"}, "drop": ["a"]}, {"a": 1}, {"b": 1}),
        ({"default": {"a": 1}, "drop": ["a"], "set": {"a": 3}}, {}, {"a": 3}),
        ({"set": {"a": {"b": 1}}}, {"a": {"c": 2}}, {"a": {"b": 1}}),
    ],
)
def test_the_changes_are_made_in_their_order(params, body, sent):
    before = dict(body)
    assert applied(Params(**params), body) == sent
    assert body == before


NAMES = st.sampled_from("abcd")
VALUES = st.one_of(st.none(), st.integers(0, 3))
BODIES = st.dictionaries(NAMES, VALUES)


@given(
    BODIES,
    st.dictionaries(NAMES, NAMES),
    st.lists(NAMES),
    st.dictionaries(NAMES, st.integers(4, 6)),
)
def test_what_is_dropped_never_comes_and_what_is_set_always_does(body, rename, drop, fixed):
    sent = applied(Params(rename=rename, drop=drop, set=fixed), body)
    assert fixed.items() <= sent.items()
    assert not (set(drop) - set(fixed)) & set(sent)
    assert None not in sent.values()
