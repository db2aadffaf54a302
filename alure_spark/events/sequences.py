"""Clean events -> user sequences (ALURE, section 2.1; house rules 1-3), whole or day by day.

One aggregation: per user and source the events known before as_of, ordered by (known_at, event_hash), of which the last N, and those
of the last D days, stay. A day later only the users with new events get a row: what their latest row holds, then the new events,
then the same cut. The last N of a whole are the last N of (last N of the past, the new), so that both ways give the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from ..clock import known_before
from ..config import StreamConfig
from ..tables import ATTRIBUTE_TYPES, EVENTS
from .clean import id_hash

SHARED_HASH = "two users share a 64-bit hash"
SAMPLED, HEAVY = 1024, 256  # a user of whom one event in 1,024 still leaves 256 is heavy: a quarter of a million events


@dataclass(frozen=True)
class Grouping:
    """How Spark brings a user's events together; the rows are the same whatever it says."""

    # One BIGINT is sorted by radix, strings by comparisons, which took a third of the CPU (docs/decisions.md). Should two users
    # ever share a hash (1 table in 40 of 10^9 users), the job fails with SHARED_HASH, and has to group by the users themselves.
    by_hash: bool = True
    heavy: tuple[str, ...] = ()  # users so active that their events are cut to the last N before the shuffle, see `heavy_users`


PLAIN = Grouping()


def user_sequences(
    events: DataFrame, streams: Mapping[str, StreamConfig], as_of_ms: int, grouping: Grouping = PLAIN, also: Sequence[Column] = ()
) -> DataFrame:
    """One row per user with an event known before as_of, shaped as USER_SEQUENCES: what `max_events` and `max_days` leave.

    Arrays `s__known_at_ms`, `s__event_time_ms`, `s__item_id` and `s__<attribute>` run in parallel, oldest first, ties by event
    hash; a stream without events has empty arrays. `also`: further aggregates over a user's events, e.g. `dwell.dwell_sums`, that
    ride in the same pass as columns of their own. One shuffle of the events by user.
    """
    known = known_events(events, as_of_ms).where(F.col("source").isin(list(streams)))
    grouped = _grouped(_cut_heavy(known, streams, grouping.heavy), streams, grouping, [] if grouping.heavy else also)
    if also and grouping.heavy:  # what the cut leaves out counts, too
        grouped = grouped.join(known.groupBy("user_id").agg(*also), "user_id")
    columns = []
    for name, stream in streams.items():
        array = F.col(name)
        if stream.max_days:
            oldest = F.lit(as_of_ms - stream.max_days_ms)
            array = F.filter(array, _not_before(oldest, "known_at_ms"))
        columns += arrays(name, stream, _last(array, F.lit(stream.max_events)))
    kept = [name for name in grouped.columns if name not in ("user_id", "country", *streams)]
    return grouped.select("user_id", "country", as_of_column(as_of_ms), *columns, *kept)


def touched_sequences(
    events: DataFrame,
    previous: DataFrame,
    streams: Mapping[str, StreamConfig],
    since_ms: int,
    as_of_ms: int,
    grouping: Grouping = PLAIN,
) -> DataFrame:
    """The rows of `user_sequences` of the users with an event known in [since, as_of), from their previous rows and those events.

    previous: USER_SEQUENCES rows of the same streams, complete at `since`; each user's latest one at or before `since` is taken.
    Reads the events of [since, as_of) only; of `previous` all is read, but only touched users are shuffled.
    """
    whole = continued(histories(events, streams, as_of_ms, since_ms, grouping, cut=True), previous, streams, since_ms)
    columns = [column for name, stream in streams.items() for column in _cut(name, stream, as_of_ms)]
    return whole.select("user_id", "country", as_of_column(as_of_ms), *columns)


def select_features(sequences: DataFrame, streams: Mapping[str, StreamConfig], as_of_ms: int) -> DataFrame:
    """Sequences as a feature policy leaves them at as_of: only its streams' columns are read, only what their limits leave is kept.

    streams: what FeaturePolicy.select returned. Columns that belong to no stream of the table stay.
    """
    parallel = [name for name in sequences.columns if "__" in name and not name.startswith("impression__")]
    kept = [F.col(name) for name in sequences.columns if name not in parallel]
    return sequences.select(*kept, *(column for name, stream in streams.items() for column in _cut(name, stream, as_of_ms)))


