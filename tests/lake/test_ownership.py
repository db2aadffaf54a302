"""Whose a table is: what no release of ours made is never read as ours, emptied, restored, vacuumed or written over."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from pyspark.sql import functions as F

from alure_spark.config import LakeConfig
from alure_spark.errors import LakeError
from alure_spark.lake import JobRun, Lake, as_of_scope, content_hash
from alure_spark.tables import table
from tests.lake.small_lake import CONFIG, edges, publish


@pytest.fixture(params=["folder", pytest.param("catalog", marks=pytest.mark.slow)])
def lake(request, spark, tmp_path):
    root = str(tmp_path / "lake") if request.param == "folder" else f"spark_catalog.own_{tmp_path.name.replace('-', '_')}"
    yield Lake(spark, LakeConfig(root))
    if request.param == "catalog":
        spark.sql(f"DROP SCHEMA IF EXISTS {root} CASCADE")


def plant(lake, name, frame, kind):
    """Somebody's rows where our table belongs; kind: a format, or 'view'. Returns a way to look at them."""
    if not lake.is_folder:
        lake.spark.sql(f"CREATE SCHEMA IF NOT EXISTS {lake.root}")
    if kind == "view":
        frame.write.format("parquet").saveAsTable(f"{lake.root}.behind")
        lake.spark.sql(f"CREATE VIEW {lake.location(name)} AS SELECT * FROM {lake.root}.behind")
    elif lake.is_folder:
        frame.write.format(kind).save(f"{lake.root}/{name}")
    else:
        frame.write.format(kind).saveAsTable(f"{lake.root}.{name}")

    def look():
        lake.spark.catalog.clearCache()
        if lake.is_folder:
            return lake.spark.read.format(kind).load(f"{lake.root}/{name}")
        return lake.spark.table(f"{lake.root}.{name}")

    return look


def versions(lake, name):
    return lake.spark.sql(f"DESCRIBE HISTORY {lake.location(name)}").count()


@pytest.mark.parametrize("kind", ["delta", "parquet", "csv", "view"])
def test_what_stands_where_a_table_belongs_is_refused_and_left_as_it_is(spark, lake, kind):
    if kind == "view" and lake.is_folder:
        pytest.skip("a view is of a catalog")
    publish(lake, edges(spark, 2, 50), 50)  # a lake that is in use
    theirs = edges(spark, 7, 100).withColumn("theirs", F.lit("x"))
    look = plant(lake, "user_clusters", theirs, kind)
    before = look().count(), versions(lake, "user_clusters") if kind == "delta" else None
    actions = {
        "write": lambda run: run.write("user_clusters", edges(spark, 1, 100)),
        "append": lambda run: run.write("user_clusters", edges(spark, 1, 100), append=True),
        "delete": lambda run: run.delete("user_clusters", spark.createDataFrame([("0",)], "user_id string")),
        "vacuum": lambda run: lake.vacuum("user_clusters", 0),
        "recover": lambda run: lake.recover("user_clusters"),
        "restore": lambda run: lake.restore("user_clusters", None),
    }
    for action in actions.values():
        with pytest.raises(LakeError, match=r"where table 'user_clusters' of lake .* alure_spark did not make.*move that away"):
            action(JobRun(lake, "build_graph", "conf", "true"))
    assert (look().count(), versions(lake, "user_clusters") if kind == "delta" else None) == before
    assert "theirs" in look().columns or kind == "csv"
    assert lake.read("user_edges").count() == 2, "the lake goes on"


@pytest.mark.parametrize("hidden", [".gitkeep", "_SUCCESS", ".git/config", "broken link"])
def test_files_that_spark_does_not_see_are_somebody_elses_too(spark, tmp_path, hidden):
    lake = Lake(spark, LakeConfig(f"{tmp_path}/lake"))
    place = tmp_path / "lake" / "user_edges"
    if hidden == "broken link":
        place.parent.mkdir()
        place.symlink_to(tmp_path / "nowhere")
    else:
        (place / hidden).parent.mkdir(parents=True)
        (place / hidden).write_text("theirs")
    with pytest.raises(LakeError, match=r"where table 'user_edges' .* belongs there is files that are no Delta table"):
        publish(lake, edges(spark, 2, 50), 50)
    if place.is_symlink():
        place.unlink()
    else:
        assert (place / hidden).read_text() == "theirs"
        shutil.rmtree(place)
    publish(lake, edges(spark, 2, 50), 50)
    assert lake.read("user_edges").count() == 2


