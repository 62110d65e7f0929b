"""Imported lines are read whole or not at all."""

import orjson
import pytest

from hotswap_ray.core.errors import InvalidRequest
from hotswap_ray.core.evidence.cell import Evidence
from hotswap_ray.core.evidence.knowledge import TaskKnowledge
from hotswap_ray.core.spec.task import Preferences


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


def test_a_weight_of_energy_in_an_older_export_counts_as_zero(store, caplog):
    doc = TaskKnowledge("sums").learn(1.0, Preferences(cost=2)).to_doc()
    doc["preferences"]["energy"] = 5.0
    store.import_lines([orjson.dumps({"kind": "knowledge", "schema": 1, "doc": doc})])
    saved = TaskKnowledge.from_doc(store.load_knowledge()["sums"])
    assert saved.preferences == Preferences(cost=2)
    assert caplog.text.count("task sums: its saved weight of energy counts as 0") == 1
