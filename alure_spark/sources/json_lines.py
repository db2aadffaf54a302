"""Lines of a JSON table that Spark cannot read: each is refused, whatever `where` says of rows that it has no columns of.

Lines of which it would read a part, and say nothing, are refused with the whole load.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from ..canonical import MALFORMED, quoted
from ..errors import DataError
from .table_options import TableMapping

CORRUPT = "_corrupt_record"  # Spark's name for the text of a line that it cannot read
SAME_FILES = ("pathglobfilter", "recursivefilelookup", "modifiedbefore", "modifiedafter", "linesep", "basepath")


def require_one_object(spark: SparkSession, item: TableMapping, name: str, within: str) -> None:
    """Raises DataError where a line holds several objects one after the other (with multiLine: a file): Spark reads the first one alone.

    within: batch_where; where it names partitions, others are not looked at.
    """
    options = {key.lower(): str(value) for key, value in item.read_options.items()}
    if item.table or item.format.lower() != "json" or {"encoding", "charset"} & set(options):
        return
    whole = options.get("multiline", "").lower() == "true"
    reader = spark.read.format("text").option("wholetext", str(whole).lower())
    texts = reader.options(**{key: options[key] for key in SAME_FILES if key in options}).load(name)
    try:
        texts = texts.where(within) if within else texts
        texts.schema  # noqa: B018
    except Exception:  # it names a column of the lines
        texts = reader.load(name)
    near = texts.where(F.col("value").rlike(r"\}\s*\{")).select("value", texts.metadataColumn("_metadata")["file_name"].alias("file"))
    if glued := near.mapInArrow(_several, "file STRING").groupBy("file").count().orderBy("file").first():
        unit = "the file, which multiLine reads as one," if whole else f"{glued['count']:,} lines of it"
        raise DataError(
            f"table {name} (json): in {glued['file']} {unit} hold several objects one after the other, of which Spark would read the first "
            "alone: put each object on a line of its own, without multiLine"
        )


def _several(batches: Iterable[pa.RecordBatch]) -> Iterable[pa.RecordBatch]:
    """Rows value, file -> the file of each text in which a second object follows a first one."""
    decoder = json.JSONDecoder()
    for batch in batches:
        files = []
        for text, file in zip(batch.column(0).to_pylist(), batch.column(1).to_pylist(), strict=True):
            text = text.strip().removeprefix("\ufeff")
            try:
                _, end = decoder.raw_decode(text)
            except ValueError:  # a broken line, which is refused by itself
                continue
            if text[end:].lstrip().startswith("{"):
                files.append(file)
        yield pa.RecordBatch.from_arrays([pa.array(files, pa.string())], names=["file"])


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
