"""What is known of an impression before it is shown, as the fields of the ranking model, point in time (house rule 2).

Enters: rows shaped as TRAINING_EXAMPLES (or candidates in that shape), `ads`, `user_embeddings`. Leaves: the rows with an array
`impression__<field>` per field, parallel to time_ms. Fields that are counted from histories are not made here: the model counts them from
the arrays of the streams (ranking/history_counts.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from ..clock import DAY_MS, HOUR_MS
from ..config import FieldConfig, RankingConfig
from ..errors import DataError
from ..tables import ATTRIBUTE_TYPES
from .clean import id_hash

WEEKDAY_OF_1970 = 3  # a Thursday; 0 is Monday


def ranking_rows(
    rows: DataFrame, config: RankingConfig, ads: DataFrame | None, embeddings: DataFrame | None, publish_lag_ms: int
) -> DataFrame:
    """rows, with `impression__<field>` for every field but those of histories: BIGINT hashes, DOUBLE, STRING or ARRAY<FLOAT> each.

    Of an ad the flight that began last, at the impression or before it; of embeddings the user's newest with as_of + publish_lag_ms before
    the impression, exclusive; null where there is none. One shuffle of the impressions by ad, where a field reads the ad, and of the
    rows by user. Raises DataError where a table that a field reads is missing.
    """
    given = {name: one for name, one in config.fields.items() if one.origin != "history"}
    of_ad, of_user = ({name: one for name, one in given.items() if one.origin == origin} for origin in ("ad", "embedding"))
    if of_ad:
        columns = {f"impression__{name}": _typed(F.col(one.name), one.kind) for name, one in of_ad.items()}
        rows = with_flights(rows, _required(ads, "ads", of_ad), columns)
    if of_user:
        rows = _with_embeddings(rows, list(of_user), _required(embeddings, "user_embeddings", of_user), publish_lag_ms)
    own = {f"impression__{name}": _of_row(one) for name, one in given.items() if one.origin in ("impression", "context")}
    return rows.withColumns(own) if own else rows


def _required(table: DataFrame | None, name: str, fields: Mapping[str, FieldConfig]) -> DataFrame:
    if table is None:
        raise DataError(f"ranking.fields.{next(iter(fields))} reads the table '{name}', which is not published yet")
    return table


def _of_row(one: FieldConfig) -> Column:
    """The array of a field that the row itself tells."""
    if one.origin == "impression":
        return F.col(one.name if one.name in ("ad_id", "account_id") else f"impression__{one.name}")
    if one.name == "country":
        return F.transform("time_ms", lambda t: id_hash(F.col("country")))
    if one.name == "hour":
        return F.transform("time_ms", lambda t: F.floor(F.pmod(t, F.lit(DAY_MS)) / HOUR_MS).cast("double"))
    return F.transform("time_ms", lambda t: F.pmod(F.floor(t / DAY_MS) + WEEKDAY_OF_1970, F.lit(7)).cast("double"))


def with_flights(rows: DataFrame, ads: DataFrame, columns: Mapping[str, Column]) -> DataFrame:
    """The rows with an array for each of columns (name -> expression over `ads`): of each impression's ad, what its flight of then says.

    That is the one that began last, at the impression or before it. One shuffle of the impressions by ad and one of the rows.
    """
    said = F.struct(F.unix_millis("active_from").alias("from_ms"), *(column.alias(name) for name, column in columns.items()))
    flights = ads.groupBy(F.col("ad_hash").alias("_ad")).agg(F.sort_array(F.collect_list(said)).alias("_flights"))
    keys = ["user_id", "as_of", "segment"]
    shown = rows.select(*keys, F.posexplode(F.arrays_zip("time_ms", "ad_id")).alias("_place", "_one"))
    shown = shown.select(*keys, "_place", F.col("_one.time_ms").alias("_ms"), F.col("_one.ad_id").alias("_ad"))
    begun = F.filter("_flights", lambda flight: flight["from_ms"] <= F.col("_ms"))
    met = shown.join(flights, "_ad", "left").select(*keys, "_place", F.try_element_at(begun, F.lit(-1)).alias("_said"))
    listed = F.sort_array(F.collect_list(F.struct("_place", "_said"))).alias("_listed")
    joined = rows.join(met.groupBy(*keys).agg(listed), keys, "left")
    return joined.withColumns({name: F.col("_listed._said")[name] for name in columns}).drop("_listed")


def _with_embeddings(rows: DataFrame, names: list[str], embeddings: DataFrame, publish_lag_ms: int) -> DataFrame:
    """The rows with the embedding that served each impression."""
    one = F.struct((F.unix_millis("as_of") + publish_lag_ms).alias("ms"), "embedding")
    served = embeddings.groupBy("user_id").agg(F.sort_array(F.collect_list(one)).alias("_served"))
    joined = rows.join(served, "user_id", "left")
    newest = F.transform("time_ms", lambda t: F.try_element_at(F.filter("_served", lambda one: one["ms"] < t), F.lit(-1))["embedding"])
    return joined.withColumns({f"impression__{name}": newest for name in names}).drop("_served")


def _typed(column: Column, kind: str) -> Column:
    """As the arrays of sequences hold an attribute of that kind."""
    return id_hash(column.cast("string")) if kind == "categorical" else column.cast(ATTRIBUTE_TYPES[kind][1])


def known_ids(rows: DataFrame, config: RankingConfig, border_ms: int) -> DataFrame:
    """space, hash of the ids that the training split has named at least min_count times: in fields, and in sequences known by then.

    rows: `ranking_rows`. Row 0 is for all others (batches/vocabulary.py).
    """
    columns: list[tuple[str, Column]] = []
    for name, one in config.fields.items():
        if one.encoding == "id":
            pairs = F.arrays_zip(F.col("split"), F.col(f"impression__{name}").alias("hash"))
            learnt = F.filter(pairs, lambda pair: pair["split"] == "train")
            columns.append((config.space_of(name), learnt["hash"]))
    for sequence in config.sequences.values():
        known, ids = F.col(f"{sequence.source}__known_at_ms"), F.col(f"{sequence.source}__{sequence.category}")
        pairs = F.arrays_zip(known.alias("ms"), ids.alias("hash"))
        columns.append((sequence.category, F.filter(pairs, lambda pair: pair["ms"] < border_ms)["hash"]))
    listed = [rows.select(F.lit(space).alias("space"), F.explode(hashes).alias("hash")) for space, hashes in columns]
    every = reduce(DataFrame.union, listed).where("hash IS NOT NULL")
    counted = every.groupBy("space", "hash").agg(F.count("*").alias("_n"))
    return counted.where(F.col("_n") >= config.min_count).select("space", "hash")
