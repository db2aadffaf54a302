"""Which impression a response (a click, a conversion) belongs to, and how many responses belong to none.

Enters: clean events. Leaves: one row per response, with at most one impression: labels, the funnel and the report of
`build_sequences` all read the same answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from ..config import HOUR_MS, LabelConfig
from .clean import id_hash
from .sequences import attribute, known_events

HINT_MS = 60_000  # a response that is earlier than its impression by at most so much is taken for one of a clock that is behind


def shown_impressions(
    events: DataFrame, labels: LabelConfig, as_of_ms: int, attributes: Mapping[str, str] = {}, first_ms: int | None = None
) -> DataFrame:
    """One row per impression known before as_of: user_id, event_hash, impression_id, time_ms, ad_id, account_id.

    And `impression__<name>` for each of `attributes` (name -> kind). impression_id is the event's id where the log has none. With
    first_ms, impressions that happened before it are left out, and events known before it not read.
    """
    known = known_events(events, as_of_ms, first_ms).where(F.col("source") == labels.impression_source)
    if first_ms is not None:
        known = known.where(F.unix_millis("event_time") >= first_ms)
    return known.select(
        "user_id", "event_hash", F.coalesce(given("impression_id"), "event_id").alias("impression_id"),
        F.unix_millis("event_time").alias("time_ms"), F.col("item_hash").alias("ad_id"), id_hash(F.col("account_id")).alias("account_id"),
        *(attribute(name, kind).alias(f"impression__{name}") for name, kind in attributes.items()),
    )  # fmt: skip


def matched_responses(events: DataFrame, labels: LabelConfig, as_of_ms: int, first_ms: int | None = None) -> DataFrame:
    """One row per response known before as_of: source, known_at_ms, and what `matched` says of it.

    With first_ms, only impressions since then and responses since then (or to one of these impressions); which ads an id stands on is
    told by the impressions since then. One shuffle of impressions and responses by user.
    """
    skew_ms = labels.clock_skew_ms
    since_ms = None if first_ms is None else first_ms - skew_ms
    known = known_events(events, as_of_ms, since_ms).where(F.col("source").isin(labels.click_source, labels.conversion_source))
    responses = known.select(
        "user_id", "source", given("impression_id").alias("impression_id"), F.col("item_hash").alias("ad_id"),
        F.unix_millis("event_time").alias("response_ms"), F.unix_millis("known_at").alias("known_at_ms"),
    )  # fmt: skip
    found = matched(shown_impressions(events, labels, as_of_ms, {}, first_ms), responses, skew_ms)
    return found if first_ms is None else found.where((F.col("response_ms") >= first_ms) | F.col("event_hash").isNotNull())


def matched(shown: DataFrame, responses: DataFrame, skew_ms: int = 0) -> DataFrame:
    """The responses, each with the impression that it belongs to, or with null.

    shown: user_id, event_hash, impression_id, time_ms, ad_id. responses: user_id, impression_id (null: it names none), ad_id,
    response_ms, and further columns. An impression_id may be that of a request which showed several ads. A response that names one
    belongs to the last impression of that id at or before it; where the id stands on several ads of the user, only impressions of the
    response's ad count. A response that names none belongs to the user's last impression of its ad at or before it (last touch).
    A response that names an impression counts as up to skew_ms later than it says. Last touch has no skew: nothing says that a
    response before an impression answers it, and an ad that is shown because it was clicked elsewhere would count as clicked.

    Adds event_hash and time_ms of the impression; `several` (BOOLEAN): more than one impression of the id and ad was there to choose
    from; `ambiguous`: its id stands on several ads, of which it names none; `early_ms`: by how much it is earlier than the first
    impression that it names, where that is why it has none.
    """
    is_shown, named = ~F.col("_is_response"), F.col("impression_id").isNotNull()
    late = F.when(named, F.col("response_ms") + skew_ms).otherwise(F.col("response_ms"))
    impression = F.struct("event_hash", "time_ms").alias("_shown")
    walk = (
        shown.select("user_id", "impression_id", "ad_id", impression, F.lit(False).alias("_is_response"))
        .unionByName(responses.withColumn("_is_response", F.lit(True)), allowMissingColumns=True)
        .withColumn("_t", F.coalesce("_shown.time_ms", late))
        .repartition("user_id")  # one exchange for the three windows
    )
    of_id = Window.partitionBy("user_id", "impression_id")
    ads = F.when(is_shown, F.col("ad_id"))
    first_ad, last_ad = F.min(ads).over(of_id), F.max(ads).over(of_id)
    several_ads = first_ad != last_ad
    walk = walk.select("*", several_ads.alias("_several_ads"), F.when(several_ads, F.col("ad_id")).otherwise(first_ad).alias("_ad"))
    of_thread, of_ad = Window.partitionBy("user_id", "impression_id", "_ad"), Window.partitionBy("user_id", "ad_id")

    def so_far(of: Window) -> Window:
        return of.orderBy("_t", "_is_response", "_shown.event_hash").rowsBetween(Window.unboundedPreceding, 0)

    walk = walk.select(
        "*",
        F.last("_shown", ignorenulls=True).over(so_far(of_thread)).alias("_by_id"),
        F.count("_shown").over(so_far(of_thread)).alias("_choice"),
        F.min("_shown.time_ms").over(of_thread).alias("_first_ms"),
    )
    walk = walk.withColumn("_by_ad", F.last("_shown", ignorenulls=True).over(so_far(of_ad)))
    one = F.when(named, F.col("_by_id")).otherwise(F.col("_by_ad"))
    without = named & F.col("_by_id").isNull()
    return walk.where("_is_response").select(
        *responses.columns, one["event_hash"].alias("event_hash"), one["time_ms"].alias("time_ms"),
        (named & (F.col("_choice") > 1)).alias("several"),
        (without & F.coalesce("_several_ads", F.lit(False)) & F.col("_first_ms").isNull()).alias("ambiguous"),
        F.when(without, F.col("_first_ms") - F.col("response_ms")).alias("early_ms"),
    )  # fmt: skip


def counts(source: str, window_hours: float, skew_ms: int = 0, first_ms: int | None = None) -> Column:
    """Aggregate over rows of `matched_responses`: a struct of the fields of ResponseCounts for one label."""
    mine, none = F.col("source") == source, F.col("event_hash").isNull() & ~F.col("ambiguous")
    hit = mine & answers(source, window_hours, skew_ms)
    just_early = none & F.coalesce(F.col("early_ms") <= HINT_MS, F.lit(False))
    older = F.lit(False) if first_ms is None else none & ~just_early & (F.col("response_ms") < first_ms + int(window_hours * HOUR_MS))
    conditions = {
        "responses": mine,
        "matched": hit,
        "several": hit & F.col("several"),
        "outside_window": mine & F.col("event_hash").isNotNull() & ~hit,
        "ambiguous": mine & F.col("ambiguous"),
        "older": mine & older,
        "matched_nothing": mine & none & ~older,
        "just_early": mine & just_early,
    }
    return F.struct(*(F.count_if(condition).alias(name) for name, condition in conditions.items()))


def answers(source: str, window_hours: float, skew_ms: int = 0) -> Column:
    """Whether a row of `matched_responses` is a response of that stream within the window after its impression (both ends included)."""
    delay = F.col("response_ms") - F.col("time_ms")
    return F.coalesce((F.col("source") == source) & delay.between(-skew_ms, int(window_hours * HOUR_MS)), F.lit(False))


@dataclass(frozen=True)
class ResponseCounts:
    """Of the responses of one label: how many belong to an impression, and why the others do not."""

    responses: int
    matched: int
    several: int  # of the matched: several impressions of one id and ad were there, the last of them was taken
    outside_window: int
    ambiguous: int  # the id stands on several ads, of which the response names none
    older: int  # no impression within labels.days; it may be an earlier one
    matched_nothing: int
    just_early: int  # of those: earlier than the impression they name by at most a minute

    def sentence(self, label: str, source: str) -> str:
        parts = [f"{self.matched:,} of {self.responses:,} responses label an impression as {label}"]
        if self.several:
            parts.append(f"{self.several:,} of these name an id under which the ad was shown several times: the last one counts")
        if self.outside_window:
            parts.append(f"{self.outside_window:,} came after labels.{label}_window_hours")
        if self.ambiguous:
            parts.append(f"{self.ambiguous:,} name an id of several ads and none of these ads")
        if self.older:
            parts.append(f"{self.older:,} may answer an impression from before labels.days")
        if self.matched_nothing:
            early = f", {self.just_early:,} of them because they are earlier than theirs by at most a minute" if self.just_early else ""
            hint = " (clocks that differ: set labels.clock_skew_seconds)" if self.just_early else ""
            parts.append(f"{self.matched_nothing:,} matched no impression{early}{hint}")
        return f"{source}: {'; '.join(parts)}"


def count_responses(found: DataFrame, labels: LabelConfig, first_ms: int | None = None) -> dict[str, ResponseCounts]:
    """Label (click, conversion) -> counts of the rows of `matched_responses`. One pass."""
    asked = [counts(source, hours, labels.clock_skew_ms, first_ms).alias(label) for label, source, hours in labels.responses]
    row = found.agg(*asked).collect()[0]
    return {label: ResponseCounts(**row[label].asDict()) for label, _, _ in labels.responses}


def given(name: str) -> Column:
    """The text, null where it is empty."""
    return F.nullif(name, F.lit(""))
