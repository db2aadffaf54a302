"""Tasks whose label is a number: the likelihood and the ordered pairs against plain loops, finite differences and numerical integrals."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from alure_spark.ranking.losses import LOSSES, OrderedValues, ZeroInflatedLognormal, value_loss
from alure_spark.ranking.values import LARGEST_DEVIATION, SMALLEST_DEVIATION, deviation, expected, log_expected, raw_of

ALPHA = 0.6


def rows(count=15, seed=0):
    """Outputs, values of which a third is 0 and some are equal, weights of which one is 0; float64."""
    random = np.random.default_rng(seed)
    values = np.where(random.random(count) < 0.4, 0.0, np.round(random.lognormal(1, 1, count), 1))
    values[:4] = [0.0, 2.5, 2.5, 7.0]
    weights = random.uniform(0.2, 3, count)
    weights[5] = 0
    return tuple(torch.from_numpy(its) for its in (random.normal(0, 1.5, (count, 3)), values, weights))


def softplus(x):
    return math.log1p(math.exp(x))


def sigma_of(raw):
    return min(SMALLEST_DEVIATION + softplus(raw), LARGEST_DEVIATION)


def naive_likelihood(outputs, values, weights):
    """Equations 4 and 5 of Wang, Liu and Miao, impression by impression."""
    total = 0.0
    for (logit, mu, raw), value, weight in zip(outputs, values, weights, strict=True):
        p, sigma = 1 / (1 + math.exp(-logit)), sigma_of(raw)
        if value > 0:
            log_loss = math.log(value * sigma * math.sqrt(2 * math.pi)) + (math.log(value) - mu) ** 2 / (2 * sigma**2)
            total += weight * (-math.log(p) + log_loss)
        else:
            total += weight * -math.log(1 - p)
    return total / sum(weights)


def naive_pairs(outputs, values, weights):
    scores = [math.log(1 / (1 + math.exp(-logit))) + mu + sigma_of(raw) ** 2 / 2 for logit, mu, raw in outputs]
    total = whole = 0.0
    for i in range(len(values)):
        for j in range(len(values)):
            if values[i] > values[j]:
                total += weights[i] * weights[j] * math.log1p(math.exp(scores[j] - scores[i]))
                whole += weights[i] * weights[j]
    return total / whole


def by_loops(kind, outputs, values, weights):
    likelihood = naive_likelihood(outputs, values, weights)
    return likelihood if kind == "bce" else ALPHA * likelihood + (1 - ALPHA) * naive_pairs(outputs, values, weights)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["bce", "pairwise"])
def test_a_loss_and_its_gradient_are_those_of_plain_loops(kind, seed):
    outputs, values, weights = rows(seed=seed)
    outputs.requires_grad_(True)
    found = value_loss(kind, ALPHA, 10_000)(outputs, values, weights)
    given = outputs.detach().tolist(), values.tolist(), weights.tolist()
    assert found.item() == pytest.approx(by_loops(kind, *given), abs=1e-12)
    (gradient,) = torch.autograd.grad(found, outputs)
    for row in range(len(values)):
        for column in range(3):
            ends = []
            for step in (1e-5, -1e-5):
                moved = [list(one) for one in given[0]]
                moved[row][column] += step
                ends.append(by_loops(kind, moved, *given[1:]))
            assert gradient[row, column].item() == pytest.approx((ends[0] - ends[1]) / 2e-5, abs=1e-8)


@pytest.mark.parametrize("kind", ["bce", "pairwise"])
def test_values_of_any_size_and_outputs_of_any_size_have_a_finite_loss_gradient_and_expected_value(kind):
    sizes = torch.tensor([0.0, 30.0, -30.0, 1e4, -1e4])
    outputs = torch.cartesian_prod(sizes, sizes, sizes).requires_grad_(True)
    for values in ([0.0], [1e6], [1e25], [1e-30], [0.0, 1e6]):
        labels = torch.tensor(values * len(outputs))[: len(outputs)]
        found = value_loss(kind, ALPHA, 10_000)(outputs, labels, torch.ones(len(outputs)))
        assert found.isfinite()
        assert torch.autograd.grad(found, outputs)[0].isfinite().all()
    found = expected(outputs.detach(), torch.inf)
    assert found.isfinite().all()
    assert (found >= 0).all()
    assert expected(outputs.detach(), 250.0).max() == 250


@pytest.mark.parametrize(("logit", "mu", "sigma"), [(-3.0, 1.0, 0.5), (0.5, -2.0, 1.2), (2.0, 3.0, 0.2)])
def test_the_expected_value_is_the_integral_of_the_likelihood(logit, mu, sigma):
    outputs = torch.tensor([[logit, mu, raw_of(sigma)]], dtype=torch.float64)
    assert deviation(outputs[:, 2]).item() == pytest.approx(sigma)
    loss = ZeroInflatedLognormal()

    def density(log):
        value = torch.tensor([math.exp(log)], dtype=torch.float64)
        return math.exp(-loss(outputs, value, torch.ones(1)).item()) * value.item()  # per unit of the log

    inside = (mu - 9 * sigma, mu + 9 * sigma)
    p = integrate.quad(density, *inside)[0]
    assert p == pytest.approx(1 / (1 + math.exp(-logit)), rel=1e-6)
    mean = integrate.quad(lambda log: math.exp(log) * density(log), *inside)[0]
    assert expected(outputs, torch.inf).item() == pytest.approx(mean, rel=1e-6)
    assert expected(outputs, torch.inf).item() == pytest.approx(p * stats.lognorm(sigma, scale=math.exp(mu)).mean(), rel=1e-6)
    assert log_expected(outputs).exp().item() == pytest.approx(mean, rel=1e-6)


@pytest.mark.parametrize("kind", ["bce", "pairwise"])
def test_a_weight_of_two_is_the_impression_twice_and_the_order_of_rows_does_not_matter(kind):
    outputs, values, _ = rows()
    loss = value_loss(kind, ALPHA, 10_000)
    times = torch.from_numpy(np.random.default_rng(3).integers(0, 4, len(values)))
    again = torch.repeat_interleave(torch.arange(len(values)), times)
    once = loss(outputs, values, times.double())
    torch.testing.assert_close(loss(outputs[again], values[again], torch.ones(len(again), dtype=torch.float64)), once)
    order = torch.randperm(len(values), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(loss(outputs[order], values[order], times.double()[order]), once)


def test_the_unit_of_values_changes_no_pair():
    outputs, values, weights = rows()
    cents = outputs + torch.tensor([0.0, math.log(100), 0.0])
    alone = OrderedValues(0.0, 10_000)
    torch.testing.assert_close(alone(cents, 100 * values, weights), alone(outputs, values, weights))


def test_a_batch_of_equal_values_has_no_pair_and_a_ghost_makes_none():
    outputs, values, weights = rows()
    plain = ALPHA * ZeroInflatedLognormal()(outputs, torch.full_like(values, 2.0), weights)
    assert OrderedValues(ALPHA, 10_000)(outputs, torch.full_like(values, 2.0), weights) == plain
    ghost = torch.full_like(values, 2.0)
    ghost[5] = 9.0  # its weight is 0
    assert OrderedValues(ALPHA, 10_000)(outputs, ghost, weights) == ALPHA * ZeroInflatedLognormal()(outputs, ghost, weights)
    assert OrderedValues(ALPHA, 10_000)(outputs[:1], values[:1], weights[:1]).isfinite()


def test_drawn_pairs_are_right_on_average_and_never_of_equal_values():
    outputs, values, weights = rows(count=60, seed=4)
    exact = OrderedValues(0.0, 10_000)(outputs, values, weights)
    torch.manual_seed(0)
    found = torch.stack([OrderedValues(0.0, 500)(outputs, values, weights) for _ in range(200)])
    error = float(found.std() / 200**0.5)
    assert 0 < error < 0.02
    assert float((found.mean() - exact).abs()) < 4 * error
    # Scores that order all values rightly by far: a pair the wrong way round, or of equal values, would cost log 2 or more.
    sure = torch.stack([torch.zeros(60), 100 * values, torch.zeros(60)], dim=1)
    assert OrderedValues(0.0, 500)(sure, values, weights) < 1e-3


def test_one_value_among_many_zeros_costs_as_many_pairs_as_zeros():
    values = torch.zeros(100_000)
    values[7] = 3.0
    outputs = torch.zeros(100_000, 3)
    found = OrderedValues(0.0, 200_000)(outputs, values, torch.ones(100_000))  # all pairs of impressions would be 40 GB
    assert found.item() == pytest.approx(math.log(2), rel=1e-4)


def test_every_kind_of_loss_has_one_for_values():
    for kind in LOSSES:
        made = value_loss(kind, ALPHA, 77)
        assert isinstance(made, OrderedValues) == (kind != "bce")
        if kind != "bce":
            assert (made.alpha, made.pairs) == (ALPHA, 77)
