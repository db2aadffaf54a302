"""The training of the user model on a planted world: what it learns, that a kill changes nothing, and what stops it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from alure_spark.batches.batch import JaggedBatch
from alure_spark.batches.epochs import MemoryLoader
from alure_spark.batches.vocabulary import Vocabulary
from alure_spark.config import ObjectiveConfig, TrainingConfig
from alure_spark.errors import DataError, TrainingError
from alure_spark.model.artifact import Artifact
from alure_spark.model.user_model import UserModel
from alure_spark.training import gate, user_evaluation, user_training
from tests.training.small_world import BORDER, END, ITEMS, LONG, SPEC, START, TRAINING, USERS, trained, with_clicks, world


def test_it_learns_whose_ads_a_community_clicks_and_that_neighbours_are_of_one_community():
    batch = world()
    result, loader, when = trained(batch, LONG)
    found = user_evaluation.evaluate(result.model, loader, when.validation(), TRAINING.objectives)
    figures = user_evaluation.label_metrics(result.model, found)
    assert figures["click.ne"] < 0.9
    assert figures["click.auc"] > 0.75
    assert figures["click.calibration"] == pytest.approx(1, abs=0.05)
    assert figures["conversion.ne"] is None, "there is no conversion: nothing to measure, not zero"
    with torch.no_grad():
        embeddings = result.model.encoder.embed(batch).numpy()
    nearest = (embeddings @ embeddings.T - 2 * np.eye(USERS)).argmax(axis=1)
    assert (nearest % 2 == np.arange(USERS) % 2).mean() > 0.95
    assert len(result.curves) <= LONG.epochs
    assert result.curves[result.best_epoch]["validation.total"] == min(row["validation.total"] for row in result.curves)


def test_where_ads_mean_nothing_nothing_is_learnt_about_clicks():
    result, loader, when = trained(world(informative=False), LONG)
    found = user_evaluation.evaluate(result.model, loader, when.validation(), TRAINING.objectives)
    assert user_evaluation.label_metrics(result.model, found)["click.ne"] > 0.97


def items_known() -> Vocabulary:
    known = np.arange(1, ITEMS + 3)
    return Vocabulary.from_arrays(np.array(["item_id"] * len(known), object), known, known)


def test_heads_losses_gate_and_metrics_are_those_of_the_tasks_of_the_spec():
    shown = world().impressions
    click = shown.labels["click"]
    labels = {"like": click, "skip": 1 - click, "never": torch.zeros_like(click)}
    batch = replace(world(), impressions=replace(shown, labels=labels))
    spec = replace(SPEC, tasks=("skip", "never", "like"))
    objectives = ObjectiveConfig(neighbour=0, next_item=0, tasks={"like": 2.0, "never": 0.0})
    config = replace(LONG, epochs=12, objectives=objectives)
    loader = MemoryLoader(batch, config.batch_users, 3)
    when = user_training.calendar(loader, ["view"], BORDER, END)
    result = user_training.train(UserModel(spec), loader, when, config)
    assert set(result.validation.losses) == {"skip", "like"}, "a weight of 0 leaves one out"
    losses = result.validation.losses
    assert result.validation.total(objectives) == pytest.approx(losses["skip"] + 2 * losses["like"])
    assert result.curves[result.best_epoch]["validation.total"] == pytest.approx(losses["skip"] + 2 * losses["like"])
    found = user_evaluation.label_metrics(result.model, result.validation)
    assert found["like.auc"] > 0.75
    assert found["skip.auc"] > 0.75
    assert found["never.ne"] is None
    p = user_evaluation.probabilities(result.model, result.validation)
    assert np.corrcoef(p[:, 0], p[:, 2])[0, 1] < -0.9, "who likes does not skip"
    two, _, _ = trained(world(), replace(TRAINING, epochs=1))
    champion = Artifact.of(two.model, items_known(), {"as_of_ms": END})
    verdict = gate.decide(champion, result.validation, spec.layout(impressions=True), None, when, config)
    assert verdict.passed
    assert "predicts click, conversion, so it cannot be compared" in verdict.reason


class Killed(Exception):
    pass


@pytest.mark.parametrize("at", [(0, 2), (1, 3), (1, 4), (3, 1)])
def test_a_training_killed_in_mid_epoch_ends_in_the_weights_of_an_undisturbed_one(tmp_path, at):
    batch, config = world(), replace(TRAINING, epochs=4)
    whole, _, _ = trained(batch, config)

    def kill(epoch, step, losses):
        if (epoch, step) == at:
            raise Killed

    checkpoint = tmp_path / "checkpoint"
    with pytest.raises(Killed):
        trained(batch, config, checkpoint, kill)
    seen = []
    again, _, _ = trained(batch, config, checkpoint, lambda epoch, step, losses: seen.append((epoch, step)))
    assert len(seen) < 4 * 4 or at == (0, 2), "it went on, and did not begin anew"
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(again.model.state_dict()[name], value, rtol=0, atol=0)
    assert [row["validation.total"] for row in again.curves] == [row["validation.total"] for row in whole.curves]


def refitted(batch: JaggedBatch, result: user_training.Trained, config: TrainingConfig, checkpoint=None, observe=None) -> UserModel:
    loader = MemoryLoader(batch, config.batch_users, 3)
    return user_training.refit(
        UserModel(SPEC), loader, result, user_training.calendar(loader, ["view"], END, END), config, checkpoint, observe
    )


def test_a_refit_learns_from_the_last_days_too_for_the_epochs_that_validation_found_best():
    """A third ad row is shown after the border only, and clicked by everybody: only a refit can know."""
    batch, config = world(), replace(TRAINING, epochs=8)
    shown = batch.impressions
    late = shown.validation & (torch.arange(len(shown.time_ms)) % 2 == 0)
    rows = {"item_id": torch.where(late, 0, shown.rows["item_id"]), "account_id": torch.where(late, 0, shown.rows["account_id"])}
    batch = replace(batch, impressions=with_clicks(replace(shown, rows=rows), late, torch.ones_like))
    result, loader, when = trained(batch, config)
    steps = []
    model = refitted(batch, result, config, observe=lambda epoch, step, losses: steps.append((epoch, step)))
    assert len(steps) == (result.best_epoch + 1) * loader.steps
    before, after = (
        user_evaluation.evaluate(one, loader, when.validation(), config.objectives).losses["click"] for one in (result.model, model)
    )
    assert after < before - 0.02
    p = user_evaluation.probabilities(model, user_evaluation.evaluate(model, loader, when.validation(), config.objectives))[:, 0]
    click = batch.impressions.labels["click"][shown.validation].numpy()
    assert p.mean() == pytest.approx(click.mean(), abs=0.01), "the offset is that of the last days"
    assert float(model.readout.calibration[0, 0]) == float(result.model.readout.calibration[0, 0]), "the slope is the validated model's"


def test_a_killed_refit_ends_in_the_weights_of_an_undisturbed_one(tmp_path):
    batch, config = world(), replace(TRAINING, epochs=3)
    result, _, _ = trained(batch, config)
    result = replace(result, best_epoch=1)
    whole = refitted(batch, result, config)

    def kill(epoch, step, losses):
        if (epoch, step) == (1, 2):
            raise Killed

    with pytest.raises(Killed):
        refitted(batch, result, config, tmp_path / "checkpoint", kill)
    again = refitted(batch, result, config, tmp_path / "checkpoint")
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, rtol=0, atol=0)


def test_training_looks_at_nothing_after_the_border():
    """Other events and labels after the border: the same first steps, to the bit."""
    batch = world()
    view, shown = batch.sources["view"], batch.impressions
    late = view.known_at_ms >= BORDER
    rows = torch.where(late, 1 + torch.arange(len(late)) % ITEMS, view.rows["item_id"])
    planted = replace(
        batch,
        sources={**batch.sources, "view": replace(view, rows={"item_id": rows})},
        impressions=with_clicks(shown, shown.validation, lambda click: 1 - click),
    )
    curves: list[list] = [[], []]
    for which, given in enumerate((batch, planted)):
        trained(given, replace(TRAINING, epochs=1), observe=lambda epoch, step, losses, which=which: curves[which].append(dict(losses)))
    assert curves[0] == curves[1]


def test_without_labels_only_the_contrastive_objectives_train():
    result, _, _ = trained(replace(world(), impressions=None), replace(TRAINING, epochs=1))
    assert set(result.curves[0]) == {
        "train.neighbour",
        "train.next_item",
        "validation.neighbour",
        "validation.next_item",
        "validation.total",
        "steps",
    }


def test_an_empty_split_says_what_to_do():
    batch = world()
    loader = MemoryLoader(batch, 32, 3)
    with pytest.raises(DataError, match="training split is empty.*labels.validation_days"):
        user_training.calendar(loader, ["view"], START, END)
    when = user_training.calendar(loader, ["view"], BORDER, END)
    labels = ObjectiveConfig(neighbour=0, next_item=0)
    none = replace(batch, impressions=replace(batch.impressions, validation=torch.zeros_like(batch.impressions.validation)))
    with pytest.raises(DataError, match="validation split is empty.*labels.validation_days"):
        user_training.train(UserModel(SPEC), MemoryLoader(none, 32, 3), when, replace(TRAINING, objectives=labels))
    every = replace(batch, impressions=replace(batch.impressions, validation=torch.ones_like(batch.impressions.validation)))
    with pytest.raises(DataError, match="training split is empty: no user has a labelled impression"):
        user_training.train(UserModel(SPEC), MemoryLoader(every, 32, 3), when, replace(TRAINING, objectives=labels))


def test_a_loss_that_is_not_finite_stops_training_with_one_sentence(tmp_path):
    batch = world()
    broken = replace(batch, impressions=replace(batch.impressions, weight=batch.impressions.weight * float("inf")))
    with pytest.raises(TrainingError, match="loss of click.* is not finite at epoch 1, step 1: lower training.learning_rate"):
        trained(broken)
    (tmp_path / "checkpoint").write_bytes(b"PK broken")
    with pytest.raises(TrainingError, match="cannot be gone on from"):
        trained(batch, checkpoint=tmp_path / "checkpoint")


def test_the_gate_lets_an_equal_or_better_model_pass_and_stops_a_worse_one():
    batch = world()
    good, loader, when = trained(batch)
    layout = SPEC.layout()
    found = user_evaluation.evaluate(good.model, loader, when.validation(), TRAINING.objectives)
    raw = UserModel(SPEC)
    worse = user_evaluation.evaluate(raw, loader, when.validation(), TRAINING.objectives)
    vocabulary = items_known()
    champion = Artifact.of(good.model, vocabulary, {"as_of_ms": END})

    def evaluate(champion, found):
        return gate.decide(champion, found, layout, lambda layout, vocabulary: loader, when, TRAINING)

    assert evaluate(None, found).passed
    assert evaluate(champion, found).passed
    stopped = evaluate(champion, worse)
    assert not stopped.passed
    assert "not champion: validation loss" in stopped.reason
    assert "later time" in evaluate(replace(champion, facts={"as_of_ms": END + 1}), found).reason
    other = Artifact.of(UserModel(replace(SPEC, sources={**SPEC.sources, "bought": {}})), vocabulary, {"as_of_ms": END})
    assert "cannot be compared" in evaluate(other, found).reason


def test_a_model_that_promises_too_much_does_not_become_champion():
    passed = gate.Verdict(True, "champion")
    assert gate.calibrated(passed, {"click.calibration": 1.9, "conversion.calibration": None}, TRAINING) == passed
    stopped = gate.calibrated(passed, {"click.calibration": 1.0, "conversion.calibration": 2.1}, TRAINING)
    assert not stopped.passed
    assert stopped.reason == "not champion: conversion expects 2.10 times the observed positives, allowed 0.5 to 2"
