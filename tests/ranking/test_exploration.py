"""The posterior of the ranking model's logit: against a dense Gaussian process, online, and as draws that can be made again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.gaussian_process import GaussianProcessClassifier
from sklearn.gaussian_process.kernels import RBF, ConstantKernel

from alure_spark.errors import DataError, TrainingError
from alure_spark.ranking import exploration
from alure_spark.ranking.exploration import Beliefs, Observed, Posterior, RandomFeatures, median_distance
from alure_spark.ranking.network import RankingNetwork
from tests.ranking.small_ranking import SPEC, batch

WIDTH, LENGTH, VARIANCE = 2, 1.0, 1.5


def observed(count=500, seed=0, width=WIDTH):
    """Responses that depend on hidden vectors in a way that no line says."""
    random = np.random.default_rng(seed)
    hidden = random.normal(size=(count, width))
    clicked = random.random(count) < 1 / (1 + np.exp(-(2 * np.sin(2 * hidden[:, 0]) + hidden[:, 1])))
    given = (hidden, np.zeros(count), clicked, np.ones(count))
    return Observed(*(torch.from_numpy(one.astype(np.float64)) for one in given))


def posterior(one, features=512, seed=0, **changed):
    settings = {"width": one.hidden.shape[1], "length": LENGTH, "variance": VARIANCE} | changed
    drawn = RandomFeatures.drawn(settings["width"], features, settings["length"], settings["variance"], seed)
    return Posterior.before_data(drawn).updated(lambda: [one])


def places(count=200, seed=1, width=WIDTH):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(count, width)) * 1.2)


def root_mean_square(values):
    return float(np.sqrt(np.mean(np.square(np.asarray(values)))))


@pytest.fixture(scope="module")
def dense():
    """(mean, variance) of the latent function of scikit-learn's dense Gaussian process, which no random feature is in."""
    one = observed()
    exact = GaussianProcessClassifier(ConstantKernel(VARIANCE) * RBF(LENGTH), optimizer=None, max_iter_predict=1000)
    return exact.fit(one.hidden.numpy(), one.labels.numpy()).latent_mean_and_variance(places().numpy())


def test_the_posterior_is_the_dense_one_the_nearer_the_more_features(dense):
    """500 points; over 200 others the root mean square error of 3 draws, with 128, 512 and 2,048 features."""
    errors = []
    for features in (128, 512, 2048):
        beliefs = [posterior(observed(), features, seed).at(places(), torch.zeros(200)) for seed in range(3)]
        found = [(one.mean.numpy(), one.variance.numpy()) for one in beliefs]
        errors.append([np.mean([root_mean_square(ours[part] - dense[part]) for ours in found]) for part in (0, 1)])
    mean, variance = np.array(errors).T
    assert 0.05 < dense[1].min() < dense[1].max() < VARIANCE  # what is to be met: deviations from .2 to 1.2
    assert mean[2] < 0.06
    assert variance[2] < 0.008
    assert np.all(mean[1:] < 0.75 * mean[:-1])
    assert np.all(variance[1:] < 0.75 * variance[:-1])


def test_the_models_logit_is_the_mean_before_data():
    """Against a dense Newton iteration (Rasmussen, Williams: algorithm 3.1, with a mean) on the kernel of the features themselves."""
    one = replace(observed(150), logits=torch.from_numpy(np.random.default_rng(5).normal(size=150) - 1))
    one = replace(one, weights=torch.from_numpy(np.random.default_rng(6).uniform(0.5, 2, 150)))
    ours, there, logits = posterior(one, 64), places(30), torch.linspace(-2, 2, 30)
    phi, star = (ours.features(hidden).numpy() for hidden in (one.hidden, there))
    kernel, labels, weights, prior = phi @ phi.T, one.labels.numpy(), one.weights.numpy(), one.logits.numpy()
    away = np.zeros(150)  # of f from its mean before data
    for _ in range(100):
        p = 1 / (1 + np.exp(-(prior + away)))
        curvature = np.diag(weights * p * (1 - p))
        away = kernel @ np.linalg.solve(np.eye(150) + curvature @ kernel, curvature @ away + weights * (labels - p))
    p = 1 / (1 + np.exp(-(prior + away)))
    curvature = np.diag(weights * p * (1 - p))
    mean = logits.numpy() + star @ phi.T @ (weights * (labels - p))
    inner = np.linalg.solve(np.eye(150) + curvature @ kernel, curvature)
    variance = np.einsum("ij,ij->i", star, star) - np.einsum("ij,jk,ik->i", star @ phi.T, inner, star @ phi.T)
    beliefs = ours.at(there, logits)
    np.testing.assert_allclose(beliefs.mean, mean, atol=1e-3)
    np.testing.assert_allclose(beliefs.variance, variance, atol=1e-3)


