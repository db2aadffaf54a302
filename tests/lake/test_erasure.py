"""What erases files erases nothing that is published, nothing of a writer who waits, and fails aloud."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from pyspark.sql import functions as F

from alure_spark.config import Config, LakeConfig, StreamConfig, TrackingConfig, build
from alure_spark.errors import LeftoverError
from alure_spark.lake import Lake, as_of_scope, content_hash
from alure_spark.privacy import identity
from alure_spark.running import open_context, run_jobs
from alure_spark.tables import EVENTS
from jobs import apply_retention, forget_users
from tests import scan
from tests.lake.small_lake import CONFIG, edges, killed_run, publish

pytestmark = pytest.mark.slow  # minutes of Spark

KEY = "k" * 32


def context_of(tmp_path, **lake):
    tracking = TrackingConfig(f"sqlite:///{tmp_path}/mlflow.db", "e", f"{tmp_path}/artifacts", f"{tmp_path}/untracked")
    values = {"root": f"{tmp_path}/lake", "scratch": f"{tmp_path}/scratch", "vacuum_hours": 0.0} | lake
    config = Config(lake=build(LakeConfig, values), tracking=tracking, streams={"purchase": StreamConfig()})
    return open_context(config)


def replaced(context, **lake):
    return open_context(replace(context.config, lake=replace(context.config.lake, **lake)))


def people(spark, rows, as_of_ms):
    """Edges of users whose ids are words that stand nowhere else."""
    return edges(spark, rows, as_of_ms).withColumn("src_user_id", F.concat(F.lit("person"), "src_user_id"))


def run(context, job):
    run_jobs(context, [job], "test")
    context.lake.refresh()
    return context.lake


def killed_after_writing(lake, name, frame, scope):
    """The table has a commit that no published run names."""
    killed_run(lake).write(name, frame, scope)
    lake.refresh()


@pytest.mark.parametrize("old_rows", [True, False])
def test_retention_undoes_what_a_killed_writer_left_before_it_vacuums(spark, tmp_path, old_rows):
    day = 86_400_000
    context = context_of(tmp_path, keep_days={"user_edges": 3.0})
    publish(context.lake, edges(spark, 4, 10 * day), 10 * day)
    if old_rows:
        publish(context.lake, edges(spark, 2, day), day)
    # It replaces the published rows: their files belong to no version that Delta would keep.
    killed_after_writing(context.lake, "user_edges", edges(spark, 9, 10 * day), "true")
    lake = run(context, apply_retention.JOB)
    assert lake.read("user_edges").count() == 4
    publish(lake, edges(spark, 1, 11 * day), 11 * day)
    assert lake.read("user_edges").count() == 5


@pytest.mark.slow
def test_half_days_of_events_are_kept_whole(spark, tmp_path):
    """The days of events are dates: of 1.5 days before the newest one the older is kept, too."""
    context = context_of(tmp_path, keep_days={"events": 1.5})
    known = spark.range(1, 6).select(
        F.col("id").cast("string").alias("event_id"), F.lit("u").alias("user_id"), F.lit("ALL").alias("country"),
        F.lit("purchase").alias("source"), F.timestamp_millis(F.col("id") * 86_400_000 + 43_200_000).alias("known_at"),
    )  # fmt: skip
    known = known.withColumns({"event_time": F.col("known_at"), "known_date": F.to_date("known_at"), "event_hash": F.xxhash64("event_id")})
    null = {column.name: F.lit(None).cast(column.type) for column in EVENTS.columns if column.name not in known.columns}
    with context.lake.run("ingest_events", CONFIG, "true") as writing:
        writing.write("events", known.withColumns(null))
    lake = run(context, apply_retention.JOB)
    assert sorted(row["event_id"] for row in lake.read("events").collect()) == ["3", "4", "5"]


def test_forgetting_undoes_what_killed_writers_left_before_it_vacuums_also_of_tables_that_were_never_published(
    spark, tmp_path, monkeypatch
):
    monkeypatch.setenv(identity.KEY_VARIABLE, KEY)
    context = context_of(tmp_path)
    named = edges(spark, 5, 100).withColumn("dst_user_id", F.lit("wanted"))
    publish(context.lake, named.unionByName(edges(spark, 5, 100).withColumn("rank", F.lit(2))), 100)
    killed_after_writing(context.lake, "user_edges", named, "true")
    users = spark.createDataFrame([("wanted", "ALL", 1)], "user_id string, country string, cluster_id int")
    with pytest.raises(KeyboardInterrupt), context.lake.run("build_graph", CONFIG, "true") as killed:
        killed.write("user_clusters", users.withColumn("as_of", F.timestamp_millis(F.lit(100))), as_of_scope(100))
        killed._heads.clear()
        raise KeyboardInterrupt
    assert {path.split("/")[0] for path in scan.places("wanted", tmp_path / "lake")} == {"user_edges", "user_clusters"}
    lake = run(context, forget_users.job(["wanted"]))
    assert lake.read("user_edges").count() == 5
    assert scan.places("wanted", tmp_path / "lake") == set()


@pytest.fixture
def deletion_vectors(spark):
    """New tables have deletion vectors, as a workspace may have decided."""
    key = "spark.databricks.delta.properties.defaults.enableDeletionVectors"
    spark.conf.set(key, "true")
    yield
    spark.conf.unset(key)


@pytest.mark.parametrize("since", ["its creation", pytest.param("yesterday", marks=pytest.mark.slow)])
def test_a_table_with_deletion_vectors_is_readable_and_writable_after_an_erasure_and_holds_nobody(
    request, spark, tmp_path, monkeypatch, since
):
    monkeypatch.setenv(identity.KEY_VARIABLE, KEY)
    if since == "its creation":
        request.getfixturevalue("deletion_vectors")
    context = context_of(tmp_path)
    publish(context.lake, people(spark, 40, 100).coalesce(1), 100)
    if since == "yesterday":
        spark.sql(f"ALTER TABLE {context.lake.location('user_edges')} SET TBLPROPERTIES ('delta.enableDeletionVectors' = 'true')")
    lake = run(context, forget_users.job(["person17"]))
    lake = run(context, forget_users.job(["person18"]))
    assert lake.read("user_edges").count() == 38
    assert lake.published_versions()["user_edges"] == lake.newest_version("user_edges"), "what is published is what was reorganized"
    assert scan.places("person17", tmp_path / "lake") | scan.places("person18", tmp_path / "lake") == set()
    publish(lake, edges(spark, 3, 200), 200)
    assert lake.read("user_edges").count() == 41


def test_retention_of_a_table_with_deletion_vectors_erases_nothing_that_is_published(spark, tmp_path, deletion_vectors):
    day = 86_400_000
    context = context_of(tmp_path, keep_days={"user_embeddings": 3.0})

    def embeddings(users, as_of_ms):
        return spark.range(users).select(
            F.col("id").cast("string").alias("user_id"), F.lit("ALL").alias("country"), F.lit("m").alias("model_id"),
            F.timestamp_millis(F.lit(as_of_ms)).alias("as_of"), F.array(F.lit(1.0).cast("float")).alias("embedding"),
        )  # fmt: skip

    for users, moment in ((6, day), (3, 2 * day), (2, 10 * day)):
        with context.lake.run("embed_users", CONFIG, as_of_scope(moment)) as writing:
            writing.write("user_embeddings", embeddings(users, moment).coalesce(1), as_of_scope(moment))
    lake = run(context, apply_retention.JOB)
    assert sorted(row[0] for row in lake.read("user_embeddings").select("user_id").collect()) == list("00112345")
    lake = run(context, apply_retention.JOB)
    assert lake.read("user_embeddings").count() == 8


def test_a_writer_that_waits_starts_when_the_files_are_erased_not_before(spark, tmp_path):
    root = f"{tmp_path}/lake"
    first, second = (Lake(spark, LakeConfig(root, wait_minutes=5)) for _ in range(2))
    publish(first, edges(spark, 1, 50), 50)
    erasing, order = threading.Event(), []

    def erase():
        erasing.set()
        assert first.runs().where("status = 'published'").count() == 2, "the tables are published"
        time.sleep(3)
        order.append("erased")
        first.vacuum("user_edges", 0)

    def erases():
        with first.run("forget_users", CONFIG, "true", after=erase) as writing:
            writing.write("user_edges", edges(spark, 10, 100), as_of_scope(100))

    thread = threading.Thread(target=erases)
    thread.start()
    erasing.wait()
    with second.run("build_graph", CONFIG, as_of_scope(200)) as writing:
        order.append("second")
        writing.write("user_edges", edges(spark, 3, 200), as_of_scope(200))
    thread.join()
    assert order == ["erased", "second"]
    second.refresh()
    assert second.read("user_edges").count() == 14
    statuses = [row["status"] for row in second.runs().where("job = 'forget_users'").orderBy("finished").collect()]
    assert statuses == ["started", "published", "ended"]


def test_what_cannot_be_erased_is_said_and_the_tables_are_published_all_the_same(spark, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(identity.KEY_VARIABLE, KEY)
    context = context_of(tmp_path)
    publish(context.lake, people(spark, 5, 100), 100)

    def no_vacuum(*_):
        raise OSError("the disk is read-only")

    with monkeypatch.context() as broken:
        broken.setattr(context.lake, "vacuum", no_vacuum)
        with pytest.raises(
            LeftoverError, match=r"forget_users is published \(tombstones, user_edges\), but not .* \(the disk is read-only\)"
        ):
            run_jobs(context, [forget_users.job(["person3"])], "forget")
    assert "forgotten: 1 users" in capsys.readouterr().out
    context.lake.refresh()
    assert context.lake.read("user_edges").count() == 4
    ended = context.lake.runs().where("status = 'ended'").first()
    assert ended["message"].startswith("OSError: the disk is")
    lake = run(context, forget_users.job(["person3"]))
    assert scan.places("person3", Path(lake.root)) == set(), "again, and the rest is done"


def test_old_files_dated_after_the_clock_are_said_to_stay_until_they_are_erased(spark, tmp_path, monkeypatch):
    """VACUUM takes them for younger than any hours: the clock was set back, or that of a file server goes ahead."""
    monkeypatch.setenv(identity.KEY_VARIABLE, KEY)
    context = context_of(tmp_path)
    publish(context.lake, people(spark, 5, 100), 100)
    files = list(Path(context.lake.root, "user_edges").rglob("*.parquet"))
    for path in files:
        os.utime(path, (time.time() + 5000, time.time() + 5000))
    with pytest.raises(LeftoverError, match=r"\d old files of table 'user_edges' .* are dated after the clock of this machine"):
        run_jobs(context, [forget_users.job(["person3"])], "forget")
    assert scan.places("person3", Path(context.lake.root)) != set()
    for path in files:
        os.utime(path)
    lake = run(context, forget_users.job(["person3"]))
    assert scan.places("person3", Path(lake.root)) == set()


def test_a_writer_killed_between_publication_and_erasure_is_published_and_no_obstacle_and_named_until_it_ran_again(
    spark, tmp_path, caplog, monkeypatch
):
    lake = Lake(spark, LakeConfig(f"{tmp_path}/lake"))

    def killed(*_):
        monkeypatch.setattr(lake, "_record", killed)  # a killed writer says nothing more
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), lake.run("forget_users", CONFIG, "true", after=killed) as writing:
        writing.write("user_edges", edges(spark, 5, 100), as_of_scope(100))
    monkeypatch.undo()
    lake.refresh()
    before = content_hash(lake.read("user_edges"))
    publish(lake, edges(spark, 1, 200), 200)
    assert content_hash(lake.read("user_edges").where(as_of_scope(100))) == before
    assert "forget_users was published and died before it had erased old files: run jobs/forget_users.py again" in caplog.text
    with lake.run("forget_users", CONFIG, "true", after=lambda: None):
        caplog.clear()
    publish(lake, edges(spark, 1, 200), 200)
    assert "forget_users" not in caplog.text


def test_a_day_in_the_future_lets_no_day_of_today_go(spark, tmp_path):
    day, now = 86_400_000, int(time.time() * 1000)
    context = context_of(tmp_path, keep_days={"user_edges": 3.0})
    moments = (now - 405 * day, now - 402 * day, now - 400 * day)  # a log that ended a year ago
    for moment in (*moments, now + 80 * 365 * day):  # and a mistyped as_of of eighty years from now
        publish(context.lake, edges(spark, 1, moment), moment)
    lake = run(context, apply_retention.JOB)
    kept = [row[0] for row in lake.read("user_edges").select(F.unix_millis("as_of").alias("ms")).orderBy("ms").collect()]
    assert kept == [*moments[1:], now + 80 * 365 * day]


def test_old_files_of_an_erasure_are_due_until_they_are_erased(spark, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv(identity.KEY_VARIABLE, KEY)
    context = context_of(tmp_path, vacuum_hours=1.0)
    publish(context.lake, people(spark, 3, 100), 100)
    lake = run(context, forget_users.job(["person1"]))
    publish(lake, edges(spark, 1, 200), 200)
    assert "--vacuum" not in caplog.text, "an hour has not passed"
    clock = time.time
    monkeypatch.setattr(time, "time", lambda: clock() + 3700)
    publish(lake, edges(spark, 1, 200), 200)
    assert "run jobs/forget_users.py --vacuum" in caplog.text
    run(replaced(context, vacuum_hours=2.0), forget_users.ERASURE)  # leaves them: they are not yet two hours old
    caplog.clear()
    publish(lake, edges(spark, 1, 200), 200)
    assert "run jobs/forget_users.py --vacuum" in caplog.text
    run(replaced(context, vacuum_hours=0.0), forget_users.ERASURE)
    assert scan.places("person1", tmp_path / "lake" / "user_edges") == set()
    caplog.clear()
    publish(lake, edges(spark, 1, 200), 200)
    assert "--vacuum" not in caplog.text
