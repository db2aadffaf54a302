"""The table `users` through the jobs: mapped and ingested, read by the ranking model's rows, replaced by the next load, and forgotten."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime

import pandas as pd
import pytest

from alure_spark.config import Config, build
from alure_spark.errors import ConfigError, DataError
from alure_spark.events.ranking_tables import training_rows
from alure_spark.lake import JobRun
from alure_spark.privacy import identity
from alure_spark.running import open_context
from jobs import build_sequences, forget_users, ingest_events
from tests.conftest import overrides

pytestmark = pytest.mark.slow  # minutes of Spark

DECLARED = {"band": "categorical", "income": "numeric"}
FIELDS = {"age": {"reads": "user.band", "encoding": "id"}, "money": {"reads": "user.income", "encoding": "standardized"}}
ROWS = [
    ("u1", "2025-05-01", "young", 1.0), ("u1", "2025-05-03 12:00:00", "old", 2.0), ("u1", "2025-05-03 12:00:00", "old", 2.0),
    ("u2", "2025-04-01", "young", None), ("u3", "2025-05-02", "old", 3.0), ("u3", "2025-05-02", "young", 3.0),
    ("", "2025-05-02", "old", 1.0),
]  # fmt: skip
SHOWN = [
    ("u1", "2025-05-01 00:00:00"), ("u1", "2025-05-02 08:00:00"), ("u1", "2025-05-03 12:00:00"), ("u1", "2025-05-03 12:00:01"),
    ("u2", "2025-05-04 08:00:00"), ("u4", "2025-05-04 08:00:00"),
]  # fmt: skip


def conf(folder, **more):
    shown = {"columns": {"user_id": "who", "event_time": "at", "item_id": "'ad1'"}, "path": "shown.csv", "source": "ad_impression"}
    users = {"columns": {"user_id": "who", "known_at": "at", "band": "band", "income": "CAST(income AS DOUBLE)"}, "path": "users.csv"}
    read = {"format": "csv", "read_options": {"header": "true"}}
    places = dict(pair.split("=", 1) for pair in overrides(folder))
    values = {
        "source": {"kind": "tables", "options": {"root": str(folder), "events": [shown | read], "users": [users | read]}},
        "time": {"as_of": "2025-05-10"},
        "streams": {"ad_impression": {}},
        "users": {"attributes": DECLARED},
        "ranking": {"fields": FIELDS, "tasks": ["click"]},
    }
    for path, value in places.items():
        section, key = path.split(".")
        values.setdefault(section, {})[key] = value
    return build(Config, values | more)


def write(folder, users=ROWS):
    pd.DataFrame(users, columns=["who", "at", "band", "income"]).to_csv(folder / "users.csv", index=False)
    pd.DataFrame(SHOWN, columns=["who", "at"]).to_csv(folder / "shown.csv", index=False)


def do(config, job):
    context = open_context(config)
    with context.lake.run(job.name, config, "true") as run:
        job.body(context, run)
    context.lake.refresh()
    return context, run


@pytest.fixture
def loaded(spark, tmp_path):
    write(tmp_path)
    return do(conf(tmp_path), ingest_events.JOB)


def known(context):
    return sorted((row["user_id"], row["known_at"], row["band"], row["income"]) for row in context.lake.read("users").collect())


def test_each_row_is_a_declaration_a_copy_or_refused_and_a_load_that_comes_again_gives_the_same_table(loaded, tmp_path):
    context, run = loaded
    table = known(context)
    assert table[:3] == [
        ("u1", datetime(2025, 5, 1), "young", 1.0), ("u1", datetime(2025, 5, 3, 12), "old", 2.0),
        ("u2", datetime(2025, 4, 1), "young", None),
    ]  # fmt: skip
    assert [row[:2] for row in table[3:]] == [("u3", datetime(2025, 5, 2))]
    refused = {row["reason"]: json.loads(row["row"]) for row in context.lake.read("quarantine").where("source = 'users'").collect()}
    assert set(refused) == {"user_id is null or empty", "user_id and known_at have other content already"}
    assert {refused["user_id and known_at have other content already"]["band"], table[3][2]} == {"young", "old"}
    _, again = do(conf(tmp_path), ingest_events.JOB)
    assert again.content_hashes == run.content_hashes
    write(tmp_path, ROWS[::-1])
    _, batch = do(conf(tmp_path, ingest={"batch_days": 30}), ingest_events.JOB)
    assert batch.content_hashes["users"] == run.content_hashes["users"]


def test_an_impression_of_the_training_rows_has_what_was_known_before_it_and_later_news_change_nothing(loaded, tmp_path):
    context, _ = loaded
    do(conf(tmp_path), build_sequences.JOB)

    def read():
        rows = training_rows(JobRun(context.lake, "test", "", "true"), conf(tmp_path))
        return {row.user_id: row.impression__money for row in rows.collect()}

    before = read()
    assert before == {"u1": [None, 1.0, 1.0, 2.0], "u2": [None], "u4": [None]}
    write(tmp_path, [*ROWS, ("u4", "2025-05-04 08:00:00", "old", 9.0), ("u1", "2025-05-09", "old", 9.0)])
    do(conf(tmp_path, ingest={"batch_days": 30}), ingest_events.JOB)
    context.lake.refresh()
    assert len(known(context)) == 6
    assert read() == before


def test_a_forgotten_user_is_forgotten_here_and_does_not_come_back(loaded, tmp_path, monkeypatch):
    context, _ = loaded
    monkeypatch.setenv(identity.KEY_VARIABLE, "a key of the tests, long enough")
    do(conf(tmp_path), forget_users.job(["u1", "u3"]))
    context.lake.refresh()
    assert {row[0] for row in known(context)} == {"u2"}
    assert context.lake.read("quarantine").where("row LIKE '%u3%'").isEmpty()
    do(conf(tmp_path), ingest_events.JOB)
    context.lake.refresh()
    assert {row[0] for row in known(context)} == {"u2"}


def test_user_ids_are_hashed_where_those_of_events_are(spark, tmp_path, monkeypatch):
    write(tmp_path)
    monkeypatch.setenv(identity.KEY_VARIABLE, "a key of the tests, long enough")
    context, _ = do(conf(tmp_path, ingest={"hash_user_ids": True}), ingest_events.JOB)
    events = {row["user_id"] for row in context.lake.read("events").collect()}
    assert {row[0] for row in known(context)} & events == {
        identity.hashed(user, b"a key of the tests, long enough") for user in ("u1", "u2")
    }


def test_a_lake_without_the_table_is_read_as_before(spark, tmp_path):
    write(tmp_path)
    config = conf(tmp_path)
    options = {name: value for name, value in config.source.options.items() if name != "users"}
    plain = conf(tmp_path, users={}, ranking={}, source={"kind": "tables", "options": options})
    context, run = do(plain, ingest_events.JOB)
    assert "users" not in context.lake.published_versions()
    assert set(run.outputs) == {"events", "ads", "follows", "quarantine"}
    context, _ = do(plain, build_sequences.JOB)
    hour = {"fields": {"hour": {"reads": "context.hour", "encoding": "numeral_systems"}}, "tasks": ["click"]}
    with_hour = conf(tmp_path, users={}, ranking=hour)
    assert training_rows(JobRun(context.lake, "test", "", "true"), with_hour).count() == 3
    with pytest.raises(DataError, match="ranking.fields.age reads the table 'users', which is not published yet"):
        training_rows(JobRun(context.lake, "test", "", "true"), config)


def test_what_is_declared_and_not_mapped_or_mapped_and_not_declared_is_one_sentence(spark, tmp_path):
    write(tmp_path)
    config = conf(tmp_path)
    options = {name: value for name, value in config.source.options.items() if name != "users"}
    with pytest.raises(ConfigError, match="users.attributes declares band, income, but the source gives no users: map a table in source."):
        do(replace(config, source=replace(config.source, options=options)), ingest_events.JOB)
    with pytest.raises(ConfigError, match="source.options.users maps a table, but users.attributes is empty"):
        do(conf(tmp_path, users={}, ranking={}), ingest_events.JOB)
    with pytest.raises(DataError, match="table 'users' lacks the column 'incom'; did you mean 'income'"):
        do(conf(tmp_path, users={"attributes": DECLARED | {"incom": "numeric"}}), ingest_events.JOB)