def test_what_is_far_from_all_data_is_as_uncertain_as_before():
    one, drawn = observed(), RandomFeatures.drawn(WIDTH, 2048, LENGTH, VARIANCE, 3)
    far, before = torch.full((1, WIDTH), 30.0), Posterior.before_data(drawn)
    assert float(before.at(far, torch.zeros(1)).variance) == pytest.approx(VARIANCE)
    after = before.updated(lambda: [one])
    assert float(after.at(far, torch.zeros(1)).variance) > 0.8 * VARIANCE
    assert float(after.at(one.hidden[:1], torch.zeros(1)).variance) < 0.2 * VARIANCE


def test_an_ad_that_is_seen_more_is_less_uncertain_and_a_far_one_is_not():
    seen, far = torch.tensor([[0.5, 0.5]]), torch.tensor([[9.0, -9.0]])
    now = posterior(observed(100), 256)
    variances = []
    for day in range(5):
        new = Observed(seen.repeat(20, 1), torch.zeros(20), torch.arange(20) % 2, torch.ones(20))
        variances.append([float(now.at(one, torch.zeros(1)).variance) for one in (seen, far)])
        now = now.updated(lambda new=new: [new])
        assert day == 0 or variances[day][0] < 0.9 * variances[day - 1][0]
    assert variances[-1][1] > 0.8 * variances[0][1]
    assert float(now.at(seen, torch.zeros(1)).mean.sigmoid()) == pytest.approx(0.5, abs=0.05)


def test_days_one_after_the_other_come_to_what_all_at_once_says():
    one = observed(600)
    whole = posterior(one, 256).at(places(), torch.zeros(200))
    days = Posterior.before_data(RandomFeatures.drawn(WIDTH, 256, LENGTH, VARIANCE, 0))
    for begin in range(0, 600, 100):
        part = Observed(*(value[begin : begin + 100] for value in (one.hidden, one.logits, one.labels, one.weights)))
        days = days.updated(lambda part=part: [part])
    online = days.at(places(), torch.zeros(200))
    assert root_mean_square(online.mean - whole.mean) < 0.06 * root_mean_square(whole.mean)
    assert root_mean_square(online.variance.sqrt() / whole.variance.sqrt() - 1) < 0.06


def test_in_what_batches_impressions_come_changes_nothing():
    one = observed(200)
    parts = [
        Observed(*(value[begin : begin + 30] for value in (one.hidden, one.logits, one.labels, one.weights))) for begin in range(0, 200, 30)
    ]
    drawn = Posterior.before_data(RandomFeatures.drawn(WIDTH, 64, LENGTH, VARIANCE, 0))
    whole, batches = drawn.updated(lambda: [one]), drawn.updated(lambda: parts)
    torch.testing.assert_close(batches.mean, whole.mean)
    torch.testing.assert_close(batches.precision, whole.precision)


def test_a_weight_of_two_is_two_impressions():
    one = observed(200)
    twice = Observed(*(torch.cat([value, value]) for value in (one.hidden, one.logits, one.labels, one.weights)))
    drawn = Posterior.before_data(RandomFeatures.drawn(WIDTH, 64, LENGTH, VARIANCE, 0))
    heavy, double = (drawn.updated(lambda given=given: [given]) for given in (replace(one, weights=one.weights * 2), twice))
    torch.testing.assert_close(heavy.mean, double.mean)
    torch.testing.assert_close(heavy.precision, double.precision)


