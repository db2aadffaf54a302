"""A value task through the jobs: of a ready-made table, whose labels are SQL expressions, and of the test world's conversions."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from pyspark.sql import functions as F

from alure_spark.config import Config, LossConfig, TaskConfig, build, load
from alure_spark.errors import DataError
from alure_spark.events.mapped_impressions import example_rows
from alure_spark.inference.registered import ranking_champion
from alure_spark.lake import as_of_scope
from alure_spark.running import open_context, run_jobs
from alure_spark.value_metrics import expected_over_observed, normalized_gini
from jobs import build_sequences, ingest_examples, score_impressions, train_ranking
from tests.conftest import ROOT, overrides

COLUMNS = {
    "user_id": "CAST(person AS STRING)", "event_time": "shown_at", "ad_id": "creative", "age": "age", "job": "job",
    "clicked": "clicks > 0", "spent": "coalesce(amount, 0) * (1 - discount)",
}  # fmt: skip
FIELDS = {
    "age": {"reads": "example.age", "encoding": "numeral_systems", "options": {"steps": 32}},
    "job": {"reads": "example.job", "encoding": "id"},
}
DISCOUNT = 0.25


def impressions(rows=4000, seed=7):
    """A purchase is likelier with age, and in one of five jobs it is larger."""
    random = np.random.default_rng(seed)
    age, job = random.uniform(18, 80, rows), random.integers(0, 5, rows)
    buys = random.random(rows) < 1 / (1 + np.exp(-0.06 * (age - 70)))
    amount = np.exp(np.array([3, 1, 1, 0.5, 0.5])[job] + 0.5 * random.normal(size=rows))
    return pd.DataFrame(
        {
            "person": random.integers(0, rows // 4, rows),
            "shown_at": pd.Timestamp("2025-01-01", tz="UTC") + pd.to_timedelta(random.integers(0, 30 * 24 * 3600, rows), unit="s"),
            "creative": [f"ad{one}" for one in random.integers(0, 9, rows)],
            "age": age,
            "job": [f"job{one}" for one in job],
            "clicks": random.poisson(np.where(buys, 1.5, 0.2)),
            "amount": np.where(buys, amount, np.nan),
            "discount": DISCOUNT,
        }
    )


def conf(folder, table, **ranking):
    table.astype({"shown_at": "datetime64[us, UTC]"}).to_parquet(folder / "shown.parquet", index=False)
    mapped = {"path": str(folder / "shown.parquet"), "format": "parquet", "columns": COLUMNS}
    values = {
        "name": "valued",
        "source": {"kind": "tables", "options": {"examples": [mapped]}},
        "time": {"as_of": "2025-02-01T00:00:00Z"},
        "labels": {"validation_days": 6},
        "training": {"threads": 1},
        "ranking": {"fields": FIELDS, "tasks": ["spent", "clicked"], "values": ["spent"], "learning_rate": 0.01, "epochs": 5} | ranking,
    }
    for path, value in (pair.split("=", 1) for pair in overrides(folder)):
        section, key = path.split(".")
        values.setdefault(section, {})[key] = value
    return build(Config, values)


@pytest.fixture(scope="module")
def ready(spark, tmp_path_factory):
    table = impressions()
    table.loc[0, "amount"] = -5.0
    table.loc[1, "amount"] = np.inf
    table.loc[2, "amount"] = 2e25
    context = open_context(conf(tmp_path_factory.mktemp("valued"), table))
    run_jobs(context, [ingest_examples.JOB, train_ranking.JOB, score_impressions.JOB], "ready")
    return context, table


def test_a_label_that_is_no_value_is_in_quarantine_with_its_reason(ready):
    context, table = ready
    refused = [(row["reason"], json.loads(row["row"])) for row in context.lake.read("quarantine").collect()]
    assert [reason for reason, _ in refused] == ["spent is no number of at least 0"] * 3
    assert -5 * (1 - DISCOUNT) in [row["spent"] for _, row in refused]
    kept = context.lake.read("impression_examples")
    assert kept.count() == len(table) - 3
    assert [kept.schema[name].dataType.simpleString() for name in ("spent", "clicked")] == ["double", "int"]
    assert kept.agg(F.sum("spent")).first()[0] == pytest.approx((1 - DISCOUNT) * table["amount"][3:].sum())


def test_every_impression_has_an_expected_value_whose_mean_is_honest(ready):
    scores = ready[0].lake.read("impression_scores").toPandas()
    assert {"spent", "expected_spent", "clicked", "p_clicked"} <= set(scores)
    assert "p_spent" not in scores
    unseen = scores[scores["event_time"] >= pd.Timestamp("2025-01-26")]
    spent, expected = unseen["spent"].to_numpy(), unseen["expected_spent"].to_numpy()
    assert normalized_gini(spent, expected) > 0.5
    assert 0.95 < expected_over_observed(spent, expected) < 1.05
    assert unseen["p_clicked"].between(0, 1).all()


def test_the_model_of_the_registry_says_what_the_table_says_and_its_run_shows_the_deciles(ready):
    context, _ = ready
    mlflow.set_tracking_uri(context.config.tracking.uri)
    model = mlflow.pyfunc.load_model(f"models:/{context.config.ranking_name}@champion")
    rows = example_rows(context.lake.read("impression_examples"), context.config.ranking, context.config.time.as_of_ms, 0)
    predicted = model.predict(rows.orderBy("user_id").limit(20).toPandas())
    scores = context.lake.read("impression_scores")
    for user, expected in zip(predicted["user_id"], predicted["expected_spent"], strict=True):
        mine = [row["expected_spent"] for row in scores.where(F.col("user_id") == user).select("expected_spent").collect()]
        assert sorted(expected) == pytest.approx(sorted(mine), rel=1e-5, abs=1e-6)
    pictures = list(Path(context.config.tracking.artifact_root).rglob("deciles_spent.png"))
    assert len(pictures) == 1
    assert pictures[0].stat().st_size > 10_000


def test_a_value_task_of_nothing_is_one_sentence(spark, tmp_path):
    context = open_context(conf(tmp_path, impressions(400).assign(amount=np.nan)))
    with pytest.raises(DataError, match="the value task 'spent' has no label above 0 in the training split"):
        run_jobs(context, [ingest_examples.JOB, train_ranking.JOB], "zeros")


@pytest.fixture(scope="module")
def spending(chain, tmp_path_factory):
    """The test world's lake with the value of conversions as a task: its sequences built again, a model trained, candidates scored."""
    folder = tmp_path_factory.mktemp("spending")
    shutil.copytree(chain.config.lake.root, folder / "lake")
    config = load(ROOT / "conf" / "test.yml", overrides(folder))
    tasks = {
        "click": TaskConfig("ad_click", 24.0),
        "conversion": TaskConfig("conversion", 168.0),
        "spent": TaskConfig("conversion", 168.0, sum="value"),
    }
    ranking = replace(config.ranking, tasks=tuple(tasks), score={"click": "bid", "spent": "1"}, loss=LossConfig("pairwise"))
    context = open_context(replace(config, labels=replace(config.labels, tasks=tasks), ranking=ranking))
    run_jobs(context, [build_sequences.JOB, train_ranking.JOB, score_impressions.JOB], "spending")
    return context


