"""What may enter the graph: embeddings of one model, of one dimension, finite and not zero. The rest is refused with a reason."""

from __future__ import annotations

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from ..errors import DataError
from ..lake import latest_rows, timestamp

INFINITY = float("inf")


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
    """
    sizes = user_embeddings.select(F.size("embedding").alias("size")).where("size > 0").groupBy("size").count()
    # An aggregate over everything has a row even when there is no embedding at all.
    dimension = sizes.agg(F.max(F.struct("count", "size")).getField("size").alias("_dimension"))
    judged = user_embeddings.crossJoin(F.broadcast(dimension)).withColumn("_reason", _reason())
    names = user_embeddings.columns
    row = F.to_json(F.struct(*[F.col(f"`{name}`") for name in names]))
    refused = judged.where("_reason is not null").select(
        F.lit("user_embeddings").alias("source"), F.col("_reason").alias("reason"), row.alias("row")
    )
    return judged.where("_reason is null").select(*names).withColumn("embedding", _unit_norm()), refused


def _reason() -> Column:
    missing = F.col("user_id").isNull() | F.col("country").isNull() | F.col("as_of").isNull()
    size = F.size("embedding")
    unreal = F.exists("embedding", lambda value: value.isNull() | F.isnan(value) | (F.abs(value) == INFINITY))
    return (
        F.when(missing, "user_id, country or as_of is null")
        .when(F.col("embedding").isNull() | (size == 0), "embedding is null or empty")
        .when(
            size != F.col("_dimension"),
            F.format_string("embedding has %d numbers; most have %d", size, F.col("_dimension")),
        )
        .when(unreal, "embedding holds null, NaN or infinity")
        .when(F.forall("embedding", lambda value: value == 0), "embedding is all zeros")
    )


def _unit_norm() -> Column:
    square = F.aggregate("embedding", F.lit(0.0), lambda total, value: total + value.cast("double") * value)
    return F.transform("embedding", lambda value: (value / F.sqrt(square)).cast("float"))
