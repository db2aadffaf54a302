"""Training of value tasks: a planted law is recovered, the mean is honest by deciles, and labels that cannot be are named."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from alure_spark.batches.epochs import MemoryLoader
from alure_spark.config import Config, LossConfig, RankingConfig, build
from alure_spark.errors import DataError
from alure_spark.ranking.artifact import RankingArtifact
from alure_spark.ranking.values import deviation
from alure_spark.training import ranking_challenger, ranking_exploration, ranking_model, ranking_report
from alure_spark.value_metrics import normalized_gini
from tests.ranking.planted_ranking import DRAFT, VOCABULARY
from tests.ranking.planted_values import MU, VALUED, P, spending

CONFIG = RankingConfig(epochs=14, patience=14, learning_rate=5e-3, batch_users=64)


def loader(batch, rows=64):
    return MemoryLoader(batch, rows, seed=5)


def trained(batch, config=CONFIG, draft=VALUED, **more):
    spec = ranking_model.fitted_spec(draft, loader(batch), VOCABULARY)
    return ranking_model.train(ranking_model.new_network(spec, loader(batch), config.seed), loader(batch), config, **more)


def spread_of(values):
    """Deviation of the logs of those above 0."""
    return float(values[values > 0].double().log().std(unbiased=False))


def replace_last_bias(network, raw):
    """The network with another third output of spent."""
    other = copy.deepcopy(network)
    other.towers["spent"][-1].bias[2] = raw
    return other


def with_spent(batch, spent):
    labels = dict(batch.impressions.labels) | {"spent": spent}
    return replace(batch, impressions=replace(batch.impressions, labels=labels))


@pytest.fixture(scope="module")
def result():
    return trained(spending()[0])


@pytest.mark.parametrize("kind", ["bce", "pairwise"])
def test_the_planted_probability_size_and_spread_are_recovered(kind, result):
    done = result if kind == "bce" else trained(spending()[0], replace(CONFIG, loss=LossConfig("pairwise")))
    batch, truth = spending(seed=9)
    with torch.no_grad():
        outputs = done.network(batch)
    found = done.network.predictions(outputs)[:, 1].numpy()
    assert np.corrcoef(np.log(found), np.log(truth))[0, 1] > 0.95
    assert np.abs(np.log(found / truth)).mean() < 0.35
    assert 0.85 < found.mean() / truth.mean() < 1.15
    if kind == "bce":  # pairs bend each of the three, not their order
        ad = batch.impressions.rows["ad"].numpy()
        logit, mu, raw = outputs[:, done.network.outputs["spent"]].unbind(1)
        assert np.abs(torch.sigmoid(logit).numpy() - P[ad]).mean() < 0.05
        assert np.abs(mu.numpy() - MU[ad]).mean() < 0.2
        assert 0.5 < float((0.1 + torch.nn.functional.softplus(raw)).mean()) < 0.75
    metrics = done.metrics()
    assert 0.97 < metrics["spent.calibration"] < 1.03, "but for the factor's prior"
    assert metrics["spent.rmse"] < 1
    assert metrics["spent.decile_error"] < 0.3
    assert metrics["spent.gini"] > 0.3
    assert metrics["click.auc"] > 0.75
    assert 0.98 < metrics["click.calibration"] < 1.02


def test_where_spending_is_at_random_the_expected_value_is_its_mean():
    batch, _ = spending()
    spent = batch.impressions.labels["spent"]
    order = torch.from_numpy(np.random.default_rng(3).permutation(len(spent)))
    metrics = trained(with_spent(batch, spent[order])).metrics()
    assert -0.16 < metrics["spent.gini"] < 0.16
    assert 0.98 < metrics["spent.rmse"] < 1.03


def test_validation_is_by_the_likelihood_whatever_is_trained_and_the_best_epoch_is_of_all_tasks():
    batch, _ = spending(200)
    done = trained(batch, replace(CONFIG, epochs=3, loss=LossConfig("pairwise")))
    found = ranking_model.evaluate(done.network, loader(batch))
    last = done.curves[done.best_epoch]
    assert last["validation.spent"] == pytest.approx(found.losses["spent"])
    assert last["validation.total"] == pytest.approx(found.losses["spent"] + found.losses["click"])
    assert list(found.losses) == ["click", "spent"]
    alone = replace(VALUED, tasks=("spent",))  # no click, whose loss the tables would feel
    plain, paired = (trained(batch, replace(CONFIG, epochs=1, loss=LossConfig(kind)), alone) for kind in ("bce", "pairwise"))
    assert plain.curves[0]["train.spent"] != paired.curves[0]["train.spent"], "it is another loss"
    again = trained(batch, replace(CONFIG, epochs=3, loss=LossConfig("pairwise")))
    assert again.curves == done.curves


def test_the_calibration_multiplies_expected_values_alone(result):
    network, its = result.network, result.validation.values["spent"]
    place = network.spec.tasks.index("spent")
    assert network.calibration[place].tolist() == pytest.approx([its.factor(), 0.0])
    batch, _ = spending(50, seed=2)
    outputs = network(batch).detach()
    before, after = (network.expected(outputs, "spent", calibrated) for calibrated in (False, True))
    torch.testing.assert_close(after, before * its.factor())
    assert its.metrics(1.0)["gini"] == its.metrics(its.factor())["gini"]


def test_no_expected_value_is_above_the_largest_of_the_training_split(result):
    batch, _ = spending()
    shown = batch.impressions
    largest = float(shown.labels["spent"][~shown.validation].max())
    assert result.network.largest.tolist() == pytest.approx([largest])
    assert result.network.most[:3].min() > 1e38, "what is no deviation has no bound"
    assert deviation(result.network.most[3]).item() == pytest.approx(1.5 * spread_of(shown.labels["spent"][~shown.validation]), rel=1e-4)
    with torch.no_grad():
        outputs = replace_last_bias(result.network, 50.0)(batch)
    assert (outputs[:, 3] == result.network.most[3]).all(), "a deviation that runs away"
    wild = torch.tensor([[0.0, 9.0, 90.0, 5.0]])
    assert result.network.expected(wild, "spent", calibrated=False).item() == pytest.approx(largest)


def test_a_network_begins_at_the_share_mean_and_deviation_of_the_training_split():
    batch, _ = spending()
    shown = batch.impressions
    weight = torch.from_numpy(np.random.default_rng(1).uniform(0.5, 2, len(shown.weight)).astype(np.float32))
    batch = replace(batch, impressions=replace(shown, weight=weight))
    network = ranking_model.new_network(ranking_model.fitted_spec(VALUED, loader(batch), VOCABULARY), loader(batch), 1)
    spent, weight = shown.labels["spent"][~shown.validation].double().numpy(), weight[~shown.validation].double().numpy()
    above = spent > 0
    logs, weights = np.log(spent[above]), weight[above]
    mean = np.average(logs, weights=weights)
    with torch.no_grad():
        network.towers["spent"][-1].weight.zero_()
        logit, mu, raw = network(batch)[0, 1:]
    assert torch.sigmoid(logit).item() == pytest.approx(weights.sum() / weight.sum(), rel=1e-5)
    assert mu.item() == pytest.approx(mean, rel=1e-5)
    assert 0.1 + torch.nn.functional.softplus(raw).item() == pytest.approx(np.average((logs - mean) ** 2, weights=weights) ** 0.5, rel=1e-4)


@pytest.mark.parametrize("bad", [-3.5, float("nan"), float("inf")])
@pytest.mark.parametrize("split", ["training", "validation"])
def test_a_label_that_is_no_value_is_named(bad, split):
    batch, _ = spending(50)
    shown = batch.impressions
    spent = shown.labels["spent"].clone()
    spent[torch.nonzero(shown.validation == (split == "validation"))[3]] = bad
    says = f"the value task 'spent' has a label of {bad:g} in the {split} split; allowed: finite numbers of at least 0"
    with pytest.raises(DataError, match=says):
        trained(with_spent(batch, spent))


def test_a_task_of_zeros_is_named_and_one_without_zeros_is_learnt():
    batch, _ = spending(100)
    zeros = torch.zeros_like(batch.impressions.labels["spent"])
    with pytest.raises(DataError, match="the value task 'spent' has no label above 0 in the training split: leave it out"):
        trained(with_spent(batch, zeros))
    every = trained(with_spent(batch, zeros + 2.5), replace(CONFIG, epochs=2))
    found = every.network.predictions(every.network(batch))[:, 1]
    torch.testing.assert_close(found, torch.full_like(found, 2.5), rtol=0.1, atol=0)
    assert every.metrics()["spent.gini"] is None, "no order is better than another"


def test_a_validation_split_of_zeros_leaves_the_expected_values_as_they_are():
    batch, _ = spending(100)
    shown = batch.impressions
    done = trained(with_spent(batch, torch.where(shown.validation, 0, shown.labels["spent"])), replace(CONFIG, epochs=2))
    assert done.factor("spent") == 1
    assert done.metrics()["spent.gini"] is None


def test_the_report_has_a_picture_and_lines_of_the_deciles(result):
    drawn = ranking_report.figures(result)
    axes = drawn["train_ranking/deciles_spent.png"].axes[0]
    lines = {line.get_label(): line.get_ydata() for line in axes.lines}
    table = result.validation.values["spent"].deciles(result.factor("spent"))
    np.testing.assert_allclose(lines["predicted"], table.predicted)
    np.testing.assert_allclose(lines["observed"], table.observed)
    assert "train_ranking/calibration.png" in drawn
    metrics, text = ranking_report.metrics_and_text(result, "title")
    assert "spent by predicted value, validation split:" in text
    assert f"{table.observed[0]:8.4g}" in text
    assert metrics["spent.gini"] == normalized_gini(result.validation.values["spent"].labels, result.validation.values["spent"].expected)


def test_how_unsure_the_model_is_is_said_of_binary_tasks_alone(result):
    config = replace(RankingConfig().exploration, features=32)
    found = ranking_exploration.fitted_posteriors(result.network, loader(spending()[0]), config)
    assert list(found) == ["click"]
    posteriors = {task: one.posterior for task, one in found.items()}
    artifact = RankingArtifact.of(result.network, VOCABULARY, {}, posteriors)
    assert list(artifact.posteriors()) == ["click"]


class Packed:
    """Rows that are there already."""

    def __init__(self, its):
        self.its = its

    def decoding(self, spec, vocabulary):
        return self.its


def test_a_champion_is_compared_by_all_losses_and_one_of_another_kind_of_task_gives_way(result):
    config = build(Config, {"streams": {"purchase": {}}, "time": {"as_of": "2025-06-01T00:00:00Z"}})
    batch, _ = spending()
    champion = RankingArtifact.of(result.network, VOCABULARY, {"as_of_ms": config.time.as_of_ms})
    verdict = ranking_challenger.decide(champion, result, Packed(loader(batch)), config)
    total = result.validation.losses["click"] + result.validation.losses["spent"]
    assert verdict.passed
    assert f"validation loss {total:.4f}, {champion.model_id} has {total:.4f}" in verdict.reason
    binary = with_spent(batch, (batch.impressions.labels["spent"] > 0).float())
    other = trained(binary, replace(CONFIG, epochs=1), replace(DRAFT, tasks=("click", "spent")))
    verdict = ranking_challenger.decide(champion, other, Packed(loader(binary)), config)
    assert verdict.passed
    assert "predicts click, spent, so it cannot be compared" in verdict.reason


def test_the_gate_allows_as_much_where_the_unit_of_values_makes_the_loss_0(result):
    its, batch = result.validation.values["spent"], spending()[0]
    above = np.average(its.labels > 0, weights=its.weights)
    unit = float(np.exp(-its.loss / above))  # the density of a value in another unit differs by its log
    network = copy.deepcopy(result.network)
    with torch.no_grad():
        network.towers["spent"][-1].bias[1] += np.log(unit)
    network.largest *= unit
    config = build(Config, {"streams": {"purchase": {}}, "time": {"as_of": "2025-06-01T00:00:00Z"}})
    champion = RankingArtifact.of(network, VOCABULARY, {"as_of_ms": config.time.as_of_ms})
    packed = loader(with_spent(batch, unit * batch.impressions.labels["spent"]))
    found = ranking_model.evaluate(network, packed)
    assert abs(found.losses["spent"]) < 1e-4
    assert found.values["spent"].size == pytest.approx(above)
    assert its.size == its.loss > above
    allowed = config.ranking.gate * (above + found.losses["click"])
    for worse, passed in ((0.9 * allowed, True), (1.1 * allowed, False)):
        losses = dict(found.losses) | {"spent": found.losses["spent"] + worse}
        other = replace(result, validation=replace(result.validation, losses=losses))
        assert ranking_challenger.decide(champion, other, Packed(packed), config).passed == passed
