"""Quantiles keep their stated error, forget at a stated rate and stay bounded."""

import numpy as np
import pytest

from hotswap_ray.core.evidence.sketch import Sketch


@pytest.mark.parametrize("sigma", [0.2, 1.0, 2.5])
@pytest.mark.parametrize("accuracy", [0.01, 0.02, 0.05])
def test_quantiles_are_within_the_stated_relative_error(sigma, accuracy):
    values = np.random.default_rng(1).lognormal(4, sigma, 20_000)
    sketch = Sketch(accuracy, max_bins=2000)
    sketch.extend(values.tolist())
    for q in (0.01, 0.5, 0.9, 0.99, 1.0):
        true = float(np.quantile(values, q, method="lower"))
        assert abs(sketch.quantile(q) - true) <= accuracy * true * 1.0001
    assert sketch.mean == pytest.approx(values.mean())


def test_a_full_sketch_keeps_the_high_quantiles_exact_and_its_bound():
    values = [10.0**power for power in range(-2, 9)] * 100
    sketch = Sketch(0.02, max_bins=320)
    sketch.extend(values)
    assert len(sketch._bins) <= 320
    assert sketch.quantile(0.99) == pytest.approx(1e8, rel=0.02)
    assert sketch.weight == pytest.approx(len(values))


def test_zeros_and_nothing_are_told_apart():
    sketch = Sketch()
    assert sketch.quantile(0.5) is None
    assert sketch.mean is None
    sketch.extend([0.0, 0.0, 0.0, 8.0])
    assert sketch.quantile(0.5) == 0.0
    assert sketch.quantile(1.0) == pytest.approx(8, rel=0.02)


@pytest.mark.parametrize("chunk", [1, 5, 6, 7, 300])
def test_a_sketch_is_the_same_whatever_batches_it_was_fed_in(chunk):
    values = np.random.default_rng(2).lognormal(4, 1, 600).tolist()
    whole, parts = Sketch(decay=0.99), Sketch(decay=0.99)
    whole.extend(values)
    for start in range(0, len(values), chunk):
        parts.extend(values[start : start + chunk])
    assert parts._first == whole._first
    assert parts._bins == pytest.approx(whole._bins, rel=1e-9, abs=1e-12)
    assert parts.weight == pytest.approx(whole.weight)


def test_merged_sketches_are_the_sketch_of_all_values():
    values = np.random.default_rng(3).lognormal(4, 2, 2000).tolist()
    whole, left, right = Sketch(), Sketch(), Sketch()
    whole.extend(values)
    left.extend(values[:700])
    right.extend(values[700:])
    left.merge(right)
    left.merge(Sketch())
    assert left._bins == pytest.approx(whole._bins)
    with pytest.raises(ValueError, match="accuracy"):
        left.merge(Sketch(0.05))


def test_old_values_have_half_their_weight_after_the_half_life():
    sketch = Sketch(decay=0.5 ** (1 / 100))
    sketch.extend([10.0] * 1000)
    before = sketch.weight
    sketch.extend([1000.0] * 100)
    new = sum(0.5 ** (n / 100) for n in range(100))
    assert sketch.weight == pytest.approx(before / 2 + new)
    assert sketch.quantile(0.9) == pytest.approx(1000, rel=0.02)
