"""What breaks in the night: a task that raises, a worker that dies, a full disk, a writer beside a writer, a source that changed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time

import pandas as pd
import pytest
from pyspark.sql import functions as F

from alure_spark.config import Config, LakeConfig, build, load
from alure_spark.errors import DataError
from alure_spark.lake import Lake, as_of_scope, content_hash
from alure_spark.running import open_context, run_jobs
from alure_spark.tables import TABLES
from jobs import ingest_events
from tests.conftest import overrides
from tests.lake.small_lake import CONFIG, edges, killed_run, publish


@pytest.fixture
def lake(spark, tmp_path):
    """A lake with one published graph."""
    found = Lake(spark, LakeConfig(str(tmp_path / "lake")))
    publish(found, edges(spark, 10, 100), 100)
    return found


def failing(frame, action: str):
    """The frame by way of Python workers, in which `action` happens at one row."""

    def rim(batches):
        for batch in batches:
            if "7" in batch.column("src_user_id").to_pylist():
                if action == "raise":
                    raise ValueError("planted")
                os.kill(os.getpid(), signal.SIGKILL)
            yield batch

    return frame.mapInArrow(rim, frame.schema)


@pytest.mark.parametrize("action", [pytest.param("raise", marks=pytest.mark.slow), "kill"])
def test_a_task_that_raises_and_a_worker_that_dies_leave_the_tables_as_they_were(spark, lake, action):
    before = content_hash(lake.read("user_edges"))
    with pytest.raises(Exception, match="planted|crashed|exited unexpectedly"):
        publish(lake, failing(edges(spark, 20, 100), action), 100)
    lake.refresh()
    assert content_hash(lake.read("user_edges")) == before
    assert content_hash(spark.read.format("delta").load(f"{lake.root}/user_edges")) == before, "also for who knows nothing of runs"
    assert lake.runs().where("status = 'failed'").count() == 1
    publish(lake, edges(spark, 20, 100), 100)
    assert lake.read("user_edges").count() == 20


@pytest.mark.slow
def test_a_full_disk_loses_nothing_and_the_job_can_be_run_again_once_there_is_room(spark, tmp_path):
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting a small tmpfs needs root")
    try:
        lake = Lake(spark, LakeConfig(f"{place}/lake"))
        publish(lake, edges(spark, 10, 100), 100)
        before = content_hash(lake.read("user_edges"))
        wide = edges(spark, 200_000, 200).withColumn("dst_user_id", F.sha2(F.col("src_user_id"), 512))
        with pytest.raises(Exception, match="No space left|FAILED_WHILE_WRITING|TASK_WRITE_FAILED|aborted"):
            publish(lake, wide, 200)
        lake.refresh()
        assert content_hash(lake.read("user_edges")) == before
        subprocess.run(["mount", "-o", "remount,size=200m", str(place)], check=True)
        publish(lake, wide, 200)
        assert lake.read("user_edges").count() == 200_010
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_second_writer_waits_for_the_first_and_both_are_published(spark, tmp_path):
    root = str(tmp_path / "lake")
    first, second = (Lake(spark, LakeConfig(root, wait_minutes=5)) for _ in range(2))
    publish(first, edges(spark, 1, 50), 50)
    writing, order = threading.Event(), []

    def slow():
        with first.run("build_graph", CONFIG, as_of_scope(100)) as run:
            writing.set()
            time.sleep(3)
            run.write("user_edges", edges(spark, 10, 100), as_of_scope(100))
            order.append("first")

    thread = threading.Thread(target=slow)
    thread.start()
    writing.wait()
    publish(second, edges(spark, 3, 200), 200)
    order.append("second")
    thread.join()
    assert order == ["first", "second"]
    second.refresh()
    assert second.read("user_edges").count() == 14


@pytest.mark.slow
def test_a_driver_killed_before_its_last_row_is_undone_and_the_batch_can_come_again(spark, tmp_path):
    """All data commits of an ingestion are there, the row in `runs` is not: what SIGKILL between the two leaves."""
    settings = ("source.options.users=30", "source.options.days=6", "ingest.batch_days=3")

    def context(as_of):
        found = open_context(load("conf/test.yml", overrides(tmp_path, *settings, f"time.as_of={as_of}")))
        found.lake.refresh()
        return found

    run_jobs(context("2025-01-09"), [ingest_events.JOB], "first")
    lake = context("2025-01-09").lake
    before = {name: content_hash(lake.read(name), TABLES[name]) for name in ("events", "ads", "quarantine")}
    killed = killed_run(lake, "ingest_events")
    ingest_events.ingest(context("2025-01-12"), killed)
    assert spark.read.format("delta").load(f"{lake.root}/events").count() > lake.read("events").count(), "there is something to undo"
    lake.refresh()
    assert {name: content_hash(lake.read(name), TABLES[name]) for name in before} == before
    for _ in range(2):
        run_jobs(context("2025-01-12"), [ingest_events.JOB], "again")
    whole = open_context(load("conf/test.yml", overrides(tmp_path / "whole", *settings, "time.as_of=2025-01-12", "ingest.batch_days=6")))
    run_jobs(whole, [ingest_events.JOB], "whole")
    whole.lake.refresh()
    lake.refresh()
    assert content_hash(lake.read("events")) == content_hash(whole.lake.read("events"))


LOG = {"who": ["u", "u", "v"], "what": ["1", "2", "1"], "at": ["2020-01-01 00:00:00", "2020-01-01 01:00:00", "2020-01-02 00:00:00"]}
DRIFTS = {
    "removed": (lambda log: log.drop(columns="what"), "column item_id = 'what' cannot be resolved"),
    "retyped": (
        lambda log: log.assign(what=log["what"].astype(float)),
        "column 'item_id' has type double; allowed: string or an integer type",
    ),
    "time as number": (lambda log: log.assign(at=[1, 2, 3]), "column 'event_time' has type bigint; allowed: timestamp"),
}


@pytest.mark.parametrize("drift", ["added", *(pytest.param(name, marks=pytest.mark.slow) for name in DRIFTS)])
def test_a_source_whose_schema_drifted_is_refused_with_a_sentence_unless_only_a_column_came_in(spark, tmp_path, drift):
    options = {
        "root": str(tmp_path),
        "events": [
            {"path": "log", "format": "parquet", "source": "view", "columns": {"user_id": "who", "item_id": "what", "event_time": "at"}}
        ],
    }
    lake = {"root": f"{tmp_path}/lake"}
    tracking = {"uri": f"sqlite:///{tmp_path}/mlflow.db", "artifact_root": f"{tmp_path}/artifacts", "offline_root": f"{tmp_path}/untracked"}

    config = build(
        Config,
        {
            "lake": lake,
            "tracking": tracking,
            "source": {"kind": "tables", "options": options},
            "time": {"as_of": "2020-02-01"},
            "streams": {"view": {}},
        },
    )

    def ingest(log):
        shutil.rmtree(tmp_path / "log", ignore_errors=True)
        (tmp_path / "log").mkdir()
        log.to_parquet(tmp_path / "log" / "part.parquet")
        context = open_context(config)
        run_jobs(context, [ingest_events.JOB], "drift")
        context.lake.refresh()
        return content_hash(context.lake.read("events"))

    log = pd.DataFrame(LOG)
    before = ingest(log)
    if drift == "added":
        assert ingest(log.assign(colour="red")) == before
        return
    change, message = DRIFTS[drift]
    with pytest.raises(DataError) as refusal:
        ingest(change(log))
    assert message in str(refusal.value)
    context = open_context(config)
    assert content_hash(context.lake.read("events")) == before