@pytest.mark.parametrize("kind", ["delta", "parquet"])
def test_a_table_of_runs_that_is_somebody_elses_is_refused_before_anything_is_written(spark, lake, kind):
    look = plant(lake, "runs", spark.createDataFrame([("a", "published")], "run_id string, status string"), kind)
    for attempt in (lambda: publish(lake, edges(spark, 2, 50), 50), lake.published_versions, lambda: lake.read("user_edges")):
        lake.refresh()
        with pytest.raises(LakeError, match="where table 'runs' of lake"):
            attempt()
    assert look().columns == ["run_id", "status"]
    assert look().count() == 1
    assert not lake.is_ours("user_edges")


def test_a_copy_of_a_table_of_ours_that_no_run_of_this_lake_filled_is_not_emptied(spark, tmp_path):
    first, second = (Lake(spark, LakeConfig(f"{tmp_path}/{name}")) for name in ("first", "second"))
    publish(first, edges(spark, 5, 100), 100)
    shutil.copytree(f"{first.root}/user_edges", f"{second.root}/user_edges")
    with pytest.raises(LakeError, match="filled by no run of this lake"):
        publish(second, edges(spark, 1, 100), 100)
    assert spark.read.format("delta").load(f"{second.root}/user_edges").count() == 5


def test_a_newer_releases_table_is_not_restored_or_written_over(spark, tmp_path):
    lake = Lake(spark, LakeConfig(f"{tmp_path}/lake"))
    publish(lake, edges(spark, 5, 100), 100)
    spark.sql(f"ALTER TABLE {lake.location('user_edges')} SET TBLPROPERTIES ('alure.schema_version' = '99')")
    before = versions(lake, "user_edges")
    for action in (lambda: publish(lake, edges(spark, 1, 100), 100), lambda: lake.vacuum("user_edges", 0)):
        with pytest.raises(LakeError, match="schema version 99"):
            action()
    assert versions(lake, "user_edges") == before


def test_a_writer_killed_before_its_first_publication_leaves_a_table_that_the_next_one_takes(spark, tmp_path):
    lake = Lake(spark, LakeConfig(f"{tmp_path}/lake"))
    with pytest.raises(KeyboardInterrupt), lake.run("build_graph", CONFIG, "true") as run:
        run.write("user_edges", edges(spark, 5, 100), as_of_scope(100))
        run._heads.clear()  # nothing is rolled back, as after a kill
        raise KeyboardInterrupt
    assert spark.read.format("delta").load(f"{lake.root}/user_edges").count() == 5
    publish(lake, edges(spark, 3, 200), 200)
    assert lake.read("user_edges").count() == 3


def test_a_root_that_is_a_file_or_cannot_be_written_ends_with_a_sentence(spark, tmp_path):
    (tmp_path / "file").write_text("theirs")
    places = [f"{tmp_path}/file", f"{tmp_path}/file/below", "/proc/alure/lake"]
    mount = ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(tmp_path / "ro")]
    (tmp_path / "ro").mkdir()
    mounted = shutil.which("mount") is not None and not subprocess.run(mount, check=False, capture_output=True).returncode
    try:
        for place in [*places, *([f"{tmp_path}/ro/lake"] if mounted else [])]:
            with pytest.raises(LakeError, match=r"lake.root is '.*', and (nothing can|table 'runs' cannot) be .* there \(.+\); allowed: "):
                publish(Lake(spark, LakeConfig(place)), edges(spark, 1, 100), 100)
        with pytest.raises(LakeError, match="cannot be looked at there"):
            publish(Lake(spark, LakeConfig("no_such_catalog.lake")), edges(spark, 1, 100), 100)
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(tmp_path / "ro")], check=True)
    assert (tmp_path / "file").read_text() == "theirs"


