"""The daily life of a lake: batches, backfills, two writers at once, forgotten users, tables of yesterday's release."""

from __future__ import annotations

import itertools
import shutil
import socket
import tarfile
import time
from datetime import datetime, timedelta
from pathlib import Path

import mlflow
import pandas as pd
import pytest
import torch
import yaml
from pyspark.sql import functions as F

from alure_spark.clock import format_time, parse_time
from alure_spark.config import load
from alure_spark.errors import ConfigError, DataError, LakeError
from alure_spark.events import sequences as events_to_sequences
from alure_spark.events.examples import training_examples
from alure_spark.lake import Lake, content_hash, latest_rows, workspace
from alure_spark.model.artifact import Artifact
from alure_spark.privacy import identity
from alure_spark.running import open_context, run_jobs
from alure_spark.tables import TABLES
from jobs import (
    apply_retention,
    build_sequences,
    embed_users,
    forget_users,
    ingest_events,
    log_embeddings,
    pipeline,
    replay_quarantine,
    train_model,
)
from tests import scan
from tests.conftest import ROOT, overrides

CONF = ROOT / "conf" / "test.yml"
WORLD = ("source.options.users=80", "source.options.days=8")
KEY = "a key of the tests, long enough"


def day(number: int) -> str:
    return format_time(parse_time("2025-01-06") + number * 86_400_000)


def do(folder, jobs, *more):
    context = open_context(load(CONF, overrides(folder, *WORLD, *more)))
    run_jobs(context, jobs, "daily")
    context.lake.refresh()
    return context


def sequences(context, as_of):
    return content_hash(latest_rows(context.lake.read("user_sequences"), parse_time(as_of)).drop("as_of"))


@pytest.mark.slow
def test_day_by_day_with_a_missed_day_and_repeats_ends_in_the_tables_of_one_whole_run(spark, tmp_path):
    whole = do(tmp_path / "whole", [ingest_events.JOB, build_sequences.JOB], f"time.as_of={day(10)}")
    daily = tmp_path / "daily"

    def ingest(end, days):
        do(daily, [ingest_events.JOB], f"time.as_of={day(end)}", f"ingest.batch_days={days}")

    def build(as_of):
        return do(daily, [build_sequences.JOB], f"time.as_of={day(as_of)}")

    def rebuilt(context):
        row = context.lake.runs().where("status = 'published' AND job = 'build_sequences'").orderBy(F.desc("finished")).first()
        users = context.lake.read("user_sequences").where(row["scope"]).count()
        return users == latest_rows(context.lake.read("user_sequences"), 10**13).count()

    ingest(3, 30)
    build(3)
    ingest(4, 1)
    build(4)
    ingest(6, 1)  # day 4 to 5 is missed
    build(6)
    ingest(10, 4)
    ingest(10, 4)
    assert not rebuilt(build(10)), "only touched users have a row"
    ingest(5, 1)  # the missed day comes in after the newer ones
    context = build(10)
    assert rebuilt(context), "what came in before the previous as_of makes everybody be rebuilt"
    assert content_hash(context.lake.read("events")) == content_hash(whole.lake.read("events"))
    assert sequences(context, day(10)) == sequences(whole, day(10))
    assert content_hash(context.lake.read("training_examples").where(f"as_of = '{day(10)}'")) == content_hash(
        whole.lake.read("training_examples")
    )
    arguments = ["--conf", str(CONF), "--from", day(5), "--to", day(7)]
    for value in overrides(daily, *WORLD):
        arguments += ["--set", value]
    build_sequences.JOB.main(arguments)
    context.lake.refresh()
    for as_of in (5, 6, 7):
        fresh = do(tmp_path / "whole", [build_sequences.JOB], f"time.as_of={day(as_of)}")
        assert sequences(context, day(as_of)) == sequences(fresh, day(as_of)), as_of


