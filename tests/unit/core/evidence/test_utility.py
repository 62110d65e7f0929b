"""What an answer is worth follows from the weights, not from who wrote them down."""

import pickle

import pytest

from hotswap_ray.core.evidence.beliefs import QUALITY_ONLY, Beliefs
from hotswap_ray.core.evidence.cell import Evidence
from hotswap_ray.core.evidence.utility import Reference, weighs_quality_only
from hotswap_ray.core.spec.task import Preferences


@pytest.mark.parametrize(
    "same", [Preferences(), pickle.loads(pickle.dumps(QUALITY_ONLY)), Preferences(quality=3)]
)
def test_quality_alone_is_meant_by_value_and_at_any_weight(same):
    cell = Evidence("t", "a")
    cell.score([0.9, 0.1] * 9)
    beliefs = Beliefs({("t", "a"): cell}, ["t"], ["a", "b"])
    assert weighs_quality_only(same)
    assert beliefs.arm("t", "a", cell, same) == beliefs.arm("t", "a", cell)


@pytest.mark.parametrize("also", ["latency", "cost", "memory"])
def test_a_further_weight_counts(also):
    cell = Evidence("t", "a")
    cell.score([0.9] * 50)
    weighs = Preferences(**{also: 1})
    arm = Beliefs({("t", "a"): cell}, ["t"], ["a", "b"]).arm("t", "a", cell, weighs, Reference())
    assert not weighs_quality_only(weighs)
    assert arm.mean == pytest.approx((0.9 + 0.5) / 2)
