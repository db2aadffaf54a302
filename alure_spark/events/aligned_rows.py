"""Rows of several versions of the user model as rows of one space, by the table `alignments` (alure_spark/alignment.py).

Enters: rows of a table that a user model makes, as their versions wrote them, and `alignments`. Leaves: those of one space: the rows of the
version that it is called after, as they are, and those of later ones, turned. A row is turned only by what was fitted at its as_of or
before, so that it holds nothing which was not known then.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from ..alignment import Alignment
from ..arrow import by_value, matrix_column
from ..errors import DataError

# Tables that a user model makes -> the column of its vectors.
VECTORS = {"user_embeddings": "embedding", "cross_representations": "representation", "item_representations": "representation"}


@dataclass(frozen=True)
class Turn:
    """How a version's vectors come into a space, and since when."""

    fitted_ms: int  # on rows as of this moment
    kind: str  # transfer.align of that day
    alignment: Alignment


def of_layer(rows: DataFrame, layer: str) -> DataFrame:
    """The rows of one layer, where the table has layers."""
    return rows.where(F.col("layer") == layer) if "layer" in rows.columns else rows


def space_of(alignments: DataFrame | None, name: str, model_id: str) -> str:
    """The space that the newest of alignments turns this model's rows of table `name` into; without one, the model's own."""
    if alignments is None:
        return model_id
    row = alignments.where((F.col("of") == name) & (F.col("model_id") == model_id)).orderBy(F.desc("as_of")).select("space").first()
    return str(row["space"]) if row else model_id


def turns_into(alignments: DataFrame | None, name: str, layer: str, space: str) -> dict[str, Turn]:
    """model_id -> how its rows of table `name` come into the space, the version apart that it is called after; the newest of several."""
    if alignments is None:
        return {}
    here = (F.col("of") == name) & (F.col("space") == space) & (F.col("model_id") != space)
    mine = alignments.where(here & (F.coalesce("layer", F.lit(layer)) == layer))
    what = ("fitted_as_of", "kind", "rows", "residual", "matrix", "shift")
    newest = mine.groupBy("model_id").agg(F.max_by(F.struct(*what), "as_of").alias("one")).select("model_id", "one.*")
    turns = {}
    for row in newest.withColumn("fitted_ms", F.unix_millis("fitted_as_of")).drop("fitted_as_of").toArrow().to_pylist():
        shift = np.array(row["shift"])
        matrix = np.array(row["matrix"]).reshape(len(shift), len(shift))
        turns[row["model_id"]] = Turn(row["fitted_ms"], row["kind"], Alignment(matrix, shift, row["rows"], row["residual"]))
    return turns


def rows_in_space(rows: DataFrame, name: str, space: str, turns: Mapping[str, Turn]) -> DataFrame:
    """The rows of table `name` that are of the space or can be turned into it; their model_id is then the space."""
    readable = rows.where(F.col("model_id").isin([space, *turns]))
    if not turns:
        return readable
    column, given = VECTORS[name], dict(turns)

    def rim(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            yield from turned(batch, column, space, given)

    return readable.mapInArrow(rim, readable.schema)


def turned(rows: pa.RecordBatch, column: str, space: str, turns: Mapping[str, Turn]) -> Iterator[pa.RecordBatch]:
    """The rows of each model in turn, those older than its alignment left out. Raises DataError on vectors of another width."""
    for model_id, part in by_value(rows, "model_id"):
        if model_id == space:
            yield part
            continue
        turn = turns[model_id]
        at_us = part.column("as_of").cast(pa.int64()).to_numpy()
        part = part.filter(pa.array(at_us >= turn.fitted_ms * 1000))
        vectors, numbers = part.column(column), len(turn.alignment.shift)
        if (widths := vectors.value_lengths().to_numpy()).size and (widths != numbers).any():
            raise DataError(f"a row of model {model_id} has {widths[widths != numbers][0]} numbers, but its alignment turns {numbers}")
        matrix = vectors.flatten().to_numpy(zero_copy_only=False).reshape(-1, numbers)
        new = {column: matrix_column(turn.alignment.turned(matrix)).cast(vectors.type), "model_id": pa.repeat(space, part.num_rows)}
        columns = [new.get(name, part.column(name)) for name in part.schema.names]
        yield pa.RecordBatch.from_arrays(columns, schema=part.schema)
