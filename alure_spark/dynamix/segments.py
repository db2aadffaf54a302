"""Statistics -> correlations -> segments of all users at one as_of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import fields

import numpy as np
import pyarrow as pa
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from ..arrow import by_value
from ..clock import DAY_MS, HOUR_MS
from ..config import DynamixConfig
from ..lake import timestamp
from .correlation import MICRO, Correlations, Population, Sums, common_law, correlate, levels, thresholds_of
from .statistics import SUMS

CORRELATED = ("mean_log_dwell_1", "mean_log_dwell_0", "corr", "w", "b", "std_error")


def sums_of(batch: pa.RecordBatch) -> Sums:
    """The columns SUMS as arrays."""
    return Sums(*(batch.column(name).to_numpy(zero_copy_only=False).astype(np.int64) for name in SUMS))


def populations(statistics: DataFrame) -> dict[str, Population | None]:
    """Surface -> correlation.common_law of its users and parts of the day; Spark adds the sums, a row per surface is collected."""
    mean_1, mean_0 = (F.col(f"sum_log_dwell_micro_{kind}") / MICRO / F.col(f"n_{kind}") for kind in (1, 0))
    squares = [F.col(f"sum_log_dwell_sq_micro_{kind}") / MICRO for kind in (1, 0)]
    within = F.greatest(F.lit(0.0), squares[0] - F.col("n_1") * mean_1**2 + squares[1] - F.col("n_0") * mean_0**2)
    both = statistics.where("n_1 > 0 AND n_0 > 0").select(
        "surface", within.alias("within"), (F.col("n_1") + F.col("n_0") - 2).alias("freedom"),
        (1 / (1 / F.col("n_1") + 1 / F.col("n_0"))).alias("q"), (mean_1 - mean_0).alias("c"),
    )  # fmt: skip
    sums = both.groupBy("surface").agg(
        F.count(F.lit(1)).alias("users"), F.sum("within").alias("within"), F.sum("freedom").alias("freedom"),
        *(F.sum(F.expr(term)).alias(term) for term in ("q", "q * q", "q * c", "q * c * c")),
    )  # fmt: skip
    return {row["surface"]: common_law(*row[1:]) for row in sums.collect()}


def correlations(statistics: DataFrame, common: dict[str, Population | None]) -> DataFrame:
    """The statistics with CORRELATED beside them, null where unknown. A surface without a common law is not drawn towards one."""
    schema = ", ".join(f"{field.name} {field.dataType.simpleString()}" for field in statistics.schema)

    def correlated(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for surface, rows in by_value(batch, "surface"):
                found = correlate(sums_of(rows), common.get(surface))
                values = (getattr(found, one.name) for one in fields(Correlations))
                columns = (pa.array(np.where(np.isfinite(one), one, np.nan), from_pandas=True) for one in values)
                yield pa.RecordBatch.from_arrays([*rows.columns, *columns], names=[*rows.schema.names, *CORRELATED])

    return statistics.mapInArrow(correlated, f"{schema}, {', '.join(f'{name} double' for name in CORRELATED)}")


def thresholds(correlated: DataFrame, config: DynamixConfig) -> dict[str, tuple[float, ...]]:
    """Surface -> where its levels begin (correlation.thresholds_of).

    By share: to a step of 1e-4, so that what is collected is bounded by the spread of corr and not by the number of users.
    """
    if config.threshold == "given":
        return {row["surface"]: config.thresholds for row in correlated.select("surface").distinct().collect()}
    size = (F.floor(F.abs("corr") * 10_000) / 10_000).alias("size")
    counted = correlated.groupBy("surface", size).agg(F.sum(F.col("n_1") + F.col("n_0")).alias("impressions"))
    found: dict[str, list] = {}
    for row in counted.collect():
        found.setdefault(row["surface"], []).append((np.nan if row["size"] is None else row["size"], row["impressions"]))
    begins = {}
    for surface, rows in found.items():
        size, impressions = np.array(rows, np.float64).T
        begins[surface] = thresholds_of(size, impressions, config)
    return begins


def segments(correlated: DataFrame, begins_at: dict[str, tuple[float, ...]], config: DynamixConfig, as_of_ms: int) -> DataFrame:
    """user_segments of [as_of, as_of + valid_hours): the level of each user and surface, in each part of the local day.

    Grain: user, surface, valid_from. correlated: rows of `correlations`; begins_at: `thresholds`.
    """
    names = config.segments

    def name(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for surface, rows in by_value(batch, "surface"):
                level = levels(rows.column("corr").to_numpy(zero_copy_only=False), begins_at[surface])
                named = pa.array([names[one] for one in level], pa.string())
                given = [rows.column(column) for column in ("user_id", "surface", "window", "utc_offset_minutes")]
                yield pa.RecordBatch.from_arrays([*given, named], names=_NAMED)

    columns = ("user_id", "surface", "window", "utc_offset_minutes", "corr")
    named = correlated.select(*columns).mapInArrow(
        name, "user_id string, surface string, window string, utc_offset_minutes int, segment string"
    )
    # A part of the local day lies in [as_of, as_of + 24 h) as one piece or as two.
    until = as_of_ms + round(config.valid_hours * HOUR_MS)
    begins, ends = (F.substring("window", at, 2).cast("bigint") * HOUR_MS - F.col("utc_offset_minutes") * 60_000 for at in (1, 4))
    day = as_of_ms - as_of_ms % DAY_MS
    pieces = [
        F.struct(
            F.greatest(F.lit(as_of_ms), begins + day + shift * DAY_MS).alias("begin"),
            F.least(F.lit(until), ends + day + shift * DAY_MS).alias("end"),
        )
        for shift in (-1, 0, 1, 2)
    ]
    if config.day_windows == 1:
        pieces = [F.struct(F.lit(as_of_ms).alias("begin"), F.lit(until).alias("end"))]
    cut = named.withColumn("piece", F.explode(F.array(*pieces))).where("piece.begin < piece.end")
    return cut.select(
        "user_id",
        "surface",
        "segment",
        F.timestamp_millis("piece.begin").alias("valid_from"),
        F.timestamp_millis("piece.end").alias("valid_to"),
        timestamp(as_of_ms).alias("as_of"),
    )


SWITCHES = ("newly known", "no longer known", "threshold moved", "new impressions", "population moved")


def switches(
    now: DataFrame, then: DataFrame, begins_now: dict[str, tuple[float, ...]], begins_then: dict[str, tuple[float, ...]]
) -> DataFrame:
    """One row per user, surface and part of the day that both correlations hold: switched BOOLEAN, and why (one of SWITCHES) or null.

    The threshold moved: what was known then would be on today's level, too, under today's threshold. Where it would not, the user's own
    impressions changed, or, with the same ones, what all users draw the user towards.
    """

    def level(corr: Column, begins: dict[str, tuple[float, ...]]) -> Column:
        per_surface: Column = F.lit(0)
        for surface, thresholds_at in begins.items():
            above = sum(((F.coalesce(F.abs(corr), F.lit(0.0)) > begin).cast("int") for begin in thresholds_at), start=F.lit(0))
            per_surface = F.when(F.col("surface") == surface, above).otherwise(per_surface)
        return per_surface

    facts = ("corr", "n_1", "n_0")
    keys = ("user_id", "surface", "window")
    one, other = (
        frame.select(*keys, *(F.col(fact).alias(f"{fact}_{when}") for fact in facts)) for frame, when in ((now, "now"), (then, "then"))
    )
    both = one.join(other, list(keys))
    corr_now, corr_then = F.col("corr_now"), F.col("corr_then")
    today = level(corr_now, begins_now)
    same = (F.col("n_1_now") == F.col("n_1_then")) & (F.col("n_0_now") == F.col("n_0_then"))
    reason = (
        F.when(corr_then.isNull(), SWITCHES[0])
        .when(corr_now.isNull(), SWITCHES[1])
        .when(level(corr_then, begins_now) == today, SWITCHES[2])
        .when(~same, SWITCHES[3])
        .otherwise(SWITCHES[4])
    )
    switched = today != level(corr_then, begins_then)
    return both.select(*keys, switched.alias("switched"), F.when(switched, reason).alias("why"))


_NAMED = ["user_id", "surface", "window", "utc_offset_minutes", "segment"]
