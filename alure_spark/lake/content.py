"""Hashes of what tables hold: equal content has an equal hash, in any order of the rows."""

from __future__ import annotations

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from ..tables import Table


def row_hash(frame: DataFrame, columns: list[str]) -> Column:
    """BIGINT hash of a row that also tells nulls and array borders apart (xxhash64 alone skips both)."""
    types = {item.name: item.dataType for item in frame.schema.fields}
    parts: list[Column] = []
    for name in columns:
        parts += [F.col(name), F.col(name).isNull()]
        if isinstance(types[name], T.ArrayType):
            parts.append(F.size(name))
    return F.xxhash64(*parts)


def content_hash(frame: DataFrame, of: Table | None = None) -> str:
    """Order-free hash of the rows, 16 hex digits; leaves out the table's run ids and clocks, so equal content has equal hash."""
    return hash_and_count(frame, of)[0]


def hash_and_count(frame: DataFrame, of: Table | None = None) -> tuple[str, int]:
    """`content_hash` and the number of rows, in one pass."""
    left_out = of.not_content if of else ()
    columns = sorted(name for name in frame.columns if name not in left_out)
    hashed = frame.select(row_hash(frame, columns).alias("h"))
    row = hashed.agg(
        F.count("*").alias("n"),
        F.coalesce(F.sum(F.col("h").cast("decimal(38,0)")), F.lit(0)).alias("s"),
        F.coalesce(F.bit_xor("h"), F.lit(0)).alias("x"),
    )
    found = row.select(F.sha2(F.concat_ws(":", F.lit(",".join(columns)), "n", "s", "x"), 256), "n").first()
    assert found is not None
    return str(found[0])[:16], int(found[1])
