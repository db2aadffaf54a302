"""`runs` outlives the users that an error quotes: it keeps the class of the error and words."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from pyspark.sql import functions as F

from alure_spark.config import LakeConfig
from alure_spark.errors import ConfigError, DataError, LakeError, TrainingError
from alure_spark.lake import Lake, as_of_scope
from alure_spark.lake.turns import take_turn
from alure_spark.run_messages import forget, stored_message
from tests import scan
from tests.lake.small_lake import CONFIG, edges, publish

IDS = ("u00000007", "user-abc", "4711", "Jane Doe", "jane@example.com", "O'Brien", "大阪7", "a" * 40, "3f2a9c0de1b24c77")
SAID = [
    "The value '{}' of the type \"STRING\" cannot be cast",
    'bad row: {{"user_id": "{}", "n": 3}}',
    "Row(user_id='{}', n=3) is broken",
    "violated by row with values:\n - user_id : {}",
    "no such user {}"[:12] + ": '{}'",
    "[{},DE,3] was written twice",
    "cannot convert `{}`",
    "Traceback (most recent call last):\n  File \"x.py\"\nKeyError: '{}'",
    'broken "{}',
]


@pytest.mark.parametrize("kind", [ValueError, KeyError, OSError, DataError, LakeError])
def test_no_message_keeps_an_id_that_the_error_quotes(kind):
    for text, user in itertools.product(SAID, IDS):
        found = stored_message(kind(text.format(user)))
        assert user not in found, text
        assert found.startswith(f"{kind.__name__}:")


def test_an_id_without_quotes_goes_where_it_looks_like_one():
    for user in IDS[:3] + IDS[4:]:
        assert user not in stored_message(ValueError(f"row {user} of {user} is broken by {user}"))
    assert "alice" not in stored_message(ValueError("user alice has no row"))


def test_our_own_sentences_stay_readable():
    for error in (
        TrainingError("the loss of click is not finite at step 3 of epoch 1: lower training.learning_rate or look at the inputs"),
        LakeError("table 'user_edges' needs the columns src_user_id, dst_user_id"),
        DataError("nothing was written: ad_click: 1,234 rows, 50,000 the last time"),
        ConfigError("time.as_of=2017-11-01T00:00:00Z: events are known from 2017-01-01 00:00:00.000 on"),
        ValueError("planted"),
    ):
        assert stored_message(error) == f"{type(error).__name__}: {error}"


def test_what_a_sentence_of_ours_cites_of_another_error_is_not_kept():
    error = DataError("table events cannot be read: nothing known of alice")
    error.__cause__ = ValueError("nothing known of alice")
    assert stored_message(error) == "DataError: table events cannot be read: …"


def test_the_conditions_of_spark_are_kept_and_its_values_are_not(spark, tmp_path):
    lake = Lake(spark, LakeConfig(str(tmp_path / "lake")))

    def failing(batches):
        for batch in batches:
            raise ValueError(f"planted {json.dumps(batch.to_pylist())} of user123")
            yield batch

    users = spark.createDataFrame([("user123", 1)], "src_user_id string, n int")
    bodies = {
        "CAST_INVALID_INPUT": lambda run: users.select(F.col("src_user_id").cast("bigint")).collect(),
        "(ValueError": lambda run: users.mapInArrow(failing, users.schema).collect(),
        "UNRESOLVED_COLUMN": lambda run: users.select("user123").collect(),
        "DataError": lambda run: (_ for _ in ()).throw(DataError("'as_of' of user 'user123' is missing: give a moment")),
    }
    for what, body in bodies.items():
        with pytest.raises(Exception, match="user123|planted"), lake.run("build_graph", CONFIG, "true") as run:
            body(run)
        messages = [row["message"] for row in lake.runs().where("status = 'failed'").collect()]
        assert any(what in message for message in messages), messages
        assert not any("user123" in message for message in messages), messages
    assert scan.places("user123", tmp_path / "lake") == set()


@contextmanager
def always_young(path: Path):
    """Keeps the file five seconds old: however slow the machine, a writer would commit it in a moment."""
    ended = threading.Event()

    def touch() -> None:
        while path.exists() and not ended.is_set():
            os.utime(path, (time.time() - 5,) * 2)
            ended.wait(0.5)

    thread = threading.Thread(target=touch)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@pytest.mark.slow
def test_messages_of_earlier_releases_are_forgotten_with_the_user_and_other_writers_keep_their_turns(spark, tmp_path):
    lake = Lake(spark, LakeConfig(str(tmp_path / "lake")))
    publish(lake, edges(spark, 10, 100), 100)
    row = lake.runs().where("status = 'published'")
    for at, text in enumerate(("ValueError: " + "x" * 40 + " u00000007 is broken", "DataError: the loss is not finite", "u00000007")):
        old = row.withColumns({"run_id": F.lit(f"old{at}"), "status": F.lit("failed"), "message": F.lit(text)})
        old.write.format("delta").mode("append").save(f"{lake.root}/runs")
    assert {path.split("/")[0] for path in scan.places("u00000007", tmp_path / "lake")} == {"runs"}
    users = spark.createDataFrame([("u00000007",), ("another",)], "user_id string")
    with lake.run("forget_users", CONFIG, "true") as run:
        assert forget(spark, lake.runs(), lake.location("runs"), users) == 2
        take_turn(lake, run.run_id)
        starting = Path(f"{lake.root}/runs/part-of-a-job-that-starts.snappy.parquet")
        shutil.copy(next(Path(f"{lake.root}/runs").glob("*.parquet")), starting)
        with always_young(starting):
            lake.vacuum_runs(0)
        assert starting.exists(), "its commit comes in a moment"
        starting.unlink()
    assert scan.places("u00000007", tmp_path / "lake") == set()
    found = {row["run_id"]: row["message"] for row in lake.runs().where("status = 'failed'").collect()}
    assert found == {"old0": "ValueError: …", "old1": "DataError: the loss is not finite", "old2": ": …"}
    publish(lake, edges(spark, 20, 200), 200)
    assert lake.read("user_edges").where(as_of_scope(200)).count() == 20
