"""User-to-user retrieval (ALURE, section 4, Figure 7): ads through similar users.

Enters: user_edges, events, ads. Leaves: ad_candidates, one row per user with a neighbour. A candidate is (1) an ad that a
neighbour clicked or converted on, or (2) an active ad of an account that a neighbour engaged with.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from ..arrow import bytes_column, list_column
from ..clock import DAY_MS, HOUR_MS, known_before
from ..config import RetrievalConfig
from ..lake import UNITS, in_units
from ..tables import GRAPH_BITS
from .scoring import ACCOUNT, AD, REASONS, AdIndex, score
from .standalone import Standalone, standalone_links

EDGES_PER_BLOCK = 50_000  # what a task holds at once: with some engagements per edge a few MB
ENGAGEMENTS_PER_EDGE = 10  # about: what the block of a user is counted by who has candidates without an edge
PROFILE = "user_id string, codes binary, strengths binary"
RETRIEVED = (
    "user_id string, country string, as_of timestamp, ad_id array<string>, account_id array<string>, score array<double>, "
    "graphs array<int>, neighbours array<int>, reason array<string>"
)


def engagements(events: DataFrame, config: RetrievalConfig, as_of_ms: int) -> DataFrame:
    """One row per user, kind and target (kind AD: item_id, ACCOUNT: account_id) engaged with before as_of; partitioned by user_id.

    user_id, kind, target, engagement = sum of weight(source) * 0.5 ** (age / half life); of a user's kind the strongest
    max_engagements_per_user stay, ties by target.
    """
    weights = {AD: config.event_weights, ACCOUNT: config.account_weights}
    sources = sorted({source for of_kind in weights.values() for source in of_kind})
    known = events.where(known_before(F.unix_millis("known_at"), as_of_ms) & F.col("source").isin(sources))
    age_days = (F.lit(as_of_ms) - F.unix_millis("known_at")) / DAY_MS
    decay = F.pow(F.lit(0.5), age_days / config.half_life_days)

    def engaged(kind: int, target: str) -> Column:
        weight = F.lit(0.0)
        for source, value in weights[kind].items():
            weight = F.when(F.col("source") == source, F.lit(float(value))).otherwise(weight)
        return F.struct(F.lit(kind).alias("kind"), F.col(target).alias("target"), in_units(weight * decay).alias("units"))

    both = F.explode(F.array(engaged(AD, "item_id"), engaged(ACCOUNT, "account_id"))).alias("one")
    # From here to the caller's join everything is grouped by the user, at one shuffle.
    rows = known.select("user_id", both).select("user_id", "one.*").where("units > 0 AND target IS NOT NULL").repartition("user_id")
    summed = rows.groupBy("user_id", "kind", "target").agg(F.sum("units").alias("units"))
    strongest = Window.partitionBy("user_id", "kind").orderBy(F.col("units").desc(), "target")
    ranked = summed.withColumn("_n", F.row_number().over(strongest)).where(F.col("_n") <= config.max_engagements_per_user)
    return ranked.select("user_id", "kind", "target", (F.col("units") / UNITS).alias("engagement"))


def active_ads(ads: DataFrame, as_of_ms: int) -> DataFrame:
    """Distinct ads with a flight that is running at as_of: ad_id, account_id (of the latest flight)."""
    running = (F.unix_millis("active_from") <= as_of_ms) & (F.col("active_to").isNull() | (F.unix_millis("active_to") > as_of_ms))
    return ads.where(running).groupBy("ad_id").agg(F.max_by("account_id", F.struct("active_from", "account_id")).alias("account_id"))


def ad_candidates(
    edges: DataFrame, events: DataFrame, ads: DataFrame | None, config: RetrievalConfig, as_of_ms: int, standalone: Standalone | None = None
) -> DataFrame:
    """One row per user with an edge (or a vector of standalone), shaped as AD_CANDIDATES; arrays are empty where nothing leads to an ad.

    score = sum over neighbours of edge weight * engagement, over both kinds; edges of weight 0 or less lead nowhere. Left out: ads that
    the user met before as_of in a stream of event_weights or excluded_by, excluded_ads and excluded_accounts, and of those that one
    graph (or standalone) alone leads to what is beyond its quota. Best first, ties by ad_id, at most config.cap. Collects the active ads,
    some 50 bytes each, and counts the edges at once. Cost: a row per edge, with its neighbour's engagements as bytes, crosses the shuffle
    twice.
    """
    index = _ad_index(ads, config, as_of_ms, edges.sparkSession)

    # 1. every user: the engagements as codes of what they lead to, and the ads that must not come back
    def encode(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            yield _encoded(batch, index)

    engaged = F.collect_list(F.struct("kind", "target", "engagement")).alias("engaged")
    profiles = engagements(events, config, as_of_ms).groupBy("user_id").agg(engaged).mapInArrow(encode, PROFILE)
    met = engaged_ads(events, [*config.event_weights, *config.excluded_by]).where(known_before(F.unix_millis("known_at"), as_of_ms))
    met = met.where("ad_id IS NOT NULL").select("user_id", "ad_id").repartition("user_id").distinct()
    ad = F.struct(F.lit(AD).alias("kind"), F.col("ad_id").alias("target"), F.lit(0.0).alias("engagement"))
    own = met.groupBy("user_id").agg(F.collect_list(ad).alias("engaged")).mapInArrow(encode, PROFILE)

    # 2. every edge with its neighbour's engagements, in blocks of users
    pairs = edges.count()
    origins = F.coalesce("origins", F.lit(GRAPH_BITS["alure"])).alias("origins")  # rows of older versions do not say
    links = edges.select("src_user_id", F.col("dst_user_id").alias("user_id"), "country", "weight", origins)
    lent = links.join(profiles, "user_id", "left").select("src_user_id", "country", "weight", "origins", "codes", "strengths")
    nowhere = [F.lit(None).cast(kind).alias(name) for name, kind in (("country", "string"), ("weight", "double"), ("origins", "int"))]
    rows = lent.unionByName(own.select(F.col("user_id").alias("src_user_id"), *nowhere, "codes", "strengths"))
    if standalone is not None:
        rows = rows.unionByName(standalone_links(standalone, index.ads, own))
        pairs += standalone.users.count() * standalone.config.candidates // ENGAGEMENTS_PER_EDGE
    block = F.pmod(F.xxhash64("src_user_id"), F.lit(max(1, pairs // EDGES_PER_BLOCK))).alias("block")

    # 3. every block: its users' candidates
    def retrieve(table: pa.Table) -> pa.Table:
        return _retrieved(table.combine_chunks(), index, config, as_of_ms)

    return rows.groupBy(block).applyInArrow(retrieve, RETRIEVED)


def _ad_index(ads: DataFrame | None, config: RetrievalConfig, as_of_ms: int, spark: SparkSession) -> AdIndex:
    """The ads that may be shown. An account with more ads than the cap could fill every list alone: the first by hash are enough."""
    running = spark.createDataFrame([], "ad_id string, account_id string") if ads is None else active_ads(ads, as_of_ms)
    for column, excluded in (("ad_id", config.excluded_ads), ("account_id", config.excluded_accounts)):
        running = running.where(~F.col(column).isin(list(excluded))) if excluded else running
    per_account = Window.partitionBy("account_id").orderBy(F.xxhash64("ad_id"), "ad_id")
    known = pd.DataFrame(running.withColumn("led_to", F.row_number().over(per_account) <= config.cap).toPandas())
    return AdIndex.of(pa.array(known["ad_id"], pa.string()), pa.array(known["account_id"], pa.string()), known["led_to"].to_numpy(bool))


def _encoded(batch: pa.RecordBatch, index: AdIndex) -> pa.RecordBatch:
    """user_id, engaged (list of kind, target, engagement) -> PROFILE; what leads to no ad is left out."""
    engaged = batch.column("engaged")
    entries = engaged.flatten()
    kinds, strengths = (entries.field(name).to_numpy(zero_copy_only=False) for name in ("kind", "engagement"))
    codes = index.codes(kinds, entries.field("target").cast(pa.string()))
    user = np.repeat(np.arange(len(batch)), pc.list_value_length(engaged).to_numpy(zero_copy_only=False))
    kept = codes >= 0
    counts = np.bincount(user[kept], minlength=len(batch))
    columns = [batch.column("user_id"), bytes_column(codes[kept], "codes", counts), bytes_column(strengths[kept], "strengths", counts)]
    return pa.RecordBatch.from_arrays(columns, names=[name.split()[0] for name in PROFILE.split(", ")])


def _retrieved(rows: pa.Table, index: AdIndex, config: RetrievalConfig, as_of_ms: int) -> pa.Table:
    """Edges and own ads of a block of users -> RETRIEVED, a row per user with an edge."""
    linked = pc.is_valid(rows.column("weight"))
    users = pc.unique(rows.filter(linked).column("src_user_id"))
    place = pc.index_in(rows.column("src_user_id"), value_set=users)
    rows = rows.append_column("place", place).filter(pc.is_valid(place))
    edges = rows.filter(pc.greater(rows.column("weight"), 0))  # null, of own ads, is not greater
    edge, code = _from_bytes(edges.column("codes"), np.int32)
    engagement = _from_bytes(edges.column("strengths"), np.float64)[1]
    weight, origins, user = (edges.column(name).to_numpy()[edge] for name in ("weight", "origins", "place"))
    own = rows.filter(pc.is_null(rows.column("weight")))
    own_row, own_ad = _from_bytes(own.column("codes"), np.int32)
    found = score(user, weight, origins, code, engagement, own.column("place").to_numpy()[own_row], own_ad, index, config)

    counts = np.bincount(found.user, minlength=len(users))
    ad = pa.array(found.ad)
    first = rows.filter(pc.is_valid(rows.column("weight"))).group_by("place", use_threads=False).aggregate([("country", "min")])
    countries = first.sort_by("place").column("country_min")
    lists = {
        "ad_id": index.ads.take(ad),
        "account_id": index.accounts.take(pa.array(index.account[found.ad])),
        "score": (found.units + UNITS // 2_000_000) // (UNITS // 1_000_000) / 1e6,  # rounded to 1e-6, half up
        "graphs": found.graphs.astype(np.int32),
        "neighbours": found.neighbours.astype(np.int32),
        "reason": REASONS.take(pa.array(found.kinds)),
    }
    as_of = pa.array(np.full(len(users), as_of_ms * 1000), pa.timestamp("us", tz="UTC"))
    columns = [users, countries.combine_chunks(), as_of, *(list_column(values, counts) for values in lists.values())]
    return pa.table(columns, names=["user_id", "country", "as_of", *lists])


def _from_bytes(column: pa.ChunkedArray, kind: type[np.generic]) -> tuple[np.ndarray, np.ndarray]:
    """(row of each value, values) of a column made by bytes_column; null holds none."""
    lengths = pc.fill_null(pc.binary_length(column), 0).to_numpy() // np.dtype(kind).itemsize
    return np.repeat(np.arange(len(lengths)), lengths), np.frombuffer(b"".join(column.drop_null().to_pylist()), kind)


def engaged_ads(events: DataFrame, sources: list[str]) -> DataFrame:
    """user_id, ad_id, known_at of the events in which a user engaged with an ad."""
    return events.where(F.col("source").isin(sources)).select("user_id", F.col("item_id").alias("ad_id"), "known_at")


def serving_candidates(ad_candidates: DataFrame, hours: float) -> DataFrame:
    """ad_candidates of one as_of as key and value, shaped as SERVING_CANDIDATES; users without a candidate are left out."""
    value = F.to_json(F.struct("ad_id", "account_id", "score", "graphs", "neighbours", "reason"))
    expires = F.timestamp_millis(F.unix_millis("as_of") + round(hours * HOUR_MS))
    return ad_candidates.where(F.size("ad_id") > 0).select("user_id", "as_of", expires.alias("expires_at"), value.alias("candidates"))


def explode_candidates(ad_candidates: DataFrame) -> DataFrame:
    """One row per user and ad, with rank (1 = best): the view `ad_candidates_exploded`."""
    zipped = F.arrays_zip("ad_id", "account_id", "score", "graphs", "neighbours", "reason")
    rows = ad_candidates.select("user_id", "country", "as_of", F.posexplode(zipped).alias("_position", "c"))
    return rows.select("user_id", "country", "as_of", (F.col("_position") + 1).alias("rank"), "c.*")
