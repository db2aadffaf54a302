"""What others do to our tables between two runs: compaction keeps what is published readable; lost commits of `runs` are noticed."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest
from pyspark.sql import functions as F

from alure_spark.config import LakeConfig
from alure_spark.errors import LakeError
from alure_spark.lake import Lake, as_of_scope, content_hash
from alure_spark.session import session_settings
from alure_spark.tables import EVENTS
from tests.lake.small_lake import CONFIG, edges, killed_run, publish

# Without the second, Delta lists the few files in 10,000 tasks.
NO_CHECK = {
    "spark.databricks.delta.retentionDurationCheck.enabled": "false",
    "spark.sql.sources.parallelPartitionDiscovery.parallelism": "2",
}


@pytest.fixture
def lake(spark, tmp_path):
    return Lake(spark, LakeConfig(f"{tmp_path}/lake"))


@pytest.mark.slow
def test_a_table_that_somebody_compacted_and_vacuumed_is_read_and_written_on(spark, lake):
    for moment in (100, 200):
        publish(lake, edges(spark, 3, moment).repartition(3), moment)
    before, published = content_hash(lake.read("user_edges")), lake.published_versions()["user_edges"]
    with session_settings(spark, NO_CHECK):
        spark.sql(f"OPTIMIZE {lake.location('user_edges')}")
        spark.sql(f"VACUUM {lake.location('user_edges')} RETAIN 0 HOURS")
    assert lake.newest_version("user_edges") > published
    with pytest.raises(Exception, match="FILE|file"):  # the right value needs the newer version
        lake.read("user_edges", published).collect()
    lake.refresh()
    assert content_hash(lake.read("user_edges")) == before
    with lake.run("build_graph", CONFIG, as_of_scope(200)) as run:
        assert content_hash(run.read("user_edges")) == before
        run.write("user_edges", edges(spark, 1, 200), as_of_scope(200))
    assert lake.read("user_edges").count() == 4


@pytest.mark.slow
def test_compaction_after_a_run_that_failed_keeps_the_table_readable_and_writable(spark, lake):
    """Delta's log says: published, the failed run's rows, taken back, compacted; a setting of somebody's is no change either."""
    publish(lake, edges(spark, 3, 100).repartition(3), 100)
    with pytest.raises(RuntimeError, match="planted"), lake.run("build_graph", CONFIG, "true") as run:
        run.write("user_edges", edges(spark, 9, 100))
        raise RuntimeError("planted")
    spark.sql(f"ALTER TABLE {lake.location('user_edges')} SET TBLPROPERTIES ('theirs' = '1')")
    with session_settings(spark, NO_CHECK):
        spark.sql(f"OPTIMIZE {lake.location('user_edges')}")
        spark.sql(f"VACUUM {lake.location('user_edges')} RETAIN 0 HOURS")
    lake.refresh()
    assert lake.read("user_edges").count() == 3
    publish(lake, edges(spark, 2, 200), 200)
    assert lake.read("user_edges").count() == 5
    assert spark.sql(f"DESCRIBE DETAIL {lake.location('user_edges')}").first()["properties"]["theirs"] == "1"


@pytest.mark.slow
def test_a_table_whose_published_files_somebody_erased_is_named_and_left_as_it_is(spark, lake):
    """After a killed job had replaced its rows, a VACUUM of somebody's takes the published ones for old."""
    publish(lake, edges(spark, 3, 100), 100)
    killed_run(lake).write("user_edges", edges(spark, 9, 100))
    with session_settings(spark, NO_CHECK):
        spark.sql(f"VACUUM {lake.location('user_edges')} RETAIN 0 HOURS")
    lake.refresh()
    before = lake.newest_version("user_edges")
    for job, work in (
        ("retrieve_ads", lambda run: run.read("user_edges").collect()),
        ("build_graph", lambda run: run.write("user_edges", edges(spark, 1, 200), as_of_scope(200))),
    ):
        with pytest.raises(LakeError, match=r"table 'user_edges' .* lacks a file of its published rows.*jobs/build_graph.py on"):  # noqa: SIM117
            with lake.run(job, CONFIG, "true") as run:
                work(run)
    assert lake.newest_version("user_edges") == before


@pytest.mark.slow
@pytest.mark.parametrize("name", ["runs", "user_edges"])
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_damaged_file_of_rows_is_a_sentence_that_names_the_table(spark, lake, tmp_path, name, damage):
    publish(lake, edges(spark, 3, 100), 100)
    path = max(Path(lake.root, name).rglob("*.parquet"), key=lambda path: path.stat().st_size)
    path.with_name(f".{path.name}.crc").unlink(missing_ok=True)
    path.unlink() if damage == "gone" else path.write_bytes(path.read_bytes()[:200])
    spark.catalog.clearCache()
    other = Lake(spark, lake.config)
    with (
        pytest.raises(LakeError, match=f"table '{name}' in lake .* lacks a file of its published rows"),
        other.run("a", CONFIG, "true") as run,
    ):
        run.read("user_edges").collect()
    if name == "runs":
        with pytest.raises(LakeError, match="table 'runs' in lake .* lacks a file"):
            Lake(spark, lake.config).published_versions()


