"""A policy per segment from conf to embedding: what it withholds is read neither in training nor in inference, of its users alone."""

from __future__ import annotations

import shutil

import mlflow
import numpy as np
import pandas as pd
import pytest
from pyspark.sql import functions as F

from alure_spark.config import load
from alure_spark.errors import AlureError, ConfigError, DataError
from alure_spark.events.segment_history import in_segments
from alure_spark.model.artifact import Artifact
from alure_spark.running import open_context, run_jobs
from jobs import build_sequences, compare_policies, correlate_dwell, embed_users, ingest_events, search_threshold, train_model
from jobs.pipeline import stages
from tests.conftest import ROOT, overrides

WORLD = ("source.options.users=150", "source.options.ads_per_organic=1", "source.options.events_per_user=40", "training.epochs=1")
DAYS = tuple(f"2025-01-{day}T00:00:00Z" for day in (12, 13, 14, 15, 16))
DROPPED = ("organic_impression__category_id", "organic_impression__dwell_ms", "page_impression__item_id", "page_impression__category_id")
POLICY = (
    "feature_policy={passive: {sources: [organic_impression, ad_impression, ad_click, conversion, comment], "
    "drop_attributes: {organic_impression: [category_id, dwell_ms]}, max_events: {ad_impression: 4}}}"
)
EXPERIMENTS = (
    "experiments={plain: {}, same: {against: plain}, "
    "lean: {against: plain, policy: {active: {drop_attributes: {ad_impression: [position]}}}}}"
)


def do(folder, *jobs, settings=(POLICY,), as_of=DAYS[-1]):
    context = open_context(load(ROOT / "conf" / "test.yml", [*overrides(folder, *WORLD, *settings), f"time.as_of={as_of}"]))
    run_jobs(context, [job.JOB for job in jobs], "segments")
    return context


@pytest.fixture(scope="module")
def before(spark, tmp_path_factory):
    """Events and segments of five days."""
    folder = tmp_path_factory.mktemp("segments")
    do(folder, ingest_events)
    for day in DAYS:
        do(folder, correlate_dwell, as_of=day)
    return folder


@pytest.fixture(scope="module")
def embedded(before, tmp_path_factory):
    folder = tmp_path_factory.mktemp("policy")
    shutil.copytree(before / "lake", folder / "lake")
    return do(folder, build_sequences, train_model, embed_users)


def rows_of(context):
    """user_sequences with each user's segment at as_of, and the published embeddings."""
    as_of = context.config.time.as_of_ms
    named = in_segments(context.lake.read("user_sequences"), context.lake.read("user_segments"), as_of)
    table = context.lake.read("user_embeddings").toPandas().set_index("user_id")["embedding"]
    frame = named.orderBy("user_id").toPandas()
    return frame[frame["user_id"].isin(table.index)].reset_index(drop=True), table


@pytest.mark.slow
def test_rows_are_told_apart_and_the_model_knows_its_policies(embedded):
    rows = embedded.lake.read("training_examples")
    counts = {row["segment"]: row["count"] for row in rows.groupBy("segment").count().collect()}
    assert set(counts) == {"passive", "active"}
    assert rows.count() == rows.select("user_id", "segment").distinct().count() > rows.select("user_id").distinct().count()
    metrics = embedded.tracker.metrics
    assert metrics["build_sequences.segment.active.rows"] == counts["active"]
    shown = rows.select(F.explode("impression_id")).count()
    assert metrics["build_sequences.segment.active.impressions"] + metrics["build_sequences.segment.passive.impressions"] == shown
    assert 0 < metrics["build_sequences.impressions_before_segments"] < shown
    found = embedded.tracker.find_model(embedded.config.model_name)
    assert Artifact.read(found.folder, found.digest).spec.policies == embedded.config.segment_policies


@pytest.mark.slow
def test_the_table_the_pyfunc_and_a_reader_without_the_dropped_columns_agree(embedded):
    frame, table = rows_of(embedded)
    wanted = np.array([table[user] for user in frame["user_id"]])
    model = mlflow.pyfunc.load_model(f"models:/{embedded.config.model_name}@champion")

    def embed(rows):
        return np.array(model.predict(rows)["embedding"].tolist())

    assert np.abs(embed(frame) - wanted).max() < 1e-5
    passive = frame["segment"].to_numpy() == "passive"
    assert 10 < passive.sum() < len(frame) - 10
    narrow = frame[passive].drop(columns=[name for name in frame if name in DROPPED or name.startswith("page_impression")])
    assert np.abs(embed(narrow) - wanted[passive]).max() < 1e-5, "none of it is read"
    with pytest.raises(DataError, match="organic_impression__category_id|page_impression"):
        embed(frame[~passive].drop(columns=list(DROPPED)))
    short = frame[passive].copy()
    for name in [name for name in short if name.startswith("ad_impression__")]:
        short[name] = [values[-4:] for values in short[name]]
    assert np.abs(embed(short) - wanted[passive]).max() < 1e-5, "of the last four only"
    with pytest.raises(DataError, match="give each row its 'segment'"):
        embed(frame.drop(columns="segment"))
    other = frame.assign(segment=np.where(passive, "active", "passive"))
    assert np.abs(embed(other) - wanted).max() > 1e-3