@pytest.mark.slow
def test_a_model_goes_on_learning_day_after_day_in_one_command(spark, tmp_path):
    """Three days, the first from the start; each an MLflow run that says how well yesterday's model foretold the day."""
    more = ("ingest.batch_days=1", "labels.days=3", "labels.validation_days=1", "training.warm_start=true", "training.batch_users=20")
    do(tmp_path, [ingest_events.JOB], f"time.as_of={day(5)}", "ingest.batch_days=30")
    context = do(tmp_path, [build_sequences.JOB, train_model.JOB], f"time.as_of={day(5)}", *more)
    arguments = ["--conf", str(CONF), "--from", "ingest_events", "--to", "embed_users", "--from-day", day(6), "--to-day", day(7)]
    for value in overrides(tmp_path, *WORLD, *more):
        arguments += ["--set", value]
    pipeline.main(arguments)
    name, tracker = context.config.model_name, context.tracker
    found = [tracker.find_model(name, version) for version in tracker.model_versions(name)]
    models = [Artifact.read(one.folder, one.digest) for one in found]
    assert [model.facts["as_of_ms"] for model in models] == [parse_time(day(number)) for number in (5, 6, 7)]
    assert [model.facts.get("continues") for model in models] == [None, models[0].model_id, models[1].model_id]
    for before, after in itertools.pairwise(models):
        old, new = (model.model()[0].encoder.item_vectors for model in (before, after))
        assert len(new) > len(old), "the day brought new items"
        assert torch.equal(new[: len(old)], old)
        assert new[len(old) :].abs().sum() > 0
    client = mlflow.MlflowClient(context.config.tracking.uri)
    runs = client.search_runs([client.get_experiment_by_name("alure_spark").experiment_id], "tags.`alure.job` = 'pipeline'")
    assert {run.info.run_name for run in runs} == {f"test-pipeline {day(number)[:10]}" for number in (6, 7)}
    for run in runs:
        assert run.data.metrics["train_model.warm"] == 1
        assert 0.5 < run.data.metrics["train_model.progressive.click.ne"] < 2
        assert run.data.metrics["train_model.new_impressions"] > 10
    logged = [do(tmp_path, [log_embeddings.JOB], f"time.as_of={day(7)}", *more).lake.read("ranking_examples") for _ in range(2)]
    assert content_hash(logged[0]) == content_hash(logged[1])
    served = logged[0].where("embedding IS NOT NULL").toPandas()
    assert set(served["model_id"]) == {models[1].model_id}, "from day 5 no embedding was published, and day 7's serves later"
    assert served["embedding_as_of"].eq(datetime.fromisoformat(day(6))).all()
    assert served["time_ms"].between(parse_time(day(6)) + 6 * 3_600_000, parse_time(day(7)), inclusive="neither").all()
    do(tmp_path, [train_model.JOB], f"time.as_of={day(7)}", *more)
    assert tracker.model_versions(name)["4"]["alure.digest"] == found[2].digest, "a day that is run again ends in the same model"


@pytest.fixture
def started(spark, tmp_path):
    """A lake with tables, and a way to plant a writer that said `started`."""
    context = do(tmp_path, [ingest_events.JOB], f"time.as_of={day(10)}")

    def plant(process, ago_hours=0.0):
        runs = context.lake.runs()
        row = runs.where("status = 'started'").limit(1)
        begun = F.timestamp_millis(F.lit(int((time.time() - ago_hours * 3600) * 1000)))
        nothing = F.lit(None).cast("map<string,string>")  # as an earlier release wrote it
        run_id = f"other {process} {ago_hours}"
        planted = row.withColumns({"run_id": F.lit(run_id), "message": F.lit(process), "started": begun, "facts": nothing})
        planted.write.format("delta").mode("append").option("userMetadata", run_id).save(f"{context.lake.root}/runs")

    return context, plant


def test_a_second_writer_gives_up_with_a_sentence_and_leaves_the_tables_as_they_were(started, tmp_path):
    context, plant = started
    before = context.lake.published_versions()
    plant(f"{socket.gethostname()} 1")  # a living process
    with pytest.raises(LakeError, match=r"run other .*, process \S+ 1\) has been writing to lake"):
        do(tmp_path, [ingest_events.JOB], f"time.as_of={day(10)}")
    context.lake.refresh()
    assert context.lake.published_versions() == before