def test_thompson_draws_are_the_posterior():
    """10,000 requests for the same three impressions: the draws of each by a KS test (three at .01 together), and how two move together."""
    there = torch.tensor([[1.5, 1.5], [1.6, 1.4], [-2.0, 1.0]])  # the first two are near each other
    beliefs = posterior(observed(), 256).at(there, torch.tensor([0.0, 1.0, -1.0]))
    several = Beliefs(beliefs.mean.repeat(10_000), beliefs.roots.repeat(10_000, 1))
    draws = several.drawn([f"user{number // 3}" for number in range(30_000)], seed=7).view(10_000, 3).numpy()
    for place in range(3):
        expected = stats.norm(float(beliefs.mean[place]), float(beliefs.variance[place].sqrt()))
        assert stats.kstest(draws[:, place], expected.cdf).pvalue > 0.01 / 3
    covariance = (beliefs.roots @ beliefs.roots.T).numpy()
    assert covariance[0, 1] > 0.1
    np.testing.assert_allclose(np.cov(draws.T), covariance, atol=0.03)


def test_a_draw_depends_on_request_and_seed_alone():
    beliefs = posterior(observed(), 64).at(places(30), torch.zeros(30))
    requests = [f"user{number % 7}" for number in range(30)]
    draws = beliefs.drawn(requests, seed=3)
    torch.testing.assert_close(beliefs.drawn(requests, seed=3), draws, rtol=0, atol=0)
    assert not torch.isclose(beliefs.drawn(requests, seed=4), draws).any()
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    permuted = Beliefs(beliefs.mean[order], beliefs.roots[order])
    torch.testing.assert_close(permuted.drawn([requests[place] for place in order], seed=3), draws[order])
    for place in range(30):
        alone = Beliefs(beliefs.mean[place : place + 1], beliefs.roots[place : place + 1])
        torch.testing.assert_close(alone.drawn(requests[place : place + 1], seed=3), draws[place : place + 1])


def test_it_is_saved_and_brought_back():
    one = observed()
    before = posterior(one, 64)
    after = Posterior.of_state(before.state())
    torch.testing.assert_close(after.at(places(), torch.zeros(200)).mean, before.at(places(), torch.zeros(200)).mean, rtol=0, atol=0)
    torch.testing.assert_close(after.at(places(), torch.zeros(200)).roots, before.at(places(), torch.zeros(200)).roots, rtol=0, atol=0)
    with pytest.raises(KeyError, match="precision"):
        Posterior.of_state({name: value for name, value in before.state().items() if name != "precision"})


def test_what_cannot_be_fitted_is_one_sentence(monkeypatch):
    one = observed()
    with pytest.raises(DataError, match=r"of ranking.exploration is not finite"):
        posterior(replace(one, logits=one.logits + torch.nan))
    with pytest.raises(DataError, match="hidden vectors have 5 numbers, but the posterior was fitted on 2"):
        posterior(one).at(torch.zeros(3, 5), torch.zeros(3))
    monkeypatch.setattr(exploration, "PASSES", 2)
    with pytest.raises(TrainingError, match="did not converge in 2 passes"):
        posterior(one)


def test_a_step_that_went_too_far_is_taken_back():
    """From logits of 8 that are all wrong, Newton's first step is far beyond the bottom; at the end no direction is lower."""
    one = observed(200)
    wrong = replace(one, logits=torch.where(one.labels == 1, -8.0, 8.0).double())
    ours = posterior(wrong, 64, variance=100.0)
    phi = ours.features(wrong.hidden)
    gradient = ours.mean + phi.T @ (torch.sigmoid(wrong.logits + phi @ ours.mean) - wrong.labels)
    assert gradient.abs().max() < 0.01


def test_the_median_distance_is_between_what_differs():
    assert median_distance(torch.tensor([[0.0], [0.0], [1.0], [3.0]])) == pytest.approx(2.0)
    assert median_distance(torch.zeros(4, 2)) == 1.0


def test_a_network_gives_what_the_last_layer_of_each_tower_reads():
    torch.manual_seed(0)
    network, shown = RankingNetwork(SPEC).eval(), batch(12)
    logits, hidden = network.with_hidden(shown)
    torch.testing.assert_close(logits, network(shown))
    assert set(hidden) == set(SPEC.tasks)
    for column, task in enumerate(SPEC.tasks):
        torch.testing.assert_close(network.towers[task][-1](hidden[task])[:, 0], logits[:, column])
        assert not network.towers[task][-1]._forward_pre_hooks
