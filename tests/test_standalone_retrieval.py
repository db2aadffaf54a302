"""Standalone retrieval through the lake: what a head learns from and when it was known, the head in MLflow, and its candidates."""

from __future__ import annotations

import shutil
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pyspark.sql import functions as F

from alure_spark.clock import DAY_MS
from alure_spark.config import RetrievalConfig, StandaloneConfig, TransferConfig
from alure_spark.errors import ConfigError, DataError
from alure_spark.events.standalone_rows import ads_of_day, engaged_rows, upstream_model, vectors_of_day
from alure_spark.inference.registered import head_of
from alure_spark.lake import JobRun, as_of_scope
from alure_spark.privacy import identity
from alure_spark.running import run_jobs
from jobs import forget_users, retrieve_ads, train_retrieval
from tests.transfer_lake import FIRST, HALF_LIFE, WINDOW, context_at

AS_OF = FIRST + DAY_MS
SETTINGS = StandaloneConfig(head="linear", reads="user.cross", min_examples=10, epochs=3, candidates=8)


def searching(chain, days, settings=SETTINGS, **more):
    """The second day, with a head."""
    folder = Path(days[0].lake.root).parent
    return context_at(chain, folder, 1, transfer=TransferConfig("hidden", HALF_LIFE, WINDOW, retrieval=settings), **more)


def opened(context):
    return JobRun(context.lake, "test", "", "true")


def published(context, name, day_ms, **equal):
    rows = context.lake.read(name).where(as_of_scope(day_ms)).collect()
    return [row for row in rows if all(row[column] == value for column, value in equal.items())]


@pytest.mark.parametrize("reads", ["user.cross", "user.embedding"])
def test_a_head_learns_from_what_was_published_before_the_impression(chain, days, reads):
    """A plain walk over all impressions: those engaged with, later than the lag after FIRST, with the vectors of FIRST."""
    context = searching(chain, days, replace(SETTINGS, reads=reads))
    run = opened(context)
    upstream = upstream_model(run, context.config)
    if reads == "user.cross":
        users = {row["user_id"]: row["representation"] for row in published(context, "cross_representations", FIRST, kind="user")}
    else:
        users = {row["user_id"]: row["embedding"] for row in published(context, "user_embeddings", FIRST)}
    ads = {row["ad_hash"]: row["representation"] for row in published(context, "item_representations", FIRST)}
    served_from = FIRST + context.config.embedding.publish_lag_ms
    truth, early = defaultdict(int), 0
    for row in published(context, "training_examples", AS_OF):
        for at, ad, clicked in zip(row["time_ms"], row["ad_id"], row["click"], strict=True):
            known = clicked and row["user_id"] in users and ad in ads
            truth[row["user_id"], ad, at] += bool(known and at > served_from)
            early += bool(known and FIRST < at <= served_from)
    rows = engaged_rows(run, context.config, upstream).collect()
    assert early > 0, "some clicks were shown after FIRST, but before its vectors were served"
    assert len(rows) == sum(truth.values()) > 10
    for row in rows:
        assert truth[row["user_id"], row["ad_id"], row["time_ms"]]
        np.testing.assert_array_equal(row["user"], users[row["user_id"]])
        np.testing.assert_array_equal(row["ad"], ads[row["ad_id"]])
    newest = replace(context.config.transfer, retrieval=replace(context.config.transfer.retrieval, max_examples=5))
    some = engaged_rows(run, replace(context.config, transfer=newest), upstream).collect()
    assert sorted(row["time_ms"] for row in some) == sorted(row["time_ms"] for row in rows)[-5:]


def test_what_is_searched_is_of_the_day(chain, days):
    context = searching(chain, days)
    run = opened(context)
    upstream = upstream_model(run, context.config)
    users, ads = vectors_of_day(run, context.config, upstream)
    mine = {row["user_id"]: row["representation"] for row in published(context, "cross_representations", AS_OF, kind="user")}
    assert {row["user_id"]: row["vector"] for row in users.collect()} == mine
    countries = {row["user_id"]: row["country"] for row in context.lake.read("user_sequences").orderBy("as_of").collect()}
    assert all(row["country"] == countries[row["user_id"]] for row in users.collect())
    towers = {row["ad_hash"]: row["representation"] for row in published(context, "item_representations", AS_OF)}
    assert len(ads.collect()) == len(towers)
    hashes = {row["ad_id"]: row["ad_hash"] for row in context.lake.read("ads").collect()}
    assert all(towers[hashes[row["ad_id"]]] == row["vector"] for row in ads.collect())
    assert ads_of_day(run, context.config).count() == len(towers)


def retrieved(context):
    run_jobs(context, [retrieve_ads.job(FIRST)], "test")
    return {row["user_id"]: row for row in published(context, "ad_candidates", AS_OF)}


