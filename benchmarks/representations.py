"""Cross representations of a whole table of impressions in Spark: impressions per second beside what one would write otherwise.

    python -m benchmarks.representations --users 8000

The table: training_examples of users with 20 impressions each (`--impressions`) and one source, lognormal lengths (mean 54, at most 512
events), the full configuration (two layers, d = 64, all time encodings). The representation is the layer `hidden` of the read-out.
Methods, alternating, each into Spark's noop sink:

ours              RepresentationReader in mapInArrow: the history once per user, all its impressions read from it
ours_summed       cross_sums: the same, added up per user, per ad and per day, as jobs.extract_representations writes it
user_per_row      the same reader, but a row is one impression with the history before it: the user part anew for each impression
mlflow_spark_udf  mlflow.pyfunc.spark_udf over these rows, of a model that pads groups of 64 rows as they come

The methods of rows answer a fixed sample of the users (column `impressions` of the result). All outputs are equal to 1e-4 first. Ratios
are of CPU seconds per impression (Python, the JVM and all workers).
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from alure_spark.arrow import matrix_column
from alure_spark.batches.decode import Jagged, jagged_batch
from alure_spark.batches.vocabulary import Vocabulary
from alure_spark.clock import DAY_MS
from alure_spark.config import EVERYBODY, InferenceConfig, SparkConfig
from alure_spark.inference.cross_table import cross_sums
from alure_spark.inference.representations import read_kinds, worker_reader
from alure_spark.model.artifact import Artifact
from alure_spark.model.representations import LAYERS
from alure_spark.session import get_session
from alure_spark.tables import SHOWN_KNOWN
from benchmarks import contract
from benchmarks.embed_table import AS_OF_MS, COLUMNS, FILES, GROUP, SOURCE, VECTOR, make_model, write_table
from benchmarks.padded import PaddedEncoder

LAYER = "hidden"


def write_impressions(histories: Path, folder: Path, impressions: int, vocabulary: Vocabulary, seed: int = 13) -> None:
    """training_examples: the users of the histories' files, each with so many impressions between its first event and AS_OF_MS."""
    random = np.random.default_rng(seed)
    (items, _), (accounts, _) = vocabulary.entries["item_id"], vocabulary.entries["account_id"]
    for path in sorted(histories.glob("*.parquet")):
        table = pq.read_table(path)
        users = table.num_rows
        known = table.column(f"{SOURCE}__known_at_ms").combine_chunks()
        first = known.values.to_numpy()[known.offsets.to_numpy()[:-1]]
        share = np.sort(random.random((users, impressions)), axis=1)
        time_ms = (first[:, None] + share * (AS_OF_MS - first)[:, None]).astype(np.int64).ravel()
        count = users * impressions
        shown = {
            "time_ms": time_ms, "ad_id": items[random.zipf(1.2, count) * 7919 % len(items)], "account_id": random.choice(accounts, count),
            "weight": np.ones(count, np.float32), SHOWN_KNOWN: time_ms + 1000,
        }  # fmt: skip
        offsets = pa.array(np.arange(users + 1, dtype=np.int32) * impressions)
        for name, values in shown.items():
            table = table.append_column(name, pa.ListArray.from_arrays(offsets, pa.array(values)))
        table = table.append_column("segment", pa.array([EVERYBODY] * users))
        pq.write_table(table, folder / path.name, row_group_size=users)


