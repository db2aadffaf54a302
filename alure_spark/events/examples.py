"""Clean events -> labelled training examples: what every impression of a user may look at, and what became of it (house rules 2, 4)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from operator import and_

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from ..attribution import answers, given, matched, number
from ..clock import known_before
from ..config import EVERYBODY, LabelConfig, StreamConfig, TaskConfig
from ..tables import SHOWN_KNOWN
from .clean import id_hash
from .moments import Moments, moments_of
from .segment_history import segment_at, segment_periods
from .sequences import PLAIN, Grouping, as_of_column, attribute, continued, fields_of, first_kept, histories, known_events

LARGEST = 1e25  # of a number that is summed: a larger one counts as this
MILLIONTHS = 1_000_000  # down-sampling draws by hash in millionths, and sums are of whole ones


def training_examples(
    events: DataFrame,
    streams: Mapping[str, StreamConfig],
    labels: LabelConfig,
    as_of_ms: int,
    attributes: Mapping[str, str] = {},
    previous: tuple[DataFrame, int] | None = None,
    grouping: Grouping = PLAIN,
    segments: DataFrame | None = None,
    responses: DataFrame | None = None,
    known: bool = False,
    moments: Moments | None = None,
) -> DataFrame:
    """One row per user with an event known before as_of, shaped as TRAINING_EXAMPLES; a user never shown an ad has no impressions.

    With `segments` (USER_SEGMENTS rows), one row per user and segment that an impression of the user was in when it was shown; a user
    never shown an ad has one of the segment at as_of.

    The arrays of a stream hold the last max_events before the user's first impression (without one: before as_of), of the last
    max_days, and all events from there to as_of, so that each impression finds the history that serving would have seen. Labels count
    responses known before as_of only. `attributes` (name -> kind) of the impressions come as arrays `impression__<name>`.

    With labels.days, only users with an event known in the last days before as_of, and only impressions of those days. Then
    `previous` = (USER_SEQUENCES rows, since) with since at or before those days may stand for the events before since, which are
    not read: the rows are the same.

    Where the conf asks for it, impressions whose windows are open are held back, and negatives of the training split are thinned
    out by the hash of the event, the same ones in every run; the rest weigh 1 / labels.negative_rate. Heavy users of `grouping` are
    left out: a row of all of their events would fit no task.

    With labels.clock_skew_seconds, a response that is known before the impression it belongs to is known from that impression on.
    `previous` then has to end so much before those days. `responses`: `matched_responses` of events and labels, where there already.
    known: with the array `shown_known_at_ms`, when each impression became known.

    With `moments`, the rows have the arrays of `moments_of` too.
    """
    border = as_of_ms - labels.validation_ms
    first_ms = labels.first_ms(as_of_ms)
    since = previous[1] if previous else None
    skew_ms = labels.clock_skew_ms
    assert since is None or (first_ms is not None and since <= first_ms - skew_ms), (
        "rows before `since` cannot be told from the previous ones"
    )
    if grouping.heavy:
        events = events.where(~F.col("user_id").isin(list(grouping.heavy)))
    whole = histories(events, streams, as_of_ms, since, grouping)
    if previous:
        whole = continued(whole, previous[0], streams, previous[1])
    impressions = labelled_impressions(events, labels, as_of_ms, attributes, first_ms, responses, moments, known)
    further = [*(f"impression__{name}" for name in attributes), *(moments_of(labels.declared) if moments else ()), *([SHOWN_KNOWN] * known)]
    if first_ms is not None:
        newest = F.greatest(*(F.try_element_at(F.col(f"{name}__known_at_ms"), F.lit(-1)) for name in streams), F.lit(0))
        whole = whole.where(~known_before(newest, F.lit(first_ms)))
    impressions = _sampled(impressions, labels, border)
    if labels.hold_back_immature:
        impressions = impressions.where(as_of_ms - F.col("time_ms") > labels.window_ms)
    fields = ["time_ms", "event_hash", "impression_id", "ad_id", "account_id", *labels.declared, "weight"]
    listed = F.sort_array(F.collect_list(F.struct(*fields, *further)))
    last = F.slice(listed, F.greatest(F.size(listed) - labels.max_impressions + 1, F.lit(1)), labels.max_impressions)
    early = [F.flatten(F.collect_list("early")).alias("_early")] if skew_ms else []
    per_user = impressions.groupBy("user_id").agg(last.alias("_shown"), *early)
    joined = whole.join(per_user, "user_id", "left")
    kind = per_user.schema["_shown"].dataType
    joined = joined.withColumn("_shown", F.coalesce("_shown", F.array().cast(kind)))
    joined = joined.withColumn("segment", F.lit(EVERYBODY)) if segments is None else _by_segment(joined, segments, as_of_ms)
    first = F.lit(moments.history_from_ms) if moments else F.coalesce(F.get("_shown", 0)["time_ms"], F.lit(as_of_ms))
    joined = joined.withColumns({f"_{name}": first_kept(name, stream, first - skew_ms) for name, stream in streams.items()})
    arrays = [(name, f"{name}__{field}") for name, stream in streams.items() for field in fields_of(stream)]
    cut = {column: F.slice(column, F.col(f"_{name}"), F.greatest(F.size(column), F.lit(1))) for name, column in arrays}
    if skew_ms:
        joined = _known_later(joined.withColumns(cut), streams, labels)
    columns = [F.col(column) if skew_ms else cut[column].alias(column) for _, column in arrays]
    shown = F.col("_shown")
    return joined.select(
        "user_id", "country", as_of_column(as_of_ms), "segment",
        *(shown[name].alias(name) for name in ("impression_id", "time_ms", "ad_id", "account_id", *labels.declared)),
        F.transform(shown["time_ms"], lambda t: F.lit(as_of_ms) - t).alias("label_age_ms"),
        shown["weight"].alias("weight"),
        F.transform(shown["time_ms"], lambda t: F.when(t < border, "train").otherwise("validation")).alias("split"),
        *(shown[name].alias(name) for name in further),
        *columns,
    )  # fmt: skip


def _by_segment(users: DataFrame, segments: DataFrame, as_of_ms: int) -> DataFrame:
    """A row per user and segment, with the impressions (`_shown`) of that segment."""
    named = users.join(segment_periods(segments), "user_id", "left")
    periods, shown = F.col("periods"), F.col("_shown")
    named = named.withColumn("_of", F.transform(shown, lambda one: segment_at(periods, one["time_ms"])))
    there = F.when(F.size("_of") > 0, F.array_distinct("_of")).otherwise(F.array(segment_at(periods, F.lit(as_of_ms))))
    each = named.withColumn("segment", F.explode(there))
    mine = F.filter("_shown", lambda one, place: F.get(F.col("_of"), place) == F.col("segment"))
    return each.withColumn("_shown", mine).drop("_of", "periods")


def _sampled(impressions: DataFrame, labels: LabelConfig, border_ms: int) -> DataFrame:
    """The impressions that stay, each with its `weight`."""
    thinned = reduce(and_, (F.col(task) == 0 for task in labels.declared), F.col("time_ms") < border_ms)
    weighed = impressions.withColumn("weight", F.when(thinned, F.lit(1 / labels.negative_rate)).otherwise(F.lit(1.0)))
    drawn = F.pmod(F.xxhash64("event_hash", F.lit("negative_rate")), F.lit(MILLIONTHS)) < round(labels.negative_rate * MILLIONTHS)
    return weighed.where(~thinned | drawn) if labels.negative_rate < 1 else weighed


def labelled_impressions(
    events: DataFrame,
    labels: LabelConfig,
    as_of_ms: int,
    attributes: Mapping[str, str] = {},
    first_ms: int | None = None,
    responses: DataFrame | None = None,
    moments: Moments | None = None,
    known: bool = False,
) -> DataFrame:
    """One row per impression known before as_of: user_id, event_hash, impression_id, time_ms, ad_id, account_id.

    And a column per task: INT, 1 where a response counts for it, or DOUBLE, the sum over these (rounded to millionths, so that the order
    of the responses does not matter). And `impression__<name>` for each of `attributes` (name -> kind), as sequences hold it. With
    first_ms, impressions that happened before it are left out. `responses`: what `matched_responses` made of the same arguments, where
    the caller has it already.

    A response belongs to at most one impression, see attribution.py. It counts when it happened within the window (both ends
    included) and was known before as_of. With labels.clock_skew_seconds, `early` lists the responses known before their impression:
    source, known_at_ms, event_time_ms, item_id, and from_ms, the time of the impression. With `moments`, the arrays' values of
    `moments_of`; what it leaves out is not there. With `known`, SHOWN_KNOWN.
    """
    events = events.where(~moments.too_late(labels)) if moments else events
    also = [*([moments.known()] if moments else []), *([F.unix_millis("known_at").alias(SHOWN_KNOWN)] if known else [])]
    shown = shown_impressions(events, labels, as_of_ms, attributes, first_ms, also)
    if responses is None:
        responses = matched_responses(events, labels, as_of_ms, first_ms)
    skew_ms = labels.clock_skew_ms
    answered = [_label(task, answers(task, skew_ms)).alias(name) for name, task in labels.declared.items()]
    if skew_ms:
        early = F.struct(
            "source", "known_at_ms", F.col("response_ms").alias("event_time_ms"), F.col("ad_id").alias("item_id"),
            F.col("time_ms").alias("from_ms"),
        )  # fmt: skip
        answered.append(F.collect_list(F.when(F.col("known_at_ms") < F.col("time_ms"), early)).alias("early"))
    answered += moments.answered(labels) if moments else []
    per_impression = responses.where("event_hash IS NOT NULL").groupBy("user_id", "event_hash").agg(*answered)
    joined = shown.join(per_impression, ["user_id", "event_hash"], "left")
    joined = moments.completed(joined, labels) if moments else joined
    return joined.withColumns({name: F.coalesce(name, F.lit(0.0 if task.sum else 0)) for name, task in labels.declared.items()})


def _label(task: TaskConfig, counts: Column) -> Column:
    """Aggregate over the responses of an impression, of which those where `counts` holds count."""
    if not task.sum:
        return F.max(counts.cast("int"))
    number = F.greatest(F.lit(-LARGEST), F.least(F.lit(LARGEST), F.col(f"number__{task.sum}")))
    return F.sum(F.when(counts, F.round(number * MILLIONTHS).cast("decimal(38,0)"))).cast("double") / MILLIONTHS


def shown_impressions(
    events: DataFrame,
    labels: LabelConfig,
    as_of_ms: int,
    attributes: Mapping[str, str] = {},
    first_ms: int | None = None,
    also: Sequence[Column] = (),
) -> DataFrame:
    """One row per impression known before as_of: user_id, event_hash, impression_id, time_ms, ad_id, account_id.

    And `impression__<name>` for each of `attributes` (name -> kind), and the columns `also` of events. impression_id is the event's id
    where the log has none. With first_ms, impressions that happened before it are left out, and events known before it not read.
    """
    known = known_events(events, as_of_ms, first_ms).where(F.col("source") == labels.impression_source)
    if first_ms is not None:
        known = known.where(F.unix_millis("event_time") >= first_ms)
    return known.select(
        "user_id", "event_hash", F.coalesce(given("impression_id"), "event_id").alias("impression_id"),
        F.unix_millis("event_time").alias("time_ms"), F.col("item_hash").alias("ad_id"), id_hash(F.col("account_id")).alias("account_id"),
        *(attribute(name, kind).alias(f"impression__{name}") for name, kind in attributes.items()), *also,
    )  # fmt: skip


def matched_responses(events: DataFrame, labels: LabelConfig, as_of_ms: int, first_ms: int | None = None) -> DataFrame:
    """One row per response known before as_of: source, known_at_ms, what `answers` reads, and what `matched` says of it.

    With first_ms, only impressions since then and responses since then (or to one of these impressions); which ads an id stands on is
    told by the impressions since then. One shuffle of impressions and responses by user.
    """
    skew_ms = labels.clock_skew_ms
    since_ms = None if first_ms is None else first_ms - skew_ms
    known = known_events(events, as_of_ms, since_ms).where(F.col("source").isin(*labels.response_sources))
    responses = known.select(
        "user_id", "source", given("impression_id").alias("impression_id"), F.col("item_hash").alias("ad_id"),
        F.unix_millis("event_time").alias("response_ms"), F.unix_millis("known_at").alias("known_at_ms"),
        *map(number, labels.response_numbers),
    )  # fmt: skip
    found = matched(shown_impressions(events, labels, as_of_ms, {}, first_ms), responses, skew_ms)
    return found if first_ms is None else found.where((F.col("response_ms") >= first_ms) | F.col("event_hash").isNotNull())


def _known_later(rows: DataFrame, streams: Mapping[str, StreamConfig], labels: LabelConfig) -> DataFrame:
    """The rows with the responses that `_early` lists known from their impression on: no history at it may hold what answers it.

    Their clock was behind. The arrays stay in the order of becoming known.
    """
    for name in sorted({*labels.response_sources} & set(streams)):
        fields = fields_of(streams[name])
        events = F.arrays_zip(*(F.col(f"{name}__{field}").alias(field) for field in fields))
        ordered = F.sort_array(F.transform(events, _later(name, fields)))
        changed = F.when(F.size("_early") > 0, ordered)
        rows = rows.withColumn("_ordered", changed).withColumns(
            {f"{name}__{field}": F.coalesce(F.col("_ordered")[field], F.col(f"{name}__{field}")) for field in fields}
        )
    return rows


def _later(source: str, fields: Sequence[str]) -> Callable[[Column, Column], Column]:
    """For F.transform: an event of the stream with the time from which it is known, its place among equals, and its further fields."""
    identity = ("known_at_ms", "event_time_ms", "item_id")

    def moved(event: Column, place: Column) -> Column:
        same = F.filter("_early", lambda one: (one["source"] == source) & reduce(and_, (one[field] == event[field] for field in identity)))
        known = F.greatest(event["known_at_ms"], F.array_max(F.transform(same, lambda one: one["from_ms"])))
        return F.struct(known.alias("known_at_ms"), place.alias("place"), *(event[field].alias(field) for field in fields[1:]))

    return moved
