"""The threshold by the largest gap in normalized entropy: found where it was planted, and its curve by plain loops."""

from __future__ import annotations

import numpy as np
import pytest

from alure_spark.analysis.thresholds import LEAST_SHARE, ne_gap
from alure_spark.errors import DataError
from alure_spark.metrics import normalized_entropy


def world(border=0.6, n=6000, seed=5):
    """Impressions whose labels follow their probabilities where size is above the border, and are drawn anew elsewhere."""
    random = np.random.default_rng(seed)
    users = np.repeat(np.arange(n // 10), 10)
    size = np.repeat(random.random(n // 10), 10)
    probability = random.uniform(0.05, 0.95, n)
    shuffled = random.permutation(probability)
    labels = (random.random(n) < np.where(size > border, probability, shuffled)).astype(float)
    return size, labels, probability, np.ones(n), users


def test_the_planted_border_is_found():
    found = ne_gap(*world())
    assert abs(found.epsilon - 0.6) < 0.03
    assert found.interval.low > 0.1
    assert found.interval.low < found.gap < found.interval.high
    assert abs(ne_gap(*world(0.3)).epsilon - 0.3) < 0.03


def test_the_curve_is_that_of_both_sides_by_themselves():
    size, labels, probability, weights, users = world()
    weights = np.random.default_rng(1).integers(1, 4, len(size)).astype(float)
    found = ne_gap(size, labels, probability, weights, users)
    for row in found.curve.itertuples():
        active = size > row.epsilon
        assert row.active_share == pytest.approx(weights[active].sum() / weights.sum())
        assert LEAST_SHARE <= row.active_share <= 1 - LEAST_SHARE
        for part, ne in ((active, row.ne_active), (~active, row.ne_passive)):
            assert ne == pytest.approx(normalized_entropy(labels[part], probability[part], weights[part]))
        assert row.gap == pytest.approx(row.ne_passive - row.ne_active)
    assert found.gap == found.curve["gap"].iloc[found.curve["gap"].abs().argmax()]


def test_nobody_to_tell_apart_is_an_error():
    size, labels, probability, weights, users = world()
    with pytest.raises(DataError, match="no threshold leaves"):
        ne_gap(np.zeros(len(size)), labels, probability, weights, users)
    with pytest.raises(DataError, match="no threshold leaves"):
        ne_gap(size, np.where(size > 0.05, 0.0, labels), probability, weights, users)
