"""The user model over a whole table in Spark: users per second beside what one would write without packing.

    python -m benchmarks.embed_table --users 40000

The table: user_sequences of one source in Parquet, lognormal lengths (mean 54, at most 512 events), the full configuration (two layers,
d = 64, all time encodings, pooled item vectors and the compressed states). Methods, alternating, each into Spark's noop sink:

ours              embed_table: packed tokens in mapInArrow
sorting_pandas    an iterator pandas UDF that orders each Arrow batch by length and pads groups of 64 users (the padded twin)
predict_batch     pyspark.ml.functions.predict_batch_udf: lists padded to 512 in SQL, groups of 64 users, cut to the group's longest
mlflow_spark_udf  mlflow.pyfunc.spark_udf of a model that pads groups of 64 users as they come
kernel            UserEmbedder.embed_rows over the same rows in Arrow memory, in as many processes as Spark has tasks
without_model     the same Spark job as ours, but every user gets one constant embedding: the cost of Spark and Arrow alone

The padded methods answer a fixed sample of the users (column `users`). All outputs are equal to 1e-4 first. Ratios are of CPU seconds
per user (Python, the JVM and all workers), because other work on the machine moves the wall; the share of overhead is
1 - kernel / ours.
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
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
from pyspark.ml.functions import predict_batch_udf
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from alure_spark.arrow import matrix_column
from alure_spark.batches.decode import Jagged, jagged_batch
from alure_spark.batches.layout import Layout
from alure_spark.batches.vocabulary import Vocabulary
from alure_spark.config import InferenceConfig, ModelConfig, SparkConfig
from alure_spark.inference.export import UserEmbedder
from alure_spark.inference.table import embed_table
from alure_spark.model.artifact import Artifact
from alure_spark.model.spec import ModelSpec
from alure_spark.model.user_model import UserModel
from alure_spark.session import get_session
from alure_spark.tables import USER_EMBEDDINGS
from benchmarks import contract
from benchmarks.padded import PaddedEncoder

AS_OF_MS, LONGEST, ITEMS, CATEGORIES, GROUP = 1_700_000_000_000, 512, 20_000, 200, 64
ATTRIBUTES = {"category_id": "categorical", "account_id": "categorical", "value": "numeric"}
SOURCE = "view"
LAYOUT = Layout({SOURCE: ATTRIBUTES}, {})
COLUMNS = LAYOUT.columns()
VECTOR = T.ArrayType(T.FloatType())
FILES = 8


def make_model(layers: int, seed: int = 7) -> Artifact:
    """A model of the full configuration with random weights, none at its neutral start."""
    spaces = {"item_id": ITEMS, "category_id": CATEGORIES, "account_id": CATEGORIES}
    hashes = {space: np.random.default_rng(seed).integers(-(2**63), 2**63 - 1, size - 1) for space, size in spaces.items()}
    vocabulary = Vocabulary.from_arrays(
        np.repeat(list(spaces), [len(part) for part in hashes.values()]),
        np.concatenate(list(hashes.values())),
        np.concatenate([1 + np.arange(len(part)) for part in hashes.values()]),
    )
    model = UserModel(ModelSpec({SOURCE: ATTRIBUTES}, (SOURCE,), spaces, config=ModelConfig(layers=layers)))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name in ("residual_share", "age", "item_weight"):
            part = model.encoder.get_parameter(name)
            part.add_(0.3 * torch.randn(part.shape, generator=generator))
    return Artifact.of(model, vocabulary, {})


def write_table(folder: Path, users: int, vocabulary: Vocabulary, seed: int = 11) -> None:
    """user_sequences in FILES Parquet files, one row group each."""
    random = np.random.default_rng(seed)
    for part in range(FILES):
        ids = np.arange(part, users, FILES)
        lengths = np.clip(random.lognormal(3.55, 0.95, len(ids)), 1, LONGEST).astype(np.int64)
        offsets = np.concatenate([[0], lengths.cumsum()])
        hours = random.exponential(20.0, offsets[-1]).cumsum()  # times rise over all users; each ends before as_of
        times = AS_OF_MS - 1000 - ((np.repeat(hours[offsets[1:] - 1], lengths) - hours) * 3_600_000).astype(np.int64)
        values: dict[str, np.ndarray] = {"known_at_ms": times, "event_time_ms": times - 1000}
        for space, (hashes, _) in vocabulary.entries.items():
            values[space] = hashes[random.zipf(1.2, offsets[-1]) * 7919 % len(hashes)]
        values["value"] = random.lognormal(1, 1, offsets[-1])
        columns = {"user_id": pa.array([f"user-{number:08d}" for number in ids]), "country": pa.array(["AT"] * len(ids))}
        for name in COLUMNS:
            columns[name] = pa.ListArray.from_arrays(offsets.astype(np.int32), pa.array(values[name.partition("__")[2]]))
        pq.write_table(pa.table(columns), folder / f"part-{part}.parquet", row_group_size=len(ids))


class PaddedModel:
    """The model as one would serve it: groups of 64 users, each padded to its longest."""

    def __init__(self, folder: str) -> None:
        torch.set_num_threads(1)
        encoder, self.vocabulary = Artifact.read(folder).encoder()
        self.padded = PaddedEncoder(encoder).eval()

    def embed(self, lists: dict[str, Any]) -> np.ndarray:
        """(B, D) float32 of at most one group: name -> the B lists of a column."""
        columns = {}
        for name, rows in lists.items():
            lengths = np.fromiter(map(len, rows), np.int64, len(rows))
            columns[name] = Jagged(np.concatenate([[0], lengths.cumsum()]), np.concatenate(rows))
        users = len(next(iter(lists.values())))
        names, as_of_ms = [""] * users, np.full(users, AS_OF_MS)
        with torch.inference_mode():
            return self.padded.embed(jagged_batch(names, names, as_of_ms, columns, LAYOUT, self.vocabulary)).numpy()

    def embed_groups(self, frame: pd.DataFrame) -> np.ndarray:
        """(B, D) of any number of rows, in their order."""
        groups = [frame.iloc[start : start + GROUP] for start in range(0, len(frame), GROUP)]
        return np.concatenate([self.embed({name: group[name].to_numpy() for name in COLUMNS}) for group in groups])

    def predict(self, frame: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """What mlflow calls."""
        return pd.DataFrame(self.embed_groups(frame))


@functools.lru_cache(maxsize=1)
def padded_model(folder: str) -> PaddedModel:
    """Loaded once per worker process."""
    return PaddedModel(folder)


def _load_pyfunc(path: str) -> PaddedModel:
    return PaddedModel(path)


def sorting_pandas(folder: str) -> Column:
    """user -> embedding, by length within an Arrow batch."""

    def embed(batches: Iterator[pd.DataFrame]) -> Iterator[pd.Series]:
        from benchmarks.embed_table import padded_model as load  # by name, so that the cache is the process's, not the closure's

        model = load(folder)
        for frame in batches:
            order = np.argsort(frame[f"{SOURCE}__item_id"].map(len).to_numpy(), kind="stable")
            yield pd.Series(list(model.embed_groups(frame.iloc[order])[np.argsort(order)]))

    # F.pandas_udf reads its kind from the hints, which are text in this module.
    embed.__annotations__ = {"batches": Iterator[pd.DataFrame], "return": Iterator[pd.Series]}
    return F.pandas_udf(embed, VECTOR)(F.struct(*COLUMNS))  # type: ignore[call-overload]


def predict_batch(folder: str) -> Column:
    """predict_batch_udf takes tensors of one shape, so the lists are padded in SQL and their length goes along."""

    def make() -> Callable[..., np.ndarray]:
        from benchmarks.embed_table import padded_model as load

        model = load(folder)

        # The number of inputs is read from the signature: no star.
        def predict(
            length: np.ndarray, known_at_ms: np.ndarray, event_time_ms: np.ndarray, item_id: np.ndarray,
            category_id: np.ndarray, account_id: np.ndarray, value: np.ndarray,
        ) -> np.ndarray:  # fmt: skip
            padded = (known_at_ms, event_time_ms, item_id, category_id, account_id, value)
            lists = {name: [row[:end] for row, end in zip(rows, length, strict=True)] for name, rows in zip(COLUMNS, padded, strict=True)}
            return model.embed(lists)

        return predict

    shapes: list[list[int] | None] = [None, *[[LONGEST]] * len(COLUMNS)]
    udf = predict_batch_udf(make, return_type=VECTOR, batch_size=GROUP, input_tensor_shapes=shapes)
    padding = {name: F.array_repeat(F.lit(0.0 if kind == "numeric" else 0), LONGEST) for name, kind in COLUMNS.items()}
    padded = [
        F.slice(F.concat(F.col(name), padding[name].cast(f"array<{'double' if kind == 'numeric' else 'bigint'}>")), 1, LONGEST)
        for name, kind in COLUMNS.items()
    ]
    return udf(F.size(f"{SOURCE}__item_id"), *padded)


def mlflow_udf(spark: SparkSession, model: str) -> Column:
    import mlflow

    return mlflow.pyfunc.spark_udf(spark, model, result_type=VECTOR, env_manager="local")(F.struct(*COLUMNS))


def without_model(table: DataFrame, dimension: int) -> DataFrame:
    """Our job with the model left out."""

    def rim(batches: Iterable[pa.RecordBatch]) -> Iterable[pa.RecordBatch]:
        for rows in batches:
            vectors = matrix_column(np.full((rows.num_rows, dimension), 0.1, np.float32))
            as_of = pa.repeat(pa.scalar(AS_OF_MS * 1000, pa.timestamp("us", "UTC")), rows.num_rows)
            columns = [rows.column("user_id"), rows.column("country"), as_of, pa.repeat("none", rows.num_rows), vectors]
            yield pa.RecordBatch.from_arrays(columns, names=list(USER_EMBEDDINGS.column_names))

    return table.select("user_id", "country", *COLUMNS).mapInArrow(rim, USER_EMBEDDINGS.ddl())


def kernel(folder: str, parts: list[str], batch_users: int, ready: Any, go: Any) -> None:
    """One process: its files are read first, then embedded in Arrow batches when told to."""
    torch.set_num_threads(1)
    embedder = UserEmbedder(Artifact.read(folder), InferenceConfig())
    batches = [batch for part in parts for batch in pq.read_table(part).combine_chunks().to_batches(max_chunksize=batch_users)]
    embedder.embed_rows(batches[0], np.full(batches[0].num_rows, AS_OF_MS))
    for _ in iter(go.get, None):
        for batch in batches:
            embedder.embed_rows(batch, np.full(batch.num_rows, AS_OF_MS))
        ready.put(True)
    ready.put(True)


class Kernel:
    """The embedder in plain Python processes over the files of the table."""

    def __init__(self, folder: str, table: Path, processes: int, batch_users: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.go, self.ready = [context.Queue() for _ in range(processes)], context.Queue()
        files = sorted(str(path) for path in table.glob("*.parquet"))
        self.workers = [
            context.Process(target=kernel, args=(folder, files[number::processes], batch_users, self.ready, go), daemon=True)
            for number, go in enumerate(self.go)
        ]
        for worker in self.workers:
            worker.start()
        self.run()

    def run(self) -> None:
        for go in self.go:
            go.put(True)
        for _ in self.workers:
            self.ready.get()

    def stop(self) -> None:
        for go in self.go:
            go.put(None)
        for worker in self.workers:
            worker.join()


def require_equal(methods: dict[str, Callable[[DataFrame], DataFrame]], sample: DataFrame) -> None:
    """The same embedding by every method, on some users."""
    found = {}
    for name, method in methods.items():
        rows = {row["user_id"]: row["embedding"] for row in method(sample).select("user_id", "embedding").collect()}
        found[name] = np.array([rows[user] for user in sorted(rows)])
    for name, vectors in found.items():
        np.testing.assert_allclose(vectors, found["ours"], rtol=0, atol=1e-4, err_msg=name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=40_000)
    parser.add_argument("--sample", type=int, default=2_048, help="users that the padded methods answer")
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
        mlflow.pyfunc.save_model(f"{folder}/mlflow", loader_module="benchmarks.embed_table", data_path=model, pip_requirements=[])
        for name, users in (("table", options.users), ("sample", options.sample)):
            (folder / name).mkdir()
            write_table(folder / name, users, artifact.encoder()[1])
        settings = {"spark.sql.execution.arrow.maxRecordsPerBatch": str(inference.batch_users), "spark.sql.files.maxPartitionBytes": "64m"}
        spark = get_session(SparkConfig(master=f"local[{options.cores}]", settings=settings), "embed_table")
        table, sample = (spark.read.parquet(f"{folder}/{name}") for name in ("table", "sample"))
        dimension = artifact.spec.views * artifact.spec.item_dimension
        methods: dict[str, Callable[[DataFrame], DataFrame]] = {
            "ours": lambda rows: embed_table(rows, artifact, inference, AS_OF_MS),
            "sorting_pandas": lambda rows: rows.select("user_id", sorting_pandas(model).alias("embedding")),
            "predict_batch": lambda rows: rows.select("user_id", predict_batch(model).alias("embedding")),
            "mlflow_spark_udf": lambda rows: rows.select("user_id", mlflow_udf(spark, f"{folder}/mlflow").alias("embedding")),
        }
        # Also starts each method's workers and loads its model, so that no method is measured cold.
        require_equal(methods, sample.where(F.substring("user_id", -1, 1) == "3"))
        print("outputs are equal", file=sys.stderr)
        methods["without_model"] = lambda rows: without_model(rows, dimension)
        processes = Kernel(model, folder / "table", options.cores, inference.batch_users)
        runs: dict[str, list[contract.Row]] = {}
        for _ in range(options.repetitions):
            for name, method in methods.items():
                large = name in ("ours", "without_model")
                row: contract.Row = {"road": name, "users": options.users if large else options.sample}
                with contract.measured(row):
                    method(table if large else sample).write.format("noop").mode("overwrite").save()
                runs.setdefault(name, []).append(row)
            row = {"road": "kernel", "users": options.users}
            with contract.measured(row):
                processes.run()
            runs.setdefault("kernel", []).append(row)
        processes.stop()
        spark.stop()
    publish(runs, options)


def publish(runs: dict[str, list[contract.Row]], options: argparse.Namespace) -> None:
    """One row per method (its median run by CPU seconds), and the ratios of the runs of one repetition."""

    def cpu_per_user(name: str) -> np.ndarray:
        return np.array([row["seconds_cpu"] / row["users"] for row in runs[name]])

    rows = []
    for of_method in runs.values():
        row = contract.middle(of_method)
        rows.append({**row, "users_per_core_second": row["users"] / row["seconds_cpu"]})
    ours = cpu_per_user("ours")
    ratios = {
        "vs_mlflow_spark_udf": cpu_per_user("mlflow_spark_udf") / ours,
        "vs_predict_batch_udf": cpu_per_user("predict_batch") / ours,
        "vs_sorting_pandas_udf": cpu_per_user("sorting_pandas") / ours,
        "spark_overhead_share": 1 - cpu_per_user("kernel") / ours,
    }
    contract.publish("embed_table", vars(options), rows, {name: contract.spread(list(map(float, part))) for name, part in ratios.items()})


if __name__ == "__main__":
    main()
