"""The id of a tool call says who made the call."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotswap_ray.core.routing.call_ids import mark_in, mark_of, plain, signed


@given(st.text(), st.text(min_size=1), st.integers(1))
def test_a_mark_is_found_again_and_comes_off_again(id, model, generation):
    mark = mark_of(model, generation)
    given_out = signed(id, mark)
    assert plain(given_out) == id or not id
    assert mark_in(given_out) == (mark if id else None)


def test_two_loads_of_a_model_have_two_marks():
    assert len({mark_of(model, load) for model in ("a", "b") for load in range(100)}) == 200


@pytest.mark.parametrize("id", ["", "call_1", "call.h123", ".h0123abcd", "call.h0123ABCD"])
def test_an_id_from_elsewhere_has_no_mark_and_stays(id):
    assert (plain(id), mark_in(id)) == (id, None)


@pytest.mark.parametrize("id", [None, 7, {"id": "x"}])
def test_what_is_no_id_is_left_alone(id):
    assert (signed(id, "0123abcd"), plain(id), mark_in(id)) == (id, id, None)
