"""The chain as its users run it: twice, in parts, killed, on three kinds of Spark, on data that lacks half of what it could have."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from pyspark.sql import functions as F

from alure_spark.config import build, load
from alure_spark.errors import ConfigError, DataError, QualityError, TrackingError, TrainingError
from alure_spark.lake import Lake, as_of_scope, timestamp
from alure_spark.model import semantic_ids
from alure_spark.model.artifact import Artifact, read_validated
from alure_spark.retrieval.candidates import ad_candidates
from alure_spark.running import open_context, run_jobs
from alure_spark.sources.synthetic.options import WorldOptions
from alure_spark.sources.synthetic.truth import truth_users
from jobs import attribute_importance, retrieve_ads, train_semantic_ids
from jobs.pipeline import STAGES, stages
from tests.conftest import ROOT, overrides, own_spark

CONF = ROOT / "conf" / "test.yml"
PUBLISHED = {
    "events", "ads", "follows", "quarantine", "user_sequences", "training_examples", "vocabularies", "user_embeddings",
    "user_clusters", "cluster_centroids", "user_edges", "ad_candidates", "ranking_scores", "evaluation_users",
}  # fmt: skip


def contents(lake: Lake) -> dict[str, str]:
    """Table -> content hash of what its last published run wrote."""
    lake.refresh()
    rows = lake.runs().where("status = 'published'").orderBy("finished").select("content_hashes", "job").collect()
    return {f"{row['job']}.{table}": value for row in rows for table, value in row["content_hashes"].items()}


def run(folder: Path, *more: str, first: str = "", last: str = ""):
    context = open_context(load(CONF, overrides(folder, *more)))
    run_jobs(context, stages(first, last, ranked=True), "pipeline")
    return context


def command(folder: Path, *arguments: str, settings: tuple[str, ...] = ()) -> list[str]:
    """`python -m jobs.X ...` against the folder."""
    values = [part for value in overrides(folder, *settings) for part in ("--set", value)]
    return [sys.executable, "-m", *arguments, "--conf", str(CONF), *values]


def in_process(arguments: list[str], **environment: str) -> subprocess.CompletedProcess:
    """In a process of its own, which starts its own Spark."""
    return subprocess.run(arguments, cwd=ROOT, env=own_spark(**environment), capture_output=True, text=True, check=False)


def test_the_chain_publishes_every_table_and_one_mlflow_run_with_plots(chain):
    assert set(chain.lake.published_versions()) == PUBLISHED
    for name in PUBLISHED - {"quarantine"}:
        assert chain.lake.read(name).count() > 0, name
    client = mlflow.MlflowClient(chain.config.tracking.uri)
    (found,) = client.search_runs([client.get_experiment_by_name("alure_spark").experiment_id])
    assert found.data.tags["alure.config_hash"] == chain.config.digest()
    read = {item.dataset.name.split("@")[0] for item in found.inputs.dataset_inputs}
    assert {"events", "user_sequences", "user_embeddings", "user_edges", "ads", "ad_candidates"} <= read
    plots = {item.path for stage in ("evaluate", "retrieve_ads") for item in client.list_artifacts(found.info.run_id, stage)}
    assert {"evaluate/ads_recall.png", "evaluate/items_recall.png", "retrieve_ads/ads_per_user.png"} <= plots
    metrics = found.data.metrics
    assert metrics["build_graph.recall_worst_country"] == 1.0, "exact search"
    plots = {item.path for item in client.list_artifacts(found.info.run_id, "train_model")}
    assert {"train_model/losses.png", "train_model/calibration.png", "train_model/summary.txt"} <= plots
    assert metrics["train_model.click.calibration"] == pytest.approx(1, abs=0.01), (
        "of the validated model, on the split it was calibrated on"
    )
    assert metrics["train_model.flops_per_user"] > 0
    assert len(client.get_metric_history(found.info.run_id, "train_model.epoch.train.click")) == 2, "a curve, one point per epoch"
    assert metrics["evaluate.items.recall_minus.random_neighbours.low"] > 0


@pytest.mark.slow
def test_running_twice_changes_nothing(chain, tmp_path):
    shutil.copytree(chain.lake.root, tmp_path / "lake")
    again = run(tmp_path)
    first, second = contents(chain.lake), contents(again.lake)
    assert {key: value for key, value in second.items() if "vocabularies" not in key} == {
        key: value for key, value in first.items() if "vocabularies" not in key
    }
    assert again.lake.read("vocabularies").count() == chain.lake.read("vocabularies").count(), "append-only: nothing new to append"


def test_the_registered_champion_is_what_embedded_the_table_in_plain_python_and_as_a_pyfunc_too(chain):
    name = chain.config.model_name
    found = chain.tracker.find_model(name)
    artifact = Artifact.read(found.folder, found.digest)
    table = chain.lake.read("user_embeddings").orderBy("user_id").toPandas()
    assert set(table["model_id"]) == {artifact.model_id}
    validated = read_validated(found.folder, found.digest)
    assert validated.digest != artifact.digest, "the champion was refitted; the gate evaluates what has not seen the validation split"
    assert validated.facts["validation"] == artifact.facts["validation"]
    rows = chain.lake.read("user_sequences").orderBy("user_id").limit(40).toPandas()
    model = mlflow.pyfunc.load_model(f"models:/{name}@champion")
    wanted = table.set_index("user_id")["embedding"]
    for row in model.predict(rows).itertuples():
        assert np.abs(np.array(row.embedding) - wanted[row.user_id]).max() < 1e-5


def test_a_failing_training_leaves_the_champion_and_all_tables_as_they_were(chain, tmp_path):
    shutil.copytree(chain.lake.root, tmp_path / "lake")
    lake = Lake(chain.spark, load(CONF, overrides(tmp_path)).lake)
    before, champion = contents(lake), chain.tracker.find_model(chain.config.model_name)
    tracking = f"tracking.uri={chain.config.tracking.uri}"
    for settings, error, message in (
        (["training.learning_rate=1.0e+15", "training.clip_norm=1.0e+15"], TrainingError, "not finite"),
        (["labels.validation_days=400"], DataError, "training split is empty|no user has embedding.min_items"),
    ):
        context = open_context(load(CONF, [*overrides(tmp_path), tracking, *settings]))
        with pytest.raises(error, match=message):
            run_jobs(context, stages("train_model", "train_model"), "train_model")
        assert chain.tracker.find_model(chain.config.model_name).version == champion.version
        assert contents(lake) == before
        assert not [path for path in (tmp_path / "scratch").glob("alure-*/*") if path.is_dir()], "packed histories are deleted"
    failed = lake.runs().where("status = 'failed'").select("message").collect()
    assert any("not finite" in row["message"] for row in failed)


@pytest.mark.slow
def test_a_champion_of_the_future_or_a_damaged_one_embeds_nothing(chain, tmp_path, monkeypatch):
    shutil.copytree(chain.lake.root, tmp_path / "lake")
    tracking = f"tracking.uri={chain.config.tracking.uri}"
    earlier = open_context(load(CONF, [*overrides(tmp_path), tracking, "time.as_of=2025-01-14T00:00:00Z"]))
    run_jobs(earlier, stages("build_sequences", "build_sequences"), "earlier")
    with pytest.raises(ConfigError, match="it would leak the future"):
        run_jobs(earlier, stages("embed_users", "embed_users"), "earlier")
    nobody = open_context(load(CONF, [*overrides(tmp_path), tracking, "tracking.model_name=unheard_of"]))
    with pytest.raises(TrackingError, match="run jobs/train_model.py first"):
        run_jobs(nobody, stages("embed_users", "embed_users"), "nobody")
    context = open_context(load(CONF, [*overrides(tmp_path), tracking]))
    found = context.tracker.find_model(context.config.model_name)
    damaged = tmp_path / "damaged"
    shutil.copytree(found.folder, damaged)
    weights = bytearray((damaged / "user.safetensors").read_bytes())
    weights[-1] ^= 1
    (damaged / "user.safetensors").write_bytes(weights)
    monkeypatch.setattr(context.tracker, "find_model", lambda *arguments: replace(found, folder=damaged))
    with pytest.raises(DataError, match="was changed or damaged"):
        run_jobs(context, stages("embed_users", "embed_users"), "damaged")


@pytest.mark.slow
def test_the_next_day_only_users_with_new_events_are_embedded_again(chain, tmp_path):
    shutil.copytree(chain.lake.root, tmp_path / "lake")
    first, second = chain.config.time.as_of_ms, "2025-01-17T00:00:00Z"
    context = open_context(load(CONF, [*overrides(tmp_path), f"tracking.uri={chain.config.tracking.uri}", f"time.as_of={second}"]))
    run_jobs(context, [*stages("build_sequences", "build_sequences"), *stages("embed_users", "build_graph")], "second day")
    embeddings = context.lake.read("user_embeddings")
    new = {row[0] for row in embeddings.where(as_of_scope(context.config.time.as_of_ms)).select("user_id").collect()}
    touched = context.lake.read("events").where(
        (F.unix_millis("known_at") >= first) & (F.unix_millis("known_at") < context.config.time.as_of_ms)
    )
    assert new <= {row[0] for row in touched.select("user_id").distinct().collect()}
    assert 0 < len(new) < embeddings.where(as_of_scope(first)).count()
    in_graph = context.lake.read("user_edges").where(as_of_scope(context.config.time.as_of_ms)).select("src_user_id").distinct().count()
    assert in_graph == embeddings.select("user_id").distinct().count(), "users that were not touched keep their embedding"


def test_every_attribute_that_the_model_reads_is_evaluated_by_what_it_is_worth(chain, tmp_path):
    shutil.copytree(chain.lake.root, tmp_path / "lake")
    context = open_context(load(CONF, [*overrides(tmp_path), f"tracking.uri={chain.config.tracking.uri}"]))
    run_jobs(context, [attribute_importance.JOB], "importance")
    read = {
        f"{source}.{name}"
        for source, stream in context.config.streams.items()
        for name, kind in stream.attributes.items()
        if kind != "embedding"
    }
    found = {key.removeprefix("attribute_importance.click."): value for key, value in context.tracker.metrics.items() if ".click." in key}
    assert found.keys() == read
    assert all(abs(value) < 1 for value in found.values())
    assert any(value != 0 for value in found.values())
    assert context.lake.published_versions() == chain.lake.published_versions(), "no table is written"
    assert not list((tmp_path / "scratch").glob("alure-*/importance*"))


MEDIA = (
    "streams.organic_impression={attributes: {category_id: categorical, media_embedding: embedding}, max_events: 64}",
    "model.embedding_dimensions={media_embedding: 16}",
    "model.semantic_ids=[media_embedding]",
    "semantic_ids.codes=16",
    "training.epochs=1",
)


@pytest.mark.slow
def test_pictures_become_semantic_ids_that_the_model_carries(chain, tmp_path, capsys):
    shutil.copytree(chain.lake.root, tmp_path / "lake")
    settings = load(CONF, overrides(tmp_path, *MEDIA))
    context = open_context(settings)
    run_jobs(context, stages("build_sequences", "build_sequences"), "sequences")
    with pytest.raises(TrackingError, match=r"run jobs/train_semantic_ids.py first"):
        run_jobs(context, stages("train_model", "train_model"), "too early")
    run_jobs(context, [train_semantic_ids.JOB, *stages("train_model", "embed_users")], "semantic ids")
    assert "media_embedding.level_1.perplexity" in "".join(context.tracker.metrics)
    found = context.tracker.find_model(settings.semantic_ids_name("media_embedding"))
    quantizer = semantic_ids.read(found.folder, found.digest)
    registered = context.tracker.find_model(settings.model_name)
    carried = Artifact.read(registered.folder, registered.digest).encoder()[0].quantizers["media_embedding"]
    assert torch.equal(carried.codebooks, quantizer.codebooks), "training moves no code"
    media = context.lake.read("events").where("source = 'organic_impression'").select("media_embedding").limit(50).toPandas()
    function = mlflow.pyfunc.load_model(f"models:/{found.name}/{found.version}")
    codes = function.predict(media.rename(columns={"media_embedding": "embedding"}))
    expected = quantizer.encode(torch.from_numpy(np.stack(media.media_embedding.to_list()).astype(np.float32)))
    assert codes.semantic_id.to_list() == expected.tolist()
    wrong = replace(settings, model=replace(settings.model, embedding_dimensions={"media_embedding": 15}))
    with pytest.raises(DataError, match=r"media_embedding has 16 numbers in an event; model.embedding_dimensions says 15"):
        run_jobs(replace(context, config=wrong), [train_semantic_ids.JOB], "wrong length")


@pytest.mark.slow
@pytest.mark.parametrize("partitions", [1, 7])
def test_the_same_seed_gives_the_same_tables_for_any_number_of_partitions(spark, chain, tmp_path, partitions):
    before = spark.conf.get("spark.sql.shuffle.partitions")
    try:
        spark.conf.set("spark.sql.shuffle.partitions", str(partitions))
        assert contents(run(tmp_path).lake) == contents(chain.lake)
    finally:
        spark.conf.set("spark.sql.shuffle.partitions", before)


def community_share(spark, context) -> tuple[float, float, int]:
    """(share of edges inside a planted community, share of pairs of one country that are, edges)."""
    world = build(WorldOptions, context.config.source.options, "source.options")
    people = truth_users(spark, world).select("user_id", "community")
    edges = context.lake.read("user_edges").select("src_user_id", "dst_user_id", "country")
    ends = edges.join(people.toDF("src_user_id", "src"), "src_user_id").join(people.toDF("dst_user_id", "dst"), "dst_user_id")
    share, count = ends.agg(F.avg((F.col("src") == F.col("dst")).cast("int")), F.count("*")).first()
    embedded = context.lake.read("user_embeddings").select("user_id", "country").join(people, "user_id").toPandas()
    sizes = embedded.groupby("country").size()
    inside = embedded.groupby(["country", "community"]).size()
    chance = (inside * (inside - 1)).groupby("country").sum() / (sizes * (sizes - 1)).clip(lower=1)
    weight = pd.Series({row["country"]: row["count"] for row in edges.groupBy("country").count().collect()})
    return share, float((chance.reindex(weight.index) * weight).sum() / weight.sum()), count


def test_neighbours_share_the_planted_community_far_above_chance(spark, chain):
    share, chance, edges = community_share(spark, chain)
    print(f"synthetic world: {share:.3f} of {edges} edges inside a community, chance {chance:.3f}")
    assert share > 4 * chance


@pytest.mark.slow
def test_on_the_null_world_neighbours_share_a_community_by_chance_only(spark, tmp_path):
    share, chance, edges = community_share(spark, run(tmp_path, "source.options.null=true", last="build_graph"))
    print(f"null world: {share:.3f} of {edges} edges inside a community, chance {chance:.3f}")
    # Edges of one user are not independent: four binomial errors.
    assert abs(share - chance) < 4 * (chance * (1 - chance) / edges) ** 0.5


def test_against_an_equal_run_the_paired_difference_is_exactly_zero(chain, tmp_path, capsys):
    shutil.copytree(chain.lake.root, tmp_path / "lake")
    config = load(CONF, [*overrides(tmp_path), f"tracking.uri={chain.config.tracking.uri}", "evaluate.bootstrap=50"])
    client = mlflow.MlflowClient(chain.config.tracking.uri)
    earlier = client.search_runs([client.get_experiment_by_name("alure_spark").experiment_id])[-1].info.run_id
    context = open_context(config, against=earlier)
    run_jobs(context, stages("evaluate", "evaluate"), "evaluate")
    assert {key: context.tracker.metrics[f"evaluate.ads.recall_gain{key}"] for key in ("", ".low", ".high")} == {
        "": 0,
        ".low": 0,
        ".high": 0,
    }
    shown = capsys.readouterr().out
    assert all(group in shown for group in ("all users", "new users", "country C0"))


@pytest.mark.slow
def test_a_set_without_ads_or_clicks_gets_a_graph_empty_candidates_and_absent_metrics(spark, tmp_path):
    rows = [
        (f"u{user}", f"i{item}", f"2020-01-{day:02d} 00:00:00")
        for user in range(12)
        for day in range(1, 15)
        for item in [(user % 2) * 20 + (user + day) % 15]
    ]
    pd.DataFrame(rows, columns=["who", "what", "at"]).to_csv(tmp_path / "log.csv", index=False)
    (tmp_path / "own.yml").write_text(f"""
