"""Source adapter -> events, ads, follows, users; refused rows -> quarantine.

The whole log replaces the tables; with `ingest.batch_days` a run takes what became known in the days before time.as_of and adds it:
`ingest_events --from DAY --to DAY` does so day by day, also for a day that was missed. A batch that comes twice changes nothing.
`--dry-run` says what the load looks like; a load that is off against the last one, or that has an empty table, is refused unless
`--force`.
"""

from __future__ import annotations

from alure_spark import sources
from alure_spark.events import ingestion, loads, preflight
from alure_spark.lake import JobRun
from alure_spark.running import Context, Job, Report


def validated(context: Context, batch: loads.Batch | None) -> loads.Load:
    config = context.config
    read_with = loads.read_with(batch, config.ingest)
    given = sources.read(context.spark, config.source, read_with, config.attribute_kinds(), config.users.attributes)
    return loads.validated_load(context.lake, config, batch, given.events, given.ads, given.follows, given.tables, given.users)


def ingest(context: Context, run: JobRun) -> Report:
    config, batch = context.config, loads.batch_of(context.config)
    with sources.failures_named(context.spark, config.source, loads.read_with(batch, config.ingest)):
        metrics, texts = ingestion.write_load(run, config, validated(context, batch), context.force)
    return Report(metrics, texts=texts)


def plan(context: Context) -> str:
    """What --dry-run says: the load as it would be validated, and what would be refused, by reason."""
    config, batch = context.config, loads.batch_of(context.config)
    with sources.failures_named(context.spark, config.source, loads.read_with(batch, config.ingest)):
        load = validated(context, batch)
        load.events.persist()
        profiles, per_reason = preflight.profile(load.events), loads.count_reasons(load.refused)
    said = loads.described(load, profiles, per_reason, context.lake, config)
    load.events.unpersist()
    return said


JOB = Job(
    "ingest_events",
    "clean the source's rows into events, ads, follows and users",
    (),
    ("events", "ads", "follows", "users", "quarantine"),
    lambda config: "true",
    ingest,
    plan=plan,
)

if __name__ == "__main__":
    JOB.main()