def forty_days_later(spark, lake, version):
    """The table's log has commits up to the version, and all are older than Delta keeps a log by default."""
    location = lake.location("user_edges")
    while lake.newest_version("user_edges") < version:
        spark.sql(f"ALTER TABLE {location} SET TBLPROPERTIES ('theirs' = '{lake.newest_version('user_edges')}')")
    then = time.time() - 40 * 86_400
    for path in Path(lake.root, "user_edges", "_delta_log").iterdir():
        os.utime(path, (then, then))
    spark.catalog.clearCache()
    lake.refresh()


@pytest.mark.slow
@pytest.mark.parametrize("of_an_earlier_release", [False, True])
def test_old_commits_stay_while_they_are_what_is_published(spark, lake, of_an_earlier_release):
    """At every tenth commit Delta would delete what is older than 30 days: the published version, while a run is writing."""
    publish(lake, edges(spark, 3, 100), 100)
    if of_an_earlier_release:
        spark.sql(f"ALTER TABLE {lake.location('user_edges')} UNSET TBLPROPERTIES ('delta.enableExpiredLogCleanup')")
    forty_days_later(spark, lake, 8)
    with pytest.raises(RuntimeError, match="planted"), lake.run("build_graph", CONFIG, "true") as run:
        for _ in range(3):
            run.write("user_edges", edges(spark, 5, 200), as_of_scope(200))
        assert run.outputs["user_edges"] > 10
        assert Lake(spark, lake.config).read("user_edges").count() == 3
        raise RuntimeError("planted")
    lake.refresh()
    assert lake.read("user_edges").count() == 3
    publish(lake, edges(spark, 2, 200), 200)
    assert lake.read("user_edges").count() == 5


@pytest.mark.slow
def test_rows_of_a_killed_run_are_not_taken_for_published_where_the_log_was_cleaned(spark, lake):
    publish(lake, edges(spark, 3, 100), 100)
    location = lake.location("user_edges")
    killed = killed_run(lake)
    killed.write("user_edges", edges(spark, 5, 200), as_of_scope(200))
    spark.sql(f"ALTER TABLE {location} SET TBLPROPERTIES ('delta.enableExpiredLogCleanup' = 'true')")
    forty_days_later(spark, lake, 9)
    spark.sql(f"ALTER TABLE {location} SET TBLPROPERTIES ('theirs' = 'tenth')")
    forty_days_later(spark, lake, 12)
    with pytest.raises(LakeError, match=rf"has lost the commits from the published version 1 on, .* run {killed.run_id}, which was killed"):
        lake.read("user_edges")


@pytest.mark.slow
def test_where_nobody_was_killed_a_cleaned_log_hides_nothing(spark, lake):
    publish(lake, edges(spark, 3, 100), 100)
    spark.sql(f"ALTER TABLE {lake.location('user_edges')} SET TBLPROPERTIES ('delta.enableExpiredLogCleanup' = 'true')")
    forty_days_later(spark, lake, 9)
    spark.sql(f"ALTER TABLE {lake.location('user_edges')} SET TBLPROPERTIES ('theirs' = 'tenth')")
    forty_days_later(spark, lake, 12)
    assert lake.read("user_edges").count() == 3
    publish(lake, edges(spark, 2, 200), 200)
    assert lake.read("user_edges").count() == 5


def test_a_table_that_somebody_made_append_only_is_named_with_the_remedy(spark, lake):
    publish(lake, edges(spark, 3, 100), 100)
    spark.sql(f"ALTER TABLE {lake.location('user_edges')} SET TBLPROPERTIES ('delta.appendOnly' = 'true')")
    lake.refresh()
    with pytest.raises(LakeError, match=r"made table 'user_edges' .* append-only, .*'delta.appendOnly' = 'false'"):
        publish(lake, edges(spark, 2, 100), 100)
    spark.sql(f"ALTER TABLE {lake.location('user_edges')} SET TBLPROPERTIES ('delta.appendOnly' = 'false')")
    lake.refresh()
    publish(lake, edges(spark, 2, 100), 100)
    assert lake.read("user_edges").count() == 2


