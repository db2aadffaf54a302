"""Folders are called as people call them: '#', '%', '?', blanks, brackets, quotes and umlauts are parts of every path of a conf."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import yaml

from alure_spark.config import load
from alure_spark.tables import TABLES
from jobs import apply_retention, forget_users, pipeline
from tests.conftest import ROOT

ODD = "My Project #2 (50% ads)? %41 [a-b] {x} it's `so` &+=;,*\\ ä"
USERS, DAYS = 40, 24
COLUMNS = {"event_id": "id", "user_id": "user", "event_time": "time", "item_id": "item", "account_id": "account"}


def write_tables(root) -> None:
    """40 users of four tastes, 24 days, in three formats below the root: views, impressions, clicks, ads."""
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
            "root": f"{folder}/lake", "scratch": f"{folder}/scratch", "keep_days": {"events": 20, "user_sequences": 2}, "vacuum_hours": 0,
        },
        "tracking": {
            "uri": f"sqlite:///{folder}/mlflow.db", "artifact_root": f"{folder}/artifacts", "offline_root": f"{folder}/untracked",
        },
        "source": {"kind": "tables", "options": {"root": f"{folder}/input", "events": events, "ads": ads}},
        "time": {"as_of": "2025-05-21T00:00:00Z", "horizon_days": 4},
        "streams": {
            "organic_impression": {"max_events": 64},
            "ad_impression": {"attributes": {"account_id": "categorical"}, "max_events": 64},
            "ad_click": {"attributes": {"account_id": "categorical"}, "max_events": 64},
        },
        "labels": {"validation_days": 4},
        "embedding": {"sources": ["organic_impression"], "dimension": 16},
        "training": values["training"] | {"epochs": 1},
        "graph": {"k2": 5, "recall_queries": 20},
        "retrieval": {"event_weights": {"ad_click": 1}, "account_weights": {"ad_click": 0.1}},
    }  # fmt: skip


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
    from jobs.command import open_context

    context = open_context(load(conf))
    published = context.lake.published_versions()
    assert {"events", "user_edges", "ad_candidates", "evaluation_users", "tombstones"} <= set(published) <= set(TABLES)
    users = {row[0] for row in context.lake.read("user_edges").select("src_user_id").distinct().collect()}
    assert len(users) == USERS - 1
    assert "u003" not in users
    assert [path.name for path in tmp_path.iterdir()] == [ODD], "nothing is written beside the folder"
    assert not (folder / "untracked").exists(), "MLflow took everything"
    assert not any((folder / "scratch").iterdir())
