"""What is known of an impression before it is shown, as the fields of the ranking model, point in time (house rule 2).

Enters: rows shaped as TRAINING_EXAMPLES (or candidates in that shape), and the tables that fields read beside them. Leaves: the rows with
an array `impression__<field>` per field, parallel to time_ms. Fields that are counted from histories are not made here: the model counts
them from the arrays of the streams (ranking/history_counts.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from ..canonical import quoted
from ..clock import DAY_MS, HOUR_MS, known_before
from ..config import OF_JOBS, TRANSFERRED, FieldConfig, RankingConfig
from ..errors import DataError
from ..tables import ATTRIBUTE_TYPES
from ..tables import table as made_by
from .clean import id_hash

WEEKDAY_OF_1970 = 3  # a Thursday; 0 is Monday


@dataclass(frozen=True)
class FieldTables:
    """What fields are read from beside the rows; None where no run has published the table."""

    ads: DataFrame | None = None
    user_embeddings: DataFrame | None = None
    similarity_embeddings: DataFrame | None = None
    users: DataFrame | None = None
    cross_representations: DataFrame | None = None
    item_representations: DataFrame | None = None
    alignments: DataFrame | None = None  # how versions of the user model are read as one (aligned_rows.py)


FIELD_TABLES = tuple(item.name for item in fields(FieldTables))


def ranking_rows(rows: DataFrame, config: RankingConfig, tables: FieldTables, publish_lag_ms: int) -> DataFrame:
    """rows, with `impression__<field>` for every field but those of histories: BIGINT hashes, DOUBLE, STRING or ARRAY<FLOAT> each.

    Of an ad the flight that began last, at the impression or before it; of embeddings the user's newest with as_of + publish_lag_ms before
    the impression, exclusive, and with it the item's of the same model; of what is declared of users the row that was known last, before
    the impression, exclusive. Null where there is none. One shuffle of the impressions by ad, where a field reads the ad, and of the rows
    by user. Raises DataError where a table that a field reads, or a column of it, is missing.
    """
    given = {name: one for name, one in config.fields.items() if one.origin != "history"}
    of_ad = {name: one for name, one in given.items() if one.origin == "ad" and one.reads not in TRANSFERRED}
    of_embedding, of_similarity = (
        {name: one for name, one in given.items() if one.reads == f"user.{what}"} for what in ("embedding", "similarity")
    )
    of_user = {name: one for name, one in given.items() if one.origin == "user" and one.name not in OF_JOBS}
    if of_user:
        rows = _with_declared(rows, of_user, _required(tables.users, "users", of_user))
    if of_ad:
        columns = {f"impression__{name}": field_value(F.col(one.name), one.kind) for name, one in of_ad.items()}
        rows = with_flights(rows, _required(tables.ads, "ads", of_ad), columns)
    if of_embedding:
        embeddings = _required(tables.user_embeddings, "user_embeddings", of_embedding)
        rows = _with_newest(rows, "_served", _served(embeddings, publish_lag_ms))
        rows = rows.withColumns({f"impression__{name}": F.col("_served.embedding") for name in of_embedding}).drop("_served")
    if of_similarity:
        vectors = _required(tables.similarity_embeddings, "similarity_embeddings", of_similarity)
        rows = _with_cosines(rows, list(of_similarity), vectors, publish_lag_ms)
    for reads in TRANSFERRED:
        if names := [name for name, one in given.items() if one.reads == reads]:
            table = "item_representations" if reads == "ad.representation" else "cross_representations"
            known = _served(_required(getattr(tables, table), table, names), publish_lag_ms, "representation")
            rows = _with_representations(rows, names, known, reads)
    own = {f"impression__{name}": _of_row(one) for name, one in given.items() if one.origin in ("impression", "context")}
    return rows.withColumns(own) if own else rows


def _required(table: DataFrame | None, name: str, fields: Iterable[str]) -> DataFrame:
    if table is None:
        field, job = next(iter(fields)), made_by(name).producer
        raise DataError(f"ranking.fields.{field} reads the table '{name}', which is not published yet: run jobs/{job}.py")
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
    flights = ads.groupBy(F.col("ad_hash").alias("_ad")).agg(F.sort_array(F.collect_list(said)).alias("_of_ad"))
    begun = F.filter("_of_ad", lambda flight: flight["from_ms"] <= F.col("_one.time_ms"))
    said_then = F.try_element_at(begun, F.lit(-1))
    return _of_ads(rows, flights, {name: said_then[name] for name in columns})


def _of_ads(rows: DataFrame, ads: DataFrame, columns: Mapping[str, Column], also: tuple[str, ...] = ()) -> DataFrame:
    """The rows with an array per column: an expression of `_one` (the impression) and of ads (one row per `_ad`, joined to it).

    also: further arrays of the rows, parallel to time_ms, that `_one` has beside time_ms and ad_id.
    """
    keys = ["user_id", "as_of", "segment"]
    shown = rows.select(*keys, F.posexplode(F.arrays_zip("time_ms", "ad_id", *also)).alias("_place", "_one"))
    met = shown.withColumn("_ad", F.col("_one.ad_id")).join(ads, "_ad", "left")
    said = F.struct("_place", *(column.alias(name) for name, column in columns.items()))
    listed = met.groupBy(*keys).agg(F.sort_array(F.collect_list(said)).alias("_listed"))
    joined = rows.join(listed, keys, "left")
    return joined.withColumns({name: F.col("_listed")[name] for name in columns}).drop("_listed")


def _with_declared(rows: DataFrame, fields: Mapping[str, FieldConfig], users: DataFrame) -> DataFrame:
    """The rows with an array per field of what `users` said of the user before each impression."""
    for name, one in fields.items():
        if one.name not in users.columns:
            raise DataError(
                f"ranking.fields.{name} reads {one.reads}, which the table 'users' does not have: users.attributes declared it after the "
                "last load; run jobs/ingest_events.py"
            )
    said = [field_value(quoted(one.name), one.kind).alias(f"impression__{name}") for name, one in fields.items()]
    known = users.select("user_id", F.struct(F.unix_millis("known_at").alias("ms"), *said).alias("one"))
    columns = {f"impression__{name}": F.col("_declared")[f"impression__{name}"] for name in fields}
    return _with_newest(rows, "_declared", known).withColumns(columns).drop("_declared")


def _served(embeddings: DataFrame, publish_lag_ms: int, column: str = "embedding") -> DataFrame:
    """The keys of the table and `one`: from when on an embedding serves (ms), its model_id, and the embedding."""
    one = F.struct((F.unix_millis("as_of") + publish_lag_ms).alias("ms"), "model_id", F.col(column).alias("embedding"))
    keys = [name for name in ("kind", "user_id", "ad_hash") if name in embeddings.columns]
    return embeddings.select(*keys, one.alias("one"))


def _with_representations(rows: DataFrame, names: Iterable[str], known: DataFrame, reads: str) -> DataFrame:
    """The rows with an array per name: of each impression, what served of its user or of its ad before it, exclusive."""
    if "kind" in known.columns:
        known = known.where(F.col("kind") == reads.partition(".")[0])
    if reads.startswith("user."):
        rows = _with_newest(rows, "_served", known.select("user_id", "one"))
        return rows.withColumns({f"impression__{name}": F.col("_served.embedding") for name in names}).drop("_served")
    of_ads = known.groupBy(F.col("ad_hash").alias("_ad")).agg(F.sort_array(F.collect_list("one")).alias("_of_ad"))
    before = F.filter("_of_ad", lambda one: known_before(one["ms"], F.col("_one.time_ms")))
    newest = F.try_element_at(before, F.lit(-1))["embedding"]
    return _of_ads(rows, of_ads, {f"impression__{name}": newest for name in names})


def _with_newest(rows: DataFrame, name: str, known: DataFrame) -> DataFrame:
    """The rows with the array `name`: of each impression, the user's newest `one` of known with its ms before it, exclusive, or null."""
    of_users = known.groupBy("user_id").agg(F.sort_array(F.collect_list("one")).alias("_all"))
    newest = F.transform("time_ms", lambda t: F.try_element_at(F.filter("_all", lambda one: known_before(one["ms"], t)), F.lit(-1)))
    return rows.join(of_users, "user_id", "left").withColumn(name, newest).drop("_all")