@pytest.mark.slow
def test_a_dead_writer_is_no_obstacle(started, tmp_path):
    _, plant = started
    plant(f"{socket.gethostname()} 999999999")
    do(tmp_path, [ingest_events.JOB], f"time.as_of={day(10)}")
    plant("another-machine 1", ago_hours=30)
    do(tmp_path, [ingest_events.JOB], f"time.as_of={day(10)}")
    plant("another-machine 1", ago_hours=1)
    with pytest.raises(LakeError, match="another-machine"):
        do(tmp_path, [ingest_events.JOB], f"time.as_of={day(10)}")
    do(tmp_path, [ingest_events.JOB], f"time.as_of={day(10)}", "lake.lease_hours=0.5")


@pytest.mark.slow
def test_forgotten_users_are_nowhere_and_do_not_come_back(chain, tmp_path, monkeypatch):
    shutil.copytree(chain.lake.root, tmp_path / "lake")
    context = open_context(load(CONF, overrides(tmp_path, "lake.vacuum_hours=0")))
    users = [row[0] for row in context.lake.read("user_edges").select("dst_user_id").distinct().orderBy("dst_user_id").limit(2).collect()]
    kept = context.lake.read("events").where(~F.col("user_id").isin(users))
    expected = content_hash(kept)
    Path(workspace(context.config.lake), "left_by_a_killed_training").write_text(users[0])
    folders = [tmp_path / "lake", tmp_path / "scratch"]
    for user in users:
        found = {path.split("/")[0] for path in scan.places(user, *folders)}
        assert {"events", "user_sequences", "user_embeddings", "user_edges", "ad_candidates", "follows"} <= found, user
    monkeypatch.delenv(identity.KEY_VARIABLE, raising=False)
    with pytest.raises(ConfigError, match="ALURE_USER_KEY has 0 characters"):
        run_jobs(context, [forget_users.job(users)], "forget")
    monkeypatch.setenv(identity.KEY_VARIABLE, KEY)
    run_jobs(context, [forget_users.job(users)], "forget")
    context.lake.refresh()
    folders.append(Path(chain.config.tracking.artifact_root))
    for user in users:
        assert scan.places(user, *folders) == set()
    assert content_hash(context.lake.read("events")) == expected, "nobody else lost a row"
    run_jobs(context, [ingest_events.JOB, build_sequences.JOB], "again")
    context.lake.refresh()
    assert content_hash(context.lake.read("events")) == expected, "a re-ingest does not bring them back"
    for user in users:
        assert scan.places(user, *folders) == set()
    monkeypatch.delenv(identity.KEY_VARIABLE)
    with pytest.raises(ConfigError, match="ALURE_USER_KEY"):
        run_jobs(context, [ingest_events.JOB], "without the key")


@pytest.mark.slow
def test_examples_and_vocabularies_of_a_day_read_the_last_days_only_and_a_shared_hash_is_no_obstacle(spark, tmp_path, monkeypatch, capsys):
    days = "labels.days=4"
    do(tmp_path, [ingest_events.JOB, build_sequences.JOB], f"time.as_of={day(5)}", days)
    context = do(tmp_path, [build_sequences.JOB], f"time.as_of={day(10)}", days)
    assert f"training_examples from the events since {day(5)}" in capsys.readouterr().out
    config, events = context.config, context.lake.read("events")
    arguments = (config.streams, config.labels, parse_time(day(10)), config.impression_attributes)
    written = context.lake.read("training_examples").where(f"as_of = '{day(10)}'")
    whole = training_examples(events, *arguments)
    assert content_hash(written) == content_hash(whole.select(written.columns))
    items = events.where(F.col("known_at") < day(10)).select("item_hash").distinct().count()
    assert context.lake.read("vocabularies").where("space = 'item_id'").count() == items
    before = {name: content_hash(context.lake.read(name)) for name in ("user_sequences", "training_examples", "vocabularies")}
    monkeypatch.setattr(events_to_sequences, "user_hash", lambda: F.pmod(F.xxhash64("user_id"), F.lit(7)))
    context = do(tmp_path, [build_sequences.JOB], f"time.as_of={day(10)}", days)
    assert {name: content_hash(context.lake.read(name)) for name in before} == before


