"""Server-sent events, cut in every place."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotswap_ray.engines.sse import Reader, read


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_lines_end_at_lf_crlf_or_cr(end):
    assert read(end.join([b"data: a", b"data: b", b"", b"data: c", b"", b""])) == ["a\nb", "c"]


@pytest.mark.parametrize("char", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1e"])
def test_no_other_character_ends_a_line(char):
    assert read(f"data: a{char}b\n\n".encode()) == [f"a{char}b"]


def test_comments_other_fields_and_events_without_data_are_skipped():
    raw = (
        b": hi\n\nevent: x\nid: 1\nretry: 5\ndata\n\ndata:\n\ndata: a\nevent: y\n\ndatabase: b\n\n"
    )
    assert read(raw) == ["a"]


def test_one_space_after_the_colon_is_no_data():
    assert read(b"data:a\n\ndata:  b\n\n") == ["a", " b"]


def test_nothing_is_read_after_done():
    reader = Reader()
    assert reader.feed(b"data: a\n\ndata: [DONE]\n\ndata: b\n\n") == ["a"]
    assert reader.done
    assert reader.feed(b"data: c\n\n") == []
    assert reader.end() == []


@pytest.mark.parametrize("tail", [b"", b"\n", b"\r", b"\n\n", b"\r\n\r\n"])
def test_an_event_that_the_end_of_the_stream_ends_counts(tail):
    assert read(b"data: a\n\ndata: b" + tail) == ["a", "b"]


def test_an_event_is_there_as_soon_as_its_blank_line_is_whatever_ends_it():
    for end in (b"\n", b"\r\n", b"\r"):
        assert Reader().feed(b"data: a" + end + end) == ["a"]


def test_a_mark_of_the_byte_order_is_no_part_of_the_first_line():
    assert read(b"\xef\xbb\xbfdata: a\n\n") == ["a"]


def test_bytes_that_are_no_text_are_replaced():
    assert read(b"data: a\xff\n\n") == ["a\ufffd"]


LINES = st.lists(
    st.sampled_from(
        ["data: ä€\u2028😀", "data:x", "data", ": no", "event: e", "", "", "data: [DONE]", "\ufeff"]
    ),
    max_size=12,
)
ENDS = st.sampled_from(["\n", "\r\n", "\r"])


@given(st.lists(st.tuples(LINES, ENDS), max_size=4), st.lists(st.integers(0, 200), max_size=30))
def test_wherever_the_bytes_are_cut_the_events_are_the_same(parts, cuts):
    raw = "".join(line + end for lines, end in parts for line in lines).encode()
    bounds = [0, *sorted(min(cut, len(raw)) for cut in cuts), len(raw)]
    reader = Reader()
    found = []
    for begin, end in pairwise(bounds):
        found += reader.feed(raw[begin:end])
    assert found + reader.end() == read(raw)
    byte_by_byte = Reader()
    found = [event for number in range(len(raw)) for event in byte_by_byte.feed(raw[number:][:1])]
    assert found + byte_by_byte.end() == read(raw)