@pytest.mark.slow
def test_compaction_keeps_what_is_published_and_not_what_a_killed_writer_left(spark, lake):
    run = publish(lake, edges(spark, 3, 100).repartition(3), 100)
    spark.sql(f"OPTIMIZE {lake.location('user_edges')}")
    left = edges(spark, 5, 100).write.format("delta").mode("append").option("userMetadata", run.run_id)
    left.save(lake.root + "/user_edges")
    spark.sql(f"OPTIMIZE {lake.location('user_edges')}")
    lake.refresh()
    assert lake.read("user_edges").count() == 3
    publish(lake, edges(spark, 2, 200), 200)
    assert lake.read("user_edges").count() == 5


def test_runs_that_lost_its_last_commits_is_refused_before_a_published_table_is_taken_back(spark, lake, tmp_path):
    publish(lake, edges(spark, 3, 100), 100)
    log = Path(lake.root) / "runs" / "_delta_log"
    shutil.copytree(log, tmp_path / "log")
    lost = publish(lake, edges(spark, 7, 100), 100)
    head = lake.newest_version("user_edges")
    shutil.rmtree(log)
    shutil.copytree(tmp_path / "log", log)  # a backup of yesterday
    spark.sql("CLEAR CACHE")
    spark._jvm.org.apache.spark.sql.delta.DeltaLog.clearCache()
    again = Lake(spark, LakeConfig(lake.root))
    for action in (lambda: again.read("user_edges"), lambda: publish(again, edges(spark, 2, 200), 200)):
        with pytest.raises(LakeError, match=f"'runs'.*does not know run {lost.run_id}.*'user_edges'"):
            action()
        again.refresh()
    assert again.newest_version("user_edges") == head
    assert spark.read.format("delta").load(f"{lake.root}/user_edges").count() == 7, "nothing was taken back"


def load(lake, value, fail=False):
    """One event with the attribute `amount`, as this SQL expression."""
    columns = {
        "event_id": "'e'", "user_id": "'u'", "country": "'ALL'", "event_time": "TIMESTAMP_MILLIS(0)", "source": "'s'",
        "known_at": "TIMESTAMP_MILLIS(0)", "known_date": "DATE'1970-01-01'", "event_hash": "1L",
    }  # fmt: skip
    frame = lake.spark.range(1).selectExpr(*(f"{of} AS `{name}`" for name, of in columns.items()), f"{value} AS amount")
    lacking = [column for column in EVENTS.columns if column.name not in columns]
    with lake.run("ingest_events", CONFIG, "true") as run:
        run.write("events", frame.withColumns({column.name: F.lit(None).cast(column.type) for column in lacking}))
        if fail:
            raise RuntimeError("planted")


def test_an_attribute_of_another_kind_is_one_sentence(lake):
    load(lake, "'many'")
    with pytest.raises(LakeError, match="'amount'.*is string.*double"):
        load(lake, "2.5D")
    assert lake.read("events").select("amount").collect() == [("many",)]


@pytest.mark.slow
def test_an_attribute_of_another_kind_is_taken_after_a_load_that_failed(lake):
    with pytest.raises(RuntimeError, match="planted"):
        load(lake, "'many'", fail=True)
    load(lake, "2.5D")
    assert lake.read("events").select("amount").collect() == [(2.5,)]


@pytest.mark.slow
def test_whether_an_array_may_hold_nulls_is_no_other_kind(lake):
    for value in ("array(1L, 2L)", "array(1L, NULL)", "array(1L, 2L)"):  # Delta's tables say of every column that it may
        load(lake, value)
    assert lake.read("events").select("amount").collect() == [([1, 2],)]


def test_looking_at_a_lake_makes_nothing(spark, tmp_path):
    schema = f"spark_catalog.absent_{tmp_path.name.replace('-', '_')}"
    lake = Lake(spark, LakeConfig(schema))
    assert lake.published_versions() == {}
    assert not spark.catalog.databaseExists(schema)
    with pytest.raises(LakeError, match="cannot be looked at there"):
        Lake(spark, LakeConfig("s3x://no-such-scheme/lake")).published_versions()


@pytest.mark.slow
def test_an_executor_of_another_zone_publishes_nothing(spark, lake):
    """Delta reads a partition's time in the zone of the task's JVM: rows would be of another as_of, and a day run again be there twice."""
    publish(lake, edges(spark, 3, 100), 100)
    zones = spark._jvm.java.util.TimeZone
    zones.setDefault(zones.getTimeZone("Asia/Tokyo"))
    try:
        with pytest.raises(LakeError, match="of 2 rows .* 0 are in the scope .*-Duser.timezone=UTC"):
            publish(lake, edges(spark, 2, 200), 200)
    finally:
        zones.setDefault(zones.getTimeZone("UTC"))
    lake.refresh()
    assert lake.read("user_edges").count() == 3
    publish(lake, edges(spark, 2, 200), 200)
    assert lake.read("user_edges").count() == 5
