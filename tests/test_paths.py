"""Folders are called as people call them: '#', '%', '?', blanks, brackets, quotes and umlauts are parts of every path of a conf."""

from __future__ import annotations

import os
from datetime import datetime

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy
import yaml

from alure_spark.config import Config, LakeConfig, StreamConfig, TrackingConfig, build, load
from alure_spark.lake import Lake
from alure_spark.lake.work_units import keep, kept
from alure_spark.packed.readers import open_reader
from alure_spark.packed.rows import file_column
from alure_spark.paths import is_url, located, sqlite_uri
from alure_spark.sources.mapping import canonical
from alure_spark.sources.table_options import Options
from alure_spark.tables import TABLES, VOCABULARIES
from alure_spark.tracking import Columns, Tracker
from jobs import apply_retention, forget_users, pipeline
from tests.conftest import ROOT

ODD = "My Project #2 (50% ads)? %41 [a-b] {x} it's `so` &+=;,*\\ ä"
USERS, DAYS = 24, 16
COLUMNS = {"event_id": "id", "user_id": "user", "event_time": "time", "item_id": "item", "account_id": "account"}


def write_tables(root) -> None:
    """24 users of four tastes, 16 days, in three formats below the root: views, impressions, clicks, ads."""
    draw = np.random.default_rng(7)
    start, rows = pd.Timestamp("2025-05-01", tz="UTC"), []
    for user in range(USERS):
        for day in range(DAYS):
            at = start + pd.Timedelta(days=day, minutes=int(draw.integers(60 * 20)))
            name, taste, ad = f"{user}-{day}", user % 4, (user % 4) * 2 + int(draw.integers(2))
            rows.append((f"v{name}", f"u{user:03}", at, f"item{taste * 10 + int(draw.integers(10))}", f"acc{taste}", "view", None))
            if draw.random() < 0.5:
                rows.append((f"i{name}", f"u{user:03}", at + pd.Timedelta(minutes=5), f"ad{ad}", f"acc{ad % 4}", "impression", f"i{name}"))
                if draw.random() < 0.5:
                    rows.append((f"c{name}", f"u{user:03}", at + pd.Timedelta(minutes=6), f"ad{ad}", f"acc{ad % 4}", "click", f"i{name}"))
    log = pd.DataFrame(rows, columns=["id", "user", "time", "item", "account", "kind", "shown"]).astype({"time": "datetime64[us, UTC]"})
    root.mkdir(parents=True)
    log[log.kind == "view"].to_parquet(root / "views #1.parquet", index=False)
    log[log.kind == "impression"].assign(time=lambda part: part.time.astype(str)).to_csv(root / "shown 100%.csv", index=False)
    clicks = log[log.kind == "click"].assign(time=lambda part: part.time.astype(str))
    (root / "clicks?").mkdir()
    for number in (0, 1):  # a glob is still one, below a folder whose name looks like one
        clicks[number::2].to_json(root / "clicks?" / f"part-{number}.json", orient="records", lines=True)
    ads = pd.DataFrame([(f"ad{ad}", f"acc{ad % 4}", start) for ad in range(8)], columns=["ad", "account", "starts"])
    ads.astype({"starts": "datetime64[us, UTC]"}).to_parquet(root / "ads [all].parquet", index=False)


