"""events -> a ranking model that goes on learning through the day, in MLflow.

It begins as the champion and learns the log up to time.as_of window by window (`--every 15m`), or, with `--stream`, whatever `events` grows
by, until it is stopped. A version is registered every ranking.online.publish_hours, if it predicted no worse than the model that it began
as. Replay and stream give the same model, and a run that was killed goes on from its last state.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from alure_spark.events.moments import Moments, moments_of
from alure_spark.events.online_rows import ended_ms, left_out, online_rows
from alure_spark.events.ranking_fields import FIELD_TABLES
from alure_spark.inference.ranking_rows import require_fields
from alure_spark.inference.registered import publish_learnt, ranking_version
from alure_spark.lake import JobRun, as_of_scope, workspace
from alure_spark.running import Context, Job, Report, guarded, run_job, run_stream, stream_parser
from alure_spark.training import online_report
from alure_spark.training.online import OnlineLearner
from alure_spark.training.online_log import LearningLog


def learn(context: Context, run: JobRun) -> Report:
    config, read = context.config, partial(ranking_version, context.config, context.tracker)
    path = Path(workspace(config.lake)) / f"{config.name}-ranking.online"
    learner = OnlineLearner.at(path, read(), read, config)
    base, state, tasks = learner.base, learner.state, learner.tasks
    until = ended_ms(run, config, state.learnt_until_ms)
    if learner.has_ended(until):
        moments = Moments.of(config.ranking.online, learner.history_from_ms)
        rows = online_rows(run, config, tasks, moments, learner.since_ms(until), until, base.facts.get("embedding_model_id", ""))
        require_fields(base, config.ranking, rows.columns)
        log = LearningLog.collected(rows, base.spec, learner.vocabulary, moments_of(tasks))
        learner.advance(log, until, left_out(run, config, moments, state.learnt_until_ms, until), path)
    said = learner.said()
    if learner.is_due():
        said += publish_learnt(config, context.tracker, learner.artifact(), *online_report.verdict(state))
        learner.note_published(path)
    metrics, text = online_report.metrics_and_text(state, tasks, said)
    return Report(metrics, online_report.figures(state, tasks), {"learn_ranking/summary.txt": text})


READS = ("events", "user_sequences", *FIELD_TABLES)
JOB = Job("learn_ranking", "what the ranking model has learnt", READS, (), lambda config: as_of_scope(config.time.as_of_ms), learn)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = stream_parser(JOB, "ranking.online.every_minutes")
    guarded(lambda of: run_stream(of, JOB, "events") if of.stream else run_job(of, JOB), parser.parse_args(arguments))


if __name__ == "__main__":
    main()
