"""The ranking network on worlds whose best prediction is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from alure_spark.errors import DataError
from alure_spark.training.small_network import fit_small_network


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def loss(labels, probabilities):
    return -np.mean(np.log(np.where(labels == 1, probabilities, 1 - probabilities)))


def world(rows=6000, seed=0, bend=2.0):
    """(features of very different units, labels, users, true probabilities): linear in one column, bent in another."""
    random = np.random.default_rng(seed)
    z = random.normal(size=(rows, 3))
    truth = sigmoid(-2 + z[:, 0] + bend * np.abs(z[:, 1]))
    features = (z * (1000, 0.01, 1) + (5000, 0, -3)).astype(np.float32)
    return features, (random.random(rows) < truth).astype(float), np.arange(rows) // 4, truth


def test_it_comes_near_the_planted_probabilities_which_no_line_can():
    features, labels, users, _ = world()
    model = fit_small_network(features, labels, users, seed=7)
    fresh, fresh_labels, _, truth = world(seed=1)
    predicted = model.predict(fresh)
    assert predicted.shape == (6000,)
    assert predicted.dtype == np.float64
    assert loss(fresh_labels, predicted) < loss(fresh_labels, truth) + 0.02
    assert np.corrcoef(predicted, truth)[0, 1] > 0.97
    assert predicted.mean() == pytest.approx(truth.mean(), abs=0.03)


def test_a_seed_decides_everything_and_torchs_own_generator_nothing():
    features, labels, users, _ = world(rows=800)
    torch.manual_seed(1)
    once = fit_small_network(features, labels, users, seed=7).predict(features)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    again = fit_small_network(features, labels, users, seed=7).predict(features)
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(once, again)
    assert not np.array_equal(once, fit_small_network(features, labels, users, seed=8).predict(features))


def test_the_units_of_a_feature_do_not_matter_and_its_scale_does():
    features, labels, users, _ = world(rows=1600)
    given = fit_small_network(features, labels, users, seed=7).predict(features)
    # A power of two, so that rounding cannot differ.
    other = fit_small_network(features * np.float32(1024), labels, users, seed=7).predict(features * np.float32(1024))
    np.testing.assert_allclose(other, given, atol=1e-5)
    left_out = fit_small_network(features, labels, users, seed=7, scale=np.array([0.001, 0.0, 1.0]))
    changed = features.copy()
    changed[:, 1] += 9
    np.testing.assert_array_equal(left_out.predict(changed), left_out.predict(features))


def test_it_stops_before_it_learns_the_noise_by_heart():
    random = np.random.default_rng(3)
    users = np.arange(400)
    features, labels = random.normal(size=(400, 60)), (random.random(400) < 0.2).astype(float)
    predicted = fit_small_network(features, labels, users, seed=7).predict(random.normal(size=(4000, 60)))
    assert loss((random.random(4000) < 0.2).astype(float), predicted) < 0.503  # the base rate has .50
    assert predicted.std() < 0.02, "the epoch before the loss rose is kept, not the last one"


def test_users_are_held_out_whole():
    # A user's rows are alike and so are its labels: knowing half of them tells the rest, and nothing tells of another user.
    random = np.random.default_rng(4)
    users = np.repeat(np.arange(60), 20)
    features, labels = random.normal(size=(60, 40))[users], (random.random(60) < 0.3).astype(float)[users]
    fresh, fresh_labels = random.normal(size=(4000, 40)), (random.random(4000) < 0.3).astype(float)
    by_user = fit_small_network(features, labels, users, seed=7).predict(fresh)
    by_row = fit_small_network(features, labels, np.arange(len(users)), seed=7).predict(fresh)
    assert loss(fresh_labels, by_user) < 0.8 < 1.5 < loss(fresh_labels, by_row)


def test_the_model_travels_with_its_scaling():
    features, labels, users, _ = world(rows=800)
    model = fit_small_network(features, labels, users, seed=7)
    copy = type(model)(torch.zeros(3), torch.ones(3))
    copy.load_state_dict(model.state_dict())
    np.testing.assert_array_equal(copy.predict(features), model.predict(features))


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (lambda x, y, g: (np.where(x > 0.5, np.nan, x), y, g), "NaN"),
        (lambda x, y, g: (x, y, np.zeros(len(g))), "1 group"),
        (lambda x, y, g: (x, np.zeros(len(y)), g), "one class"),
        (lambda x, y, g: (x, y[:-1], g), "one length"),
    ],
)
def test_what_cannot_be_fitted_is_refused_with_a_sentence(fault, says):
    random = np.random.default_rng(0)
    x, y, groups = random.random((100, 2)), random.integers(0, 2, 100), np.arange(100)
    with pytest.raises(DataError, match=says):
        fit_small_network(*fault(x, y, groups), seed=7)
    with pytest.raises(DataError, match="fitted on"):
        fit_small_network(x, y, groups, seed=7).predict(x[:, :1])
