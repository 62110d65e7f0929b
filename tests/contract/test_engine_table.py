"""The page says what the engines do."""

import pytest

from tests.contract.engine_table import COLUMNS, FEATURES, HOW, column, read_page

NAMES = [
    pytest.param(name, marks=pytest.mark.llama if "llama_cpp" in name else ()) for name in COLUMNS
]


@pytest.mark.parametrize("name", NAMES)
async def test_the_page_says_what_an_engine_does(name):
    assert read_page()[name] == await column(COLUMNS[name]()), HOW


def test_the_page_has_a_row_for_each_feature():
    for name, rows in read_page().items():
        assert list(rows) == list(FEATURES), f"{name}; {HOW}"


def test_no_engine_does_in_a_stream_what_it_does_not_do_whole():
    told = {verdict for rows in read_page().values() for verdict in rows.values()}
    assert told <= {"yes", "refused", "ignored"}