def conf_below(folder) -> dict:
    """conf/test.yml over these tables with every path below the folder."""
    values = yaml.safe_load((ROOT / "conf" / "test.yml").read_text())
    csv, shown = {"format": "csv", "read_options": {"header": "true"}}, COLUMNS | {"impression_id": "shown"}
    events = [
        {"path": "views #1.parquet", "format": "parquet", "source": "organic_impression", "columns": COLUMNS},
        {"path": "shown 100%.csv", **csv, "source": "ad_impression", "columns": shown},
        {"path": "clicks?/part-*.json", "format": "json", "source": "ad_click", "columns": shown},
    ]
    ads = [{"path": "ads [all].parquet", "format": "parquet", "columns": {"ad_id": "ad", "account_id": "account", "active_from": "starts"}}]
    return values | {
        "lake": {
            "root": f"{folder}/lake", "scratch": f"{folder}/scratch", "keep_days": {"events": 10, "user_sequences": 2}, "vacuum_hours": 0,
        },
        "tracking": {
            "uri": f"sqlite:///{folder}/mlflow.db", "artifact_root": f"{folder}/artifacts", "offline_root": f"{folder}/untracked",
        },
        "source": {"kind": "tables", "options": {"root": f"{folder}/input", "events": events, "ads": ads}},
        "time": {"as_of": "2025-05-14T00:00:00Z", "horizon_days": 3},
        "streams": {
            "organic_impression": {"max_events": 64},
            "ad_impression": {"attributes": {"account_id": "categorical"}, "max_events": 64},
            "ad_click": {"attributes": {"account_id": "categorical"}, "max_events": 64},
        },
        "labels": {"validation_days": 3},
        "embedding": {"sources": ["organic_impression"], "dimension": 16},
        "training": values["training"] | {"epochs": 1},
        "graph": {"k2": 5, "recall_queries": 20},
        "retrieval": {"event_weights": {"ad_click": 1}, "account_weights": {"ad_click": 0.1}},
        "ranking": {
            "fields": {"account": {"reads": "impression.account_id", "encoding": "id"}}, "tasks": ["click"], "score": {"click": "bid"},
            "batch_users": 8, "epochs": 1,
        },
    }  # fmt: skip


@pytest.mark.parametrize(
    ("path", "url"),
    [
        ("s3a://bucket/lake", True),
        ("file:/lake", True),
        ("dbfs:/lake", True),
        ("./lake", False),
        ("/at/10:30/lake", False),
        ("./a:b", False),
    ],
)
def test_a_colon_makes_a_url_only_behind_a_scheme(path, url):
    assert is_url(path) is url


def test_what_exists_of_a_source_path_is_literal_and_the_rest_a_pattern(tmp_path):
    root = tmp_path / "a [b] {c} *"
    (root / "d?").mkdir(parents=True)
    (root / "e[1].csv").touch()
    escaped = f"{tmp_path}/a \\[b\\] \\{{c\\}} \\*"
    for path, found in [
        ("e[1].csv", f"{escaped}/e\\[1\\].csv"),
        ("d?/part-*.csv", f"{escaped}/d\\?/part-*.csv"),
        ("x?/part-*.csv", f"{escaped}/x?/part-*.csv"),
        (f"{root}/d?", f"{escaped}/d\\?"),
        (f"file:{root}/d?", f"file:{escaped}/d\\?"),
        ("s3a://b/*.csv", "s3a://b/*.csv"),
        ("/no/such-*", "/no/such-*"),
    ]:
        assert located(path, str(root), "csv") == found
    assert located("e[1].csv", str(root), "delta") == f"{root}/e[1].csv"
    assert located("e.csv", "", "csv") == "e.csv"


def test_a_sqlite_store_is_the_file_of_the_path_as_it_is_written(tmp_path):
    for name in ("a #b (50% c) ä's", "x%41", "y%2541", "q?", "q?/r%20s"):
        path = tmp_path / name / "mlflow.db"
        engine = sqlalchemy.create_engine(sqlite_uri(f"sqlite:///{path}"))
        path.parent.mkdir(parents=True, exist_ok=True)
        with engine.connect() as connection:
            connection.execute(sqlalchemy.text("CREATE TABLE t (x INT)"))
        assert path.is_file(), name
    for uri in ("sqlite:///mlflow.db", "sqlite:///a.db?timeout=30", "sqlite:////a b#/m.db", "databricks", "postgresql://u:p%40@h/d?x=/y"):
        assert sqlite_uri(uri) == uri
    (tmp_path / "by hand").mkdir()
    assert sqlite_uri(f"sqlite:///{tmp_path}/by%20hand/m.db") == f"sqlite:///{tmp_path}/by%20hand/m.db", "was encoded already"


def test_mlflow_keeps_runs_and_models_below_a_folder_of_any_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / ODD
    places = TrackingConfig(f"sqlite:///{folder}/mlflow.db", "e", f"{folder}/artifacts", f"{folder}/untracked")
    weights = folder / "model #1" / "weights.txt"
    weights.parent.mkdir(parents=True)
    weights.write_text("1")
    tracker = Tracker(places)
    with tracker.run("test", Config(streams={"purchase": StreamConfig()}, tracking=places)):
        tracker.log_text("said", "told/it.txt")
        tracker.promote("m", tracker.log_model("m", weights.parent, "no_loader", "digest", {}, Columns(("x",), (), {"y": "string"})))
        assert tracker.offline is None
    found = tracker.find_model("m")
    assert (found.folder / "weights.txt").read_text() == "1"
    assert [path.read_text() for path in (folder / "artifacts").rglob("it.txt")] == ["said"]
    assert [path.name for path in tmp_path.iterdir()] == [ODD], "nothing is written beside the folder"