@pytest.mark.slow
def test_refused_rows_join_the_events_once_the_rules_let_them(spark, tmp_path, capsys):
    whole = do(tmp_path / "whole", [ingest_events.JOB], f"time.as_of={day(10)}")
    narrow = (f"time.as_of={day(10)}", f"time.not_before={day(4)}")
    context = do(tmp_path / "late", [ingest_events.JOB, build_sequences.JOB], f"time.as_of={day(9)}", narrow[1])
    refused = context.lake.read("quarantine").where("reason LIKE 'event_time is before%'").count()
    assert refused == whole.lake.read("events").where(F.col("event_time") < day(4)).count() > 0
    same = do(tmp_path / "late", [replay_quarantine.JOB], *narrow)
    assert same.lake.read("quarantine").where("reason LIKE 'event_time is before%'").count() == refused, "under the same rules they stay"
    for _ in range(2):  # the second replay finds nothing to do
        context = do(tmp_path / "late", [replay_quarantine.JOB], f"time.as_of={day(10)}")
        for name in ("events", "quarantine"):
            assert content_hash(context.lake.read(name), TABLES[name]) == content_hash(whole.lake.read(name), TABLES[name]), name
    do(tmp_path / "late", [build_sequences.JOB], f"time.as_of={day(10)}")
    assert f"came in after the sequences of {day(9)} were built" in capsys.readouterr().out


@pytest.mark.slow
def test_retention_lets_old_rows_go_but_never_the_row_that_a_reader_would_take(spark, tmp_path, capsys):
    do(tmp_path, [ingest_events.JOB], f"time.as_of={day(10)}")
    for number in (4, 5, 9):
        context = do(tmp_path, [build_sequences.JOB], f"time.as_of={day(number)}")
    before = {name: context.lake.read(name) for name in ("user_sequences", "training_examples", "events")}
    latest = {number: sequences(context, day(number)) for number in (5, 9)}
    keep = "lake.keep_days={user_sequences: 3, training_examples: 1, events: 3}"
    context = do(tmp_path, [apply_retention.JOB], f"time.as_of={day(9)}", keep)
    assert {number: sequences(context, day(number)) for number in (5, 9)} == latest
    was, touched_since = (before["user_sequences"].where(F.col("as_of") == day(number)) for number in (4, 5))
    kept = context.lake.read("user_sequences").where(F.col("as_of") == day(4))
    assert content_hash(kept) == content_hash(was.join(touched_since, "user_id", "left_anti").select(kept.columns))
    assert 0 < kept.count() < was.count()
    kept_days = context.lake.read("training_examples").select(F.dayofmonth("as_of")).distinct().collect()
    assert [row[0] for row in kept_days] == [15]
    newest = before["events"].agg(F.max("known_date")).first()[0]
    assert content_hash(context.lake.read("events")) == content_hash(
        before["events"].where(F.col("known_date") >= F.date_sub(F.lit(newest), 3))
    )
    versions = context.lake.published_versions()
    context = do(tmp_path, [apply_retention.JOB], f"time.as_of={day(9)}", keep)
    assert context.lake.published_versions()["events"] == versions["events"], "a second run has nothing to let go"
    do(tmp_path, [build_sequences.JOB], f"time.as_of={day(7)}")
    assert f"apply_retention let rows of {day(5)} go" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="lake.keep_days names the table 'ads'"):
        load(CONF, ["lake.keep_days={ads: 3}"])


def test_user_ids_become_keyed_hashes_that_no_plan_and_no_table_can_undo(spark, tmp_path, monkeypatch):
    monkeypatch.setenv(identity.KEY_VARIABLE, KEY)
    context = do(tmp_path, [ingest_events.JOB], f"time.as_of={day(10)}", "ingest.hash_user_ids=true")
    ids = [row[0] for row in context.lake.read("events").select("user_id").distinct().collect()]
    assert all(len(user) == 64 for user in ids)
    assert scan.places("u00000007", tmp_path / "lake") == set()
    hashed = spark.createDataFrame([("u00000007",)], "u string").select(identity.keyed_hash(F.col("u"), KEY.encode()).alias("u"))
    assert hashed.first()[0] in ids
    assert KEY not in hashed._jdf.queryExecution().toString()