source:
  kind: tables
  options:
    root: {tmp_path}
    events:
      - {{path: log.csv, format: csv, read_options: {{header: "true"}}, source: view,
         columns: {{user_id: who, item_id: what, event_time: at}}}}
streams: {{view: {{}}}}
time: {{as_of: "2020-01-10"}}
embedding: {{dimension: 4}}
labels: {{validation_days: 2}}
training: {{threads: 1}}
graph: {{k2: 3}}
evaluate: {{min_items: 2, bootstrap: 20}}
""")
    context = open_context(load(tmp_path / "own.yml", overrides(tmp_path)))
    run_jobs(context, stages(), "pipeline")
    candidates = context.lake.read("ad_candidates").collect()
    assert len(candidates) == 12
    assert all(row["ad_id"] == [] for row in candidates)
    edges = context.lake.read("user_edges").collect()
    assert all(int(row["src_user_id"][1:]) % 2 == int(row["dst_user_id"][1:]) % 2 for row in edges if row["rank"] <= 3)
    assert "evaluate.ads.recall" not in context.tracker.metrics
    assert "evaluate.items.recall" in context.tracker.metrics
    found = mlflow.MlflowClient(context.config.tracking.uri).search_runs(["1"])[0]
    assert "evaluate.ads.recall" in found.data.tags["alure.absent_metrics"]
    assert context.lake.read("training_examples").where("size(impression_id) = 0").count() == 12
    assert "train_model.validation.neighbour" in context.tracker.metrics, "the contrastive objectives need no labels"
    assert "train_model.validation.click" not in context.tracker.metrics


@pytest.mark.slow
def test_bad_embeddings_are_quarantined_and_two_models_refused(spark, chain, tmp_path):
    shutil.copytree(chain.lake.root, tmp_path / "lake")
    context = open_context(load(CONF, overrides(tmp_path)))
    scope = as_of_scope(context.config.time.as_of_ms)
    good = context.lake.read("user_embeddings")
    users = [row["user_id"] for row in good.orderBy("user_id").limit(2).collect()]
    bad = F.when(F.col("user_id") == users[0], F.transform("embedding", lambda x: x * 0)).when(
        F.col("user_id") == users[1], F.transform("embedding", lambda x: F.lit(float("nan")).cast("float"))
    )
    with context.lake.run("embed_users", context.config, scope) as embedding_run:
        embedding_run.write("user_embeddings", good.withColumn("embedding", F.coalesce(bad, "embedding")), scope)
    run_jobs(context, stages("build_graph", "build_graph"), "graph")
    refused = {row["reason"] for row in context.lake.read("quarantine").where("source = 'user_embeddings'").collect()}
    assert refused == {"embedding is all zeros", "embedding holds null, NaN or infinity"}
    written = context.lake.read("user_edges")
    assert written.where((F.col("graph") == "alure") & F.col("src_user_id").isin(users)).isEmpty(), "follows may still lead somewhere"
    assert written.where(F.col("dst_user_id").isin(users)).isEmpty()

    edges = contents(context.lake)["build_graph.user_edges"]
    with context.lake.run("embed_users", context.config, scope) as embedding_run:
        embedding_run.write("user_embeddings", good.withColumn("model_id", F.substring("user_id", -1, 1)), scope)
    with pytest.raises(DataError, match="more than one model_id"):
        run_jobs(context, stages("build_graph", "build_graph"), "graph")
    floor = open_context(
        load(CONF, overrides(tmp_path, "graph.recall_floor=1", "graph.search=probed", "graph.users_per_cluster=5", "graph.k1_probed=1"))
    )
    with context.lake.run("embed_users", context.config, scope) as embedding_run:
        embedding_run.write("user_embeddings", good, scope)
    with pytest.raises(QualityError, match=r"below graph.recall_floor=1"):
        run_jobs(floor, stages("build_graph", "build_graph"), "graph")
    assert contents(context.lake)["build_graph.user_edges"] == edges, "what was published stays"


@pytest.mark.slow
def test_the_graph_of_the_next_day_goes_on_from_todays_clusters_and_says_what_changed(chain, tmp_path):
    shutil.copytree(chain.lake.root, tmp_path / "lake")
    tomorrow = open_context(load(CONF, overrides(tmp_path, "time.as_of=2025-01-17T00:00:00Z")))
    today = chain.lake.read("user_embeddings").where(as_of_scope(chain.config.time.as_of_ms))
    others = F.pmod(F.xxhash64("user_id"), F.lit(10)) == 0
    moved = today.withColumn("embedding", F.when(others, F.reverse("embedding")).otherwise(F.col("embedding")))
    scope = as_of_scope(tomorrow.config.time.as_of_ms)
    with tomorrow.lake.run("embed_users", tomorrow.config, scope) as run_of_embeddings:
        run_of_embeddings.write("user_embeddings", moved.withColumn("as_of", timestamp(tomorrow.config.time.as_of_ms)), scope)
    written = []
    for _ in range(2):
        run_jobs(tomorrow, stages("build_graph", "build_graph"), "graph")
        written.append(contents(tomorrow.lake))
    assert written[0] == written[1]
    metrics = {key.removeprefix("build_graph."): value for key, value in tomorrow.tracker.metrics.items()}
    assert 0 < metrics["churn"] < 0.5
    assert metrics["earlier_edges"] > 1000
    assert metrics["kmeans_warm_share"] > 0.5
    assert 0 < metrics["kmeans_drift"] < 0.2
    assert metrics["connected_share"] == 1
    assert {"edges.alure", "edges.bff", "edges.ppr", "edges.blend"} <= metrics.keys()
    assert {"lift.alure", "lift.bff", "lift.ppr"} <= metrics.keys(), "the edges of the day before are evaluated by what happened since"
    assert "build_graph.churn" not in chain.tracker.metrics, "the first day has no day before"


def test_bad_input_ends_with_exit_code_2_one_sentence_and_untouched_tables(chain, tmp_path, capsys):
    shutil.copytree(chain.lake.root, tmp_path / "lake")
    before = contents(Lake(chain.spark, load(CONF, overrides(tmp_path)).lake))
    for settings, message in (
        (("time.not_after=2001-01-01",), "source synthetic gave no acceptable event"),
        (("streams.conversion.attributes.vlaue=numeric",), "lacks the column 'vlaue'; did you mean 'value'"),
        (("source.options.user=3",), "unknown configuration key 'source.options.user'; did you mean 'users'"),
    ):
        with pytest.raises(SystemExit) as stop:
            STAGES["ingest_events"].main(command(tmp_path, "jobs.ingest_events", settings=settings)[3:])
        assert stop.value.code == 2
        error = capsys.readouterr().err
        assert f"error: {message}" in error.replace("table 'events' ", "")
    assert contents(Lake(chain.spark, load(CONF, overrides(tmp_path)).lake)) == before


def test_dry_run_says_what_would_happen_and_writes_nothing(chain, tmp_path, capsys):
    for job in STAGES.values():
        job.explain(chain)
    shown = capsys.readouterr().out
    assert "reads   user_embeddings v1:" in shown
    assert "writes  user_edges where as_of = TIMESTAMP '2025-01-16 00:00:00.000' (now v1)" in shown
    empty = open_context(load(CONF, overrides(tmp_path)))
    for job in STAGES.values():
        job.explain(empty)
    assert not (tmp_path / "lake").exists()
    assert "reads   events: not published yet" in capsys.readouterr().out


@pytest.mark.slow
def test_the_notebooks_run(spark, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    places = " ".join(value for value in overrides(tmp_path) if not value.startswith("lake.root"))
    for key, value in {"ALURE_CONF": str(CONF), "ALURE_ROOT": f"{tmp_path}/lake", "ALURE_SET": places}.items():
        monkeypatch.setenv(key, value)
    for path in sorted((ROOT / "notebooks").glob("*.py")):
        assert path.read_text().startswith("# Databricks notebook source\n")
        runpy.run_path(str(path), run_name="__main__")
    assert "evaluate: published evaluation_users" in capsys.readouterr().out


KINDS = {
    # A second copy of a slow task runs beside it: nothing may be written or counted twice.
    "real worker processes, with speculation": (
        "spark.master=local-cluster[2,1,1024]",
        "spark.settings={spark.executor.memory: 1g, spark.speculation: 'true', spark.speculation.quantile: '0.1', "
        "spark.speculation.multiplier: '1.01', spark.speculation.minTaskRuntime: 1ms}",
    ),
    "Spark Connect": ("spark.remote=local[2]",),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_chain_gives_the_same_tables_on(kind, chain, tmp_path):
    result = in_process(command(tmp_path, "jobs.pipeline", settings=KINDS[kind]))
    assert result.returncode == 0, result.stderr[-3000:]
    assert contents(Lake(chain.spark, load(CONF, overrides(tmp_path)).lake)) == contents(chain.lake)


@pytest.mark.slow
def test_a_job_runs_under_spark_submit(chain, tmp_path):
    from alure_spark.session import DELTA_PACKAGE

    shutil.copytree(chain.lake.root, tmp_path / "lake")
    submit = [str(Path(sys.executable).parent / "spark-submit"), "--master", "local[2]", "--packages", DELTA_PACKAGE]
    arguments = command(tmp_path, "jobs.retrieve_ads")[3:]
    result = in_process([*submit, "jobs/retrieve_ads.py", *arguments], PYSPARK_PYTHON=sys.executable, SPARK_LOCAL_IP="127.0.0.1")
    assert result.returncode == 0, result.stderr[-3000:]
    assert "retrieve_ads: published ad_candidates v2" in result.stdout
    without = [*submit[:3], "jobs/retrieve_ads.py", *arguments]
    result = in_process(without, PYSPARK_PYTHON=sys.executable, SPARK_LOCAL_IP="127.0.0.1")
    assert result.returncode == 2
    assert "Delta is missing from this Spark: give spark-submit --packages io.delta" in result.stdout + result.stderr


def test_since_lets_yesterdays_graph_retrieve_what_happened_today(chain, tmp_path, capsys):
    shutil.copytree(chain.lake.root, tmp_path / "lake")
    yesterday, now = chain.config.time.as_of, "2025-01-16T18:00:00Z"
    with pytest.raises(SystemExit):
        retrieve_ads.main([*command(tmp_path, "jobs.retrieve_ads", settings=(f"time.as_of={now}",))[3:], "--since", now])
    assert "no graph 'blend' of --since 2025-01-16 18:00:00" in capsys.readouterr().err
    retrieve_ads.main(
        [*command(tmp_path, "jobs.retrieve_ads", settings=(f"time.as_of={now}", "retrieval.hand_off_hours=6"))[3:], "--since", yesterday]
    )
    config = load(CONF, overrides(tmp_path, f"time.as_of={now}"))
    lake = Lake(chain.spark, config.lake)
    found = {row["user_id"]: row["ad_id"] for row in lake.read("ad_candidates").where(as_of_scope(config.time.as_of_ms)).collect()}
    edges = lake.read("user_edges").where(f"graph = 'blend' AND {as_of_scope(chain.config.time.as_of_ms)}")
    expected = ad_candidates(edges, lake.read("events"), lake.read("ads"), config.retrieval, config.time.as_of_ms)
    assert found == {row["user_id"]: row["ad_id"] for row in expected.collect()}
    before = {row["user_id"]: row["ad_id"] for row in chain.lake.read("ad_candidates").collect()}
    assert found.keys() == before.keys()
    assert found != before
    served = lake.read("serving_candidates").collect()
    assert {row["user_id"]: json.loads(row["candidates"])["ad_id"] for row in served} == {user: ads for user, ads in found.items() if ads}


def kill_in_stage(folder: Path, stage: str, sign: tuple[Path, str] | None = None) -> None:
    """Start the stage and kill its driver (and everything it started) the moment its first table has a new commit.

    Training writes no table: it is killed when it has written a checkpoint. sign: kill when this folder has a new such file instead.
    """
    writes = STAGES[stage].writes
    log, pattern = sign or (
        (folder / "lake" / writes[0] / "_delta_log", "*.json") if writes else (folder / "scratch", "alure-*/*.checkpoint")
    )
    seen = set(log.glob(pattern)) | {log / "00000000000000000000.json"}  # version 0 only creates the table
    process = subprocess.Popen(
        command(folder, f"jobs.{stage}"),
        cwd=ROOT,
        env=own_spark(),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not set(log.glob(pattern)) - seen:
        assert process.poll() is None, "the stage ended before it could be killed"
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.slow
def test_a_driver_killed_while_it_writes_the_graph_is_not_seen_and_can_start_again(chain, tmp_path):
    shutil.copytree(chain.lake.root, tmp_path / "lake")
    kill_in_stage(tmp_path, "build_graph")
    lake = Lake(chain.spark, load(CONF, overrides(tmp_path)).lake)
    assert contents(lake) == contents(chain.lake)
    assert lake.published_versions() == chain.lake.published_versions(), "readers still see the version before"
    run(tmp_path, first="build_graph", last="build_graph")
    assert contents(lake) == contents(chain.lake)


@pytest.mark.slow
def test_a_graph_killed_after_a_unit_goes_on_with_what_the_unit_found(chain, tmp_path):
    shutil.copytree(chain.lake.root, tmp_path / "lake")
    kill_in_stage(tmp_path, "build_graph", (tmp_path / "scratch", "alure-*/graph-*/whole-*.parquet"))
    unit = sorted((tmp_path / "scratch").glob("alure-*/graph-*/whole-*.parquet"))[0]
    pq.write_table(pq.read_table(unit).slice(1), unit)  # the mark by which it is known again: one user lacks its neighbours
    context = run(tmp_path, first="build_graph", last="build_graph")
    mine, undisturbed = (
        lake.read("user_edges").where("graph = 'alure'").select("src_user_id").distinct() for lake in (context.lake, chain.lake)
    )
    assert mine.count() == undisturbed.count() - 1
    assert not list((tmp_path / "scratch").glob("alure-*/graph-*")), "nothing is left behind"


@pytest.mark.slow
def test_a_driver_killed_in_each_stage_and_started_again_ends_as_an_undisturbed_run(chain, tmp_path):
    for job in stages(ranked=True):
        kill_in_stage(tmp_path, job.name)
        run(tmp_path, first=job.name, last=job.name)
    lake = Lake(chain.spark, load(CONF, overrides(tmp_path)).lake)
    assert contents(lake) == contents(chain.lake)