def write_rows(examples: Path, folder: Path, users: int) -> None:
    """The first users of each file with a row per impression: its own arrays of one, and the history that was known before it."""
    for path in sorted(examples.glob("*.parquet")):
        rows = []
        for row in pq.read_table(path).slice(0, users // FILES).to_pylist():
            known = np.array(row[f"{SOURCE}__known_at_ms"])
            for place, at in enumerate(row["time_ms"]):
                end = int((known < at).sum())
                alone = {name: row[name][place : place + 1] for name in ("time_ms", "ad_id", "account_id", "weight", SHOWN_KNOWN)}
                rows.append(row | alone | {name: row[name][:end] for name in COLUMNS})
        pq.write_table(pa.Table.from_pylist(rows, schema=pq.read_schema(path)), folder / path.name, row_group_size=len(rows))


def read_by_ours(table: DataFrame, artifact: Artifact, inference: InferenceConfig) -> DataFrame:
    """(user_id, time_ms, representation) of each impression: rows of any number of impressions."""
    kinds = list(read_kinds(artifact.spec.layout(impressions=True)))

    def rim(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        reader = worker_reader(artifact, LAYER, inference)
        for rows in batches:
            users, vectors = reader.read(rows, EVERYBODY)
            columns = [rows.column("user_id").take(pa.array(users)), rows.column("time_ms").flatten(), matrix_column(vectors)]
            yield pa.RecordBatch.from_arrays(columns, names=["user_id", "time_ms", "representation"])

    return table.select("user_id", *kinds).mapInArrow(rim, "user_id STRING, time_ms BIGINT, representation ARRAY<FLOAT>")


class PaddedReader:
    """The model as one would serve it: groups of 64 impressions, each with its history, padded to the longest."""

    def __init__(self, folder: str) -> None:
        torch.set_num_threads(1)
        artifact = Artifact.read(folder)
        self.model, self.vocabulary = artifact.model()
        self.padded = PaddedEncoder(self.model.encoder).eval()
        self.layout = artifact.spec.layout(impressions=True)

    def group(self, frame: pd.DataFrame) -> np.ndarray:
        """(B, d) of at most one group."""
        columns = {}
        for name in read_kinds(self.layout):
            lengths = frame[name].map(len).to_numpy()
            columns[name] = Jagged(np.concatenate([[0], lengths.cumsum()]), np.concatenate(frame[name].to_numpy()))
        shown = columns["time_ms"].offsets
        for name in self.layout.impression_columns():
            columns.setdefault(name, Jagged(shown, np.zeros(shown[-1], np.int64)))
        names, as_of_ms = [""] * len(frame), np.zeros(len(frame), np.int64)
        batch = jagged_batch(names, names, as_of_ms, columns, self.layout, self.vocabulary, with_impressions=True)
        with torch.inference_mode():
            return LAYERS[LAYER](self.model.readout.read(batch, self.padded.states(batch), self.model.encoder)).numpy()

    def predict(self, frame: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """What mlflow calls."""
        groups = [frame.iloc[start : start + GROUP] for start in range(0, len(frame), GROUP)]
        return pd.DataFrame(np.concatenate([self.group(group) for group in groups]))


def _load_pyfunc(path: str) -> PaddedReader:
    return PaddedReader(path)


def read_by_mlflow(rows: DataFrame, model: str, kinds: Iterable[str]) -> DataFrame:
    import mlflow

    udf = mlflow.pyfunc.spark_udf(rows.sparkSession, model, result_type=VECTOR, env_manager="local")
    return rows.select("user_id", F.col("time_ms")[0].alias("time_ms"), udf(F.struct(*kinds)).alias("representation"))


def require_equal(by_method: dict[str, DataFrame]) -> int:
    """The number of impressions compared: the same representation by every method."""
    vectors = {}
    for name, answer in by_method.items():
        rows = {(row["user_id"], row["time_ms"]): row["representation"] for row in answer.collect()}
        vectors[name] = np.array([rows[key] for key in sorted(rows)])
    for name, mine in vectors.items():
        np.testing.assert_allclose(mine, vectors["ours"], rtol=0, atol=1e-4, err_msg=name)
    return len(vectors["ours"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=8_000)
    parser.add_argument("--sample", type=int, default=128, help="users whose impressions the methods of rows answer")
    parser.add_argument("--impressions", type=int, default=20, help="of a user")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=3)
    options = parser.parse_args()
    import mlflow

    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as temporary:
        folder, inference = Path(temporary), InferenceConfig()
        artifact = make_model(options.layers)
        model = str(artifact.write(folder / "model"))
        mlflow.pyfunc.save_model(f"{folder}/mlflow", loader_module="benchmarks.representations", data_path=model, pip_requirements=[])
        for name in ("histories", "table", "rows"):
            (folder / name).mkdir()
        vocabulary = artifact.encoder()[1]
        write_table(folder / "histories", options.users, vocabulary)
        write_impressions(folder / "histories", folder / "table", options.impressions, vocabulary)
        write_rows(folder / "table", folder / "rows", options.sample)
        settings = {"spark.sql.execution.arrow.maxRecordsPerBatch": str(inference.batch_users), "spark.sql.files.maxPartitionBytes": "64m"}
        spark = get_session(SparkConfig(master=f"local[{options.cores}]", settings=settings), "representations")
        table, rows = (spark.read.parquet(f"{folder}/{name}") for name in ("table", "rows"))
        kinds = list(read_kinds(artifact.spec.layout(impressions=True)))
        ends = [AS_OF_MS + DAY_MS - day * DAY_MS for day in range(3_650)]
        methods: dict[str, Callable[[], DataFrame]] = {
            "ours": lambda: read_by_ours(table, artifact, inference),
            "ours_summed": lambda: cross_sums(table, artifact, inference, LAYER, ends),
            "user_per_row": lambda: read_by_ours(rows, artifact, inference),
            "mlflow_spark_udf": lambda: read_by_mlflow(rows, f"{folder}/mlflow", kinds),
        }
        some = rows.select("user_id").distinct().limit(40)
        # Also starts each method's workers and loads its model, so that no method is measured cold.
        compared = require_equal(
            {
                "ours": read_by_ours(table.join(some, "user_id"), artifact, inference),
                "user_per_row": read_by_ours(rows.join(some, "user_id"), artifact, inference),
                "mlflow_spark_udf": read_by_mlflow(rows.join(some, "user_id"), f"{folder}/mlflow", kinds),
            }
        )
        print(f"outputs are equal on {compared} impressions", file=sys.stderr)
        runs: dict[str, list[contract.Row]] = {}
        for _ in range(options.repetitions):
            for name, method in methods.items():
                users = options.users if name.startswith("ours") else options.sample // FILES * FILES
                row: contract.Row = {"road": name, "impressions": users * options.impressions}
                with contract.measured(row):
                    method().write.format("noop").mode("overwrite").save()
                runs.setdefault(name, []).append(row)
        spark.stop()
    publish(runs, options)


def publish(runs: dict[str, list[contract.Row]], options: argparse.Namespace) -> None:
    """One row per method (its median run by CPU seconds), and the ratios of the runs of one repetition."""

    def cpu(name: str) -> np.ndarray:
        return np.array([row["seconds_cpu"] / row["impressions"] for row in runs[name]])

    rows = []
    for of_method in runs.values():
        row = contract.middle(of_method)
        rows.append({**row, "impressions_per_core_second": row["impressions"] / row["seconds_cpu"]})
    ratios = {
        f"{ours}_vs_{peer}": contract.spread(list(map(float, cpu(peer) / cpu(ours))))
        for ours in ("ours", "ours_summed")
        for peer in ("user_per_row", "mlflow_spark_udf")
    }
    contract.publish("representations", vars(options), rows, ratios)


if __name__ == "__main__":
    main()
