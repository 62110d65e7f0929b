"""What a request costs is one number, whoever asks."""

import numpy as np
import pytest

from hotswap_ray.core.evidence.learnings import Learnings
from hotswap_ray.core.evidence.prediction import Known
from hotswap_ray.core.spec.price import Price
from hotswap_ray.core.spec.task import ModelSpec

SPEC = ModelSpec(
    id="m", engine="simulated", usd_per_million_tokens_in=2, usd_per_million_tokens_out=10
)


def test_one_request_costs_the_same_alone_among_many_predicted_and_learned():
    learned = Learnings(500)
    learned.prices["m"] = SPEC.price
    tokens_in, tokens_out = np.array([1000.0, 7.0]), np.array([200.0, 3.0])
    assert SPEC.price.cost_usd(1000, 200) == pytest.approx(0.004)
    costs = SPEC.price.cost_usd(tokens_in, tokens_out)
    assert learned.costs_usd("m", tokens_in, tokens_out).tolist() == costs.tolist()
    for n in range(2):
        request = float(tokens_in[n]), float(tokens_out[n])
        assert SPEC.price.cost_usd(*request) == costs[n]
        assert Known(price=SPEC.price).cost_usd(*request) == costs[n]
        assert learned.cost_usd("m", *request) == costs[n]


def test_a_model_without_a_price_has_no_known_cost():
    assert not Price().is_stated
    assert Price(0, 1).is_stated
    assert Known().cost_usd(1000, 200) is None
    assert Learnings(500).cost_usd("m", 1000, 200) is None
    assert np.isnan(Learnings(500).costs_usd("m", np.ones(2), np.ones(2))).all()
