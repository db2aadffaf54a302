"""The Spark rim: the table's embeddings are those of plain Python, however Spark cuts it; and which users need a new one."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import functions as F

from alure_spark.config import InferenceConfig
from alure_spark.errors import DataError
from alure_spark.inference import table
from alure_spark.inference.export import UserEmbedder, exported
from alure_spark.inference.table import embed_table, embedded, memory_parts, memory_report, recomputed, worker_embedder
from alure_spark.model.artifact import Artifact
from alure_spark.tables import USER_EMBEDDINGS
from tests.conftest import ROOT
from tests.inference.small_model import AS_OF_MS, make_artifact, make_rows

RECORDS = "spark.sql.execution.arrow.maxRecordsPerBatch"
AS_OF = datetime.fromtimestamp(AS_OF_MS / 1000, UTC).replace(tzinfo=None)


@pytest.fixture(scope="module")
def sequences(spark, rows):
    frame = spark.createDataFrame(pa.Table.from_batches([rows]))
    # Rows of an earlier as_of are read too: the output has the one that was asked for.
    return frame.withColumn("as_of", F.lit("2017-07-13 00:00:00").cast("timestamp")).cache()


@pytest.fixture(scope="module")
def expected(artifact, rows):
    """user_id -> embedding (D,) float32, by plain Python."""
    vectors = UserEmbedder(artifact, InferenceConfig()).embed_rows(rows, np.full(rows.num_rows, AS_OF_MS))
    return {user: vector for user, vector in zip(rows.column("user_id").to_pylist(), vectors, strict=True) if vector.any()}


def require_equal(frame, expected):
    assert dict(frame.dtypes) == {column.name: column.type.lower() for column in USER_EMBEDDINGS.columns}
    found = {row["user_id"]: row for row in frame.collect()}
    assert set(found) == set(expected)
    for user, vector in expected.items():
        np.testing.assert_allclose(found[user]["embedding"], vector, rtol=0, atol=2e-6)
    return found


@pytest.mark.parametrize(("partitions", "records"), [(1, 1000), (2, 1), (7, 1000), (2, 5)])
def test_spark_gives_what_plain_python_gives(spark, artifact, sequences, expected, partitions, records):
    before = spark.conf.get(RECORDS)
    spark.conf.set(RECORDS, records)
    try:
        cut = sequences.repartition(partitions, "user_id")
        found = require_equal(embed_table(cut, artifact, InferenceConfig(max_tokens=100), AS_OF_MS), expected)
    finally:
        spark.conf.set(RECORDS, before)
    assert {(row["as_of"], row["model_id"]) for row in found.values()} == {(AS_OF, artifact.model_id)}
    assert found["u0"]["country"] == "AT"


def test_users_of_whom_nothing_is_known_are_left_out(artifact, rows):
    embedder = UserEmbedder(artifact, InferenceConfig())
    found = embedded(rows.slice(8, 8), embedder, "m", AS_OF_MS)
    users = found.column("user_id").to_pylist()
    assert users == [f"u{number}" for number in range(8, 16) if number not in (8, 15)]
    assert found.column("country").to_pylist() == [["AT", "DE"][number % 2] for number in range(9, 15)]
    assert embedded(rows.slice(8, 1), embedder, "m", AS_OF_MS).num_rows == 0
    vectors = embedder.embed_rows(rows.slice(9, 6), np.full(6, AS_OF_MS))
    np.testing.assert_allclose(found.column("embedding").to_pylist(), vectors, rtol=0, atol=2e-6)
    assert found.column("as_of").cast(pa.timestamp("us")).to_pylist() == [AS_OF] * 6
    assert found.schema.field("as_of").type == pa.timestamp("us", "UTC")


def test_a_missing_array_is_named_before_spark_starts(artifact, sequences):
    with pytest.raises(DataError, match="user_sequences lacks the array 'visit__item_id'; did you mean 'visit__item'"):
        embed_table(sequences.withColumnRenamed("visit__item_id", "visit__item"), artifact, InferenceConfig(), AS_OF_MS)


def test_an_event_after_as_of_fails_the_job(artifact, sequences):
    with pytest.raises(Exception, match="DataError: user 'u.*give the row of user_sequences at or before as_of"):
        embed_table(sequences, artifact, InferenceConfig(), AS_OF_MS - 5 * 10**9).collect()


def test_a_worker_process_loads_the_model_once(spark, artifact, sequences):
    export = exported(artifact, InferenceConfig())

    def rim(batches):
        for batch in batches:
            embedder = worker_embedder(export)
            embedder.batches = getattr(embedder, "batches", 0) + 1
            line = [[os.getpid()], [embedder.batches], [batch.num_rows]]
            yield pa.RecordBatch.from_arrays([pa.array(values, pa.int64()) for values in line], names=["process", "batches", "users"])

    cut = sequences.select("user_id").repartition(7, "user_id")
    seen = cut.mapInArrow(rim, "process BIGINT, batches BIGINT, users BIGINT").toPandas()
    assert seen["users"].sum() == 41
    # The count goes on from task to task: it is the same embedder.
    for _, of_process in seen.groupby("process"):
        assert sorted(of_process["batches"]) == list(range(1, len(of_process) + 1))
    assert seen["process"].nunique() <= 2


def test_a_process_holds_one_model(artifact, monkeypatch):
    monkeypatch.setattr(table, "_HELD", {})
    loads = []
    monkeypatch.setattr(table, "checked", lambda export: loads.append(export.key) or UserEmbedder(export.artifact, export.config))
    one, other = exported(artifact, InferenceConfig()), exported(make_artifact(seed=4), InferenceConfig())
    again = exported(artifact, InferenceConfig())
    assert worker_embedder(one) is worker_embedder(again)
    assert worker_embedder(other).spec == other.artifact.spec
    assert (loads, list(table._HELD)) == ([one.key, other.key], [other.key])


def test_who_needs_a_new_embedding(spark):
    """Of the newest embedding before as_of: another model, or an event known at or after its as_of."""
    sequences = spark.createDataFrame(
        [
            # user, known_at of two sources, in days of January 2020; the new as_of is the 10th
            ("never", [1.0], [2.0]),
            ("quiet", [1.0], [2.0]),
            ("quiet_in_one_source", None, [2.0]),
            ("no_events", None, []),
            ("another_model", [1.0], [2.0]),
            ("another_model_before_that", [1.0], [2.0]),
            ("known_at_its_as_of", [1.0, 5.0], [2.0]),
            ("known_just_before", [1.0, 5.0 - 1e-6], []),
            ("late", [1.0, 7.0], [2.0]),  # it may have happened in December: it became known on the 7th
            ("late_in_the_other_source", [1.0], [2.0, 7.0]),
            ("only_this_as_of", [1.0], [2.0]),
            ("this_as_of_too", [1.0], [2.0]),
            ("later_as_of", [1.0], [2.0]),
        ],
        "user_id STRING, a ARRAY<DOUBLE>, b ARRAY<DOUBLE>",
    )
    milliseconds = {
        f"{name}__known_at_ms": F.transform(name, lambda day: (F.lit(1577750400000) + day * 86_400_000).cast("long")) for name in "ab"
    }
    sequences = sequences.withColumns(milliseconds).drop("a", "b")
    embeddings = spark.createDataFrame(
        [
            ("quiet", 5, "m"),
            ("quiet_in_one_source", 5, "m"),
            ("no_events", 5, "m"),
            ("another_model", 5, "old"),
            ("another_model_before_that", 4, "old"),
            ("another_model_before_that", 5, "m"),
            ("known_at_its_as_of", 5, "m"),
            ("known_just_before", 5, "m"),
            ("late", 5, "m"),
            ("late_in_the_other_source", 5, "m"),
            ("only_this_as_of", 10, "m"),
            ("this_as_of_too", 5, "m"),
            ("this_as_of_too", 10, "old"),
            ("later_as_of", 5, "m"),
            ("later_as_of", 12, "old"),
        ],
        "user_id STRING, day INT, model_id STRING",
    ).withColumn("as_of", F.expr("make_timestamp(2020, 1, day, 0, 0, 0)"))
    as_of_ms = 1577836800000 + 9 * 86_400_000
    found = recomputed(sequences, embeddings, "m", as_of_ms)
    assert found.columns == sequences.columns
    due = {"never", "another_model", "known_at_its_as_of", "late", "late_in_the_other_source", "only_this_as_of"}
    assert sorted(row["user_id"] for row in found.collect()) == sorted(due)
    assert recomputed(sequences, None, "m", as_of_ms).count() == 13


def test_the_users_left_out_keep_the_embedding_that_they_have(spark, artifact, sequences, expected):
    """Embedding again what recomputed leaves out gives the same vectors: it depends on the events alone."""
    earlier = embed_table(sequences, artifact, InferenceConfig(), AS_OF_MS)
    again = recomputed(sequences, earlier, artifact.model_id, AS_OF_MS + 1000)
    assert {row["user_id"] for row in again.collect()} & set(expected) == set()
    require_equal(embed_table(sequences, artifact, InferenceConfig(), AS_OF_MS + 1000), expected)


MEASURED = """
import resource, sys
import numpy as np, pyarrow as pa, torch
from alure_spark.config import InferenceConfig
from alure_spark.inference.table import embedded
from alure_spark.inference.export import UserEmbedder
from alure_spark.model.artifact import Artifact
torch.set_num_threads(1)
peak = lambda: int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) * 1024
artifact = Artifact.read(sys.argv[1])
config = InferenceConfig(max_tokens=int(sys.argv[3]))
with pa.ipc.open_file(sys.argv[2]) as file:
    # The libraries' own memory comes with the first few users: those with the shortest histories, which need little of their own.
    rows = file.get_batch(0)
    tokens = sum(rows.column(name).value_lengths().fill_null(0).to_numpy() for name in rows.schema.names if name.endswith("known_at_ms"))
    embedded(rows.take(pa.array(np.argsort(tokens)[:30])), UserEmbedder(artifact, config), "m", 1_500_000_000_000)
    before = peak()
    embedded(file.get_batch(0), UserEmbedder(artifact, config), "m", 1_500_000_000_000)
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads the peak from /proc")
@pytest.mark.parametrize(("layers", "longest", "max_tokens"), [(1, 120, 10**6), (2, 120, 10**6), (2, 120, 20_000), (2, 2000, 20_000)])
def test_a_worker_needs_no_more_memory_than_reported(tmp_path, layers, longest, max_tokens):
    artifact = make_artifact(layers=layers, dimension=64, heads=4, feed_forward=256, max_events=2000)
    rows = make_rows(1500 if longest < 1000 else 200, longest=longest)
    with pa.ipc.new_file(tmp_path / "rows", rows.schema) as file:
        file.write_batch(rows)
    command = [sys.executable, "-c", MEASURED, str(artifact.write(tmp_path / "model")), str(tmp_path / "rows"), str(max_tokens)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    measured = int(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)
    names = [name for name in rows.schema.names if name.endswith("known_at_ms")]
    lengths = sum(rows.column(name).value_lengths().fill_null(0).to_numpy() for name in names)
    parts = memory_parts(artifact, InferenceConfig(rows.num_rows, max_tokens), int(lengths.max()), float(lengths.mean()))
    reported = sum(size for size, _ in parts.values())
    print(layers, longest, max_tokens, measured / 2**20, {name: round(size / 2**20) for name, (size, _) in parts.items()})
    assert measured <= 1.1 * reported
    assert reported <= 4 * measured


def test_the_memory_report_names_its_parts_and_their_sum(artifact):
    config = InferenceConfig(batch_users=10, max_tokens=500)
    parts = memory_parts(artifact, config, longest=2000)
    lines = memory_report(artifact, config, longest=2000).splitlines()
    assert [line.split("  ")[0] for line in lines] == [*parts, "sum per worker"]
    assert f"{sum(size for size, _ in parts.values()) / 2**20:,.1f} MiB" in lines[-1]
    assert "batch_users 10 x 2,000 tokens" in lines[1]  # without a mean, every user counts as the longest
    assert "2,000 tokens (max_tokens 500, longest user 2,000)" in lines[2]
    assert memory_parts(artifact, InferenceConfig(), 9)["weights and vocabulary"][0] == 3 * len(artifact.user)
    assert Artifact(artifact.user, artifact.spec).digest == artifact.digest
