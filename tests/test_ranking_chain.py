"""The chain's last stage on the small world: candidates ranked by what a response is worth times how likely it is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from pyspark.sql import functions as F

from alure_spark.clock import DAY_MS
from alure_spark.config import FieldConfig, LossConfig, RepeatConfig
from alure_spark.errors import DataError
from alure_spark.events.ranking_tables import candidates_to_score, embedding_model, training_rows
from alure_spark.inference.registered import ranking_champion
from alure_spark.lake import JobRun, as_of_scope, workspace
from alure_spark.packed.segments import segment_loaders
from alure_spark.ranking.interactions import value_of
from alure_spark.training import ranking_challenger
from alure_spark.training.ranking_start import draft_spec, fitted_vocabulary


def ranked(chain):
    return chain.lake.read("ranking_scores").where(as_of_scope(chain.config.time.as_of_ms)).orderBy("user_id").toPandas()


def test_every_user_with_candidates_has_them_ranked_and_no_others(chain):
    candidates = chain.lake.read("ad_candidates").where(F.size("ad_id") > 0).orderBy("user_id").toPandas()
    scores = ranked(chain)
    assert scores["user_id"].tolist() == candidates["user_id"].tolist()
    for given, row in zip(candidates.itertuples(), scores.itertuples(), strict=True):
        assert len(row.ad_id) == min(chain.config.ranking.cap, len(given.ad_id))
        assert set(row.ad_id) <= set(given.ad_id)
        assert (np.diff(row.score) <= 1e-9).all()
    assert set(scores["model_id"]) == {ranking_champion(chain.config, chain.tracker).model_id}


def test_the_score_is_bid_times_click_and_value_times_conversion(chain):
    ads = chain.lake.read("ads").toPandas()
    as_of = chain.config.time.as_of_ms
    started = ads[ads["active_from"].astype("datetime64[ms]").astype(np.int64) <= as_of].sort_values("active_from")
    worth = started.groupby("ad_id").last()[["bid", "value"]].fillna(0.0)
    for row in ranked(chain).head(20).itertuples():
        mine = worth.loc[list(row.ad_id)]
        expected = mine["bid"].to_numpy() * row.p_click + mine["value"].to_numpy() * row.p_conversion
        np.testing.assert_allclose(row.score, expected, rtol=1e-9)
        assert ((row.p_click > 0) & (row.p_click < 1)).all()


def test_every_candidate_says_how_unsure_the_model_is_and_what_a_draw_says(chain):
    tasks = chain.config.ranking_tasks
    for row in ranked(chain).head(20).itertuples():
        for task in tasks:
            mean, variance, drawn = (np.array(getattr(row, f"{name}_{task}")) for name in ("logit_mean", "logit_variance", "explored"))
            assert len(mean) == len(row.ad_id)
            assert ((variance > 0) & (variance <= chain.config.ranking.exploration.prior_variance)).all()
            assert (np.abs(np.log(drawn / (1 - drawn)) - mean) < 6 * np.sqrt(variance) + 0.5).all()
        assert len(row.explored) == len(row.ad_id)
        assert (np.diff(row.score) <= 1e-9).all(), "greedy: the expected score orders"


def test_the_probabilities_are_of_the_size_of_what_happens(chain):
    shown = chain.lake.read("training_examples").select(F.explode("click").alias("click"))
    rate = shown.agg(F.avg("click")).first()[0]
    mean = np.concatenate(ranked(chain)["p_click"].to_numpy()).mean()
    assert 0.3 * rate < mean < 3 * rate


def with_embeddings(chain):
    """The conf with the user embedding as a field."""
    fields = {"taste": FieldConfig("user.embedding", "numbers"), "position": chain.config.ranking.fields["position"]}
    return replace(chain.config, ranking=replace(chain.config.ranking, fields=fields, sequences={}))


def test_user_embeddings_of_one_model_are_read_and_those_of_another_are_refused(chain):
    config, run = with_embeddings(chain), JobRun(chain.lake, "test", "", "true")
    now = embedding_model(run, config)
    assert now == chain.lake.read("user_embeddings").select("model_id").first()[0]
    assert embedding_model(run, chain.config) == ""
    scored = candidates_to_score(run, config, now).select("impression__taste").first()[0]
    assert len(scored[0]) == 2 * config.embedding.dimension
    with pytest.raises(DataError, match="the ranking model was trained on embeddings of alure-old, but the newest are of alure-"):
        candidates_to_score(run, config, "alure-old")


def test_an_embedding_of_as_of_itself_was_known_before_no_impression(chain):
    config, run = with_embeddings(chain), JobRun(chain.lake, "test", "", "true")
    rows = training_rows(run, config, embedding_model(run, config))
    served = rows.select(F.explode("impression__taste").alias("taste")).where("taste IS NOT NULL")
    assert served.isEmpty()


def with_repeats(chain):
    """The conf with what was shown before as fields, weights of repeats, and a loss that compares."""
    fields = {
        "ad": FieldConfig("impression.ad_id", "id", space="item_id"),
        "exposures": FieldConfig("history.ad_impression.same.ad", "numeral_systems", {"kind": "integer"}),
        "decayed": FieldConfig("history.ad_impression.decayed_same.ad", "numeral_systems", days=2.0),
        "since_exposure": FieldConfig("history.ad_impression.days_since_same.ad", "standardized"),
    }
    more = {"repeats": RepeatConfig("decayed", "since_exposure", debias=True), "loss": LossConfig("pairwise"), "epochs": 1}
    return replace(chain.config, ranking=replace(chain.config.ranking, fields=fields, sequences={}, serving={}, **more))


def test_earlier_exposures_are_those_that_the_stream_knew_before_the_impression(chain):
    config = with_repeats(chain)
    rows = training_rows(JobRun(chain.lake, "test", "", "true"), config).where(F.size("time_ms") > 0)
    draft, vocabulary = draft_spec(config), fitted_vocabulary(rows, config)
    names = ["time_ms", "ad_id", "ad_impression__known_at_ms", "ad_impression__item_id", "split"]
    told = {row["user_id"]: row for row in rows.select("user_id", *names).collect()}
    repeated = 0
    with segment_loaders(rows, draft.layout(), vocabulary, config.training, workspace(config.lake), "repeats") as packed:
        for batch in packed.decoding(draft, vocabulary).in_order():
            found = {name: value_of(draft, batch, name).tolist() for name in ("exposures", "decayed", "since_exposure")}
            known = (batch.impressions.rows["ad"] > 0).tolist()
            place = 0
            for user in batch.user_ids:
                row = told[user]
                for time, ad in zip(row["time_ms"], row["ad_id"], strict=True):
                    events = zip(row["ad_impression__known_at_ms"], row["ad_impression__item_id"], strict=True)
                    days = [(time - at) / DAY_MS for at, its in events if at < time and its == ad and known[place]]
                    assert found["exposures"][place] == len(days)
                    assert found["decayed"][place] == pytest.approx(sum(0.5 ** (one / 2) for one in days), rel=1e-5)
                    assert found["since_exposure"][place] == pytest.approx(min(days, default=float("nan")), rel=1e-5, nan_ok=True)
                    repeated += bool(days)
                    place += 1
    assert repeated > 10


def test_a_model_of_repeats_is_trained_from_the_tables(chain):
    config = with_repeats(chain)
    rows = training_rows(JobRun(chain.lake, "test", "", "true"), config)
    trained = ranking_challenger.train(config, rows, None, "repeats-trained").trained
    assert trained.network.loss.pairs == config.ranking.loss.pairs
    assert trained.curves[0]["gradient.click.negatives"] > 0
    plain = replace(config, ranking=replace(config.ranking, repeats=RepeatConfig()))
    assert ranking_challenger.train(plain, rows, None, "plain-trained").trained.curves != trained.curves
