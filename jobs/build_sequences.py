"""events -> user_sequences, training_examples and the vocabularies' new rows, for one as_of.

Where an earlier as_of is there to go on from, only the users with new events get a row, and only new events are read. Everybody is
rebuilt where there is none, where the streams of the conf changed, or where events from before it were ingested since it was built
(a backfill: run `build_sequences --from DAY --to DAY` over the days it touches instead, which is cheaper).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import NamedTuple

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from alure_spark.attribution import count_responses
from alure_spark.clock import format_time, parse_time
from alure_spark.config import EVERYBODY
from alure_spark.errors import DataError
from alure_spark.events import examples, vocabularies
from alure_spark.events.sequences import SHARED_HASH, Grouping, heavy_users, touched_sequences, user_sequences
from alure_spark.lake import JobRun, Lake, as_of_scope, timestamp
from alure_spark.running import Context, Job, Report


def build(context: Context, run: JobRun) -> Report:
    config, lake = context.config, context.lake
    as_of = config.time.as_of_ms
    events, streams, scope = run.read("events"), config.streams, as_of_scope(as_of)
    since, why, facts = _previous(lake, as_of - 1, config.sequence_digest())
    heavy = heavy_users(events, as_of, since)

    def sequences(grouping: Grouping) -> DataFrame:
        if since is None:
            return user_sequences(events, streams, as_of, grouping)
        return touched_sequences(events, run.read("user_sequences"), streams, since, as_of, grouping)

    users = _written(run, "user_sequences", sequences, heavy, scope)
    if not users and since is None:
        known = events.selectExpr("unix_millis(min(known_at))", "unix_millis(max(known_at))").collect()[0]
        first, last = ("never" if moment is None else format_time(moment) for moment in known)
        raise DataError(f"no event was known before time.as_of={config.time.as_of}: events are known from {first} to {last}")
    first_ms = config.labels.first_ms(as_of)
    skew_ms = config.labels.clock_skew_ms
    start = _previous(lake, first_ms - skew_ms, config.sequence_digest()).since if first_ms is not None else None

    segments = run.read("user_segments") if config.segmented else None

    too_heavy = heavy if start == since else heavy_users(events, as_of, start)
    light = events.where(~F.col("user_id").isin(list(too_heavy))) if too_heavy else events
    responses = examples.matched_responses(light, config.labels, as_of, first_ms).persist()  # read for the labels and for the counts

    def labelled(grouping: Grouping) -> DataFrame:
        before = None if start is None else (run.read("user_sequences"), start)
        return examples.training_examples(
            events, streams, config.labels, as_of, config.impression_attributes, before, grouping, segments, responses
        )

    _written(run, "training_examples", labelled, too_heavy, scope)
    counted = count_responses(responses, config.labels, first_ms)
    responses.unpersist()
    metrics: dict[str, float | None] = {"users": users, "rebuilt": float(since is None), "users_too_heavy_to_train": len(too_heavy)}
    totals = lake.read("training_examples", run.outputs["training_examples"]).where(scope).selectExpr(
        "count_if(size(impression_id) > 0) AS users_with_impressions",
        "sum(size(impression_id)) AS impressions",
        "sum(aggregate(click, 0, (a, x) -> a + x)) AS clicks",
        "sum(aggregate(conversion, 0, (a, x) -> a + x)) AS conversions",
    ).first()  # fmt: skip
    assert totals is not None
    metrics |= {key: None if value is None else float(value) for key, value in totals.asDict().items()}
    if segments is not None:
        metrics |= _told_apart(context, run, segments)
    vocabulary = run.read("vocabularies") if "vocabularies" in lake.published_versions() else None
    categorical = [name for name, kind in config.attribute_kinds().items() if kind == "categorical"]
    complete = facts.get("vocabulary_digest") == config.vocabulary_digest()
    added = vocabularies.new_vocabulary_rows(events, vocabulary, categorical, as_of, config.vocabulary, since if complete else None)
    run.write("vocabularies", added, scope=scope.replace("as_of", "first_seen"), append=True)
    metrics["vocabulary_rows"] = lake.read("vocabularies", run.outputs["vocabularies"]).count()
    run.facts |= {"sequence_digest": config.sequence_digest(), "vocabulary_digest": config.vocabulary_digest()}
    answers = [counted[label].sentence(label, source) for label, source, _ in config.labels.responses]
    metrics |= {f"responses.{label}.{what}": float(n) for label, one in counted.items() for what, n in asdict(one).items()}
    reads = "all events" if start is None else f"the events since {format_time(start)}"
    how = f"{format_time(as_of)}: {users:,} users, {why}; training_examples from {reads}"
    return Report(metrics, texts={"how.txt": how, "responses.txt": "\n".join(answers)})


def _written(run: JobRun, name: str, build_rows: Callable[[Grouping], DataFrame], heavy: tuple[str, ...], scope: str) -> int:
    """Write what is built by grouping hashes of users, or, should two of them share one, by grouping the users themselves."""
    grouping = Grouping(heavy=heavy)
    try:
        return run.write(name, build_rows(grouping), scope)
    except Exception as error:
        if SHARED_HASH not in str(error):
            raise
    return run.write(name, build_rows(replace(grouping, by_hash=False)), scope)


def _told_apart(context: Context, run: JobRun, segments: DataFrame) -> dict[str, float | None]:
    """Rows and impressions per segment. Raises DataError where a policy is for a segment that nobody is in."""
    config, scope = context.config, as_of_scope(context.config.time.as_of_ms)
    rows = context.lake.read("training_examples", run.outputs["training_examples"]).where(scope)
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
    first = segments.agg(F.unix_millis(F.min("valid_from"))).collect()[0][0]
    (early,) = rows.selectExpr(f"sum(size(filter(time_ms, t -> t < {first})))").collect()[0]
    metrics: dict[str, float | None] = {"impressions_before_segments": early}
    for segment, row in found.items():
        metrics |= {f"segment.{segment}.rows": row["rows"], f"segment.{segment}.impressions": row["impressions"]}
    return metrics


class _Previous(NamedTuple):
    """The as_of to go on from, epoch ms, or None; why so; and what its run left to know."""

    since: int | None
    why: str
    facts: Mapping[str, str]


def _previous(lake: Lake, last_ms: int, digest: str) -> _Previous:
    """The newest as_of at or before the last one, if its rows can be gone on from."""
    if "user_sequences" not in lake.published_versions():
        return _Previous(None, "all of them: there are no earlier sequences", {})
    earlier = lake.read("user_sequences").where(F.col("as_of") <= timestamp(last_ms)).agg(F.unix_millis(F.max("as_of"))).collect()[0][0]
    if earlier is None:
        return _Previous(None, "all of them: there are no earlier sequences", {})
    published = lake.runs().where("status = 'published'").orderBy(F.desc("finished"))
    built = published.where((F.col("job") == "build_sequences") & (F.col("scope") == as_of_scope(earlier))).first()
    if built is None or (built["facts"] or {}).get("sequence_digest") != digest:
        return _Previous(None, f"all of them: the streams of the conf are others than at {format_time(earlier)}", {})
    for later in published.where((F.col("job") == "apply_retention") & F.col("outputs")["user_sequences"].isNotNull()).collect():
        kept_from = (later["facts"] or {}).get("user_sequences_kept_from")
        if kept_from is None or earlier < parse_time(kept_from):
            return _Previous(None, f"all of them: apply_retention let rows of {format_time(earlier)} go", {})
    adds = F.col("job").isin("ingest_events", "replay_quarantine") & (F.col("outputs")["events"] > built["inputs"]["events"])
    for addition in published.where(adds).collect():
        known_from = (addition["facts"] or {}).get("known_from")
        if known_from is None or parse_time(known_from) < earlier:
            what = "the whole log" if known_from is None else f"events known from {known_from} on"
            return _Previous(None, f"all of them: {what} came in after the sequences of {format_time(earlier)} were built", {})
    return _Previous(earlier, f"those with events since {format_time(earlier)}", built["facts"])


JOB = Job(
    "build_sequences",
    "each user's events before as_of as parallel arrays, and the labelled impressions",
    ("events", "vocabularies"),
    ("user_sequences", "training_examples", "vocabularies"),
    lambda config: as_of_scope(config.time.as_of_ms),
    build,
)

if __name__ == "__main__":
    JOB.main()
