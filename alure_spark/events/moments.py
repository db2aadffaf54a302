"""When what is known of an impression became known: what a model that learns through the day asks of labelled examples besides.

A label changes as responses come in. Whoever learns in small steps has to know from when on each label was what it is, and a step that is
made again later must find the same. So a response answers from when it is known, and not before all impressions that it may belong to are
known: what came later never moves it to another one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from ..attribution import answers
from ..clock import NEVER_MS
from ..config import LabelConfig, OnlineConfig

EVENT, KNOWN, ACCOUNT = "moment__event_hash", "moment__known_ms", "moment__account"  # no task can be called so


def moments_of(tasks: Iterable[str]) -> tuple[str, ...]:
    """Arrays of the examples, BIGINT: the impression's event, when it became known, its account, and from when each task's label was 1."""
    return (EVENT, KNOWN, ACCOUNT, *map(answered, tasks))


def answered(task: str) -> str:
    """What the array of a task is called."""
    return f"answered_ms__{task}"


@dataclass(frozen=True)
class Moments:
    """What is asked for beside the examples."""

    history_from_ms: int  # histories are cut as if each user's first impression had been then, so that a later as_of gives no other ones
    late_ms: int  # an impression that became known later than so long after it was shown is left out
    report_ms: int  # a response that became known later than so long after it happened is left out
    account: str = "account_id"  # account_id, ad_id or an attribute of impressions

    @classmethod
    def of(cls, config: OnlineConfig, history_from_ms: int) -> Moments:
        return cls(history_from_ms, config.late_ms, config.report_ms, config.account)

    def too_late(self, labels: LabelConfig) -> Column:
        """Whether an event is left out."""
        after = F.unix_millis("known_at") - F.unix_millis("event_time")
        shown = (F.col("source") == labels.impression_source) & (after > self.late_ms)
        return shown | (F.col("source").isin(*labels.response_sources) & (after > self.report_ms))

    def known(self) -> Column:
        """Of an event: when it became known."""
        return F.unix_millis("known_at").alias(KNOWN)

    def answered(self, labels: LabelConfig) -> list[Column]:
        """Aggregates over the responses (rows of `matched`) of an impression: from when on they answer, null where none does."""
        of_response = F.greatest("known_at_ms", F.col("response_ms") + labels.clock_skew_ms + self.late_ms)
        tasks = labels.declared.items()
        return [F.min(F.when(answers(task, labels.clock_skew_ms), of_response)).alias(answered(name)) for name, task in tasks]

    def completed(self, impressions: DataFrame, labels: LabelConfig) -> DataFrame:
        """Labelled impressions with all of `moments_of`. No response answers before its impression is known: that is late_ms at most."""
        account = self.account if self.account in ("account_id", "ad_id") else f"impression__{self.account}"
        columns = {EVENT: F.col("event_hash"), ACCOUNT: F.coalesce(account, F.lit(0).cast("bigint"))}
        for name in map(answered, labels.declared):
            columns[name] = F.coalesce(name, F.lit(NEVER_MS))
        return impressions.withColumns(columns)