def _with_cosines(rows: DataFrame, names: list[str], vectors: DataFrame, publish_lag_ms: int) -> DataFrame:
    """The rows with the cosine of the user's vector that served the impression and the ad's vector of the same as_of and model."""
    ms = (F.unix_millis("as_of") + publish_lag_ms).alias("ms")
    users = vectors.where("kind = 'user'").select(F.col("node_id").alias("user_id"), "as_of", "model_id", "embedding")
    items = vectors.where("kind = 'item'").select(
        id_hash(F.col("node_id")).alias("_ad"), F.struct(ms, "model_id", "embedding").alias("one")
    )
    of_items = items.groupBy("_ad").agg(F.collect_list("one").alias("_of_ad"))
    mine = F.col("_one._mine")
    same = F.filter("_of_ad", lambda one: (one["ms"] == mine["ms"]) & (one["model_id"] == mine["model_id"]))
    products = F.zip_with(mine["embedding"], F.get(same, 0)["embedding"], lambda x, y: x.cast("double") * y)
    cosine = F.aggregate(products, F.lit(0.0), lambda total, product: total + product)
    rows = _with_newest(rows, "_mine", _served(users, publish_lag_ms))
    return _of_ads(rows, of_items, {f"impression__{name}": cosine for name in names}, also=("_mine",)).drop("_mine")


def field_value(column: Column, kind: str) -> Column:
    """As the arrays of sequences hold an attribute of that kind."""
    return id_hash(column.cast("string")) if kind == "categorical" else column.cast(ATTRIBUTE_TYPES[kind][1])
