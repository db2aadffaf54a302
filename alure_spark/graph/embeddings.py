"""What may enter the graph: embeddings of one model, of one dimension, finite and not zero. The rest is refused with a reason."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from ..arrow import matrix_column
from ..errors import DataError
from ..lake import latest_rows, timestamp


def current_embeddings(user_embeddings: DataFrame, as_of_ms: int) -> DataFrame:
    """Each user's newest row at or before as_of, as of as_of; rows of another model than the newest as_of's are out of date: left out.

    Raises DataError when the newest as_of itself has several models.
    """
    newest = latest_rows(user_embeddings, as_of_ms)
    last = newest.agg(F.max("as_of").alias("_last"))
    at_last = newest.join(F.broadcast(last), F.col("as_of") == F.col("_last")).drop("_last")
    require_one_model(at_last)
    models = at_last.select("model_id").distinct()
    return newest.join(F.broadcast(models), "model_id", "left_semi").withColumn("as_of", timestamp(as_of_ms))


def require_one_model(user_embeddings: DataFrame) -> None:
    """Raises DataError when the rows come from several models: their spaces have nothing to do with each other."""
    rows = user_embeddings.groupBy("model_id").count().orderBy("model_id").limit(6).collect()
    if len(rows) > 1:
        found = ", ".join(f"{row['model_id']!r} ({row['count']} rows)" for row in rows[:5]) + (", ..." if len(rows) > 5 else "")
        raise DataError(f"user_embeddings holds more than one model_id: {found}; allowed: one; re-run jobs/embed_users.py for this as_of")


def usable_embeddings(user_embeddings: DataFrame) -> tuple[DataFrame, DataFrame]:
    """(good, refused); every input row is in exactly one of them.

    good: the input's columns, `embedding` scaled to unit norm (float32). refused: source, reason, row (JSON), the table
    `quarantine` without its run_id. The dimension to have is the most frequent one, of equally frequent ones the larger.
    The dimension is counted at once, the rest where the frames are used.
    """
    sizes = user_embeddings.select(F.size("embedding").alias("size")).where("size > 0").groupBy("size").count()
    (found,) = sizes.agg(F.max(F.struct("count", "size")).getField("size")).collect()[0]
    dimension = found or 0  # there may be no embedding at all

    def check(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            reasons, vectors = _checked(batch, dimension)
            place = batch.schema.get_field_index("embedding")
            columns = [vectors if at == place else column for at, column in enumerate(batch.columns)]
            yield pa.RecordBatch.from_arrays([*columns, reasons], names=[*batch.schema.names, "_reason"])

    schema = T.StructType([*user_embeddings.schema.fields, T.StructField("_reason", T.StringType())])
    checked = user_embeddings.mapInArrow(check, schema)
    names = [F.col(f"`{name}`") for name in user_embeddings.columns]
    refused = checked.where("_reason is not null").select(
        F.lit("user_embeddings").alias("source"), F.col("_reason").alias("reason"), F.to_json(F.struct(*names)).alias("row")
    )
    return checked.where("_reason is null").select(*names), refused


def _checked(batch: pa.RecordBatch, dimension: int) -> tuple[pa.Array, pa.Array]:
    """(why a row is refused, null where it is not; embeddings, of good rows scaled to unit norm)."""
    embeddings = batch.column("embedding")
    lengths = pc.fill_null(pc.list_value_length(embeddings), 0).to_numpy(zero_copy_only=False)
    reasons = np.full(len(batch), None, object)
    fits = np.flatnonzero((lengths == dimension) & (lengths > 0))
    values = embeddings.take(pa.array(fits)).flatten().cast(pa.float64()).to_numpy(zero_copy_only=False)  # null becomes NaN
    vectors = values.reshape(len(fits), -1 if len(fits) else 0)
    square = np.einsum("nd,nd->n", vectors, vectors)
    reasons[fits[square == 0]] = "embedding is all zeros"
    reasons[fits[~np.isfinite(square)]] = "embedding holds null, NaN or infinity"
    for row in np.flatnonzero((lengths != dimension) & (lengths > 0)):
        reasons[row] = f"embedding has {lengths[row]} numbers; most have {dimension}"
    reasons[lengths == 0] = "embedding is null or empty"
    for name in ("user_id", "country", "as_of"):
        reasons[batch.column(name).is_null().to_numpy(zero_copy_only=False)] = "user_id, country or as_of is null"
    good = pa.array(reasons[fits], pa.string()).is_null().to_numpy(zero_copy_only=False)
    scaled = vectors[good] / np.sqrt(square[good])[:, None]
    unit = matrix_column(scaled.astype(np.float32))
    # Good rows from `unit`, in their order; refused ones as they came.
    order = np.arange(len(batch)) + len(unit)
    order[fits[good]] = np.arange(len(unit))
    return pa.array(reasons, pa.string()), pa.concat_arrays([unit, embeddings.cast(unit.type)]).take(pa.array(order))
