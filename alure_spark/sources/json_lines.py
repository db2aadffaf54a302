"""Lines of a JSON table that Spark cannot read: each is refused, whatever `where` says of rows that it has no columns of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from ..canonical import MALFORMED, quoted

if TYPE_CHECKING:
    from .mapping import TableMapping

CORRUPT = "_corrupt_record"  # Spark's name for the text of a line that it cannot read


def without_broken_lines(frame: DataFrame, item: TableMapping, within: str) -> tuple[DataFrame, DataFrame | None]:
    """The rows of the table, and its broken lines as source and MALFORMED; None where it has none.

    Also None where read_options or an expression of the conf say what is to become of them. The text of a line may name a user whom no
    erasure would find in there, so it is told by file, length and hash. within: batch_where, of which what it says of partitions counts.
    """
    if item.table or item.format.lower() != "json" or CORRUPT not in frame.columns or len(frame.columns) == 1:
        return frame, None
    other = next(name for name in frame.columns if name != CORRUPT)
    # Spark refuses to read the column of broken lines alone; this names another one, and takes every row.
    frame = frame.where(F.length(F.hash(quoted(other)).cast("string")) > 0)
    says = {"mode", "columnnameofcorruptrecord"} & {key.lower() for key in item.read_options}
    if says or CORRUPT in " ".join((item.where, item.batch_where, *item.columns.values())):
        return frame, None
    lines = frame.where(quoted(CORRUPT).isNotNull())
    if within:
        lines = lines.where(f"coalesce(({within}\n), true)")
    text, file = quoted(CORRUPT), lines.metadataColumn("_metadata")["file_name"].alias("file")
    told = F.to_json(F.struct(file, F.length(text).alias("characters"), F.sha2(text, 256).alias("sha256")))
    broken = lines.select(F.lit(item.source or None).cast("string").alias("source"), told.alias(MALFORMED))
    return frame.where(quoted(CORRUPT).isNull()), broken
