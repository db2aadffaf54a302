"""Training of the ranking model: fitted on the training split alone, resumed as undisturbed, honest where nothing is planted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from alure_spark.batches.batch import SourceTokens
from alure_spark.batches.epochs import MemoryLoader
from alure_spark.batches.vocabulary import Vocabulary
from alure_spark.config import FieldConfig, LossConfig, RankingConfig, RepeatConfig
from alure_spark.errors import DataError, TrainingError
from alure_spark.ranking.interactions import value_of
from alure_spark.ranking.losses import LOSSES
from alure_spark.ranking.spec import FieldSpec
from alure_spark.training import ranking_model, ranking_report
from alure_spark.training.ranking_repeats import ReweighedRepeats
from alure_spark.training.ranking_split import TrainingSplit
from tests.ranking.planted_ranking import DRAFT, VOCABULARY, users, with_labels

CONFIG = RankingConfig(epochs=12, patience=12, learning_rate=3e-3, batch_users=64)


def loader(batch, rows=64):
    return MemoryLoader(batch, rows, seed=5)


def trained(batch, config=CONFIG, **more):
    spec = ranking_model.fitted_spec(DRAFT, loader(batch), VOCABULARY)
    return ranking_model.train(ranking_model.new_network(spec, loader(batch), config.seed), loader(batch), config, **more)


def test_it_learns_what_is_planted_and_its_probabilities_are_honest():
    result = trained(users(600))
    figures = result.metrics()
    assert figures["click.ne"] < 0.85
    assert figures["click.auc"] > 0.75
    assert 0.98 < figures["click.calibration"] < 1.02
    assert result.curves[result.best_epoch]["validation.total"] == min(row["validation.total"] for row in result.curves)


def test_where_responses_are_at_random_it_says_the_base_rate():
    batch = users(600)
    order = torch.from_numpy(np.random.default_rng(3).permutation(len(batch.impressions.time_ms)))
    figures = trained(with_labels(batch, batch.impressions.labels["click"][order])).metrics()
    assert 0.98 < figures["click.ne"] < 1.02
    assert 0.45 < figures["click.auc"] < 0.55


def test_encodings_are_fitted_on_the_training_split_alone():
    batch = users(100)
    spec = ranking_model.fitted_spec(DRAFT, loader(batch), VOCABULARY)
    shown = batch.impressions
    price = shown.numbers["price"][~shown.validation].double().numpy()
    assert spec.fields["price"].settings["low"] == price.min()
    assert spec.fields["price"].settings["high"] == price.max()
    assert spec.fields["ad"].settings == {"size": VOCABULARY.size("ad")}
    assert spec.fields["clicks"].settings["low"] == 0
    odd = torch.where(shown.validation, 1e6, shown.numbers["price"])
    changed = replace(batch, impressions=replace(shown, numbers={"price": odd}))
    assert ranking_model.fitted_spec(DRAFT, loader(changed), VOCABULARY) == spec


def test_what_validates_is_not_learnt_from():
    batch = users(200)
    shown = batch.impressions
    flipped = with_labels(batch, torch.where(shown.validation, 1 - shown.labels["click"], shown.labels["click"]))
    config = replace(CONFIG, epochs=3)
    one, other = (trained(of, config) for of in (batch, flipped))
    assert one.best_epoch != other.best_epoch or one.curves[0]["validation.click"] != other.curves[0]["validation.click"]
    for ours, theirs in zip(one.curves, other.curves, strict=True):
        assert ours["train.click"] == theirs["train.click"]


@pytest.mark.parametrize("at", [1, 4, 9])
def test_a_training_killed_in_mid_epoch_ends_in_the_weights_of_an_undisturbed_one(tmp_path, at):
    batch = users(150)
    config = replace(CONFIG, epochs=3)
    undisturbed = trained(batch, config)

    class Killed(Exception):
        pass

    def kill(epoch, step, losses):
        if 3 * epoch + step == at:
            raise Killed

    file = tmp_path / "it.checkpoint"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        plan = ranking_model.plan_of
        patch.setattr(ranking_model, "plan_of", lambda *given: replace(plan(*given), checkpoint_steps=1))
        trained(batch, config, checkpoint=file, observe=kill)
    assert file.is_file() == (at > 1)
    again = trained(batch, config, checkpoint=file)
    for name, value in undisturbed.network.state_dict().items():
        torch.testing.assert_close(again.network.state_dict()[name], value, rtol=0, atol=0)


def test_a_number_that_is_always_the_same_is_named():
    batch = users(50)
    shown = batch.impressions
    constant = replace(batch, impressions=replace(shown, numbers={"price": torch.full_like(shown.numbers["price"], 3)}))
    with pytest.raises(DataError, match=r"ranking.fields.price: the number is always 3 in the training split: leave the field out"):
        ranking_model.fitted_spec(DRAFT, loader(constant), VOCABULARY)


@pytest.mark.parametrize("encoding", ["numbers", "hash_id"])
def test_an_embedding_that_nobody_had_is_named(encoding):
    batch = users(50)
    shown = batch.impressions
    missing = replace(batch, impressions=replace(shown, vectors={"taste": torch.full((len(shown.time_ms), 3), torch.nan)}))
    draft = replace(DRAFT, fields=DRAFT.fields | {"taste": FieldSpec(encoding, {"numbers": 3})})
    with pytest.raises(DataError, match=r"ranking.fields.taste: no impression of the training split has an embedding"):
        ranking_model.fitted_spec(draft, loader(missing), VOCABULARY)


@pytest.mark.parametrize(("label", "says"), [(0, "no response"), (1, "a response to every impression")])
def test_a_task_with_one_class_is_named(label, says):
    batch = users(50)
    same = with_labels(batch, torch.full_like(batch.impressions.labels["click"], label))
    with pytest.raises(DataError, match=f"the task 'click' has {says} in the training split"):
        trained(same)


def test_without_validation_impressions_it_says_so():
    batch = users(50)
    shown = batch.impressions
    with pytest.raises(DataError, match="the validation split has no impression: raise labels.validation_days"):
        trained(replace(batch, impressions=replace(shown, validation=torch.zeros_like(shown.validation))))


def test_a_rate_that_breaks_it_is_one_sentence():
    with pytest.raises(TrainingError, match=r"ranking\.learning_rate"):
        trained(users(50), replace(CONFIG, learning_rate=1e30))


@pytest.mark.parametrize("kind", LOSSES)
def test_every_loss_learns_what_is_planted_and_validates_by_cross_entropy(kind):
    result = trained(users(600), replace(CONFIG, loss=LossConfig(kind, alpha=0.6, pairs=2000)))
    figures = result.metrics()
    assert figures["click.auc"] > 0.75
    assert 0.98 < figures["click.calibration"] < 1.02
    evaluation = result.validation
    assert evaluation.losses["click"] == evaluation.cross_entropy(0)
    assert result.curves[result.best_epoch]["validation.click"] == evaluation.losses["click"]
    assert all(row["gradient.click.negatives"] > 0 for row in result.curves)


def test_a_loss_that_draws_pairs_is_the_same_again_after_a_kill(tmp_path):
    config = replace(CONFIG, epochs=2, loss=LossConfig("pairwise", pairs=50))
    one = trained(users(150), config, checkpoint=tmp_path / "it.checkpoint")
    again = trained(users(150), config)
    assert one.curves == again.curves
    assert trained(users(150), replace(config, loss=LossConfig())).curves != one.curves, "it is another loss"
    other = trained(users(150), replace(config, seed=8))
    assert other.curves != one.curves


def with_exposures(batch):
    """The users, whose impressions before are events of a stream."""
    shown = batch.impressions
    tokens = SourceTokens(shown.offsets, shown.time_ms, shown.time_ms, {"ad": shown.rows["ad"]}, {})
    return replace(batch, sources=dict(batch.sources) | {"ad_impression": tokens})


EXPOSED = replace(
    DRAFT,
    fields=DRAFT.fields
    | {
        "seen": FieldSpec("numeral_systems", {"kind": "integer"}, history="ad_impression.same.ad"),
        "gap": FieldSpec("standardized", history="ad_impression.days_since_same.ad"),
    },
)
REPEATS = RepeatConfig("seen", "gap", half_life_days=3.0, debias=True)


def fitted_repeats(batch, config=REPEATS):
    spec = ranking_model.fitted_spec(EXPOSED, loader(batch), VOCABULARY)
    return ReweighedRepeats.fitted(spec, loader(batch), config)


def test_repeats_weigh_more_in_training_and_the_base_rate_of_the_split_is_kept():
    batch = with_exposures(users(400))
    split = fitted_repeats(batch)
    plain, weighed, counted = torch.zeros(2), torch.zeros(2), 0
    for (one,), (same,) in zip(split.batches(0), TrainingSplit(loader(batch)).batches(0), strict=True):
        shown, labels = one.impressions, one.impressions.labels["click"].double()
        assert not shown.validation.any()
        assert torch.equal(shown.time_ms, same.impressions.time_ms)
        factor = shown.factors["click"].double()
        repeated = value_of(EXPOSED, one, "seen") > 0
        assert (factor[~repeated & (labels == 0)] == 1).all()
        torch.testing.assert_close(factor[labels == 1], torch.full_like(factor[labels == 1], split.positive["click"]))
        counted += int((factor[repeated & (labels == 0)] > 1).sum())
        plain += torch.stack([labels.sum(), torch.ones_like(labels).sum()])
        weighed += torch.stack([(labels * factor).sum(), factor.sum()])
    assert counted > 20
    assert float(weighed[0] / weighed[1]) == pytest.approx(float(plain[0] / plain[1]), rel=1e-6)
    assert weighed[0] > plain[0] + 1
    assert split.positive["click"] > 1
    biased = fitted_repeats(batch, replace(REPEATS, debias=False))
    assert biased.positive == {"click": 1.0}


def test_repeats_that_validate_weigh_nothing_more_and_what_validates_decides_no_weight():
    batch = with_exposures(users(300))
    shown = batch.impressions
    flipped = with_labels(batch, torch.where(shown.validation, 1 - shown.labels["click"], shown.labels["click"]))
    assert fitted_repeats(batch).positive == fitted_repeats(flipped).positive
    spec = ranking_model.fitted_spec(EXPOSED, loader(batch), VOCABULARY)
    numbers = {name: FieldConfig(f"example.{name}", "standardized") for name in ("seen", "gap")}
    found = {}
    for repeats in (RepeatConfig(), REPEATS):
        config = replace(CONFIG, epochs=3, fields=numbers, tasks=("click",), repeats=repeats)
        result = ranking_model.train(ranking_model.new_network(spec, loader(batch), 7), loader(batch), config)
        found[repeats.count] = result
        assert (result.validation.weights == 1).all()
    assert found[""].curves[0]["train.click"] != found["seen"].curves[0]["train.click"]
    assert len(found[""].validation.labels) == len(found["seen"].validation.labels) == int(shown.validation.sum())


def test_the_report_draws_the_gradient_of_negatives_apart_from_the_losses():
    drawn = ranking_report.figures(trained(users(150), replace(CONFIG, epochs=2)))
    lines = {name: [line.get_label() for line in figure.axes[0].lines] for name, figure in drawn.items()}
    assert lines["train_ranking/gradients.png"] == ["gradient.click.negatives"]
    assert lines["train_ranking/losses.png"] == ["train.click", "validation.click"]


def of_surfaces(batch, names=(1, 2)):
    """The users, each of whose impressions is on one of some surfaces; on the second one what is clicked is what is not on the first."""
    shown = batch.impressions
    surface = torch.from_numpy(np.random.default_rng(2).choice(names, len(shown.time_ms)))
    clicked = torch.where(surface == 2, 1 - shown.labels["click"], shown.labels["click"])
    return with_labels(replace(batch, impressions=replace(shown, rows=dict(shown.rows) | {"surface": surface})), clicked)


SURFACED = replace(DRAFT, fields=DRAFT.fields | {"surface": FieldSpec("id", group="user")}, sequences={}, scenario="surface")
SURFACES = Vocabulary(dict(VOCABULARY.entries) | {"surface": (np.array([1, 2]), np.array([1, 2]))})


def with_towers(batch, draft=SURFACED, vocabulary=SURFACES):
    spec = ranking_model.fitted_spec(draft, loader(batch), vocabulary)
    return ranking_model.train(ranking_model.new_network(spec, loader(batch), 7), loader(batch), CONFIG)


def test_towers_of_scenarios_learn_what_contradicts_and_an_unknown_one_is_read_by_the_towers_of_all():
    batch = of_surfaces(users(900))
    done = with_towers(batch)
    assert done.network.spec.scenarios == 2
    assert done.metrics()["click.ne"] < 0.9
    with torch.no_grad():
        unknown = of_surfaces(users(900), names=(0,))
        p = done.network.probabilities(done.network(unknown))[:, 0]
    assert p.isfinite().all()
    assert p.shape == (len(unknown.impressions.time_ms),)
    assert 0.3 < p.mean() < 0.7, "of both surfaces together half is clicked"


def test_too_many_scenarios_are_one_sentence(monkeypatch):
    monkeypatch.setattr(ranking_model, "MOST_SCENARIOS", 1)
    with pytest.raises(DataError, match="ranking.scenario: the field 'surface' has 2 ids in the training split; allowed: at most 1"):
        with_towers(of_surfaces(users(50)))
