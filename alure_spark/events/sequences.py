"""Clean events -> user sequences (ALURE, section 2.1; house rules 1-3), whole or day by day.

One aggregation: per user and source the events known before as_of, ordered by (known_at, event_hash), of which the last N stay.
A day later only the users with new events get a row: what their latest row holds, then the new events, then the cut to the last N
again. The last N of a whole are the last N of (last N of the past, the new), so that both ways give the same bits.
"""

from __future__ import annotations

from collections.abc import Mapping

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from ..boundary import known_before
from ..config import StreamConfig
from ..tables import ATTRIBUTE_TYPES, EVENTS
from .clean import id_hash


def user_sequences(events: DataFrame, streams: Mapping[str, StreamConfig], as_of_ms: int) -> DataFrame:
    """One row per user with an event known before as_of, shaped as USER_SEQUENCES: the last max_events of each stream.

    Arrays `s__known_at_ms`, `s__event_time_ms`, `s__item_id` and `s__<attribute>` run in parallel, oldest first, ties by event
    hash; a stream without events has empty arrays. One shuffle of the events by user.
    """
    columns = [column for name, stream in streams.items() for column in arrays(name, stream, _last(F.col(name), stream.max_events))]
    return histories(events, streams, as_of_ms).select("user_id", "country", as_of_column(as_of_ms), *columns)


def touched_sequences(
    events: DataFrame, previous: DataFrame, streams: Mapping[str, StreamConfig], since_ms: int, as_of_ms: int
) -> DataFrame:
    """The rows of `user_sequences` of the users with an event known in [since, as_of), from their previous rows and those events.

    previous: USER_SEQUENCES rows of the same streams, complete at `since`; each user's latest one at or before `since` is taken.
    Reads the events of [since, as_of) only; of `previous` all is read, but only touched users are shuffled.
    """
    recent = histories(events, streams, as_of_ms, since_ms)
    touched = recent.select("user_id")
    previous = previous.where(F.col("as_of") <= F.timestamp_millis(F.lit(since_ms)))
    newest = previous.select("user_id", "as_of").join(touched, "user_id", "left_semi").groupBy("user_id").agg(F.max("as_of").alias("as_of"))
    before = previous.join(newest, ["user_id", "as_of"], "left_semi").drop("country", "as_of")
    joined = recent.join(before, "user_id", "left")
    columns = []
    for name, stream in streams.items():
        for added, field in zip(arrays(name, stream, F.col(name)), fields_of(stream), strict=True):
            column = f"{name}__{field}"
            past = F.coalesce(F.col(column), F.array().cast(previous.schema[column].dataType))
            columns.append(_last(F.concat(past, added), stream.max_events).alias(column))
    return joined.select("user_id", "country", as_of_column(as_of_ms), *columns)


def select_features(sequences: DataFrame, streams: Mapping[str, StreamConfig]) -> DataFrame:
    """Sequences as a feature policy leaves them: only its streams' columns are read, only the last max_events kept.

    streams: what FeaturePolicy.select returned. Columns that belong to no stream of the table stay.
    """
    parallel = [name for name in sequences.columns if "__" in name and not name.startswith("impression__")]
    kept = [F.col(name) for name in sequences.columns if name not in parallel]
    for name, stream in streams.items():
        for field in fields_of(stream):
            kept.append(_last(F.col(f"{name}__{field}"), stream.max_events).alias(f"{name}__{field}"))
    return sequences.select(*kept)


def histories(events: DataFrame, streams: Mapping[str, StreamConfig], as_of_ms: int, since_ms: int | None = None) -> DataFrame:
    """One row per user with an event known before as_of (and not before since): country of the last one, and per stream their array.

    An array holds structs (known_at_ms, event_hash, event_time_ms, item_id, attributes) in that order.
    """
    known = known_events(events, as_of_ms, since_ms).where(F.col("source").isin(list(streams)))
    lists = [
        F.sort_array(F.collect_list(F.when(F.col("source") == name, F.struct(*_fields(stream))))).alias(name)
        for name, stream in streams.items()
    ]
    return known.groupBy("user_id").agg(F.max_by("country", F.struct("known_at", "event_hash")).alias("country"), *lists)


def known_events(events: DataFrame, as_of_ms: int, since_ms: int | None = None) -> DataFrame:
    """The events known before as_of and, if given, not yet before since; days outside are not even opened."""
    day = F.to_date(F.timestamp_millis(F.lit(as_of_ms)))
    known = events.where((F.col("known_date") <= day) & known_before(F.unix_millis("known_at"), F.lit(as_of_ms)))
    if since_ms is None:
        return known
    first_day = F.to_date(F.timestamp_millis(F.lit(since_ms)))
    return known.where((F.col("known_date") >= first_day) & ~known_before(F.unix_millis("known_at"), F.lit(since_ms)))


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


def as_of_column(as_of_ms: int) -> Column:
    return F.timestamp_millis(F.lit(as_of_ms)).alias("as_of")


def _fields(stream: StreamConfig) -> list[Column]:
    fields = [
        F.unix_millis("known_at").alias("known_at_ms"),
        F.col("event_hash"),
        F.unix_millis("event_time").alias("event_time_ms"),
        F.col("item_hash").alias("item_id"),
    ]
    return [*fields, *(attribute(name, kind).alias(name) for name, kind in stream.attributes.items())]


def _last(array: Column, count: int) -> Column:
    return F.slice(array, F.greatest(F.size(array) - count + 1, F.lit(1)), count)
