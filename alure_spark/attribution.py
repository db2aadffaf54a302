"""Which impression a response (a click, a conversion) belongs to, and how many responses belong to none.

Enters: impressions and responses. Leaves: one row per response, with at most one impression: labels, the funnel and the report of
`build_sequences` all read the same answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from operator import and_

from pyspark.sql import Column, DataFrame, Window, WindowSpec
from pyspark.sql import functions as F

from .clock import HOUR_MS
from .config import LabelConfig, TaskConfig

HINT_MS = 60_000  # a response that is earlier than its impression by at most so much is taken for one of a clock that is behind


def matched(shown: DataFrame, responses: DataFrame, skew_ms: int = 0) -> DataFrame:
    """The responses, each with the impression that it belongs to, or with null.

    shown: user_id, event_hash, impression_id, time_ms, ad_id. responses: user_id, impression_id (null: it names none), ad_id,
    response_ms, and further columns. An impression_id may be that of a request which showed several ads. A response that names one
    belongs to the last impression of that id at or before it; where the id stands on several ads of the user, only impressions of the
    response's ad count. A response that names none belongs to the user's last impression of its ad at or before it (last touch).
    Where none is at or before a response that names one, the first one at most skew_ms after it counts. Last touch has no skew: nothing
    says that a response before an impression answers it, and an ad that is shown because it was clicked elsewhere would count as clicked.

    Adds event_hash and time_ms of the impression; `several` (BOOLEAN): more than one impression of the id and ad was there to choose
    from; `ambiguous`: its id stands on several ads, of which it names none; `early_ms`: by how much it is earlier than the first
    impression that it names, where that is why it has none.
    """
    is_shown, named = ~F.col("_is_response"), F.col("impression_id").isNotNull()
    impression = F.struct("event_hash", "time_ms").alias("_shown")
    walk = (
        shown.select("user_id", "impression_id", "ad_id", impression, F.lit(False).alias("_is_response"))
        .unionByName(responses.withColumn("_is_response", F.lit(True)), allowMissingColumns=True)
        .withColumn("_t", F.coalesce("_shown.time_ms", "response_ms"))
        .repartition("user_id")  # one exchange for the three windows
    )
    of_id = Window.partitionBy("user_id", "impression_id")
    ads = F.when(is_shown, F.col("ad_id"))
    first_ad, last_ad = F.min(ads).over(of_id), F.max(ads).over(of_id)
    several_ads = first_ad != last_ad
    walk = walk.select("*", several_ads.alias("_several_ads"), F.when(several_ads, F.col("ad_id")).otherwise(first_ad).alias("_ad"))
    of_thread, of_ad = Window.partitionBy("user_id", "impression_id", "_ad"), Window.partitionBy("user_id", "ad_id")

    def so_far(of: WindowSpec) -> WindowSpec:
        return of.orderBy("_t", "_is_response", "_shown.event_hash").rowsBetween(Window.unboundedPreceding, 0)

    walk = walk.select(
        "*",
        F.last("_shown", ignorenulls=True).over(so_far(of_thread)).alias("_by_id"),
        F.count("_shown").over(so_far(of_thread)).alias("_choice"),
        F.min(F.when(is_shown, F.struct("_shown.time_ms", "_shown.event_hash"))).over(of_thread).alias("_first"),
    )
    within_skew = F.when(F.col("_first.time_ms") <= F.col("response_ms") + skew_ms, F.struct("_first.event_hash", "_first.time_ms"))
    walk = walk.withColumn("_by_id", F.coalesce("_by_id", within_skew))
    walk = walk.withColumn("_by_ad", F.last("_shown", ignorenulls=True).over(so_far(of_ad)))
    one = F.when(named, F.col("_by_id")).otherwise(F.col("_by_ad"))
    without = named & F.col("_by_id").isNull()
    return walk.where("_is_response").select(
        *responses.columns, one["event_hash"].alias("event_hash"), one["time_ms"].alias("time_ms"),
        (named & (F.col("_choice") > 1)).alias("several"),
        (without & F.coalesce("_several_ads", F.lit(False)) & F.col("_first").isNull()).alias("ambiguous"),
        F.when(without, F.col("_first.time_ms") - F.col("response_ms")).alias("early_ms"),
    )  # fmt: skip


def counts(task: TaskConfig, skew_ms: int = 0, first_ms: int | None = None) -> Column:
    """Aggregate over rows of `matched` with what `answers` reads: a struct of the fields of ResponseCounts for one task."""
    mine, none = _counts_for(task), F.col("event_hash").isNull() & ~F.col("ambiguous")
    hit = answers(task, skew_ms)
    early, just_early = (none & F.coalesce(test, F.lit(False)) for test in (F.col("early_ms") > 0, F.col("early_ms") <= HINT_MS))
    window_ms = round(task.window_hours * HOUR_MS)
    older = F.lit(False) if first_ms is None else none & ~just_early & (F.col("response_ms") < first_ms + window_ms)
    conditions = {
        "responses": mine,
        "matched": hit,
        "several": hit & F.col("several"),
        "outside_window": mine & F.col("event_hash").isNotNull() & ~hit,
        "ambiguous": mine & F.col("ambiguous"),
        "older": mine & older,
        "matched_nothing": mine & none & ~older,
        "early": mine & early & ~older,
        "just_early": mine & just_early,
    }
    return F.struct(*(F.count_if(condition).alias(name) for name, condition in conditions.items()))


def answers(task: TaskConfig, skew_ms: int = 0) -> Column:
    """Whether a row of `matched` is a response that counts for the task, within the window after its impression (both ends included).

    Reads source, and number__<column> of task.numbers.
    """
    delay = F.col("response_ms") - F.col("time_ms")
    return _counts_for(task) & F.coalesce(delay.between(-skew_ms, round(task.window_hours * HOUR_MS)), F.lit(False))


def number(name: str) -> Column:
    """number__<name> of an event, for `answers`: DOUBLE."""
    return F.col(name).cast("double").alias(f"number__{name}")


def _counts_for(task: TaskConfig) -> Column:
    """Whether a response is of the task's stream and not below its bounds."""
    bounds = (F.coalesce(F.col(f"number__{name}") >= least, F.lit(False)) for name, least in sorted(task.at_least.items()))
    return reduce(and_, bounds, F.col("source") == task.source)


