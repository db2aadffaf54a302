"""Training of the ranking model: fitted on the training split alone, resumed as undisturbed, honest where nothing is planted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from alure_spark.batches.epochs import MemoryLoader
from alure_spark.config import RankingConfig
from alure_spark.errors import DataError, TrainingError
from alure_spark.ranking.spec import FieldSpec
from alure_spark.training import ranking_model
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
