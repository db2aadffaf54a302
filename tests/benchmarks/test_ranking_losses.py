"""The worlds of losses and repeats hold what they say, all losses are tuned alike, and the page shows what the run leaves."""

from __future__ import annotations

import functools
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from alure_spark.batches.epochs import MemoryLoader
from alure_spark.clock import DAY_MS, HOUR_MS
from alure_spark.config import RepeatConfig
from alure_spark.metrics import normalized_entropy
from alure_spark.training import ranking_model
from alure_spark.training.ranking_repeats import ReweighedRepeats
from benchmarks import ranking_exposures, ranking_losses, ranking_losses_page, ranking_worlds
from benchmarks import ranking_loss_worlds as worlds
from benchmarks.ranking_parts import vocabulary
from benchmarks.ranking_sets import RankingRows


def sparse(rate, users=1500, null=False, seed=1):
    return worlds.sparse(np.random.default_rng(seed), users, null, rate)


def repeats(users=1500, null=False, seed=1):
    return worlds.repeats(np.random.default_rng(seed), users, null)


@pytest.mark.parametrize("rate", [0.001, 0.01, 0.2])
def test_the_base_rate_of_a_sparse_world_is_what_it_says_and_in_the_null_twin_nothing_decides(rate):
    one, null = sparse(rate), sparse(rate, null=True)
    assert one.truth.mean() == pytest.approx(rate, rel=1e-6)
    assert one.clicks.mean() == pytest.approx(rate, rel=0.4)
    assert (null.truth == rate).all()
    assert one.truth.std() > rate / 2
    for name, rows in one.rows.items():
        np.testing.assert_array_equal(rows, null.rows[name])
        assert rows.min() == 1
    labels, truth, _ = ranking_worlds.tested(sparse(rate, users=12_000))
    assert normalized_entropy(labels, truth) < 0.9


def test_ads_tire_by_what_a_walk_through_their_exposures_says():
    one, null, again = repeats(60), repeats(60, null=True), repeats(60)
    np.testing.assert_array_equal(one.truth, again.truth)
    np.testing.assert_array_equal(one.time_ms, null.time_ms)
    number = worlds.exposure_numbers(one)
    apart = []
    for user, ads in enumerate(one.rows["ad"]):
        for place, ad in enumerate(ads):
            earlier = [one.time_ms[user, at] for at in range(place) if ads[at] == ad]
            assert number[user, place] == len(earlier) + 1
            tired = sum(0.5 ** ((one.time_ms[user, place] - then) / DAY_MS / worlds.HALF_LIFE_DAYS) for then in earlier)
            logit = np.log(one.truth[user, place] / (1 - one.truth[user, place]))
            apart.append((ad, logit + worlds.TIRES * tired))
    tastes = pd.DataFrame(apart, columns=["ad", "logit"]).groupby("ad")["logit"]
    assert tastes.std().max() < 1e-6, "what is left is the ad's own"
    assert pd.Series(null.truth.ravel()).groupby(null.rows["ad"].ravel()).std().max() < 1e-9
    assert (number > 1).mean() > 0.4
    assert one.truth.mean() == pytest.approx(null.truth.mean()) == pytest.approx(worlds.RATE)


def test_every_loss_has_as_many_candidates():
    assert len({len(candidates) for candidates in ranking_losses.CANDIDATES.values()}) == 1


def test_the_stream_of_exposures_is_what_was_shown():
    batch = worlds.exposed(repeats(50).batch(test=False))
    tokens, shown = batch.sources[worlds.STREAM], batch.impressions
    assert torch.equal(tokens.known_at_ms, shown.time_ms)
    assert (tokens.known_at_ms.diff()[tokens.users().diff() == 0] > 0).all()
    spec = ranking_exposures._spec(True)
    seen = ranking_model.value_of(spec, batch, ranking_exposures.COUNT)
    number = worlds.exposure_numbers(repeats(50))[: len(batch)].ravel()
    assert ((seen > 0).numpy() == (number > 1)).all()