@dataclass(frozen=True)
class ResponseCounts:
    """Of the responses of one task: how many belong to an impression, and why the others do not."""

    responses: int
    matched: int
    several: int  # of the matched: several impressions of one id and ad were there, the last of them was taken
    outside_window: int
    ambiguous: int  # the id stands on several ads, of which the response names none
    older: int  # no impression within labels.days; it may be an earlier one
    matched_nothing: int
    early: int  # of those: earlier than the impression that they name
    just_early: int  # of those: by at most a minute

    def sentence(self, label: str, source: str, window: str = "") -> str:
        """label: the task; window: the setting that says how long a response counts, where it is not that of click or conversion."""
        parts = [f"{self.matched:,} of {self.responses:,} responses label an impression as {label}"]
        if self.several:
            parts.append(f"{self.several:,} of these name an id under which the ad was shown several times: the last one counts")
        if self.outside_window:
            parts.append(f"{self.outside_window:,} came after {window or f'labels.{label}_window_hours'}")
        if self.ambiguous:
            parts.append(f"{self.ambiguous:,} name an id of several ads and none of these ads")
        if self.older:
            parts.append(f"{self.older:,} may answer an impression from before labels.days")
        if self.matched_nothing:
            early = f", {self.early:,} of them earlier than the one they name" if self.early else ""
            hint = f" ({self.just_early:,} by at most a minute: set labels.clock_skew_seconds)" if self.just_early else ""
            parts.append(f"{self.matched_nothing:,} matched no impression{early}{hint}")
        return f"{source}: {'; '.join(parts)}"


def count_responses(found: DataFrame, labels: LabelConfig, first_ms: int | None = None) -> dict[str, ResponseCounts]:
    """Task -> counts of the rows of `matched` with what `answers` reads. One pass."""
    asked = [counts(task, labels.clock_skew_ms, first_ms).alias(name) for name, task in labels.declared.items()]
    row = found.agg(*asked).collect()[0]
    return {name: ResponseCounts(**row[name].asDict()) for name in labels.declared}


def sentences(found: Mapping[str, ResponseCounts], labels: LabelConfig) -> list[str]:
    """One per task: what became of its responses."""
    windows = {name: f"labels.tasks.{name}.window_hours" for name in labels.tasks}
    return [found[name].sentence(name, task.source, windows.get(name, "")) for name, task in labels.declared.items()]


def given(name: str) -> Column:
    """The text, null where it is empty."""
    return F.nullif(name, F.lit(""))