def test_a_lake_of_the_first_release_is_read_and_written_on(spark, tmp_path):
    with tarfile.open(ROOT / "tests" / "golden" / "lake_1.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    lake = Lake(spark, load(CONF, overrides(tmp_path)).lake)
    expected = {}
    for row in lake.runs().where("status = 'published'").orderBy("finished").collect():
        assert row["facts"] is None
        expected |= {name: (row["scope"], value) for name, value in row["content_hashes"].items()}
    for name, (scope, value) in expected.items():
        frame = lake.read(name)
        if name not in ("events", "ads", "follows", "quarantine", "vocabularies"):
            frame = frame.where(scope)
        if name != "vocabularies":
            stored = spark.read.format("delta").load(f"{lake.root}/{name}").columns  # later versions of the table have more
            assert content_hash(frame.select(stored), TABLES[name]) == value, name
    do(
        tmp_path,
        [build_sequences.JOB],
        f"time.as_of={day(4)}",
        "source.options.users=40",
        "source.options.days=5",
        "labels.validation_days=1",
    )
    lake.refresh()
    assert lake.runs().where("status = 'published' AND facts IS NOT NULL").count() == 1


@pytest.mark.slow
def test_tasks_of_a_users_own_are_labelled_learnt_and_told_apart(spark, tmp_path):
    paid = "source: conversion, window_hours: 168"
    each = ("soon: {source: ad_click, window_hours: 1}", f"paid: {{{paid}, sum: value}}", f"large: {{{paid}, at_least: {{value: 30}}}}")
    tasks = f"labels.tasks={{{', '.join(each)}}}"
    stages = [ingest_events.JOB, build_sequences.JOB, train_model.JOB, embed_users.JOB, log_embeddings.JOB]
    score = "ranking.score={soon: bid}"
    context = do(tmp_path, stages, f"time.as_of={day(7)}", tasks, score)
    rows = context.lake.read("training_examples").selectExpr("inline(arrays_zip(soon, paid, large, weight))")
    sums = rows.selectExpr("count_if(soon = 1) AS soon", "sum(paid) AS paid", "count_if(large = 1) AS large").first()
    events = context.lake.read("events").where(F.unix_millis("known_at") < parse_time(day(7)))
    assert 0 < sums["paid"] <= events.where("source = 'conversion'").agg(F.sum("value")).first()[0]
    assert 0 < sums["large"] <= events.where("source = 'conversion' AND value >= 30").count()
    assert 0 < sums["soon"] < events.where("source = 'ad_click'").count()
    assert rows.where("large = 1 AND paid < 30").isEmpty()
    metrics = context.tracker.metrics
    assert metrics["build_sequences.paids"] == pytest.approx(sums["paid"])
    assert {"train_model.soon.ne", "train_model.large.calibration", "train_model.epoch.train.soon"} <= metrics.keys()
    assert not [name for name in metrics if ".click." in name or (".paid." in name and name.startswith("train_model"))]
    found = context.tracker.find_model(context.config.model_name)
    assert Artifact.read(found.folder, found.digest).spec.tasks == ("soon", "large")
    assert "paid" in context.lake.read("ranking_examples").columns
    again = do(tmp_path, [build_sequences.JOB, train_model.JOB], f"time.as_of={day(8)}", "labels.tasks={soon: {source: ad_click}}", score)
    assert "paid" in again.lake.read("training_examples").columns, "rows of the day before stay as they were"
    assert again.lake.read("training_examples").where(f"as_of = '{day(8)[:10]}' AND paid IS NOT NULL").isEmpty()


@pytest.mark.slow
def test_a_load_that_is_off_is_refused_before_anything_is_written(spark, tmp_path, capsys):
    limits = ("ingest.max_row_change=0.3", "ingest.max_null_rise=0.2")
    context = do(tmp_path, [ingest_events.JOB], f"time.as_of={day(10)}", *limits)
    before = context.lake.published_versions()
    smaller = (f"time.as_of={day(10)}", *limits, "source.options.users=30")
    with pytest.raises(DataError, match=r"nothing was written.*organic_impression: [\d,]+ rows, [\d,]+ the last time"):
        do(tmp_path, [ingest_events.JOB], *smaller)
    context.lake.refresh()
    assert context.lake.published_versions() == before
    planned = open_context(load(CONF, overrides(tmp_path, *WORLD, *smaller)))
    ingest_events.JOB.explain(planned)
    said = capsys.readouterr().out
    for part in ("ad_click: ", "refused; known 2025-01-0", "heaviest user_id: u", "off: organic_impression", "missing: "):
        assert part in said
    planned.force = True
    run_jobs(planned, [ingest_events.JOB], "forced")
    planned.lake.refresh()
    assert planned.lake.read("events").count() < context.lake.read("events", before["events"]).count()


def test_every_response_is_counted_once_and_those_that_label_an_impression_are_the_labels(chain):
    metrics, as_of = chain.tracker.metrics, chain.config.time.as_of_ms
    events = chain.lake.read("events").where(F.unix_millis("known_at") < as_of)
    for label, source in (("click", "ad_click"), ("conversion", "conversion")):
        one = {key.rpartition(".")[2]: value for key, value in metrics.items() if key.startswith(f"build_sequences.responses.{label}.")}
        assert one["responses"] == events.where(F.col("source") == source).count() > 0
        assert one["responses"] == one["matched"] + one["outside_window"] + one["ambiguous"] + one["older"] + one["matched_nothing"]
        assert one["matched"] >= metrics[f"build_sequences.{label}s"] > 0


@pytest.fixture
def views(spark, tmp_path):
    """A log of views by a day column of type text, 4 a day, and how to ingest it with a batch_where."""
    stop = datetime(2025, 5, 6)
    moments = [stop - timedelta(hours=6 * place + 3) for place in range(4 * 4)]
    log = pd.DataFrame({"user": [f"u{place % 3}" for place in range(16)], "at": moments, "item": "i"})
    log = log.assign(dt=log["at"].dt.strftime("%Y-%m-%d"), at=log["at"].astype("datetime64[us]").dt.tz_localize("UTC"))
    log.to_parquet(tmp_path / "views.parquet")
    log[log["dt"] < "2025-05-04"].to_parquet(tmp_path / "first.parquet")

    def ingest(batch_where, *more, path="views.parquet"):
        columns = {"user_id": "user", "event_time": "at", "item_id": "item"}
        table = {"path": path, "format": "parquet", "source": "organic_impression", "columns": columns, "batch_where": batch_where}
        values = {"source": {"kind": "tables", "options": {"root": str(tmp_path), "events": [table]}}, "embedding": {"sources": []}}
        values["streams"] = {"organic_impression": {}, "ad_impression": {}, "ad_click": {}, "conversion": {}}
        conf = tmp_path / "conf.yml"
        conf.write_text(yaml.safe_dump(values))
        arguments = ["--conf", str(conf), *(part for value in overrides(tmp_path) for part in ("--set", value)), *more]
        ingest_events.JOB.main(arguments)
        return Lake(spark, load(conf, overrides(tmp_path)).lake).read("events").count()

    return ingest


@pytest.mark.slow
def test_a_batch_that_its_condition_left_nothing_of_is_refused_and_a_text_day_has_its_placeholders(views, tmp_path, capsys):
    text, days = "dt >= '{from}' AND dt < '{to}'", "dt >= '{from_date}' AND dt <= '{to_date}'"
    daily = ("--set", "ingest.batch_days=1", "--from", "2025-05-05", "--to", "2025-05-06")
    assert views(text, path="first.parquet") == 8
    before = sorted(path for path in tmp_path.glob("lake/events/_delta_log/*.json"))
    for more, condition, message in (
        (daily, text, "none of the 4 rows that batch_where"),
        ((*daily[:2], "--set", "time.as_of=2025-05-09"), days, "left no row; the batch from 2025-05-08 00:00:00.000 to 2025-05-09"),
        ((), "dt >= '{today}'", "{today} in it stands for nothing"),
    ):
        with pytest.raises(SystemExit) as stop:
            views(condition, *more)
        assert stop.value.code == 2
        assert message in capsys.readouterr().err
    assert sorted(path for path in tmp_path.glob("lake/events/_delta_log/*.json")) == before
    views(text, "--dry-run", *daily)
    assert "off: table" in capsys.readouterr().out
    assert views(text, *daily[:2], "--set", "time.as_of=2025-05-05", "--force") == 8
    assert "none of the 4 rows that batch_where" in capsys.readouterr().out, "forced, it is still told"
    assert views(days, *daily) == 16