def test_days_since_the_last_view_are_of_the_reader_and_the_article():
    article = np.array(["a", "a", "b", "a", "a"], object)
    user, hours = np.array([1, 2, 1, 1, 1]), np.array([0, 1, 2, 24, 24])
    nothing = np.zeros(5)
    rows = RankingRows("few", user, hours * HOUR_MS, {"article": article}, {}, nothing, nothing, nothing > 0)
    found = ranking_exposures.with_days_since(rows).numbers[ranking_exposures.SINCE_VIEW]
    np.testing.assert_allclose(found, [np.nan, np.nan, np.nan, 1, 1])


@functools.cache
def scored(null):
    """Model -> the test part of one seed, at one learning rate."""
    torch.set_num_threads(1)
    one, found = repeats(1500, null), {}
    loader = MemoryLoader(worlds.exposed(one.batch(test=False)), 128, 7)
    fits = {fields: ranking_model.fitted_spec(ranking_exposures._spec(fields), loader, vocabulary(one)) for fields in (False, True)}
    strong = RepeatConfig("exposures", "since_exposure", alpha=1.0, debias=False)
    for name, fields, config in (("neither", False, None), ("fields", True, None), ("REW", True, strong)):
        weights = ReweighedRepeats.fitted(fits[True], loader, config) if config else None
        found[name] = ranking_exposures._trained(one, fits[fields], weights, 8e-3, 7)[0]
    return found


def mean_of(one, repeated, which="raw"):
    return getattr(one, which)[(one.number > 1) == repeated].mean()


def test_fields_see_that_ads_tire_and_weights_lower_the_scores_of_repeats_further():
    found = scored(False)
    observed = {repeated: found["fields"].label[(found["fields"].number > 1) == repeated].mean() for repeated in (False, True)}
    assert observed[False] > 1.5 * observed[True]
    for repeated in (False, True):
        assert mean_of(found["fields"], repeated, "predicted") == pytest.approx(observed[repeated], rel=0.2)
    assert mean_of(found["neither"], True, "predicted") > 1.2 * observed[True], "without them it cannot know"
    assert mean_of(found["REW"], True) < 0.95 * mean_of(found["fields"], True)


def test_where_nothing_tires_fields_leave_the_scores_and_weights_lower_them_all_the_same():
    found = scored(True)
    assert mean_of(found["fields"], True) == pytest.approx(mean_of(found["fields"], False), rel=0.15)
    assert mean_of(found["REW"], True) < 0.9 * mean_of(found["REW"], False)


def test_a_summary_is_of_the_groups_that_it_names():
    columns = np.array([0.2, 0.4, 0.1, 0.3]), np.array([0.0, 1, 1, 0]), np.array([1, 2, 1, 6])
    predicted, label, number = (np.tile(its, 20) for its in columns)
    one = ranking_exposures.Scored(predicted, predicted / 4, label, number, np.arange(80))
    half = replace(one, predicted=predicted / 2, raw=predicted / 2)
    row = ranking_exposures.summary([half], [one], [one], 20)
    assert row["calibration_first_served"] == row["calibration_first_raw"] == pytest.approx(0.15)
    assert row["calibration_repeats_served"] == pytest.approx(0.35)
    assert row["score_first_served"] == row["score_repeats_served"] == pytest.approx(0.5)
    assert row["score_first_raw"] == row["score_repeats_raw"] == pytest.approx(2)
    assert row["impressions"] == [40, 20, 0, 0, 0, 20]
    assert row["predicted"][:2] == pytest.approx([0.075, 0.2])
    assert row["predicted"][2] is None


def test_the_run_leaves_rows_that_the_page_shows(tmp_path, monkeypatch):
    once = ranking_losses.ONE_PASS
    small = {"1 %": ranking_losses.World(0.05, 300, once, null=True), "20 %": ranking_losses.World(0.2, 300, once)}
    monkeypatch.setattr(ranking_losses, "WORLDS", small)
    monkeypatch.setattr(ranking_exposures, "CONFIG", replace(ranking_exposures.CONFIG, epochs=1))
    monkeypatch.setattr(ranking_exposures, "USERS", 300)
    ranking_losses.main(["--seeds", "7", "--resamples", "20", "--results", str(tmp_path)])
    result = json.loads((tmp_path / "ranking_losses.json").read_text())
    assert [row["loss"] for row in result["rows"] if row["set"] == "sparse"] == ["bce", "pairwise", "listwise", "jrc"] * 3
    text = ranking_losses_page.text(result)
    assert text.count("\n| 1 % |") == 4
    assert text.count("\n| fields and REW |") == 2
