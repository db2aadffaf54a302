"""Clean events -> the vocabularies' new rows: an id gets its embedding row once, for ever (house rule 1)."""

from __future__ import annotations

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from ..config import VocabularyConfig
from .clean import id_hash
from .sequences import known_events


def new_vocabulary_rows(
    events: DataFrame,
    vocabularies: DataFrame | None,
    categorical: list[str],
    as_of_ms: int,
    config: VocabularyConfig | None = None,
    since_ms: int | None = None,
) -> DataFrame:
    """Rows to append to VOCABULARIES: ids known before as_of that have no row yet, numbered on from the last row, by hash.

    Spaces: item_id, account_id, and each categorical attribute. An id gets its row once config.min_count events have named it. Row 0
    is kept for unknown ids, and rows 1 to config.hash_buckets for those without a row. `since_ms`: whatever was known before it has
    its row, so that only later events are read; not where events are counted (min_count above 1).
    """
    config = config or VocabularyConfig()
    known = known_events(events, as_of_ms, since_ms if config.min_count == 1 else None)
    spaces = {"item_id": F.col("item_hash"), "account_id": id_hash(F.col("account_id"))}
    spaces.update({name: id_hash(F.col(name).cast("string")) for name in categorical if name not in spaces})
    pairs = F.explode(F.array(*(F.struct(F.lit(space).alias("space"), value.alias("hash")) for space, value in spaces.items())))
    found = known.select(pairs.alias("p")).select("p.space", "p.hash").where("hash IS NOT NULL")
    found = found.groupBy("space", "hash").agg(F.count("*").alias("_n")).where(F.col("_n") >= config.min_count).drop("_n")
    if vocabularies is not None:
        last = vocabularies.groupBy("space").agg(F.max("row").alias("_last"))
        found = found.join(vocabularies.select("space", "hash"), ["space", "hash"], "left_anti").join(last, "space", "left")
    else:
        found = found.withColumn("_last", F.lit(None).cast("bigint"))
    number = F.row_number().over(Window.partitionBy("space").orderBy("hash")) + F.coalesce("_last", F.lit(config.hash_buckets))
    return found.select("space", "hash", number.cast("bigint").alias("row"), F.timestamp_millis(F.lit(as_of_ms)).alias("first_seen"))
