"""Imported lines are read whole or not at all."""

import orjson
import pytest

from hotswap_ray.core.errors import InvalidRequest
from hotswap_ray.core.evidence.cell import Evidence


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("not json", "line 2: "),
        ("[]", "line 2: not a JSON object"),
        ('{"kind":"outcome","doc":{}}', "line 2: schema is None"),
        ('{"kind":"outcome","schema":99,"doc":{}}', "line 2: schema 99 is newer"),
        ('{"kind":"wish","schema":1,"doc":{}}', "line 2: unknown kind 'wish'"),
        ('{"kind":"outcome","schema":1,"doc":{}}', "line 2: 'request_id' is missing"),
        ('{"kind":"evidence","schema":1,"origin":"o","doc":{"task":"t"}}', "line 2: 'model'"),
    ],
)
def test_a_bad_line_is_named_and_nothing_is_imported(store, outcome, line, sentence):
    store.add_outcomes([outcome(1)])
    good = orjson.dumps({"kind": "evidence", "schema": 1, "origin": "o",
                         "doc": Evidence("new", "m").to_doc()}).decode()  # fmt: skip
    with pytest.raises(InvalidRequest) as caught:
        store.import_lines([good, line])
    assert str(caught.value).startswith(sentence)
    assert list(store.current_evidence()[0]) == [("capitals", "small")]