def test_the_label_is_what_the_conversions_of_an_impression_add_up_to(spending):
    rows = spending.lake.read("training_examples").where(as_of_scope(spending.config.time.as_of_ms))
    each = rows.select(F.explode(F.arrays_zip("conversion", "spent")).alias("one")).select("one.*").toPandas()
    assert ((each["spent"] > 0) == (each["conversion"] == 1)).all()
    assert each["spent"].max() > 2 * each["spent"][each["spent"] > 0].median(), "values differ"


def test_candidates_are_ranked_by_bid_times_click_and_the_expected_value(spending):
    config, lake = spending.config, spending.lake
    ads = lake.read("ads").toPandas()
    started = ads[ads["active_from"].astype("datetime64[ms]").astype(np.int64) <= config.time.as_of_ms].sort_values("active_from")
    bid = started.groupby("ad_id").last()["bid"].fillna(0.0)
    scores = lake.read("ranking_scores").where(as_of_scope(config.time.as_of_ms)).orderBy("user_id").toPandas()
    assert len(scores) > 50
    for row in scores.itertuples():
        worth = bid.loc[list(row.ad_id)].to_numpy()
        np.testing.assert_allclose(row.score, worth * row.p_click + np.array(row.expected_spent), rtol=1e-9)
        assert (np.diff(row.score) <= 1e-9).all()
        assert (np.array(row.expected_spent) > 0).all()
        np.testing.assert_allclose(row.explored, worth * row.explored_click + np.array(row.expected_spent), rtol=1e-6)
    assert {"p_conversion", "explored_conversion"} <= set(scores)
    assert not {"p_spent", "explored_spent"} & set(scores)
    assert ranking_champion(config, spending.tracker).spec.values == ("spent",)
    mean = np.concatenate(scores["expected_spent"].to_numpy()).mean()
    shown = lake.read("training_examples").select(F.explode("spent").alias("spent")).agg(F.avg("spent")).first()[0]
    assert shown / 4 < mean < 4 * shown
