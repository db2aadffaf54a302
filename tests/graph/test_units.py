"""A killed search goes on where it stopped: finished units are taken as they are, the others are computed."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import functions as F
from pyspark.testing import assertDataFrameEqual

from alure_spark.arrow import bytes_column
from alure_spark.config import GraphConfig
from alure_spark.errors import DataError
from alure_spark.graph.arrays import unpacked
from alure_spark.graph.edges import similarity_edges
from alure_spark.graph.follows import pagerank_edges
from alure_spark.graph.kmeans import assign_clusters, fit_centroids, with_sizes
from alure_spark.lake import resumable_folder, work_units

AS_OF = datetime(2024, 5, 1)
CONFIG = GraphConfig(k1=6, users_per_cluster=5, k1_probed=3, k2=4, kmeans_points_per_cluster=8, search="probed")


@pytest.fixture(scope="module")
def clustered(spark):
    vectors = np.random.default_rng(3).standard_normal((60, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    rows = [(f"u{i:02d}", "A" if i < 40 else "B'/x", AS_OF, vector.tolist()) for i, vector in enumerate(vectors)]
    embeddings = spark.createDataFrame(rows, "user_id string, country string, as_of timestamp, embedding array<float>").cache()
    fitted = fit_centroids(embeddings, CONFIG).cache()
    users = assign_clusters(embeddings, fitted).cache()
    return embeddings, with_sizes(fitted, users).cache()


def files(folder):
    return {path.name: path.stat().st_mtime_ns for path in Path(folder).glob("*.parquet")}


def test_finished_units_are_kept_and_lost_ones_are_made_again(clustered, tmp_path):
    whole = similarity_edges(*clustered, CONFIG, str(tmp_path), 3).collect()
    before = files(tmp_path)
    blocks = {name.split("-")[2] for name in before if name.startswith("part-")}
    assert len(blocks) > 1, "several blocks of the base, each with its blocks of queries"
    lost = sorted(before)[1]
    (tmp_path / lost).unlink()
    assertDataFrameEqual(similarity_edges(*clustered, CONFIG, str(tmp_path), 3), whole, rtol=0, atol=0)
    after = files(tmp_path)
    assert after.keys() == before.keys()
    assert {name for name in after if after[name] != before[name]} == {lost}


def test_what_a_unit_found_is_what_is_read(clustered, tmp_path):
    whole = {row["src_user_id"]: row["dst_user_id"] for row in similarity_edges(*clustered, CONFIG, str(tmp_path), 1000).collect()}
    for path in tmp_path.glob("*.parquet"):
        pq.write_table(pq.read_table(path).slice(1), path)
    fewer = {row["src_user_id"] for row in similarity_edges(*clustered, CONFIG, str(tmp_path), 1000).collect()}
    assert len(fewer) == len(whole) - 2, "one user of each country is gone, since its unit says so"


def test_walks_go_on_too(spark, tmp_path):
    rows = [("A", f"u{i}", f"u{(7 * i + 1) % 20}", 1.0, True, True) for i in range(20)]
    schema = "country string, src_user_id string, dst_user_id string, strength double, src_known boolean, dst_known boolean"
    strengths = spark.createDataFrame(rows, schema)
    first = pagerank_edges(strengths, CONFIG, 0, str(tmp_path)).collect()
    before = files(tmp_path)
    assertDataFrameEqual(pagerank_edges(strengths, CONFIG, 0, str(tmp_path)), first, rtol=0, atol=0)
    assert files(tmp_path) == before


def test_a_unit_is_there_as_a_whole_or_not_at_all(tmp_path):
    unreal = pa.table({"x": pa.array([1], pa.int64())})
    work_units.keep(str(tmp_path), "alure-1", unreal)
    assert pq.read_table(tmp_path / "alure-1.parquet").equals(unreal)
    (tmp_path / "tmpabc").write_bytes(b"half a file")
    assert [path.name for path in tmp_path.glob("*.parquet")] == ["alure-1.parquet"]


def test_countries_of_strange_names_have_units_of_their_own(spark):
    names = spark.createDataFrame([("A/../B",), ("A",), ("é",), ("",)], "country string")
    made = [row["unit"] for row in names.select(work_units.unit_name(F.lit("whole"), F.col("country"), F.lit(1)).alias("unit")).collect()]
    assert len(set(made)) == 4
    assert all("/" not in name for name in made)


def test_a_folder_outlives_a_failure_and_only_serves_the_same_inputs(tmp_path):
    def attempt(content, fails):
        with resumable_folder(str(tmp_path), "graph", content) as folder:
            found = sorted(path.name for path in Path(folder).iterdir())
            (Path(folder) / "unit").touch()
            if fails:
                raise DataError("as planned")
        return found

    with pytest.raises(DataError):
        attempt(("config", 1), True)
    (left,) = tmp_path.iterdir()
    assert left.stat().st_mode & 0o777 == 0o700
    assert attempt(("config", 1), False) == ["unit"]
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(DataError):
        attempt(("config", 1), True)
    assert attempt(("config", 2), False) == [], "results of other inputs are not taken up"
    assert list(tmp_path.iterdir()) == [], "and do not lie about"


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_packed_rows_come_back(kind):
    values = np.arange(35, dtype=kind).reshape(7, 5)
    batch = pa.RecordBatch.from_pydict({"x": bytes_column(values, "x")})
    assert (unpacked(batch, "x", kind) == values).all()
    assert (unpacked(batch.slice(2, 3), "x", kind) == values[2:5]).all()
    assert (unpacked(batch.filter(pa.array([True, False] * 3 + [True])), "x", kind) == values[::2]).all()
    assert unpacked(batch.slice(0, 0), "x", kind).shape[0] == 0