@pytest.mark.parametrize("kind", ["petastorm", "pyarrow"])
def test_packed_rows_are_read_below_a_folder_of_any_name(tmp_path, kind):
    names = ["user_id", "view__content-topic", "view__a+b", "view__1abc", "view__größe", "view__größe"]
    for bucket in (0, 1):
        place = tmp_path / ODD / f"bucket={bucket}"
        place.mkdir(parents=True)
        columns = {name: pa.array([b"a", b"b"]) for name in map(file_column, names)} | {"as_of_ms": pa.array([bucket, 2])}
        pq.write_table(pa.table(columns), place / "part.parquet")
    reader = open_reader(kind, str(tmp_path / ODD))
    rows = [group["as_of_ms"].tolist() for group in reader.read([1, 0, 1], [*names, "as_of_ms"])]
    assert rows == [[1, 2], [0, 2], [1, 2]]


@pytest.mark.slow
def test_a_lake_lies_in_a_folder_of_any_name(spark, tmp_path):
    lake = Lake(spark, LakeConfig(root=f"{tmp_path}/{ODD} 10:30/lake", vacuum_hours=0))
    for number in (0, 1):
        with lake.run("test", load(ROOT / "conf" / "test.yml"), "true") as run:
            frame = spark.createDataFrame([("item_id", number, number, datetime(2025, 1, 1))], VOCABULARIES.ddl())
            run.write("vocabularies", frame, f"hash = {number}")
    lake.vacuum("vocabularies", 0)
    assert sorted(row["hash"] for row in lake.read("vocabularies").collect()) == [0, 1]


@pytest.mark.slow
def test_source_tables_are_read_below_a_folder_of_any_name(spark, tmp_path):
    write_tables(tmp_path / ODD)
    values = conf_below(tmp_path)["source"]["options"] | {"root": str(tmp_path / ODD)}
    events, ads, *_ = canonical(spark, build(Options, values, "source.options"))
    rows = {row["source"]: row["count"] for row in events.groupBy("source").count().collect()}
    assert rows["organic_impression"] == USERS * DAYS
    assert rows["ad_impression"] > rows["ad_click"] > USERS, "of both files of the pattern"
    assert ads.count() == 8


@pytest.mark.slow
def test_finished_units_are_found_in_a_scratch_of_any_name(spark, tmp_path):
    units = f"{tmp_path}/{ODD}/units"
    os.makedirs(units)
    keep(units, "kind-1", pa.table({"x": [1, 2]}))
    assert sorted(row["x"] for row in kept(spark, units, "kind", "x bigint").collect()) == [1, 2]


@pytest.mark.slow
def test_the_whole_chain_runs_below_a_folder_of_any_name(spark, tmp_path, monkeypatch, capsys):
    folder = tmp_path / ODD
    write_tables(folder / "input")
    conf = folder / "conf #1 (50%) ä.yml"
    conf.write_text(yaml.safe_dump(conf_below(folder), allow_unicode=True))
    monkeypatch.setenv("ALURE_USER_KEY", "a key of the tests, long enough")
    monkeypatch.chdir(tmp_path)
    pipeline.main(["--conf", str(conf)])
    apply_retention.JOB.main(["--conf", str(conf)])
    forget_users.main(["--conf", str(conf), "--user", "u003"])
    assert "could not" not in capsys.readouterr().err
    from alure_spark.running import open_context

    context = open_context(load(conf))
    published = context.lake.published_versions()
    ends = {"events", "user_edges", "ad_candidates", "ranking_scores", "evaluation_users", "tombstones"}
    assert ends <= set(published) <= set(TABLES)
    users = {row[0] for row in context.lake.read("user_edges").select("src_user_id").distinct().collect()}
    assert len(users) == USERS - 1
    assert "u003" not in users
    assert [path.name for path in tmp_path.iterdir()] == [ODD], "nothing is written beside the folder"
    assert not any((folder / "untracked").iterdir()), "MLflow took everything"
    assert not any((folder / "scratch").iterdir())
