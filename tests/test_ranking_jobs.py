"""A ready-made table of impressions through its three jobs: ingested, learnt from, scored, and loaded from MLflow again."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from pyspark.sql import functions as F

from alure_spark.clock import parse_time
from alure_spark.config import Config, ExplorationConfig, UpstreamConfig, build
from alure_spark.errors import ConfigError, DataError, TrackingError
from alure_spark.events.mapped_impressions import example_rows
from alure_spark.inference.registered import ranking_origin
from alure_spark.metrics import auc, calibration
from alure_spark.ranking.artifact import RankingArtifact
from alure_spark.running import open_context, run_jobs
from jobs import ingest_events, ingest_examples, score_impressions, train_ranking
from tests.conftest import overrides

COLUMNS = {
    "user_id": "CAST(person AS STRING)", "event_time": "shown_at", "ad_id": "creative", "weight": "w", "split": "part",
    "age": "age", "job": "job", "click": "clicked",
}  # fmt: skip
FIELDS = {
    "age": {"reads": "example.age", "encoding": "numeral_systems", "options": {"steps": 32}},
    "job": {"reads": "example.job", "encoding": "id"},
}


def impressions(rows=4000, seed=7):
    """A click is likelier with age, and with one of five jobs."""
    random = np.random.default_rng(seed)
    age, job = random.uniform(18, 80, rows), random.integers(0, 5, rows)
    odds = 0.06 * (age - 50) + np.array([2, 0, 0, -1, -1])[job]
    return pd.DataFrame(
        {
            "person": random.integers(0, rows // 4, rows),
            "shown_at": pd.Timestamp("2025-01-01", tz="UTC") + pd.to_timedelta(random.integers(0, 30 * 24 * 3600, rows), unit="s"),
            "creative": [f"ad{one}" for one in random.integers(0, 9, rows)],
            "w": 1.0,
            "part": None,
            "age": np.where(random.random(rows) < 0.05, np.nan, age),
            "job": [f"job{one}" for one in job],
            "clicked": (random.random(rows) < 1 / (1 + np.exp(-odds))).astype(int),
        }
    ).astype({"part": object})


def conf(folder, table, **ranking):
    table.astype({"shown_at": "datetime64[us, UTC]"}).to_parquet(folder / "shown.parquet", index=False)
    mapped = {"path": str(folder / "shown.parquet"), "format": "parquet", "columns": COLUMNS}
    places = dict(pair.split("=", 1) for pair in overrides(folder))
    values = {
        "name": "ready",
        "source": {"kind": "tables", "options": {"examples": [mapped]}},
        "time": {"as_of": "2025-02-01T00:00:00Z"},
        "labels": {"validation_days": 6},
        "training": {"threads": 1},
        "ranking": {"fields": FIELDS, "tasks": ["click"], "learning_rate": 0.01, "epochs": 6, "exploration": {"features": 64}} | ranking,
    }
    for path, value in places.items():
        section, key = path.split(".")
        values.setdefault(section, {})[key] = value
    return build(Config, values)


@pytest.fixture(scope="module")
def ready(spark, tmp_path_factory):
    table = impressions()
    table.loc[0, "clicked"] = 7
    table.loc[1, "part"] = "holdout"
    table.loc[2, "w"] = -1.0
    table.loc[3:102, "part"] = "test"
    context = open_context(conf(tmp_path_factory.mktemp("ready"), table))
    run_jobs(context, [ingest_examples.JOB, train_ranking.JOB, score_impressions.JOB], "ready")
    return context, table


def test_a_row_that_cannot_be_learnt_from_is_in_quarantine_with_its_reason(ready):
    context, table = ready
    refused = {row["reason"]: json.loads(row["row"]) for row in context.lake.read("quarantine").collect()}
    assert set(refused) == {
        "click is neither 0 nor 1", "split is none of train, validation, test", "weight is below 0 or not finite",
    }  # fmt: skip
    assert refused["click is neither 0 nor 1"]["click"] == 7
    assert context.lake.read("impression_examples").count() == len(table) - 3


def test_every_impression_has_an_honest_probability_also_one_that_nothing_was_learnt_from(ready):
    context, table = ready
    scores = context.lake.read("impression_scores").toPandas()
    assert len(scores) == len(table) - 3
    tested = scores[scores["split"] == "test"]
    assert len(tested) == 100
    unseen = scores[scores["event_time"] >= pd.Timestamp("2025-01-26")]
    assert auc(unseen["click"].to_numpy(), unseen["p_click"].to_numpy()) > 0.75
    assert 0.95 < calibration(unseen["click"].to_numpy(), unseen["p_click"].to_numpy()) < 1.05
    assert scores["model_id"].nunique() == 1


def test_every_impression_says_how_unsure_the_model_is(ready):
    scores = ready[0].lake.read("impression_scores").toPandas()
    drawn, deviation = scores["explored_click"], np.sqrt(scores["logit_variance_click"])
    away = (np.log(drawn / (1 - drawn)) - scores["logit_mean_click"]) / deviation
    assert away.mean() == pytest.approx(0, abs=0.1)
    assert away.std() == pytest.approx(1, abs=0.1)
    assert np.corrcoef(scores["logit_mean_click"], np.log(scores["p_click"] / (1 - scores["p_click"])))[0, 1] > 0.95


def test_without_exploration_the_scores_are_the_same_and_the_further_columns_are_not_there(ready, tmp_path):
    """And a champion that cannot say how unsure it is gives way once the conf asks for it."""
    context, table = ready
    plain = open_context(conf(tmp_path, table, exploration={}))
    run_jobs(plain, [ingest_examples.JOB, train_ranking.JOB, score_impressions.JOB], "plain")
    columns = ["user_id", "event_time", "ad_id", "p_click"]
    with_it, without = (one.lake.read("impression_scores") for one in (context, plain))
    assert not [name for name in without.columns if name.startswith(("logit_", "explored"))]
    both = [one.select(columns).toPandas().sort_values(columns, ignore_index=True) for one in (with_it, without)]
    pd.testing.assert_frame_equal(*both)
    plain.config = replace(plain.config, ranking=context.config.ranking)
    with pytest.raises(DataError, match="does not say how unsure it is, which ranking.exploration asks for: run jobs/train_ranking.py"):
        run_jobs(plain, [score_impressions.JOB], "asks")
    run_jobs(plain, [train_ranking.JOB, score_impressions.JOB], "asks again")
    assert "explored_click" in plain.lake.read("impression_scores").columns


def test_jobs_run_again_give_the_same_tables_and_the_same_model(ready):
    context, _ = ready
    before = {row["job"]: row["content_hashes"] for row in context.lake.runs().where("status = 'published'").collect()}
    run_jobs(context, [ingest_examples.JOB, train_ranking.JOB, score_impressions.JOB], "again")
    after = {}
    for row in context.lake.runs().where("status = 'published'").orderBy("finished").collect():
        after[row["job"]] = row["content_hashes"]
    assert after == before


def test_the_model_of_the_registry_says_what_the_table_says(ready):
    context, _ = ready
    mlflow.set_tracking_uri(context.config.tracking.uri)
    model = mlflow.pyfunc.load_model(f"models:/{context.config.ranking_name}@champion")
    rows = example_rows(context.lake.read("impression_examples"), context.config.ranking, context.config.time.as_of_ms, 0)
    frame = rows.orderBy("user_id").limit(20).toPandas()
    predicted = model.predict(frame)
    scores = context.lake.read("impression_scores").where("coalesce(split, '') <> 'test'")
    for user, p in zip(predicted["user_id"], predicted["p_click"], strict=True):
        mine = [row["p_click"] for row in scores.where(F.col("user_id") == user).select("p_click").collect()]
        assert sorted(p) == pytest.approx(sorted(mine), abs=2e-6)


def test_what_is_not_there_is_one_sentence(ready, tmp_path):
    context, table = ready
    with pytest.raises(DataError, match="ranking.fields.age: the number is always 3 in the training split"):
        constant = open_context(conf(tmp_path, table.assign(age=3.0)))
        run_jobs(constant, [ingest_examples.JOB, train_ranking.JOB], "constant")
    with pytest.raises(ConfigError, match="source.options.events is empty, which ingest_events reads"):
        run_jobs(context, [ingest_events.JOB], "events")
    with pytest.raises(DataError, match="lacks the column 'age'"):
        mapped = {"path": str(tmp_path / "shown.parquet"), "format": "parquet", "columns": {k: v for k, v in COLUMNS.items() if k != "age"}}
        source = replace(context.config.source, options={"examples": [mapped]})
        run_jobs(open_context(replace(context.config, source=source)), [ingest_examples.JOB], "lacks")


def test_fields_of_a_ready_made_table_stand_alone(tmp_path):
    with pytest.raises(ConfigError, match="ranking.fields.hour.reads is 'context.hour'; allowed: example.COLUMN"):
        conf(tmp_path, impressions(40), fields=FIELDS | {"hour": {"reads": "context.hour", "encoding": "numeral_systems"}})
    with pytest.raises(ConfigError, match=r"ranking.tasks is .*; allowed: at least one label column"):
        conf(tmp_path, impressions(40), tasks=[])
    with pytest.raises(ConfigError, match="allowed: another name than"):
        conf(tmp_path, impressions(40), fields={"x": {"reads": "example.click", "encoding": "id"}})


def days_of(context, day, **ranking):
    """The same lake and registry on another day."""
    config = context.config
    return open_context(
        replace(config, time=replace(config.time, as_of=f"2025-{day}T00:00:00Z"), ranking=replace(config.ranking, **ranking))
    )


def test_a_model_has_the_interactions_of_another_one_beside_its_own(ready):
    """Of the model that the other jobs here trained, which stays in them to the bit; MLflow says whose they are."""
    context, _ = ready
    upstream = UpstreamConfig(context.config.ranking_name)
    ranking = replace(context.config.ranking, upstream=upstream, epochs=1, exploration=ExplorationConfig())
    small = open_context(replace(context.config, name="small", ranking=ranking))
    run_jobs(small, [train_ranking.JOB], "small")
    versions = [small.tracker.find_model(name) for name in (upstream.model, small.config.ranking_name)]
    other, made = (RankingArtifact.read(one.folder, one.digest) for one in versions)
    assert (made.facts["upstream"], made.spec.upstream.model_id, made.spec.upstream.train) == (other.model_id, other.model_id, "frozen")
    given, copied = other.network()[0].state_dict(), made.network()[0].upstream.state_dict()
    assert all(torch.equal(value, given[name]) for name, value in copied.items())
    client = mlflow.MlflowClient(small.config.tracking.uri)
    runs = client.search_runs([client.get_experiment_by_name("alure_spark").experiment_id], "params.`ranking.upstream.train` = 'frozen'")
    assert other.model_id in {run.data.params.get("train_ranking.upstream") for run in runs}
    with pytest.raises(TrackingError, match="has no champion trained up to time.as_of=.* of nobody, which ranking.upstream.model names"):
        ranking_origin(replace(small.config, ranking=replace(ranking, upstream=UpstreamConfig("nobody"))), small.tracker)
    late = replace(small.config, labels=replace(small.config.labels, validation_days=7))
    with pytest.raises(ConfigError, match="has learnt from impressions up to 2025-01-26"):
        run_jobs(open_context(late), [train_ranking.JOB], "late")


@pytest.mark.slow
def test_a_model_goes_on_from_that_of_an_earlier_day_with_the_ids_that_came_since(spark, tmp_path):
    """One job is new in the middle of the month. A rerun goes on from where the run did, and a conf of another model is refused."""
    table = impressions(2000)
    new = (table["shown_at"] > pd.Timestamp("2025-01-15", tz="UTC")) & (table["person"] % 3 == 0)
    table = table.assign(job=table["job"].mask(new, "job9"), clicked=table["clicked"].mask(new, 1))
    first = days_of(open_context(conf(tmp_path, table, warm_start=True, exploration={})), "01-20")
    run_jobs(first, [ingest_examples.JOB, train_ranking.JOB], "first")
    second = days_of(first, "02-01")
    run_jobs(second, [train_ranking.JOB, score_impressions.JOB], "second")
    run_jobs(days_of(first, "02-01"), [train_ranking.JOB], "again")
    with pytest.raises(ConfigError, match="ranking.hidden is 5, but 64 in the model that ranking.warm_start goes on from"):
        run_jobs(days_of(first, "02-01", hidden=5), [train_ranking.JOB], "other")
    name, tracker = second.config.ranking_name, second.tracker
    versions = tracker.model_versions(name)
    models = [RankingArtifact.read(found.folder, found.digest) for found in (tracker.find_model(name, one) for one in versions)]
    assert [model.facts.get("continues") for model in models] == [None, models[0].model_id, models[0].model_id]
    assert [model.facts["learnt_until_ms"] for model in models[:2]] == [parse_time("2025-01-14"), parse_time("2025-01-26")]
    assert models[2].digest == models[1].digest
    before, after = (model.network()[1].entries["job"] for model in models[:2])
    assert (len(before[0]), len(after[0])) == (5, 6)
    assert dict(zip(*before, strict=True)).items() <= dict(zip(*after, strict=True)).items()
    verdicts = [tags["alure.gate"] for tags in versions.values()]
    ours, theirs = re.fullmatch(rf"champion: validation loss (\S+), {models[0].model_id} has (\S+)", verdicts[1]).groups()
    assert float(ours) < float(theirs)
    scores = second.lake.read("impression_scores").toPandas()
    unseen = scores[scores["event_time"] >= pd.Timestamp("2025-01-26")]
    assert auc(unseen["click"].to_numpy(), unseen["p_click"].to_numpy()) > 0.75
    client = mlflow.MlflowClient(second.config.tracking.uri)
    runs = client.search_runs([client.get_experiment_by_name("alure_spark").experiment_id])
    warm = [run.data.metrics["train_ranking.warm"] for run in runs if "train_ranking.warm" in run.data.metrics]
    assert sorted(warm) == [0, 1, 1], "the first has nothing to go on from"
