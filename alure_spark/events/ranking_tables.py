"""What jobs of the ranking model read from the lake: impressions to learn from, candidates and mapped impressions to score."""

from __future__ import annotations

from pyspark.sql import DataFrame

from ..config import Config
from ..lake import JobRun, as_of_scope, latest_rows
from .candidate_rows import candidate_rows
from .mapped_impressions import example_rows, rows_to_score
from .ranking_fields import FIELD_TABLES, FieldTables, ranking_rows
from .sequences import select_features


def training_rows(run: JobRun, config: Config) -> DataFrame:
    """`ranking_rows` of as_of: of training_examples, or of the ready-made table where the fields read it."""
    ranking, as_of = config.ranking, config.time.as_of_ms
    if ranking.ready_made:
        return example_rows(run.read("impression_examples"), ranking, as_of, config.labels.validation_ms)
    examples = run.read("training_examples").where(as_of_scope(as_of))
    return ranking_rows(examples, ranking, _tables(run), config.embedding.publish_lag_ms)


def candidates_to_score(run: JobRun, config: Config) -> DataFrame:
    """`candidate_rows` of as_of."""
    as_of = config.time.as_of_ms
    sequences = select_features(latest_rows(run.read("user_sequences"), as_of), config.policed_streams, as_of)
    return candidate_rows(run.read("ad_candidates").where(as_of_scope(as_of)), sequences, _tables(run), config)


def examples_to_score(run: JobRun, config: Config) -> DataFrame:
    """`rows_to_score` of the ready-made table, for the model of as_of."""
    return rows_to_score(run.read("impression_examples"), config.ranking, config.time.as_of_ms)


def _tables(run: JobRun) -> FieldTables:
    return FieldTables(*(run.read_if_published(name) for name in FIELD_TABLES))
