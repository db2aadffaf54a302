"""The Spark rim of the user model: `user_sequences` -> rows of `user_embeddings`, whose embeddings are new, and what a worker holds.

Enters: each user's row at as_of, and an `Artifact`. Leaves: embeddings of the whole table, one pass, no shuffle. The model travels in the
task (Spark broadcasts what is above 1 MB; Spark Connect sends it in the plan, which by default may have 128 MB) and is loaded
once per Python worker process. A task holds one Arrow batch: the job sets `spark.sql.execution.arrow.maxRecordsPerBatch`
to config.batch_users, and `memory_report` says what that costs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from functools import reduce

import numpy as np
import pyarrow as pa
import torch
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from ..arrow import matrix_column
from ..config import EVERYBODY, ROTARY_PAIRS, InferenceConfig
from ..errors import DataError, nearest
from ..lake import timestamp
from ..model.artifact import Artifact
from ..model.attention import CHUNK_TOKENS, QUERY_BLOCK
from ..model.encodings import encoding_width
from ..model.linear import ONEDNN
from ..model.spec import ModelSpec
from ..model.tokens import content_width
from ..tables import USER_EMBEDDINGS
from .export import Export, UserEmbedder, checked, exported

PRODUCTS = 24 * 2**20  # bytes that oneDNN was seen to hold beside what it is given
_HELD: dict[str, UserEmbedder] = {}  # of this worker process: the last export's embedder


def embed_table(sequences: DataFrame, artifact: Artifact, config: InferenceConfig, as_of_ms: int) -> DataFrame:
    """Rows of `user_embeddings` as of as_of_ms for the rows of sequences (one per user), without users of whom nothing is known.

    A row of sequences may be older than as_of. Independent of partitioning and row order up to the rounding (1e-6). Compiles first where
    config.compile asks for it. Raises DataError on a missing column; the job fails with a DataError where a worker does not
    reproduce the driver's embeddings, or an event is not before as_of.
    """
    return embed_segments({EVERYBODY: sequences}, artifact, config, as_of_ms)


def embed_segments(segments: Mapping[str, DataFrame], artifact: Artifact, config: InferenceConfig, as_of_ms: int) -> DataFrame:
    """The same of users of several segments: segment -> their rows of sequences. Of each, only what the model's policy leaves is read."""
    layouts = {segment: list(artifact.spec.layout(segment=segment).columns()) for segment in segments}
    for segment, sequences in segments.items():
        for name in layouts[segment]:
            if name not in sequences.columns:
                near = nearest(name, sequences.columns)
                raise DataError(f"user_sequences lacks the array '{name}'{near}: run jobs/build_sequences.py again")
    export, model_id = exported(artifact, config), artifact.model_id

    def rim_of(segment: str) -> Callable[[Iterable[pa.RecordBatch]], Iterable[pa.RecordBatch]]:
        def rim(batches: Iterable[pa.RecordBatch]) -> Iterable[pa.RecordBatch]:
            embedder = worker_embedder(export)
            for batch in batches:
                yield embedded(batch, embedder, model_id, as_of_ms, segment)

        return rim

    parts = [
        sequences.select("user_id", "country", *layouts[segment]).mapInArrow(rim_of(segment), USER_EMBEDDINGS.ddl())
        for segment, sequences in segments.items()
    ]
    return reduce(DataFrame.union, parts)


def worker_embedder(export: Export) -> UserEmbedder:
    """The verified embedder of the export; loaded when this process sees the export for the first time."""
    if export.key not in _HELD:
        _HELD.clear()  # before the next one comes: a worker holds one model
        if "OMP_NUM_THREADS" not in os.environ:  # Spark sets it to spark.task.cpus; torch's own default is all cores
            torch.set_num_threads(1)
        _HELD[export.key] = checked(export)
    return _HELD[export.key]


def embedded(rows: pa.RecordBatch, embedder: UserEmbedder, model_id: str, as_of_ms: int, segment: str = EVERYBODY) -> pa.RecordBatch:
    """Rows of `user_embeddings` for rows of `user_sequences`, in their order, without all-zero embeddings."""
    vectors = embedder.embed_rows(rows, np.full(rows.num_rows, as_of_ms), segment)
    known = vectors.any(axis=1)
    kept = rows.select(["user_id", "country"]).filter(pa.array(known))
    as_of = pa.scalar(as_of_ms * 1000, pa.timestamp("us", "UTC"))
    columns = [
        kept.column("user_id"), kept.column("country"), pa.repeat(as_of, kept.num_rows), pa.repeat(model_id, kept.num_rows),
        matrix_column(vectors[known]),
    ]  # fmt: skip
    return pa.RecordBatch.from_arrays(columns, names=list(USER_EMBEDDINGS.column_names))


