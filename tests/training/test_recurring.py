"""Yesterday's model in today's shapes, and what counts as new to it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from alure_spark.batches.epochs import MemoryLoader
from alure_spark.batches.vocabulary import ITEM
from alure_spark.config import LabelConfig
from alure_spark.model.user_model import UserModel
from alure_spark.training import recurring, report, user_evaluation, user_training
from tests.model.worlds import AS_OF_MS, BEGIN_MS, DAY_MS, assert_close, random_batch, shaken, spec_of
from tests.training import small_world as small

MORE = {"item_id": 40, "account_id": 33, "category_id": 30}


def models():
    """A champion of 30 items, and a model of today's 40 before training."""
    champion = shaken(UserModel(spec_of()))
    today = shaken(UserModel(replace(champion.spec, spaces=MORE, config=replace(champion.spec.config, seed=9))), seed=5)
    return champion, today


def test_who_knew_all_items_before_has_the_same_embedding_and_the_same_logits():
    champion, today = models()
    grown = recurring.grown(champion, today)
    batch = random_batch(champion.spec, 8, 25, impressions=4)
    assert_close(grown.encoder.embed(batch), champion.encoder.embed(batch), 0)
    assert_close(grown.probabilities(batch), champion.probabilities(batch), 0)
    tokens = batch.sources["purchase"]
    rows = tokens.rows | {ITEM: torch.where(tokens.rows[ITEM] == 7, 35, tokens.rows[ITEM])}
    met_new = replace(batch, sources=batch.sources | {"purchase": replace(tokens, rows=rows)})
    assert (grown.encoder.embed(met_new) - grown.encoder.embed(batch)).abs().max() > 0.01


def test_rows_that_are_new_come_from_today_turned_onto_the_champions_axes():
    champion, today = models()
    draw = torch.Generator().manual_seed(8)
    old = champion.encoder.item_vectors.detach()
    truth = torch.cat([old, torch.randn(10, 10, generator=draw, dtype=torch.float64)])
    turned = []
    for view in range(2):
        rotation, _ = torch.linalg.qr(torch.randn(5, 5, generator=draw, dtype=torch.float64))
        turned.append(3 * truth[:, 5 * view : 5 * view + 5] @ rotation)
    with torch.no_grad():
        today.encoder.item_vectors.copy_(torch.cat(turned, dim=1))
    weight, account = today.encoder.item_weight.detach().clone(), today.readout.account.weight.detach().clone()
    grown = recurring.grown(champion, today)
    assert_close(grown.encoder.item_vectors.detach(), truth)
    assert_close(grown.encoder.item_weight[30:].detach(), weight[30:], 0)
    assert_close(grown.readout.account.weight[30:].detach(), account[30:], 0)


def test_what_cannot_go_on_says_why():
    spec = spec_of()
    assert recurring.obstacle(spec, replace(spec, spaces=MORE)) == ""
    assert "lost rows of item_id, account_id" in recurring.obstacle(replace(spec, spaces=MORE), spec)
    assert "not those of the conf" in recurring.obstacle(spec, spec_of(layers=1))
    turned = dict(reversed(spec.sources.items()))
    assert "not those of the conf" in recurring.obstacle(spec, replace(spec, sources=turned)), "the order of sources is that of columns"


def test_only_new_impressions_weigh_and_others_are_held_back_each_time():
    batch, since = random_batch(spec_of(), 200, 3, impressions=5), BEGIN_MS + 200 * DAY_MS
    marked = [next(recurring.NewImpressions(MemoryLoader(batch, 500, 1), since, 0.2, salt).in_order()) for salt in (1, 1, 2)]
    for one in marked:
        shown = one.impressions
        new = shown.time_ms >= since
        assert torch.equal(shown.weight, torch.where(new, batch.impressions.weight, 0))
        held = np.array([shown.validation[shown.users() == user].float().mean().item() for user in shown.users().unique()])
        assert set(held.tolist()) == {0.0, 1.0}, "a user is held back as a whole"
        assert held.mean() == pytest.approx(0.2, abs=0.1)
    assert torch.equal(marked[0].impressions.validation, marked[1].impressions.validation)
    assert not torch.equal(marked[0].impressions.validation, marked[2].impressions.validation)


def test_what_is_new_waits_for_its_labels():
    assert recurring.new_since(LabelConfig(), AS_OF_MS) == AS_OF_MS
    labels = LabelConfig(hold_back_immature=True, click_window_hours=24, conversion_window_hours=48)
    assert recurring.new_since(labels, AS_OF_MS) == AS_OF_MS - 2 * DAY_MS


def test_a_warm_training_goes_on_from_the_champion_and_looks_at_no_old_label():
    """Where old labels are turned around: a training that saw them would end elsewhere."""
    batch = small.world()
    first, _, _ = small.trained(batch)
    shown = batch.impressions
    old = shown.time_ms < small.BORDER
    turned = replace(
        batch,
        impressions=small.with_clicks(shown, old, lambda click: 1 - click),
    )
    config, results = replace(small.TRAINING, epochs=1), []
    for given in (batch, turned):
        loader = recurring.NewImpressions(MemoryLoader(given, 32, 3), small.BORDER, 0.2, small.END)
        cuts = user_training.calendar(loader, ["view"], small.END, small.END).cuts_ms
        when = recurring.SplitByUser(cuts, small.END, small.END)
        model = recurring.grown(first.model, UserModel(small.SPEC))
        results.append(user_training.train(model, loader, when, config, warm=True))
    for name, value in results[0].model.state_dict().items():
        torch.testing.assert_close(results[1].model.state_dict()[name], value, rtol=0, atol=0)
    moved = (results[0].model.readout.wide.weight - first.model.readout.wide.weight).abs()
    assert 0 < moved.max() < 0.2, "it goes on, and does not start anew"
    assert results[0].carried["click.calibration"] == pytest.approx(1, abs=0.4)


def test_a_day_without_a_new_impression_trains_and_reports_what_there_is():
    batch = small.world()
    first, _, _ = small.trained(batch)
    loader = recurring.NewImpressions(MemoryLoader(batch, 32, 3), small.END, 0.2, small.END)
    cuts = user_training.calendar(loader, ["view"], small.END, small.END).cuts_ms
    when = recurring.SplitByUser(cuts, small.END, small.END)
    model = recurring.grown(first.model, UserModel(small.SPEC))
    found = user_training.train(model, loader, when, replace(small.TRAINING, epochs=1), warm=True)
    assert not found.validation.weights.any()
    assert found.validation.labels.any()
    assert set(user_evaluation.label_metrics(found.model, found.validation).values()) == {None}
    assert report.figures(found).keys() == {"train_model/losses.png"}
