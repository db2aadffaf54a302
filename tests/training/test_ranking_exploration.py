"""The posterior of a trained ranking model: fitted on the training split, its length scale chosen on the validation split."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from alure_spark.batches.epochs import MemoryLoader
from alure_spark.config import ExplorationConfig, RankingConfig
from alure_spark.errors import DataError
from alure_spark.ranking.exploration import Observed, Posterior, RandomFeatures, median_distance
from alure_spark.training import ranking_exploration, ranking_model, ranking_report
from tests.ranking.planted_ranking import DRAFT, VOCABULARY, users, with_labels

CONFIG = ExplorationConfig(features=64, prior_variance=4.0)


def loader(batch, rows=64):
    return MemoryLoader(batch, rows, seed=5)


@pytest.fixture(scope="module")
def trained():
    batch = users(300)
    network = ranking_model.new_network(ranking_model.fitted_spec(DRAFT, loader(batch), VOCABULARY), loader(batch), 7)
    return ranking_model.train(network, loader(batch), RankingConfig(epochs=3, learning_rate=3e-3))


def fitted(trained, batch, config=CONFIG, rows=64):
    return ranking_exploration.fitted_posteriors(trained.network, loader(batch, rows), config)["click"]


def test_off_means_nothing(trained):
    assert ranking_exploration.fitted_posteriors(trained.network, loader(users(20)), ExplorationConfig()) == {}


def test_it_is_fitted_on_the_training_split_alone(trained):
    batch = users(300)
    shown = batch.impressions
    flipped = with_labels(batch, torch.where(shown.validation, 1 - shown.labels["click"], shown.labels["click"]))
    learnt = with_labels(batch, torch.where(shown.validation, shown.labels["click"], 1 - shown.labels["click"]))
    one, other, third = (fitted(trained, its) for its in (batch, flipped, learnt))
    assert torch.equal(other.posterior.mean, one.posterior.mean)
    assert other.loss > one.loss
    assert not torch.allclose(third.posterior.mean, one.posterior.mean)


def test_it_is_that_of_the_calibrated_logits_at_the_median_distance(trained):
    batch = ranking_model.split_of(users(300), validation=False)
    with torch.no_grad():
        logits, hidden = trained.network.with_hidden(batch)
    calibrated = trained.network.calibrated(logits.double())[:, 0]
    shown = Observed(hidden["click"], calibrated, batch.impressions.labels["click"], batch.impressions.weight)
    one = fitted(trained, users(300), replace(CONFIG, length_scales=(0.7,)))
    assert one.length_scale == pytest.approx(0.7 * median_distance(hidden["click"]), rel=0.1)
    features = RandomFeatures.drawn(8, CONFIG.features, one.length_scale, CONFIG.prior_variance, CONFIG.seed)
    expected = Posterior.before_data(features).updated(lambda: [shown])
    torch.testing.assert_close(one.posterior.mean, expected.mean, rtol=0, atol=1e-4)
    torch.testing.assert_close(one.posterior.precision, expected.precision, rtol=1e-4, atol=1e-4)


def test_what_the_network_missed_is_in_the_mean(trained):
    """Where all are clicked, the posterior's probabilities rise above the network's."""
    batch = users(300)
    clicked = with_labels(batch, torch.ones(len(batch.impressions.time_ms)))
    posterior = fitted(trained, clicked).posterior
    logits, hidden = trained.network.with_hidden(batch)
    calibrated = trained.network.calibrated(logits.double())[:, 0]
    assert float((posterior.at(hidden["click"], calibrated).mean - calibrated).mean()) > 1


def test_of_several_length_scales_that_with_the_least_validation_loss_is_taken(trained):
    batch, shares = users(300), (0.05, 0.5, 3.0)
    each = [fitted(trained, batch, replace(CONFIG, length_scales=(share,))) for share in shares]
    chosen = fitted(trained, batch, replace(CONFIG, length_scales=shares))
    best = min(each, key=lambda one: one.loss)
    assert len({one.loss for one in each}) == 3
    assert (chosen.loss, chosen.length_scale) == (best.loss, best.length_scale)
    assert each[1].length_scale == pytest.approx(10 * each[0].length_scale)


def test_its_figures_stand_in_the_report(trained):
    one = fitted(trained, users(300))
    metrics, text = ranking_report.metrics_and_text(trained, "title", {"click": one})
    assert metrics["exploration.click.length_scale"] == one.length_scale
    assert f"exploration.click.deviation {one.deviation:.4f}" in text.splitlines()
    assert 0 < one.deviation < CONFIG.prior_variance**0.5
    assert "exploration.click.loss" not in ranking_report.metrics_and_text(trained, "title")[0]


def test_a_split_without_impressions_is_one_sentence(trained):
    batch = users(20)
    with pytest.raises(DataError, match="the training split has no impression, which ranking.exploration is fitted on"):
        fitted(trained, replace(batch, impressions=batch.impressions.select(batch.impressions.validation)))
