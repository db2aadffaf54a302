"""What the model that learns through the day reads of the lake: the impressions that may still make a sample, as known by a moment.

Enters: `events`, `user_sequences` and the tables of fields. Leaves: rows of `ranking_rows` with the arrays of `moments_of`. Which rows a
call gives depends on nothing but the log: an impression has the same history in every later call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from ..clock import DAY_MS
from ..config import Config, LabelConfig, RankingConfig
from ..config.rules import require, require_known
from ..errors import ConfigError
from ..lake import JobRun
from .examples import training_examples
from .moments import Moments
from .previous import previous_sequences
from .ranking_fields import ranking_rows
from .ranking_tables import field_tables
from .sequences import known_events


def online_rows(
    run: JobRun, config: Config, tasks: Sequence[str], moments: Moments, since_ms: int, until_ms: int, embeddings_of: str = ""
) -> DataFrame:
    """Users with their impressions shown in [since, until) and known before until, labels and answers as known then.

    Every impression weighs 1: labels.negative_rate, max_impressions and hold_back_immature are for training in one go. embeddings_of: as of
    `training_rows`. Reads the events since the sequences of moments.history_from_ms or since_ms, whichever is earlier, where there are any.
    Raises ConfigError on a task that the conf does not declare.
    """
    for task in tasks:
        require_known("the registered ranking model's tasks", task, config.labels.declared, "task")
    since, labels = min(since_ms, moments.history_from_ms) - config.labels.clock_skew_ms, _of_all(config.labels, since_ms, until_ms)
    start = previous_sequences(run.lake, since, config.sequence_digest()).since
    before = None if start is None else (run.read("user_sequences"), start)
    examples = training_examples(
        run.read("events"), config.streams, labels, until_ms, config.impression_attributes, before, moments=moments
    ).where(F.size("time_ms") > 0)
    return ranking_rows(examples, config.ranking, field_tables(run, embeddings_of), config.embedding.publish_lag_ms)


def _require_steps(ranking: RankingConfig) -> None:
    if ranking.ready_made:
        raise ConfigError(
            "ranking.fields read example.COLUMN: a ready-made table does not say when a response became known, so nothing can be learnt "
            "from it through the day"
        )
    path, features = "ranking.exploration.features", ranking.exploration.features
    require(not features, path, features, "0 for a model that learns through the day: how unsure it is, is fitted by train_ranking alone")


def _of_all(labels: LabelConfig, since_ms: int, until_ms: int) -> LabelConfig:
    days = (until_ms - since_ms) / DAY_MS
    return replace(labels, days=days, validation_days=days / 2, negative_rate=1.0, max_impressions=10**9, hold_back_immature=False)


def left_out(run: JobRun, config: Config, moments: Moments, since_ms: int, until_ms: int) -> dict[int, int]:
    """Window of ranking.online.every_minutes (its begin, epoch ms) -> events known in it, within [since, until), that are too late."""
    every = config.ranking.online.every_ms
    known = known_events(run.read("events"), until_ms, since_ms).where(moments.too_late(config.labels))
    window = F.floor(F.unix_millis("known_at") / every) * every
    return {row["window"]: row["n"] for row in known.groupBy(window.alias("window")).agg(F.count("*").alias("n")).collect()}


def ended_ms(run: JobRun, config: Config, since_ms: int) -> int:
    """Up to when windows can be learnt, epoch ms: to time.as_of, and to the last border that the newest event has left behind.

    since_ms where no event was known since then. Events have to come in the order in which they became known, as the loads of
    ingest.batch_days do: what comes later than that for a window is history and matches responses, but makes no sample. Raises ConfigError
    where the conf asks for what cannot be learnt step by step.
    """
    _require_steps(config.ranking)
    every = config.ranking.online.every_ms
    recent = run.read("events").where(F.col("known_date") >= F.to_date(F.timestamp_millis(F.lit(since_ms))))
    known = recent.agg(F.max(F.unix_millis("known_at"))).collect()[0][0]
    return since_ms if known is None else min(config.time.as_of_ms, max(since_ms, known // every * every))