def histories(
    events: DataFrame,
    streams: Mapping[str, StreamConfig],
    as_of_ms: int,
    since_ms: int | None = None,
    grouping: Grouping = PLAIN,
    cut: bool = False,
) -> DataFrame:
    """One row per user with an event known before as_of (and not before since): country of the last one, and the streams' arrays.

    The arrays are those of USER_SEQUENCES, whole; with `cut`, those of heavy users may hold their last max_events only.
    """
    known = known_events(events, as_of_ms, since_ms).where(F.col("source").isin(list(streams)))
    grouped = _grouped(_cut_heavy(known, streams, grouping.heavy) if cut else known, streams, grouping)
    return grouped.select("user_id", "country", *(part for name, stream in streams.items() for part in arrays(name, stream, F.col(name))))


def continued(recent: DataFrame, previous: DataFrame, streams: Mapping[str, StreamConfig], since_ms: int) -> DataFrame:
    """`recent` (histories since then), each array behind that of the user's latest row of `previous` at or before since."""
    previous = previous.where(F.col("as_of") <= F.timestamp_millis(F.lit(since_ms)))
    touched = recent.select("user_id")
    newest = previous.select("user_id", "as_of").join(touched, "user_id", "left_semi").groupBy("user_id").agg(F.max("as_of").alias("as_of"))
    names = [f"{name}__{field}" for name, stream in streams.items() for field in fields_of(stream)]
    before = previous.join(newest, ["user_id", "as_of"], "left_semi").select("user_id", *(F.col(name).alias(f"_{name}") for name in names))
    joined = recent.join(before, "user_id", "left")
    past = {name: F.coalesce(F.col(f"_{name}"), F.array().cast(previous.schema[name].dataType)) for name in names}
    return joined.select("user_id", "country", *(F.concat(past[name], F.col(name)).alias(name) for name in names))


def known_events(events: DataFrame, as_of_ms: int, since_ms: int | None = None) -> DataFrame:
    """The events known before as_of and, if given, not yet before since; days outside are not even opened."""
    day = F.to_date(F.timestamp_millis(F.lit(as_of_ms)))
    known = events.where((F.col("known_date") <= day) & known_before(F.unix_millis("known_at"), F.lit(as_of_ms)))
    if since_ms is None:
        return known
    first_day = F.to_date(F.timestamp_millis(F.lit(since_ms)))
    return known.where((F.col("known_date") >= first_day) & ~known_before(F.unix_millis("known_at"), F.lit(since_ms)))


def heavy_users(events: DataFrame, as_of_ms: int, since_ms: int | None = None) -> tuple[str, ...]:
    """Users with more than about SAMPLED x HEAVY events known in [since, as_of), counted on one event in SAMPLED, by event hash.

    One task that holds all of theirs could run out of memory. A pass over three columns; at most one user in that many events.
    """
    known = known_events(events, as_of_ms, since_ms).where(F.pmod("event_hash", F.lit(SAMPLED)) == 0)
    rows = known.groupBy("user_id").agg(F.count("*").alias("n")).where(F.col("n") >= HEAVY).select("user_id").collect()
    return tuple(sorted(row["user_id"] for row in rows))


def attribute(name: str, kind: str) -> Column:
    """An attribute of `events` as sequences hold it."""
    value = F.col(name)
    if kind == "categorical":
        types = {column.name: column.type for column in EVENTS.columns}
        value = id_hash(value.cast("string") if types.get(name, "STRING") != "STRING" else value)
    return value.cast(ATTRIBUTE_TYPES[kind][1])


def fields_of(stream: StreamConfig) -> tuple[str, ...]:
    """The fields that a stream's parallel arrays hold, without the `s__`."""
    return ("known_at_ms", "event_time_ms", "item_id", *stream.attributes)


