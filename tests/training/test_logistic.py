from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit

from alure_spark.metrics import normalized_entropy
from alure_spark.training import logistic
from alure_spark.training.logistic import fit_logistic


def rows(count, informative, seed=7):
    draw = np.random.default_rng(seed)
    x = draw.standard_normal((count, 30))
    slope = np.zeros(30)
    slope[:3] = informative
    return x, (draw.random(count) < expit(x @ slope - 1)).astype(float), draw.integers(0, count // 3, count)


def test_it_finds_planted_coefficients_and_invents_none():
    x, y, users = rows(4000, 1.0)
    found, bias = fit_logistic(x, y, np.ones(len(x)), users)
    assert found[:3] == pytest.approx([1, 1, 1], abs=0.2)
    assert np.abs(found[3:]).max() < 0.2
    assert bias == pytest.approx(-1, abs=0.2)
    x, y, users = rows(300, 0.0)
    noise, _ = fit_logistic(x, y, np.ones(len(x)), users)
    test_x, test_y, _ = rows(5000, 0.0, seed=8)
    assert normalized_entropy(test_y, expit(test_x @ noise + bias)) < 1.05, "the ridge holds it near nothing"


def test_a_weight_counts_as_so_many_rows(monkeypatch):
    monkeypatch.setattr(logistic, "STRENGTHS", (0.1,))
    x, y, users = rows(600, 1.0)
    weights = np.where(y > 0, 1.0, 3.0)
    many = np.repeat(np.arange(len(x)), weights.astype(int))
    a, bias = fit_logistic(x, y, weights, users)
    b, other = fit_logistic(x[many], y[many], np.ones(len(many)), users[many])
    assert a == pytest.approx(b, abs=1e-3)
    assert bias == pytest.approx(other, abs=1e-3)


def test_with_few_labels_it_is_the_base_rate():
    x, y, users = rows(200, 1.0)
    y[:] = 0
    y[:9] = 1
    found, bias = fit_logistic(x, y, np.ones(len(x)), users)
    assert not found.any()
    assert expit(bias) == pytest.approx(10 / 202)
