from __future__ import annotations

import pytest
from pyspark.sql import functions as F

from alure_spark.config import LakeConfig
from alure_spark.errors import LakeError
from alure_spark.lake import Lake, as_of_scope, content_hash, latest_rows, publishing
from tests.lake.small_lake import CONFIG, edges, killed_run, publish


@pytest.fixture(params=["folder", "catalog"])
def lake(request, spark, tmp_path):
    root = str(tmp_path / "lake") if request.param == "folder" else f"spark_catalog.lake_{tmp_path.name.replace('-', '_')}"
    yield Lake(spark, LakeConfig(root))
    if request.param == "catalog":
        spark.sql(f"DROP SCHEMA IF EXISTS {root} CASCADE")


def test_a_job_replaces_exactly_its_scope_and_a_second_run_changes_nothing(spark, lake):
    first = publish(lake, edges(spark, 10, 100), 100)
    publish(lake, edges(spark, 3, 200), 200)
    again = publish(lake, edges(spark, 10, 100), 100)
    assert again.content_hashes == first.content_hashes
    assert lake.read("user_edges").count() == 13
    assert lake.read("user_edges", first.outputs["user_edges"]).count() == 10, "an older version stays readable"


def test_a_failing_job_publishes_nothing_and_leaves_the_tables_as_they_were(spark, lake):
    publish(lake, edges(spark, 10, 100), 100)
    before = content_hash(lake.read("user_edges"))
    with pytest.raises(ValueError, match="planted"), lake.run("build_graph", CONFIG, "x") as run:
        run.write("user_edges", edges(spark, 99, 100), as_of_scope(100))
        raise ValueError("planted")
    assert content_hash(lake.read("user_edges")) == before
    stored = spark.sql(f"SELECT * FROM {lake.location('user_edges')}")
    assert content_hash(stored) == before, "also for a reader that knows nothing of runs"
    assert lake.runs().where("status = 'failed'").select("message").first()[0] == "ValueError: planted"


def test_what_a_killed_job_wrote_is_never_read_and_is_undone_by_the_next_writer(spark, tmp_path):
    lake = Lake(spark, LakeConfig(str(tmp_path / "lake")))
    publish(lake, edges(spark, 10, 100), 100)
    killed_run(lake).write("user_edges", edges(spark, 50, 300), as_of_scope(300))
    assert lake.read("user_edges").count() == 10
    publish(lake, edges(spark, 3, 200), 200)
    assert {row["as_of"].microsecond for row in lake.read("user_edges").select("as_of").distinct().collect()} == {100_000, 200_000}


def test_the_rows_of_runs_become_one_file_again_and_stay_all_there(spark, tmp_path, monkeypatch):
    monkeypatch.setattr(publishing, "RUNS_FILES", 1)
    lake = Lake(spark, LakeConfig(str(tmp_path / "lake")))
    runs = [publish(lake, edges(spark, 1 + n, 100), 100) for n in range(3)]
    assert lake.size("runs")[0] == 2, "of 6 files, a started and a published row each"
    rows = lake.runs().groupBy("run_id").agg(F.sort_array(F.collect_list("status")).alias("status")).collect()
    assert {row["run_id"]: row["status"] for row in rows} == {run.run_id: ["published", "started"] for run in runs}
    assert Lake(spark, lake.config).published_versions() == runs[-1].outputs
    assert lake.read("user_edges").count() == 3


def test_a_row_outside_the_scope_or_without_a_required_value_is_refused(spark, tmp_path):
    lake = Lake(spark, LakeConfig(str(tmp_path / "lake")))
    publish(lake, edges(spark, 10, 100), 100)
    for frame in (edges(spark, 3, 200), edges(spark, 3, 100).withColumn("weight", F.lit(None).cast("double"))):
        with pytest.raises(Exception, match="DELTA_REPLACE_WHERE_MISMATCH|NOT_NULL"):
            publish(lake, frame, 100)
    with pytest.raises(LakeError, match="needs the columns rank"):
        publish(lake, edges(spark, 3, 100).drop("rank"), 100)
    with pytest.raises(LakeError, match="has no column colour"):
        publish(lake, edges(spark, 3, 100).withColumn("colour", F.lit(1)), 100)
    assert lake.read("user_edges").count() == 10


def test_reading_what_is_not_there_names_the_job_that_makes_it(spark, tmp_path):
    with pytest.raises(LakeError, match="table 'user_edges' is not published in lake .*: run jobs/build_graph.py first"):
        Lake(spark, LakeConfig(str(tmp_path / "lake"))).read("user_edges")


def test_a_table_of_another_schema_version_is_refused(spark, tmp_path):
    lake = Lake(spark, LakeConfig(str(tmp_path / "lake")))
    publish(lake, edges(spark, 1, 100), 100)
    spark.sql(f"ALTER TABLE {lake.location('user_edges')} SET TBLPROPERTIES ('alure.schema_version' = '99')")
    with pytest.raises(LakeError, match="schema version 99, this code writes 2"):
        lake.read("user_edges")


def test_the_content_hash_sees_rows_nulls_and_array_borders_but_not_order(spark):
    def hashed(rows):
        return content_hash(spark.createDataFrame(rows, "a string, b string, x array<int>, y array<int>"))

    base = [("p", None, [1, 2], [3]), ("q", "r", [], None)]
    assert hashed(base) == hashed(base[::-1])
    others = [
        [(None, "p", [1, 2], [3]), base[1]],
        [("p", None, [1], [2, 3]), base[1]],
        [base[0], ("q", "r", None, [])],
        base[:1],
        base + base[:1],
    ]
    assert len({hashed(base), *(hashed(rows) for rows in others)}) == len(others) + 1


def test_a_reader_takes_each_users_latest_row_at_or_before_as_of(spark):
    rows = spark.createDataFrame([("u", 1), ("u", 5), ("v", 3), ("w", 9)], "user_id string, t int")
    rows = rows.withColumn("as_of", F.timestamp_millis(F.col("t")))
    assert sorted((row["user_id"], row["t"]) for row in latest_rows(rows, 5).collect()) == [("u", 5), ("v", 3)]
