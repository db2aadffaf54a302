"""What jobs of the ranking model read from the lake: impressions to learn from, candidates and mapped impressions to score."""

from __future__ import annotations

from collections.abc import Iterable
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

# Tables that a user model makes -> what fields read of them.
OF_MODELS = {
    "user_embeddings": ("user.embedding",),
    "cross_representations": ("user.cross", "ad.cross"),
    "item_representations": ("ad.representation",),
}


def training_rows(run: JobRun, config: Config, embeddings_of: str = "") -> DataFrame:
    """`ranking_rows` of as_of: of training_examples, or of the ready-made table where the fields read it.

    embeddings_of: whose embeddings and representations are read, `embedding_model`: those of two models cannot be compared.
    """
    ranking, as_of = config.ranking, config.time.as_of_ms
    if ranking.ready_made:
        return example_rows(run.read("impression_examples"), ranking, as_of, config.labels.validation_ms)
    examples = run.read("training_examples").where(as_of_scope(as_of))
    return ranking_rows(examples, ranking, field_tables(run, embeddings_of), config.embedding.publish_lag_ms)


def embedding_model(run: JobRun, config: Config) -> str:
    """The user model of the newest embeddings and representations up to as_of that fields read; '' where none does, or none is there.

    Where one reads cross representations, with /LAYER. Raises DataError where those of two models are the newest.
    """
    newest = newest_models(run, _tables_of_models(config), config.time.as_of_ms)
    if len(set(newest.values())) > 1:
        said = ", ".join(f"{name} of {model}" for name, model in newest.items())
        raise DataError(f"fields of the ranking model would read two user models, {said}: run the jobs that are behind for this as_of")
    crossed = f"/{config.transfer.layer}" if "cross_representations" in newest else ""
    return "".join(list(newest.values())[:1]) + crossed


def newest_models(run: JobRun, names: Iterable[str], as_of_ms: int) -> dict[str, str]:
    """Table -> the user model of its newest rows at or before as_of; without a table that has none."""
    newest = dict[str, str]()
    for name in names:
        if (rows := run.read_if_published(name)) is not None:
            upto = rows.where(F.col("as_of") <= timestamp(as_of_ms)).orderBy(F.desc("as_of"), "model_id").first()
            newest |= {name: str(upto["model_id"])} if upto else {}
    return newest


def candidates_to_score(run: JobRun, config: Config, embeddings_of: str = "") -> DataFrame:
    """`candidate_rows` of as_of. Raises DataError where there are no embeddings of the model that the ranking model was trained on."""
    as_of = config.time.as_of_ms
    sequences = select_features(latest_rows(run.read("user_sequences"), as_of), config.policed_streams, as_of)
    tables = field_tables(run, embeddings_of)
    if _tables_of_models(config) and (now := embedding_model(run, config)) != embeddings_of:
        raise DataError(
            f"the ranking model was trained on embeddings of {embeddings_of or 'no model'}, but the newest are of {now or 'none'}: "
            "run jobs/train_ranking.py for this as_of"
        )
    return candidate_rows(run.read("ad_candidates").where(as_of_scope(as_of)), sequences, tables, config)


def examples_to_score(run: JobRun, config: Config) -> DataFrame:
    """`rows_to_score` of the ready-made table, for the model of as_of."""
    return rows_to_score(run.read("impression_examples"), config.ranking, config.time.as_of_ms)


def _tables_of_models(config: Config) -> list[str]:
    """The tables that fields read and that a user model made."""
    read = {one.reads for one in config.ranking.fields.values()}
    return [name for name, reads in OF_MODELS.items() if read & set(reads)]


def field_tables(run: JobRun, embeddings_of: str, names: Iterable[str] = FIELD_TABLES) -> FieldTables:
    """What fields read beside the rows (of the tables with these names); of user embeddings those of one model, `embedding_model`."""
    tables = FieldTables(**{name: run.read_if_published(name) for name in names})
    model_id, _, layer = embeddings_of.partition("/")
    mine: dict[str, DataFrame | None] = {}
    for name in OF_MODELS:
        rows: DataFrame | None = getattr(tables, name)
        mine[name] = None if rows is None else rows.where(F.col("model_id") == model_id)
    if (crossed := mine["cross_representations"]) is not None:
        mine["cross_representations"] = crossed.where(F.col("layer") == layer)
    return replace(tables, **mine)