@pytest.mark.slow
def test_a_policy_for_a_segment_that_nobody_is_in_stops_before_anything_is_published(embedded, tmp_path):
    shutil.copytree(embedded.lake.root, tmp_path / "lake")
    settings = (
        "feature_policy={active: {max_events: {ad_impression: 4}}}", "dynamix.threshold=given", "dynamix.thresholds=[50]",
        "labels.days=1", "labels.validation_days=0.5",
    )  # fmt: skip
    for day in DAYS[-2:]:  # those that hold on the last day
        context = do(tmp_path, correlate_dwell, settings=settings, as_of=day)
    before = context.lake.published_versions()
    with pytest.raises(DataError, match="is for the segment 'active', but nobody is in it .*passive"):
        do(tmp_path, build_sequences, settings=settings)
    context.lake.refresh()
    assert context.lake.published_versions() == before


def test_the_pipeline_computes_segments_where_the_conf_has_policies_for_them():
    plain, segmented = stages(), stages(segmented=True)
    assert [job.name for job in segmented][:3] == ["ingest_events", "correlate_dwell", "build_sequences"]
    assert [job for job in segmented if job.name != "correlate_dwell"] == plain
    assert stages("train_model", segmented=True) == stages("train_model")


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("feature_policy={activ: {}}", "names the segment 'activ'; did you mean 'active'"),
        ("feature_policy={active_2: {}}", "names the segment 'active_2'"),
        ("feature_policy={active: {sources: [ad_impresion]}}", "did you mean 'ad_impression'"),
        ("feature_policy={active: {drop_attributes: {ad_impression: [positio]}}}", "did you mean 'position'"),
        ("feature_policy={active: {max_events: {ad_impression: 1}}}", "at least 2"),
        ("experiments={a: {policy: {activ: {}}}}", "experiments.a.policy names the segment 'activ'"),
        ("experiments={a: {against: b}}", "experiments.a.against names 'b'"),
    ],
)
def test_a_wrong_policy_is_named(setting, says, tmp_path):
    with pytest.raises(ConfigError, match=says):
        load(ROOT / "conf" / "test.yml", overrides(tmp_path, setting))


@pytest.mark.slow
def test_segments_that_were_never_computed_are_asked_for(before, tmp_path):
    do(tmp_path, ingest_events)
    with pytest.raises(AlureError, match="user_segments"):
        do(tmp_path, build_sequences)


@pytest.mark.slow
def test_a_table_that_is_not_told_apart_trains_no_policy(before, tmp_path):
    shutil.copytree(before / "lake", tmp_path / "lake")
    do(tmp_path, build_sequences, settings=())
    with pytest.raises(DataError, match="not told apart"):
        do(tmp_path, train_model)


@pytest.mark.slow
def test_experiments_are_trained_below_one_run_and_the_threshold_is_searched(before, embedded, tmp_path):
    shutil.copytree(before / "lake", tmp_path / "lake")
    settings = (EXPERIMENTS, "dynamix.compare_seeds=[7, 8]", "dynamix.compare_rounds=2")
    context = do(tmp_path, build_sequences, compare_policies, settings=settings)
    metrics = context.tracker.metrics
    assert metrics["compare_policies.same.total.click.gain"] == 0, "it leaves what plain leaves, and is not trained again"
    assert metrics["compare_policies.same.total.training.gain"] == 0
    assert metrics["compare_policies.lean.passive.inference.gain"] == 0, "of the passive it withholds nothing"
    assert metrics["compare_policies.lean.active.click.low"] <= metrics["compare_policies.lean.active.click.gain"]
    client = mlflow.MlflowClient(context.config.tracking.uri)
    runs = client.search_runs([client.get_experiment_by_name("alure_spark").experiment_id])
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId")]
    assert {run.info.run_name for run in children} == {f"{name} seed {seed}" for name in ("plain", "lean") for seed in (7, 8)}
    (parent,) = {run.data.tags["mlflow.parentRunId"] for run in children}
    plots = {item.path for item in client.list_artifacts(parent, "compare_policies")}
    assert {f"compare_policies/{name}.png" for name in ("convergence_click", "gain_click", "training", "inference")} <= plots
    assert all("click.ne" in run.data.metrics for run in children)
    same = pd.DataFrame([run.data.metrics for run in children if "plain" in run.info.run_name])["click.ne"]
    assert same.nunique() == 2, "two seeds"

    found = do(embedded.lake.root.rsplit("/lake", 1)[0], search_threshold).tracker
    assert found.metrics["search_threshold.click.epsilon"] >= 0
    with pytest.raises(DataError, match="nothing at or before"):
        do(embedded.lake.root.rsplit("/lake", 1)[0], search_threshold, settings=(POLICY, "labels.validation_days=6"))