@pytest.fixture
def history(spark, tmp_path):
    """A lake with three published versions of one table."""
    lake = Lake(spark, LakeConfig(f"{tmp_path}/lake"))
    for as_of_ms in (100, 200, 300):
        publish(lake, edges(spark, 3, as_of_ms), as_of_ms)
    return lake


def damaged_copy(lake, tmp_path, damage):
    """A copy of the lake (Delta keeps what it read of a log in memory) and the files that are gone from it."""
    shutil.copytree(lake.root, tmp_path / "copy")
    log = tmp_path / "copy" / "user_edges" / "_delta_log"
    commits = sorted(log.glob("*.json"))
    if damage in ("empty", "cut", "zeros"):
        said = commits[-1].read_bytes()
        commits[-1].with_name(f".{commits[-1].name}.crc").unlink(missing_ok=True)
        commits[-1].write_bytes({"empty": b"", "cut": said[: len(said) // 2], "zeros": bytes(len(said))}[damage])
        return Lake(lake.spark, LakeConfig(f"{tmp_path}/copy"))
    if damage == "table":
        shutil.rmtree(tmp_path / "copy" / "user_edges")
    if damage == "log":
        shutil.rmtree(log)
    for commit in {"last": commits[-1:], "last two": commits[-2:], "middle": commits[1:2]}.get(damage, ()):
        commit.unlink()
    return Lake(lake.spark, LakeConfig(f"{tmp_path}/copy"))


SLOWER = [pytest.param(damage, marks=pytest.mark.slow) for damage in ("last two", "middle", "empty", "cut", "zeros", "table")]


@pytest.mark.parametrize("damage", ["last", "log", *SLOWER])
def test_a_log_that_lost_commits_is_noticed_by_readers_and_writers_and_mended_by_putting_them_back(spark, history, tmp_path, damage):
    newest = history.published_versions()["user_edges"]
    lake = damaged_copy(history, tmp_path, damage)
    files = sorted(path.name for path in (tmp_path / "copy").rglob("*.json"))
    found = {"last": f"ends at version {newest - 1}, but version {newest}", "last two": f"ends at version {newest - 2}, but"}.get(
        damage, ""
    )
    what = "files that are no Delta table" if damage == "log" else rf"table 'user_edges' in lake .*{found}.*_delta_log from a backup"
    for attempt in (
        lambda run: run.write("user_edges", edges(spark, 1, 400), as_of_scope(400)),
        *([lambda run: run.read("user_edges")] if damage != "cut" else []),  # of which the line that says who wrote is whole
        lambda run: run.delete("user_edges", spark.createDataFrame([("0",)], "user_id string")),
        lambda run: lake.vacuum("user_edges", 0),
    ):
        with pytest.raises(LakeError, match=what):
            attempt(JobRun(lake, "build_graph", "conf", "true"))
    if damage not in ("empty", "cut", "zeros"):  # a reader outside a job looks at the log only where it must
        with pytest.raises(LakeError, match="user_edges"):
            lake.read("user_edges")
    assert sorted(path.name for path in (tmp_path / "copy").rglob("*.json")) == files, "nothing was committed"
    with pytest.raises(LakeError, match=what), lake.run("retrieve_ads", CONFIG, "true") as run:
        run.read("user_edges").collect()
    # The way to mend it that the error names.
    mended = tmp_path / "mended"
    shutil.copytree(tmp_path / "copy", mended)
    shutil.copytree(f"{history.root}/user_edges", mended / "user_edges", dirs_exist_ok=True)
    lake = Lake(spark, LakeConfig(str(mended)))
    assert lake.read("user_edges").count() == 9
    publish(lake, edges(spark, 1, 400), 400)
    assert lake.read("user_edges").count() == 10
    assert content_hash(lake.read("user_edges").where("as_of < TIMESTAMP '1970-01-01 00:00:00.4'"), table("user_edges")) == content_hash(
        history.read("user_edges"), table("user_edges")
    )