def recomputed(sequences: DataFrame, embeddings: DataFrame | None, model_id: str, as_of_ms: int) -> DataFrame:
    """The rows of sequences (each user's row at as_of) whose user needs a new embedding at as_of_ms.

    That is a user without an embedding before as_of, with one of another model, with an event of any source known at or after the
    as_of of the newest one (the history that it was made of ended there, exclusive), or whose row was made after it: old events came
    in. Embeddings of as_of itself and later do not
    count: a rerun replaces its scope. One shuffle of the keys of `embeddings`, one join.
    """
    if embeddings is None:
        return sequences
    newest = (
        embeddings.where(F.col("as_of") < timestamp(as_of_ms))
        .groupBy("user_id")
        .agg(F.max(F.struct("as_of", "model_id")).alias("_newest"))
        .withColumnRenamed("user_id", "_user_id")
    )
    arrays = [name for name in sequences.columns if name.endswith("__known_at_ms")]
    # Ascending, so the last is the newest; array_max skips sources without events.
    last_known_ms = F.array_max(F.array(*[F.try_element_at(name, F.lit(-1)) for name in arrays]))
    stale = (F.col("_newest.model_id") != model_id) | (F.coalesce(last_known_ms, F.lit(0)) >= F.unix_millis("_newest.as_of"))
    if "as_of" in sequences.columns:
        stale |= F.col("as_of") > F.col("_newest.as_of")
    joined = sequences.join(newest, F.col("user_id") == F.col("_user_id"), "left")
    return joined.where(F.col("_newest").isNull() | stale).select(*sequences.columns)


def memory_parts(artifact: Artifact, config: InferenceConfig, longest: int, mean: float | None = None) -> dict[str, tuple[int, str]]:
    """Part -> (bytes, formula) of what one Python worker holds at its peak beside its libraries (about 0.4 GB).

    longest and mean are tokens of a user over all sources; a mean of None counts every user of a batch as the longest. An estimate from
    above: it takes every block at its widest.
    """
    spec, size = artifact.spec, 8 if config.precision == "float64" else 4
    mean = longest if mean is None else mean
    layout = spec.layout()
    columns = sum(layout.column_widths().get(name, 1) for name in layout.columns()) / len(spec.sources)  # numbers of a token, on average
    batch = config.batch_users * mean
    at_once = int(max(longest, min(config.max_tokens, batch)))
    in_layer = min(max(CHUNK_TOKENS, longest), at_once)  # a layer works through the tokens in chunks
    all_row, layer_row = _numbers_per_token(spec)
    cells = spec.config.heads * QUERY_BLOCK * in_layer
    model, parts = len(artifact.user), {}
    parts["weights and vocabulary"] = (
        (2 + size // 4) * model,
        f"{model:,} bytes x {2 + size // 4}: as they travel, as they are read, and in the model's {config.precision}",
    )
    parts["one Arrow batch"] = (
        int(3 * batch * columns * 8),
        f"batch_users {config.batch_users:,} x {mean:,.0f} tokens x {columns:.1f} numbers x 8 bytes x 3: as Arrow, decoded, by length",
    )
    parts["activations"] = (
        at_once * (all_row * size + 96) + in_layer * layer_row * size,
        f"{at_once:,} tokens (max_tokens {config.max_tokens:,}, longest user {longest:,}) x ({all_row} numbers x {size} bytes + 96 of "
        f"pooling), in a layer {in_layer:,} tokens x {layer_row} numbers x {size} bytes",
    )
    parts["attention scores"] = (
        cells * size * 4,
        f"{spec.config.heads} heads x {QUERY_BLOCK} queries x {in_layer:,} keys x {size} bytes x 4",
    )
    if ONEDNN:
        parts["products"] = (PRODUCTS, "code and buffers of oneDNN, which multiplies here")
    return parts


def memory_report(artifact: Artifact, config: InferenceConfig, longest: int, mean: float | None = None) -> str:
    """memory_parts as lines of text, with the sum; times spark.executor.cores is what an executor's overhead memory must hold."""
    parts = memory_parts(artifact, config, longest, mean)
    rows = [*parts.items(), ("sum per worker", (sum(size for size, _ in parts.values()), "plus about 0.4 GB of Python, Arrow and torch"))]
    return "\n".join(f"{name:<24}{size / 2**20:>10,.1f} MiB  {formula}" for name, (size, formula) in rows)


def _numbers_per_token(spec: ModelSpec) -> tuple[int, int]:
    """For all tokens (the inputs of the projection, each part and all, or what goes into and comes out of a layer), and inside a layer."""
    config, d = spec.config, spec.config.dimension
    inputs = max(content_width(spec, source) + encoding_width(spec, source) for source in spec.sources)
    # What is read of earlier layers stays; queries and keys of their own, and turned ones, are copies.
    apart = d * (not config.value_encodings) + ROTARY_PAIRS * config.rotary_encoding
    whole = d * (len(spec.read_layers) - 1) + (3 * d if config.read_positions > 1 else 0) + apart
    copies = 3 * d * (not config.value_encodings) + 3 * d * config.rotary_encoding
    return d + max(2 * inputs, 3 * d) + whole, 4 * d + max(5 * d, 2 * config.feed_forward) + copies
