"""What jobs of the ranking model read from the lake: impressions to learn from, candidates and mapped impressions to score."""

from __future__ import annotations

from dataclasses import replace

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from ..config import Config
from ..errors import DataError
from ..lake import JobRun, as_of_scope, latest_rows, timestamp
from .candidate_rows import candidate_rows
from .mapped_impressions import example_rows, rows_to_score
from .ranking_fields import FIELD_TABLES, FieldTables, ranking_rows
from .sequences import select_features


def training_rows(run: JobRun, config: Config, embeddings_of: str = "") -> DataFrame:
    """`ranking_rows` of as_of: of training_examples, or of the ready-made table where the fields read it.

    embeddings_of: the model whose user embeddings are read, `embedding_model`: those of two models cannot be compared.
    """
    ranking, as_of = config.ranking, config.time.as_of_ms
    if ranking.ready_made:
        return example_rows(run.read("impression_examples"), ranking, as_of, config.labels.validation_ms)
    examples = run.read("training_examples").where(as_of_scope(as_of))
    return ranking_rows(examples, ranking, field_tables(run, embeddings_of), config.embedding.publish_lag_ms)


def embedding_model(run: JobRun, config: Config) -> str:
    """The model of the newest user embeddings up to as_of, where a field reads them; else ''."""
    embeddings = run.read_if_published("user_embeddings") if _reads_embeddings(config) else None
    if embeddings is None:
        return ""
    newest = embeddings.where(F.col("as_of") <= timestamp(config.time.as_of_ms)).orderBy(F.desc("as_of"), "model_id").first()
    return str(newest["model_id"]) if newest else ""


def candidates_to_score(run: JobRun, config: Config, embeddings_of: str = "") -> DataFrame:
    """`candidate_rows` of as_of. Raises DataError where there are no embeddings of the model that the ranking model was trained on."""
    as_of = config.time.as_of_ms
    sequences = select_features(latest_rows(run.read("user_sequences"), as_of), config.policed_streams, as_of)
    tables = field_tables(run, embeddings_of)
    if _reads_embeddings(config) and (now := embedding_model(run, config)) != embeddings_of:
        raise DataError(
            f"the ranking model was trained on user embeddings of {embeddings_of or 'no model'}, but the newest are of {now or 'none'}: "
            "run jobs/train_ranking.py for this as_of"
        )
    return candidate_rows(run.read("ad_candidates").where(as_of_scope(as_of)), sequences, tables, config)


def examples_to_score(run: JobRun, config: Config) -> DataFrame:
    """`rows_to_score` of the ready-made table, for the model of as_of."""
    return rows_to_score(run.read("impression_examples"), config.ranking, config.time.as_of_ms)


def _reads_embeddings(config: Config) -> bool:
    return any(one.reads == "user.embedding" for one in config.ranking.fields.values())


def field_tables(run: JobRun, embeddings_of: str) -> FieldTables:
    """What fields read beside the rows; of user embeddings those of one model, `embedding_model`."""
    tables = FieldTables(*(run.read_if_published(name) for name in FIELD_TABLES))
    if tables.user_embeddings is None:
        return tables
    return replace(tables, user_embeddings=tables.user_embeddings.where(F.col("model_id") == embeddings_of))
