"""What jobs of the ranking model read from the lake: impressions to learn from, candidates and mapped impressions to score."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from ..clock import DAY_MS
from ..config import Config
from ..errors import DataError
from ..lake import JobRun, as_of_scope, latest_rows, timestamp
from .aligned_rows import of_layer, rows_in_space, space_of, turns_into
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
    """The space of the newest embeddings and representations up to as_of that fields read; '' where none does, or none is there.

    That is the user model that made them, or (transfer.align) an earlier one that they are turned to. Where a field reads cross
    representations, with /LAYER. Raises DataError where those of two are the newest, or where there are cross ones of other layers alone.
    """
    newest, crosses, as_of = _newest_spaces(run, config), "cross_representations", config.time.as_of_ms
    if crosses in _tables_of_models(config) and crosses not in newest and newest_models(run, (crosses,), as_of):
        raise DataError(
            f"cross_representations has no rows of transfer.layer {config.transfer.layer} up to {config.time.as_of}, but of another layer: "
            "run jobs/extract_representations.py for this as_of"
        )
    if len(set(newest.values())) > 1:
        said = ", ".join(f"{name} of {model}" for name, model in newest.items())
        raise DataError(f"fields of the ranking model would read two user models, {said}: run the jobs that are behind for this as_of")
    return _with_layer(newest, config)


def _newest_spaces(run: JobRun, config: Config) -> dict[str, str]:
    """Table of a user model that fields read -> the space of its newest rows up to as_of, where there are any."""
    alignments = run.read_if_published("alignments")
    newest = newest_models(run, _tables_of_models(config), config.time.as_of_ms, config.transfer.layer)
    return {name: space_of(alignments, name, model) for name, model in newest.items()}


def _with_layer(newest: Mapping[str, str], config: Config) -> str:
    crossed = f"/{config.transfer.layer}" if "cross_representations" in newest else ""
    return "".join(list(newest.values())[:1]) + crossed


def newest_models(run: JobRun, names: Iterable[str], as_of_ms: int, layer: str = "") -> dict[str, str]:
    """Table -> the user model of its newest rows at or before as_of; without a table that has none. layer: of cross representations."""
    newest = dict[str, str]()
    for name in names:
        if (rows := run.read_if_published(name)) is not None:
            mine = of_layer(rows, layer) if layer else rows
            upto = mine.where(F.col("as_of") <= timestamp(as_of_ms)).orderBy(F.desc("as_of"), "model_id").first()
            newest |= {name: str(upto["model_id"])} if upto else {}
    return newest


def representation_ages(run: JobRun, config: Config, embeddings_of: str) -> dict[str, float]:
    """Table of a user model that fields read -> days from its newest row of this space up to as_of; {} where no field reads any.

    embeddings_of: what the ranking model was trained on, `embedding_model`. A model reads these rows for as long as they are kept, also
    once there is a newer version of the user model. Raises DataError where none of them is left.
    """
    as_of, ages = config.time.as_of_ms, dict[str, float | None]()
    for name in _tables_of_models(config):
        if (rows := run.read_if_published(name)) is not None:
            upto = _newest_ms(run, name, rows, embeddings_of, as_of)
            ages[name] = None if upto is None else (as_of - upto) / DAY_MS
    newest = _newest_spaces(run, config)
    if missing := [name for name, age in ages.items() if age is None]:
        if not newest and not embeddings_of:
            return {}  # trained before there was any, and there is none yet
        raise DataError(
            f"the ranking model was trained on embeddings of {embeddings_of or 'no model'}, but the newest are of "
            f"{_with_layer(newest, config) or 'none'}, and {missing[0]} has no row of the former: run jobs/train_ranking.py for this as_of"
        )
    return {name: age for name, age in ages.items() if age is not None}


def _newest_ms(run: JobRun, name: str, rows: DataFrame, embeddings_of: str, as_of_ms: int) -> int | None:
    """As of when the newest row of table `name` up to as_of is which `field_tables` gives; None where there is none."""
    space, _, layer = embeddings_of.partition("/")
    turns = turns_into(run.read_if_published("alignments"), name, layer, space)
    mine = of_layer(rows, layer).where(F.col("model_id").isin([space, *turns]) & (F.col("as_of") <= timestamp(as_of_ms)))
    newest = {row["model_id"]: row["ms"] for row in mine.groupBy("model_id").agg(F.max(F.unix_millis("as_of")).alias("ms")).collect()}
    return max((ms for model, ms in newest.items() if model == space or ms >= turns[model].fitted_ms), default=None)


def candidates_to_score(run: JobRun, config: Config, embeddings_of: str = "") -> DataFrame:
    """`candidate_rows` of as_of, by the version of the user model that the ranking model was trained with.

    Raises as `representation_ages`.
    """
    as_of = config.time.as_of_ms
    representation_ages(run, config, embeddings_of)
    sequences = select_features(latest_rows(run.read("user_sequences"), as_of), config.policed_streams, as_of)
    tables = field_tables(run, embeddings_of)
    return candidate_rows(run.read("ad_candidates").where(as_of_scope(as_of)), sequences, tables, config)


def examples_to_score(run: JobRun, config: Config) -> DataFrame:
    """`rows_to_score` of the ready-made table, for the model of as_of."""
    return rows_to_score(run.read("impression_examples"), config.ranking, config.time.as_of_ms)


def _tables_of_models(config: Config) -> list[str]:
    """The tables that fields read and that a user model made."""
    read = {one.reads for one in config.ranking.fields.values()}
    return [name for name, reads in OF_MODELS.items() if read & set(reads)]


def field_tables(run: JobRun, embeddings_of: str, names: Iterable[str] = FIELD_TABLES) -> FieldTables:
    """What fields read beside the rows (of the tables with these names); of user models the rows of one space, `embedding_model`."""
    tables = FieldTables(**{name: run.read_if_published(name) for name in names})
    space, _, layer = embeddings_of.partition("/")
    mine: dict[str, DataFrame | None] = {}
    for name in OF_MODELS:
        rows: DataFrame | None = getattr(tables, name)
        if rows is not None:
            rows = rows_in_space(of_layer(rows, layer), name, space, turns_into(tables.alignments, name, layer, space))
        mine[name] = rows
    return replace(tables, **mine)
