"""Clean events -> labelled training examples: what every impression of a user may look at, and what became of it (house rules 2, 4)."""

from __future__ import annotations

from collections.abc import Mapping

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from ..boundary import known_before
from ..config import DAY_MS, EVERYBODY, HOUR_MS, LabelConfig, StreamConfig
from .clean import id_hash
from .segment_history import segment_at, segment_periods
from .sequences import PLAIN, Grouping, as_of_column, attribute, continued, fields_of, first_kept, histories, known_events

SHARES = 1_000_000  # down-sampling draws by hash, in millionths


def training_examples(
    events: DataFrame,
    streams: Mapping[str, StreamConfig],
    labels: LabelConfig,
    as_of_ms: int,
    attributes: Mapping[str, str] = {},
    previous: tuple[DataFrame, int] | None = None,
    grouping: Grouping = PLAIN,
    segments: DataFrame | None = None,
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
    """
    border = as_of_ms - int(labels.validation_days * DAY_MS)
    first_ms = labels.first_ms(as_of_ms)
    since = previous[1] if previous else None
    assert since is None or (first_ms is not None and since <= first_ms), "rows before `since` cannot be told from the previous ones"
    if grouping.heavy:
        events = events.where(~F.col("user_id").isin(list(grouping.heavy)))
    whole = histories(events, streams, as_of_ms, since, grouping)
    if previous:
        whole = continued(whole, previous[0], streams, previous[1])
    impressions = labelled_impressions(events, labels, as_of_ms, attributes, first_ms)
    if first_ms is not None:
        newest = F.greatest(*(F.try_element_at(F.col(f"{name}__known_at_ms"), F.lit(-1)) for name in streams), F.lit(0))
        whole = whole.where(~known_before(newest, F.lit(first_ms)))
    impressions = _sampled(impressions, labels, border)
    if labels.hold_back_immature:
        impressions = impressions.where(as_of_ms - F.col("time_ms") > labels.window_ms)
    fields = ["time_ms", "event_hash", "impression_id", "ad_id", "account_id", "click", "conversion", "weight"]
    listed = F.sort_array(F.collect_list(F.struct(*fields, *(f"impression__{name}" for name in attributes))))
    last = F.slice(listed, F.greatest(F.size(listed) - labels.max_impressions + 1, F.lit(1)), labels.max_impressions)
    per_user = impressions.groupBy("user_id").agg(last.alias("_shown"))
    joined = whole.join(per_user, "user_id", "left")
    kind = per_user.schema["_shown"].dataType
    joined = joined.withColumn("_shown", F.coalesce("_shown", F.array().cast(kind)))
    joined = joined.withColumn("segment", F.lit(EVERYBODY)) if segments is None else _by_segment(joined, segments, as_of_ms)
    first = F.coalesce(F.get("_shown", 0)["time_ms"], F.lit(as_of_ms))
    joined = joined.withColumns({f"_{name}": first_kept(name, stream, first) for name, stream in streams.items()})
    arrays = [(name, f"{name}__{field}") for name, stream in streams.items() for field in fields_of(stream)]
    columns = [F.slice(column, F.col(f"_{name}"), F.greatest(F.size(column), F.lit(1))).alias(column) for name, column in arrays]
    shown = F.col("_shown")
    return joined.select(
        "user_id", "country", as_of_column(as_of_ms), "segment",
        *(shown[name].alias(name) for name in ("impression_id", "time_ms", "ad_id", "account_id", "click", "conversion")),
        F.transform(shown["time_ms"], lambda t: F.lit(as_of_ms) - t).alias("label_age_ms"),
        shown["weight"].alias("weight"),
        F.transform(shown["time_ms"], lambda t: F.when(t < border, "train").otherwise("validation")).alias("split"),
        *(shown[f"impression__{name}"].alias(f"impression__{name}") for name in attributes),
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
    thinned = (F.col("time_ms") < border_ms) & (F.col("click") == 0) & (F.col("conversion") == 0)
    weighed = impressions.withColumn("weight", F.when(thinned, F.lit(1 / labels.negative_rate)).otherwise(F.lit(1.0)))
    drawn = F.pmod(F.xxhash64("event_hash", F.lit("negative_rate")), F.lit(SHARES)) < round(labels.negative_rate * SHARES)
    return weighed.where(~thinned | drawn) if labels.negative_rate < 1 else weighed


def labelled_impressions(
    events: DataFrame, labels: LabelConfig, as_of_ms: int, attributes: Mapping[str, str] = {}, first_ms: int | None = None
) -> DataFrame:
    """One row per impression known before as_of: user_id, event_hash, impression_id, time_ms, ad_id, account_id, click, conversion.

    And `impression__<name>` for each of `attributes` (name -> kind), as sequences hold it. With first_ms, impressions that happened
    before it are left out, and events known before it not read: none of them can matter to the others.

    A response belongs to the impression that its impression_id names; without one, to the user's last impression of the same
    ad at or before it. It counts when it happened within the window (both ends included) and was known before as_of.
    """
    known = known_events(events, as_of_ms, first_ms)
    if first_ms is not None:
        known = known.where(F.unix_millis("event_time") >= first_ms)
    shown = known.where(F.col("source") == labels.impression_source).select(
        "user_id", "event_hash", F.coalesce("impression_id", "event_id").alias("impression_id"),
        F.unix_millis("event_time").alias("time_ms"), F.col("item_hash").alias("ad_id"), id_hash(F.col("account_id")).alias("account_id"),
        *(attribute(name, kind).alias(f"impression__{name}") for name, kind in attributes.items()),
    )  # fmt: skip
    for label, source, hours in (
        ("click", labels.click_source, labels.click_window_hours),
        ("conversion", labels.conversion_source, labels.conversion_window_hours),
    ):
        responses = known.where(F.col("source") == source).select(
            "user_id", "impression_id", F.col("item_hash").alias("ad_id"), F.unix_millis("event_time").alias("response_ms")
        )
        hits = _attributed(shown, responses, int(hours * HOUR_MS)).withColumn(label, F.lit(1))
        shown = shown.join(hits, ["user_id", "event_hash"], "left").withColumn(label, F.coalesce(label, F.lit(0)))
    return shown


def _attributed(shown: DataFrame, responses: DataFrame, window_ms: int) -> DataFrame:
    """Distinct (user_id, event_hash) of impressions that a response followed within the window."""
    in_window = (F.col("response_ms") - F.col("time_ms")).between(0, window_ms)
    named = shown.join(responses.where("impression_id IS NOT NULL").drop("ad_id"), ["user_id", "impression_id"]).where(in_window)
    # Last touch: walk the impressions and nameless responses of a user and ad in time, an impression before a response.
    walk = shown.select(
        "user_id", "ad_id", F.col("time_ms").alias("t"), F.lit(0).alias("is_response"), "event_hash", "time_ms"
    ).unionByName(
        responses.where("impression_id IS NULL").select("user_id", "ad_id", F.col("response_ms").alias("t"), F.lit(1).alias("is_response")),
        allowMissingColumns=True,
    )
    past = Window.partitionBy("user_id", "ad_id").orderBy("t", "is_response", "event_hash").rowsBetween(Window.unboundedPreceding, 0)
    touched = walk.select(
        "user_id", "is_response", F.col("t").alias("response_ms"),
        F.last("event_hash", ignorenulls=True).over(past).alias("event_hash"),
        F.last("time_ms", ignorenulls=True).over(past).alias("time_ms"),
    ).where((F.col("is_response") == 1) & in_window)  # fmt: skip
    return named.select("user_id", "event_hash").union(touched.select("user_id", "event_hash")).distinct()