def test_a_head_is_trained_registered_and_one_more_origin_of_candidates(chain, days):
    context = searching(chain, days, retrieval=RetrievalConfig(quota={"standalone": 3}))
    upstream = upstream_model(opened(context), context.config)
    with_none = retrieved(context)
    assert not any(graphs & 8 for row in with_none.values() for graphs in row["graphs"]), "there is no head yet"
    digests = []
    for _ in range(2):
        run_jobs(context, [train_retrieval.JOB], "test")
        artifact, said = head_of(context.config, context.tracker, upstream)
        digests.append(artifact.digest)
    assert digests[0] == digests[1], "twice the same head"
    assert said == f"standalone retrieval: head {artifact.model_id} of {upstream}"
    assert artifact.facts["as_of_ms"] == AS_OF
    rows = retrieved(context)
    alone = {user: sum(graphs == 8 for graphs in row["graphs"]) for user, row in rows.items()}
    assert max(alone.values()) == 3, "the quota"
    for row in rows.values():
        for graphs, reason, neighbours in zip(row["graphs"], row["reason"], row["neighbours"], strict=True):
            assert bool(graphs & 8) == ("standalone" in reason)
            assert (neighbours == 0) == (graphs == 8)
        assert row["score"] == sorted(row["score"], reverse=True)


def test_vectors_and_heads_of_two_user_models_are_refused(chain, days):
    context = searching(chain, days)
    run = opened(context)
    upstream = upstream_model(run, context.config)
    run_jobs(context, [train_retrieval.JOB], "test")
    head, said = head_of(context.config, context.tracker, "alure-other/hidden")
    assert head is None
    assert f"was trained on vectors of {upstream}, but those of today are of alure-other/hidden; it is refused" in said
    linear = replace(SETTINGS, reads="user.embedding")
    other = searching(chain, days, linear)
    assert upstream_model(opened(other), other.config) == upstream.partition("/")[0]
    assert head_of(other.config, other.tracker, upstream.partition("/")[0])[0] is None, "it reads another vector of the user"
    strange = context.lake.read("item_representations").withColumn("model_id", F.lit("alure-other"))
    run.read_if_published = lambda name: strange if name == "item_representations" else context.lake.read(name)
    with pytest.raises(DataError, match="would compare vectors of two user models, cross_representations of alure-.* of alure-other"):
        upstream_model(run, context.config)
    tomorrow = replace(context.config, time=replace(context.config.time, as_of="2025-01-18T00:00:00Z"))
    with pytest.raises(DataError, match="item_representations has no rows of 2025-01-18T00:00:00Z: run jobs/extract_representations.py"):
        upstream_model(opened(context), tomorrow)


def test_too_few_engagements_make_no_head(chain, days):
    context = searching(chain, days, replace(SETTINGS, min_examples=10**6), tracking=replace(days[0].config.tracking, model_name="few"))
    run_jobs(context, [train_retrieval.JOB], "test")
    assert not context.tracker.model_versions(context.config.retrieval_name)


def test_settings_that_do_not_fit_are_one_sentence_and_none_change_nothing(chain, days):
    context = searching(chain, days)
    plain = days[0].config
    assert replace(plain, transfer=TransferConfig("hidden", HALF_LIFE, WINDOW, retrieval=StandaloneConfig())).digest() == plain.digest()
    assert context.config.digest() != plain.digest()
    with pytest.raises(ConfigError, match=r"transfer\.retrieval\.head is set, but transfer\.layer is empty"):
        replace(plain, transfer=TransferConfig(retrieval=SETTINGS))
    with pytest.raises(ConfigError, match=r"transfer\.retrieval\.task names the task 'clic'; did you mean 'click'"):
        searching(chain, days, replace(SETTINGS, task="clic"))
    with pytest.raises(ConfigError, match=r"transfer\.retrieval\.head is empty: say linear or two_layers"):
        run_jobs(days[0], [train_retrieval.JOB], "test")


@pytest.mark.slow
def test_a_forgotten_user_is_in_no_input_of_a_head(chain, days, tmp_path, monkeypatch):
    monkeypatch.setenv(identity.KEY_VARIABLE, "a key of the test that is long enough for it")
    shutil.copytree(Path(days[0].lake.root), tmp_path / "lake")
    shutil.copy(Path(days[0].lake.root).parent / "mlflow.db", tmp_path / "mlflow.db")
    context = context_at(chain, tmp_path, 1, transfer=TransferConfig("hidden", HALF_LIFE, WINDOW, retrieval=SETTINGS))
    upstream = upstream_model(opened(context), context.config)
    user = engaged_rows(opened(context), context.config, upstream).orderBy("user_id").first()["user_id"]
    run_jobs(context, [forget_users.job([user])], "test")
    run = opened(context)
    users, _ = vectors_of_day(run, context.config, upstream)
    for rows in (engaged_rows(run, context.config, upstream), users):
        assert rows.where(F.col("user_id") == user).isEmpty()
        assert not rows.isEmpty()