def arrays(name: str, stream: StreamConfig, events: Column) -> list[Column]:
    """The parallel arrays of a stream, from its array of event structs."""
    return [events[field].alias(f"{name}__{field}") for field in fields_of(stream)]


def first_kept(name: str, stream: StreamConfig, moment: Column) -> Column:
    """Place (from 1) in a stream's whole arrays of the first event that a history at the moment (epoch ms) needs, or all after it."""
    known_at = F.col(f"{name}__known_at_ms")

    def before(border: Column) -> Column:
        return F.size(F.filter(known_at, lambda t: known_before(t, border)))

    place = F.greatest(before(moment) - stream.max_events + 1, F.lit(1))
    return F.greatest(place, before(moment - stream.max_days_ms) + 1) if stream.max_days else place


def as_of_column(as_of_ms: int) -> Column:
    return F.timestamp_millis(F.lit(as_of_ms)).alias("as_of")


def user_hash() -> Column:
    """BIGINT by which a user's events are grouped."""
    return F.xxhash64("user_id")


def _grouped(known: DataFrame, streams: Mapping[str, StreamConfig], grouping: Grouping, also: Sequence[Column] = ()) -> DataFrame:
    """user_id, country of the last event, and per stream its array of structs (known_at_ms, event_hash, event_time_ms, item_id, ...)."""
    country = F.max(F.struct("known_at", "event_hash", "country"))["country"].alias("country")
    lists = [
        F.sort_array(F.collect_list(F.when(F.col("source") == name, F.struct(*_fields(stream))))).alias(name)
        for name, stream in streams.items()
    ]
    if not grouping.by_hash:
        return known.groupBy("user_id").agg(country, *lists, *also)
    one, other = F.min("user_id"), F.max("user_id")
    users = F.when(one == other, one).otherwise(F.raise_error(F.concat(F.lit(f"{SHARED_HASH}: "), one, F.lit(" and "), other)))
    return known.groupBy(user_hash().alias("_user")).agg(users.alias("user_id"), country, *lists, *also).drop("_user")


def _cut_heavy(known: DataFrame, streams: Mapping[str, StreamConfig], heavy: Sequence[str]) -> DataFrame:
    """The events without those of heavy users that are not among the last N of their source; Spark cuts before it shuffles, too."""
    if not heavy:
        return known
    is_heavy = F.col("user_id").isin(list(heavy))
    newest = Window.partitionBy("user_id", "source").orderBy(F.unix_millis("known_at").desc(), F.col("event_hash").desc())
    ranked = known.where(is_heavy).withColumn("_place", F.row_number().over(newest))
    last = ranked.where(F.col("_place") <= max(stream.max_events for stream in streams.values())).drop("_place")
    return known.where(~is_heavy).unionByName(last)


def _fields(stream: StreamConfig) -> list[Column]:
    fields = [
        F.unix_millis("known_at").alias("known_at_ms"),
        F.col("event_hash"),
        F.unix_millis("event_time").alias("event_time_ms"),
        F.col("item_hash").alias("item_id"),
    ]
    return [*fields, *(attribute(name, kind).alias(name) for name, kind in stream.attributes.items())]


def _cut(name: str, stream: StreamConfig, as_of_ms: int) -> list[Column]:
    """A stream's parallel arrays, cut to the last max_events, and to the max_days before as_of."""
    count: Column = F.lit(stream.max_events)
    if stream.max_days:
        fresh = F.filter(f"{name}__known_at_ms", _not_before(F.lit(as_of_ms - stream.max_days_ms)))
        count = F.least(count, F.size(fresh))
    return [_last(F.col(column), count).alias(column) for column in (f"{name}__{field}" for field in fields_of(stream))]


def _not_before(moment: Column, field: str = "") -> Callable[[Column], Column]:
    """For F.filter: whether an element (its field) is not before the moment."""
    return lambda x: ~known_before(x[field] if field else x, moment)


def _last(array: Column, count: Column) -> Column:
    return F.slice(array, F.greatest(F.size(array) - count + 1, F.lit(1)), count)
