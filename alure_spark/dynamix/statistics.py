"""Sums of log dwell per user, with and without a conversion nearby: the statistics that DynamiX segments by (section 3.1, 3.3).

    C = 1 for an impression at t when the user has a conversion in [t - buffer, t + s], both ends included     (1), with the buffer of 3.3

Times are those at which events were known: so C is settled at t + s, when the impression enters the statistics, and a day that is computed
by itself finds what a run over everything finds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from ..clock import DAY_MS, HOUR_MS, known_before
from ..config import ALL_SURFACES, DynamixConfig
from .correlation import in_micro

KEY = ("user_id", "surface", "window")
UNKNOWN_SURFACE = "unknown"
SUMS = ("n_1", "n_0", "sum_log_dwell_micro_1", "sum_log_dwell_micro_0", "sum_log_dwell_sq_micro_1", "sum_log_dwell_sq_micro_0")
_LONGS = ", ".join(f"{name} long" for name in (*SUMS, "outliers"))
SCHEMA = f"user_id string, surface string, window string, day int, {_LONGS}, utc_offset_minutes int"
EVENTS_PER_TASK = 250_000  # some 15 MB, a second


def converted(user: np.ndarray, time_ms: np.ndarray, by: np.ndarray, at_ms: np.ndarray, config: DynamixConfig) -> np.ndarray:
    """C of equation (1) for impressions of user (M,) at time_ms (M,): whether a conversion of that user lies in [t - buffer, t + s].

    Conversions: by (K,), at_ms (K,). Users are codes from 0. One sort of the conversions and a search per impression: 10^5 impressions
    and 10^4 conversions of one user are no 10^9 pairs.
    """
    if not len(by) or not len(user):
        return np.zeros(len(user), bool)
    first = min(time_ms.min() - config.buffer_ms, at_ms.min())
    stride = max(time_ms.max() + config.window_ms, at_ms.max()) - first + 1  # no window reaches into another user's times
    known = np.sort(by.astype(np.int64) * stride + (at_ms - first))
    asked = user.astype(np.int64) * stride + (time_ms - first)
    following = np.searchsorted(known, asked - config.buffer_ms)
    return (following < len(known)) & (known[np.minimum(following, len(known) - 1)] <= asked + config.window_ms)


def new_statistics(events: DataFrame, config: DynamixConfig, since_ms: int | None, as_of_ms: int, cuts_ms: Sequence[int] = ()) -> DataFrame:
    """Sums of the impressions that entered in [since, as_of), of all before as_of where since is None, shaped as DWELL_STATISTICS.

    Grain: KEY and as_of. cuts_ms: as_ofs between the two, rising, at which an earlier day ends; without them all is of as_of. SUMS,
    outliers (impressions whose dwell is out of bounds, which are in no sum), utc_offset_minutes of the user's last one of the day.
    Reads what was known since s and the buffer before `since`, and counts it at once. Cost: one shuffle by user, into tasks of some
    EVENTS_PER_TASK; all events of a user are in one.
    """

    def sums(rows: pa.Table) -> pa.Table:
        return _sums(rows, config, since_ms, as_of_ms, cuts_ms)

    ends = [since_ms, *cuts_ms, as_of_ms]
    moments = F.array(*(F.lit(None).cast("timestamp") if end is None else F.timestamp_millis(F.lit(end)) for end in ends))
    days = {"entered_from": F.get(moments, F.col("day")), "as_of": F.get(moments, F.col("day") + 1)}
    return by_user(events, config, since_ms, as_of_ms, sums, SCHEMA).withColumns(days).drop("day")


def labelled_dwell(events: DataFrame, config: DynamixConfig, as_of_ms: int) -> DataFrame:
    """One row per impression that entered before as_of, its dwell in bounds: user_id, log_dwell, converted (C of equation 1)."""

    def labelled(rows: pa.Table) -> pa.Table:
        _, _, dwell, label, chosen = _labelled(rows, config, None, as_of_ms)
        good = (dwell >= config.dwell_min_ms) & (dwell <= config.dwell_max_ms)
        return pa.table({"user_id": chosen["user_id"].filter(pa.array(good)), "log_dwell": np.log(dwell[good]), "converted": label[good]})

    return by_user(events, config, None, as_of_ms, labelled, "user_id string, log_dwell double, converted boolean")


def by_user(
    events: DataFrame, config: DynamixConfig, since_ms: int | None, as_of_ms: int, work: Callable[[pa.Table], pa.Table], schema: str
) -> DataFrame:
    """What the work makes of tables of impressions and conversions that hold all events of their users."""
    known = F.unix_millis("known_at")
    conversion = F.col("source").isin(list(config.conversion_sources))
    impression = (F.col("source") == config.impression_source) & F.col("dwell_ms").isNotNull()
    rows = events.where(known_before(known, as_of_ms) & (conversion | impression))
    if since_ms is not None:
        rows = rows.where(known >= since_ms - config.window_ms - config.buffer_ms)
    rows = rows.select(
        "user_id",
        F.when(~conversion, _where("surface")).alias("surface"),
        known.alias("time_ms"),
        F.when(~conversion, F.col("dwell_ms")).alias("dwell_ms"),
        F.coalesce("utc_offset_minutes", F.lit(0)).alias("utc_offset_minutes"),
    )

    def add(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        held = [batch for batch in batches if batch.num_rows]
        if held:
            yield from work(pa.Table.from_batches(held).combine_chunks()).to_batches()

    return rows.repartition(max(1, round(rows.count() / EVENTS_PER_TASK)), "user_id").mapInArrow(add, schema)


def _labelled(
    rows: pa.Table, config: DynamixConfig, since_ms: int | None, as_of_ms: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, pa.Table]:
    """Of the impressions that entered in [since, as_of): code of the user (by first row), time, dwell and C, and their rows."""
    code = rows.column("user_id").combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64)
    time = rows.column("time_ms").to_numpy()
    shown = rows.column("dwell_ms").is_valid().to_numpy()
    enters = time + config.window_ms
    counts = shown & known_before(enters, as_of_ms)
    if since_ms is not None:
        counts &= enters >= since_ms
    label = converted(code[counts], time[counts], code[~shown], time[~shown], config)
    chosen = rows.filter(pa.array(counts))
    return code[counts], time[counts], chosen.column("dwell_ms").to_numpy(), label, chosen


def _where(name: str) -> Column:
    """The surface; one that is called as all of them together (ALL_SURFACES) does not say where, as none does."""
    return F.coalesce(F.nullif(F.col(name), F.lit(ALL_SURFACES)), F.lit(UNKNOWN_SURFACE))


def _sums(rows: pa.Table, config: DynamixConfig, since_ms: int | None, as_of_ms: int, cuts_ms: Sequence[int]) -> pa.Table:
    """Events of some users (a conversion has no dwell_ms) -> rows of SCHEMA."""
    code, time, dwell, label, chosen = _labelled(rows, config, since_ms, as_of_ms)
    users = rows.column("user_id").combine_chunks().dictionary_encode().dictionary
    offset = chosen.column("utc_offset_minutes").to_numpy()
    surface = chosen.column("surface").combine_chunks().dictionary_encode()
    hours = 24 // config.day_windows
    part = (time + offset * 60_000) % DAY_MS // (hours * HOUR_MS)
    surfaces = max(1, len(surface.dictionary))
    days = len(cuts_ms) + 1
    day = np.searchsorted(np.array(cuts_ms, np.int64), time + config.window_ms, side="right")  # what enters at a cut is of the next day
    key = ((code * days + day) * surfaces + surface.indices.to_numpy()) * config.day_windows + part
    order = np.argsort(key, kind="stable")
    starts = np.flatnonzero(np.diff(key[order], prepend=-1))
    good = (dwell >= config.dwell_min_ms) & (dwell <= config.dwell_max_ms)
    log = np.log(np.where(good, dwell, 1).astype(np.float64))
    values = (np.ones(len(log), np.int64), in_micro(log), in_micro(log * log))

    def summed(of: np.ndarray) -> np.ndarray:
        return np.add.reduceat(of[order], starts) if len(starts) else np.empty(0, np.int64)

    columns = {}
    which = key[order][starts]
    of_day = which // (surfaces * config.day_windows)
    columns["user_id"] = users.take(pa.array(of_day // days))
    columns["surface"] = surface.dictionary.take(pa.array(which // config.day_windows % surfaces))
    begins = which % config.day_windows * hours
    columns["window"] = pa.array([f"{begin:02d}-{begin + hours:02d}" for begin in begins.tolist()], pa.string())
    columns["day"] = (of_day % days).astype(np.int32)
    added = [summed(value * (good & is_kind)) for value in values for is_kind in (label, ~label)]
    columns |= dict(zip(SUMS, added, strict=True))
    columns["outliers"] = summed((~good).astype(np.int64))
    # The offset at the user's latest time of the day: the largest of both in one number (an offset is less than two days).
    latest, firsts = (time * 8192 + offset + 4096)[order], np.flatnonzero(np.diff((code * days + day)[order], prepend=-1))
    last = np.maximum.reduceat(latest, firsts) if len(firsts) else np.empty(0, np.int64)
    columns["utc_offset_minutes"] = (last[np.searchsorted(firsts, starts, side="right") - 1] % 8192 - 4096).astype(np.int32)
    return pa.table(columns)


def merged(statistics: DataFrame) -> DataFrame:
    """Statistics of several days as one, each surface and all of them together (surface 'ALL'). Grain: KEY.

    statistics: rows of new_statistics. utc_offset_minutes is the user's at the last impression, one for all rows of the user: with one
    per part of the day, the parts of a day on which the offset changed would overlap.
    """
    sums = [F.sum(name).alias(name) for name in SUMS]
    newest = F.max(F.struct("as_of", "utc_offset_minutes"))
    by_surface = statistics.withColumn("surface", _where("surface")).groupBy(*KEY).agg(*sums, newest.alias("_newest"))
    of_user = F.max("_newest").over(Window.partitionBy("user_id"))["utc_offset_minutes"].alias("utc_offset_minutes")
    by_surface = by_surface.select(*KEY, *SUMS, of_user)
    everywhere = by_surface.withColumn("surface", F.lit(ALL_SURFACES)).groupBy(*KEY)
    return by_surface.unionByName(everywhere.agg(*sums, F.max("utc_offset_minutes").alias("utc_offset_minutes")))
