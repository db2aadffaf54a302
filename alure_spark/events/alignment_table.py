"""Writes `alignments` of one as_of: how what the user model says on that day is turned into the space of an earlier version.

Enters: the representations of as_of, which the run has just written, the user embeddings, and rows of both of earlier days. Leaves: a row
per table. A version is fitted on the first day that it has rows of, and keeps its matrix: its rows are of one space. The fit reads rows
of that day and of days before it, and no row of `alignments` holds anything of a user.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from ..alignment import Alignment, fit_alignment
from ..config import Config
from ..errors import DataError
from ..lake import JobRun, as_of_scope, latest_rows, timestamp
from ..tables import ALIGNMENTS
from .aligned_rows import VECTORS, Turn, of_layer, rows_in_space, space_of, turns_into

KEYS = {"user_embeddings": ("user_id",), "cross_representations": ("kind", "user_id", "ad_hash"), "item_representations": ("ad_hash",)}
WITHOUT = "leave transfer.align empty for this as_of, so that the version begins a space of its own, and train the ranking model anew"
FIT_ROWS = 20_000  # that a matrix is fitted on at most, those with the smallest hash of their key


def write_alignments(run: JobRun, config: Config, model_id: str) -> dict[str, float | None]:
    """Metrics: of each table the residual and the common rows. Without transfer.align what an earlier run has written of as_of goes.

    Raises DataError where a table has too few common rows, or vectors of another width.
    """
    as_of, layer, known = config.time.as_of_ms, config.transfer.layer, run.read_if_published(ALIGNMENTS.name)
    if not config.transfer.align:
        if known is not None and not known.where(as_of_scope(as_of)).isEmpty():
            run.write(ALIGNMENTS.name, known.limit(0), as_of_scope(as_of))
        return {}
    before = None if known is None else known.where(F.col("as_of") < timestamp(as_of))
    tables = {name: of_layer(rows, layer) for name in KEYS if (rows := _rows_of(run, name)) is not None}
    space = space_before(before, tables["cross_representations"], as_of) or model_id
    turns = {name: _turn(rows, name, before, config, model_id, space) for name, rows in tables.items()}
    made = [_row(name, layer, model_id, space, as_of, turn) for name, turn in turns.items() if turn]
    run.write(ALIGNMENTS.name, _frame(run, made), as_of_scope(as_of))
    metrics: dict[str, float | None] = {}
    for name, turn in turns.items() if model_id != space else ():
        if turn:
            metrics |= {f"alignment.{name}.residual": turn.alignment.residual, f"alignment.{name}.rows": turn.alignment.rows}
    return metrics


def _turn(rows: DataFrame, name: str, before: DataFrame | None, config: Config, model_id: str, space: str) -> Turn | None:
    """Into the space, by the alignment that the version has or by a new one; None where it has no rows of as_of."""
    as_of, kind = config.time.as_of_ms, config.transfer.align
    if model_id == space:
        return Turn(as_of, kind, Alignment(np.zeros((0, 0)), np.zeros(0), 0, 0.0))
    earlier = turns_into(before, name, config.transfer.layer, space)
    if model_id in earlier:
        return earlier[model_id]
    mine = rows.where(as_of_scope(as_of)).where(F.col("model_id") == model_id)
    if mine.isEmpty():
        return None
    theirs = rows_in_space(rows.where(F.col("as_of") < timestamp(as_of)), name, space, earlier)
    return Turn(as_of, kind, fitted_on(mine, theirs, name, kind, f"{name} of {model_id} and of the space {space}"))


def _rows_of(run: JobRun, name: str) -> DataFrame | None:
    return run.written(name) if name in run.outputs else run.read_if_published(name)


def space_before(alignments: DataFrame | None, crosses: DataFrame, as_of_ms: int) -> str:
    """The space of the newest of these cross representations before as_of; '' where there are none."""
    newest = crosses.where(F.col("as_of") < timestamp(as_of_ms)).orderBy(F.desc("as_of"), "model_id").first()
    return space_of(alignments, "cross_representations", str(newest["model_id"])) if newest else ""


def fitted_on(mine: DataFrame, theirs: DataFrame, name: str, kind: str, what: str) -> Alignment:
    """Of the users or ads that both have rows of, each by its newest row."""
    key, column = F.concat_ws("/", *KEYS[name]).alias("key"), VECTORS[name]
    first = mine.select(key, F.col(column).alias("mine"))
    second = latest_rows(theirs.select(key, "as_of", F.col(column).alias("theirs")), key="key").drop("as_of")
    common = first.join(second, "key").orderBy(F.xxhash64("key"), "key").limit(FIT_ROWS).select("mine", "theirs").toArrow()
    vectors = [common[side].combine_chunks() for side in ("mine", "theirs")]
    widths = [np.unique(side.value_lengths().to_numpy()) for side in vectors]
    if not len(common):
        raise DataError(f"transfer.align: no row is common to {what}: {WITHOUT}")
    if len(np.unique(np.concatenate(widths))) > 1:
        raise DataError(f"transfer.align: vectors of {widths[0][0]} and of {widths[1][0]} numbers in {what}: {WITHOUT}")
    left, right = (side.flatten().to_numpy(zero_copy_only=False).reshape(len(common), -1) for side in vectors)
    try:
        return fit_alignment(left, right, what, kind)
    except DataError as error:
        raise DataError(f"transfer.align: {error}; {WITHOUT}") from None


def _row(name: str, layer: str, model_id: str, space: str, as_of_ms: int, turn: Turn) -> dict[str, Any]:
    of = turn.alignment
    return {
        "of": name, "as_of": as_of_ms, "model_id": model_id, "layer": layer if name == "cross_representations" else None, "space": space,
        "fitted_as_of": turn.fitted_ms, "kind": turn.kind, "rows": of.rows, "residual": of.residual,
        "matrix": of.matrix.ravel().tolist(), "shift": of.shift.tolist(),
    }  # fmt: skip


def _frame(run: JobRun, made: list[dict[str, Any]]) -> DataFrame:
    """The rows with their moments, which are epoch ms until here: no time zone of Python can move them."""
    schema = ALIGNMENTS.ddl().replace("TIMESTAMP", "BIGINT")
    frame = run.lake.spark.createDataFrame([tuple(row[name] for name in ALIGNMENTS.column_names) for row in made], schema)
    return frame.withColumns({name: F.timestamp_millis(name) for name in ("as_of", "fitted_as_of")})
