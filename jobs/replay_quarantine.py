"""Refused events are validated once more, under today's conf: what is accepted now joins `events`, the rest stays in `quarantine`.

For rows that the rules refused (an undeclared stream, a bound on lateness or time). Where the mapping read a column wrongly the row
in quarantine is already wrong: mend the mapping and run ingest_events over those days again, which changes nothing else; a replay
then takes the rows away that `events` holds by now. Refused ads, follows and users are not replayed: every ingestion replaces them whole.
"""

from __future__ import annotations

from alure_spark import sources
from alure_spark.events import ingestion
from alure_spark.lake import JobRun
from alure_spark.privacy.tombstones import lake_key
from alure_spark.running import Context, Job, Report


def replay(context: Context, run: JobRun) -> Report:
    config = context.config
    lake_key(context.lake, config.ingest.hash_user_ids)  # refuses another key than that of the rows
    quarantined = run.read("quarantine").where(ingestion.REPLAYED).persist()
    shape = sources.read(context.spark, config.source, attributes=config.attribute_kinds()).events
    metrics = ingestion.replay(run, config, quarantined, shape)
    copies = (metrics["quarantined"] or 0) - (metrics["accepted"] or 0) - (metrics["refused"] or 0)
    said = (
        f"{metrics['quarantined']:,.0f} rows were in quarantine: {metrics['accepted']:,.0f} joined events, {metrics['refused']:,.0f} stay, "
        f"{copies:,.0f} were copies of them or of events"
    )
    if "known_from" in run.facts:
        said += f"; events known from {run.facts['known_from']} on are new: run build_sequences from that day on"
    return Report(metrics, texts={"replayed.txt": said})


JOB = Job(
    "replay_quarantine",
    "validate refused events again under today's conf",
    ("quarantine", "events"),
    ("events", "quarantine"),
    lambda config: ingestion.REPLAYED,
    replay,
)

if __name__ == "__main__":
    JOB.main()
