"""Writes `user_sequences`, `training_examples` and the new rows of `vocabularies` of one as_of, whole or from an earlier one on.

Enters: `events`, the as_of to go on from (previous.py), a run of the lake. Leaves: the tables, and what is counted of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from ..attribution import ResponseCounts, count_responses
from ..clock import format_time
from ..config import EVERYBODY, Config
from ..errors import DataError
from ..lake import JobRun, as_of_scope
from . import examples, vocabularies
from .previous import Previous, previous_sequences
from .sequences import SHARED_HASH, Grouping, heavy_users, touched_sequences, user_sequences

Metrics = dict[str, float | None]


def write_sequences(run: JobRun, config: Config, events: DataFrame, since: int | None) -> tuple[int, tuple[str, ...]]:
    """Users with a row, and those among them who are heavy. since: the as_of to go on from, epoch ms; None: everybody is built.

    Raises DataError where no event was known before as_of.
    """
    as_of = config.time.as_of_ms
    heavy = heavy_users(events, as_of, since)

    def sequences(grouping: Grouping) -> DataFrame:
        if since is None:
            return user_sequences(events, config.streams, as_of, grouping)
        return touched_sequences(events, run.read("user_sequences"), config.streams, since, as_of, grouping)

    users = _written(run, "user_sequences", sequences, heavy, as_of_scope(as_of))
    if not users and since is None:
        known = events.selectExpr("unix_millis(min(known_at))", "unix_millis(max(known_at))").collect()[0]
        first, last = ("never" if moment is None else format_time(moment) for moment in known)
        raise DataError(f"no event was known before time.as_of={config.time.as_of}: events are known from {first} to {last}")
    return users, heavy


@dataclass(frozen=True)
class Examples:
    """What `training_examples` was made from."""

    start: int | None  # epoch ms: sequences of this as_of and later events were read; None: all events
    too_heavy: tuple[str, ...]  # users that have no row because they have too many events
    responses: Mapping[str, ResponseCounts]  # task -> what became of its responses


def write_examples(run: JobRun, config: Config, events: DataFrame, since: int | None, heavy: tuple[str, ...]) -> Examples:
    """since and heavy: what `write_sequences` was given and found."""
    as_of, labels = config.time.as_of_ms, config.labels
    first_ms = labels.first_ms(as_of)
    skew_ms = labels.clock_skew_ms
    start = previous_sequences(run.lake, first_ms - skew_ms, config.sequence_digest()).since if first_ms is not None else None
    segments = run.read("user_segments") if config.segmented else None
    too_heavy = heavy if start == since else heavy_users(events, as_of, start)
    light = events.where(~F.col("user_id").isin(list(too_heavy))) if too_heavy else events
    responses = examples.matched_responses(light, labels, as_of, first_ms).persist()  # read for the labels and for the counts

    def labelled(grouping: Grouping) -> DataFrame:
        before = None if start is None else (run.read("user_sequences"), start)
        return examples.training_examples(
            events, config.streams, labels, as_of, config.impression_attributes, before, grouping, segments, responses,
            known=bool(config.transfer.layer),
        )  # fmt: skip

    _written(run, "training_examples", labelled, too_heavy, as_of_scope(as_of))
    counted = count_responses(responses, labels, first_ms)
    responses.unpersist()
    return Examples(start, too_heavy, counted)


def _written(run: JobRun, name: str, build_rows: Callable[[Grouping], DataFrame], heavy: tuple[str, ...], scope: str) -> int:
    """Write what is built by grouping hashes of users, or, should two of them share one, by grouping the users themselves."""
    grouping = Grouping(heavy=heavy)
    try:
        return run.write(name, build_rows(grouping), scope)
    except Exception as error:
        if SHARED_HASH not in str(error):
            raise
    return run.write(name, build_rows(replace(grouping, by_hash=False)), scope)


def write_vocabularies(run: JobRun, config: Config, events: DataFrame, previous: Previous) -> int:
    """Appends the rows of ids that have none yet; how many rows there are then."""
    vocabulary = run.read("vocabularies") if "vocabularies" in run.lake.published_versions() else None
    categorical = [name for name, kind in config.attribute_kinds().items() if kind == "categorical"]
    complete = previous.facts.get("vocabulary_digest") == config.vocabulary_digest()
    as_of, since = config.time.as_of_ms, previous.since if complete else None
    added = vocabularies.new_vocabulary_rows(events, vocabulary, categorical, as_of, config.vocabulary, since)
    run.write("vocabularies", added, scope=as_of_scope(as_of).replace("as_of", "first_seen"), append=True)
    return run.written("vocabularies").count()


def example_metrics(run: JobRun, config: Config) -> Metrics:
    """Counts of the `training_examples` that the run has written; per segment where the conf has policies or experiments for segments."""
    totals = run.written("training_examples").where(as_of_scope(config.time.as_of_ms)).selectExpr(
        "count_if(size(impression_id) > 0) AS users_with_impressions",
        "sum(size(impression_id)) AS impressions",
        *(f"sum(aggregate(`{task}`, 0D, (a, x) -> a + x)) AS {task}s" for task in config.labels.declared),
    ).first()  # fmt: skip
    assert totals is not None
    metrics: Metrics = {key: None if value is None else float(value) for key, value in totals.asDict().items()}
    return metrics | (_segment_metrics(run, config) if config.segmented else {})


def _segment_metrics(run: JobRun, config: Config) -> Metrics:
    """Rows and impressions per segment. Raises DataError where a policy is for a segment that nobody is in."""
    rows = run.written("training_examples").where(as_of_scope(config.time.as_of_ms))
    counted = rows.groupBy("segment").agg(F.count(F.lit(1)).alias("rows"), F.sum(F.size("impression_id")).alias("impressions")).collect()
    found = {row["segment"]: row for row in counted}
    policies = [config.segment_policies, *(experiment.policy for experiment in config.experiments.values())]
    for segment in sorted({segment for policy in policies for segment in policy} - {EVERYBODY}):
        if segment not in found:
            there = ", ".join(f"{name} {row['rows']:,}" for name, row in sorted(found.items()))
            raise DataError(
                f"a policy is for the segment '{segment}', but nobody is in it (rows per segment: {there}): run jobs/correlate_dwell.py "
                "for the days that training looks at (--from DAY --to DAY), or move dynamix.threshold"
            )
    first = run.read("user_segments").agg(F.unix_millis(F.min("valid_from"))).collect()[0][0]
    (early,) = rows.selectExpr(f"sum(size(filter(time_ms, t -> t < {first})))").collect()[0]
    metrics: Metrics = {"impressions_before_segments": early}
    for segment, row in found.items():
        metrics |= {f"segment.{segment}.rows": row["rows"], f"segment.{segment}.impressions": row["impressions"]}
    return metrics
