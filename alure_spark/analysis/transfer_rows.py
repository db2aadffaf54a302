"""The rows that jobs/compare_transfer.py trains on: those of train_ranking, cut to each downstream task, for each layer that is compared.

Enters: a run of the lake, the conf. Leaves: `DownstreamRows`, stored in a folder of lake.scratch, and what is in them. All that can be
refused before a training is refused here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from ..config import Config
from ..errors import DataError, shown
from ..events.impressions_where import downstream_rows
from ..events.ranking_fields import ranking_rows
from ..events.ranking_tables import embedding_model, field_tables, training_rows
from ..inference.registered import champion
from ..lake import JobRun, as_of_scope, make_private
from ..model.representations import cross_width
from ..packed.rows import for_spark
from ..run_messages import condition_of
from ..tracking import Tracker
from ..training import ranking_start
from ..training.left_out import left_out, require_left_out
from .transfer_layers import layer_representations
from .transfer_variants import REPRESENTATIONS, downstream_config, downstream_tasks, layer_of, variant_config, variants_of


class Split(NamedTuple):
    """What is in one split of a downstream task."""

    impressions: int
    users: int
    responses: Mapping[str, float]  # task -> sum of its labels
    there: Mapping[str, float]  # field that reads a representation -> share of the impressions that have one


class DownstreamRows(NamedTuple):
    """What is trained on for one downstream task."""

    name: str
    variants: Mapping[str, Config]  # variant -> the conf of its ranking model
    rows: Mapping[str, DataFrame]  # layer -> `ranking_rows` where cross representations are of that layer
    full: Mapping[str, Config]  # layer -> the conf that reads all of these rows
    train: Split
    validation: Split


def rows_of_all(run: JobRun, config: Config, tracker: Tracker, folder: str) -> list[DownstreamRows]:
    """Of every downstream task, stored in the folder. Raises ConfigError and DataError where one cannot be trained on."""
    variants, own = variants_of(config), config.transfer.layer
    tasks = downstream_tasks(config)
    if left_out(config):
        model = champion(config, tracker)
        require_left_out(model.model_id, model.facts, config, "run train_model, embed_users and extract_representations, or set it to all")
    confs = {name: downstream_config(config, name, its) for name, its in tasks.items()}
    whole, widths = _by_layer(run, config, tracker, list(dict.fromkeys((own, *(layer_of(config, one) for one in variants)))), folder)
    made = []
    for name, its in tasks.items():
        conf = confs[name]
        full = {layer: conf if layer == own else variant_config(conf, f"layer_{layer}", widths) for layer in whole}
        for one in full.values():
            ranking_start.draft_spec(one)
        labels = config.labels.declared
        rows = {layer: downstream_rows(of_all, name, its, labels) for layer, of_all in whole.items()}
        if its.where:
            rows = {layer: _where(folder, mine, f"{name}-{layer}", name, its.where) for layer, mine in rows.items()}
        splits = splits_of(rows[own], conf)
        require_learnable(name, conf, splits)
        compared = {variant: variant_config(conf, variant, widths) for variant in variants}
        made.append(DownstreamRows(name, compared, rows, full, splits["train"], splits["validation"]))
    return made


def _stored(folder: str, frame: DataFrame, name: str) -> DataFrame:
    """The frame's rows, computed once, as a file of the folder."""
    path = for_spark(f"{folder}/{name}")
    frame.write.parquet(path)
    make_private(folder)
    return frame.sparkSession.read.schema(frame.schema).parquet(path)


def _where(folder: str, rows: DataFrame, file: str, name: str, where: str) -> DataFrame:
    """The rows of a downstream task, stored. Raises DataError where its condition fails on an impression."""
    try:
        return _stored(folder, rows, file)
    except Exception as error:
        if not (condition := condition_of(error)):
            raise
        raise DataError(
            f"transfer.downstream.{name}.where is {shown(where)}, which fails on an impression: {condition}; use try_cast, try_divide or "
            "get, which give null"
        ) from error


def _by_layer(
    run: JobRun, config: Config, tracker: Tracker, layers: Sequence[str], folder: str
) -> tuple[dict[str, DataFrame], dict[str, int]]:
    """(layer -> rows, layer -> numbers of its cross representations): of the first layer as published, of others beside the lake."""
    own, *others = layers
    model, stored = embedding_model(run, config), partial(_stored, folder)
    rows, widths = {own: stored(training_rows(run, config, model), f"all-{own}")}, dict[str, int]()
    if others:
        artifact, tables = champion(config, tracker), field_tables(run, model)
        examples = run.read("training_examples").where(as_of_scope(config.time.as_of_ms))
        for layer in others:
            crossed = layer_representations(run, config, artifact, layer, stored)
            of_layer = replace(tables, cross_representations=crossed)
            rows[layer] = stored(ranking_rows(examples, config.ranking, of_layer, config.embedding.publish_lag_ms), f"all-{layer}")
            widths[layer] = cross_width(artifact.spec, layer)
    return rows, widths


def splits_of(rows: DataFrame, config: Config) -> dict[str, Split]:
    """train and validation, where they have an impression. rows: `ranking_rows` of the conf's fields."""
    fields = [name for name, one in config.ranking.fields.items() if one.reads in REPRESENTATIONS]
    tasks = config.ranking_tasks
    known = {name: F.transform(f"impression__{name}", lambda one: one.isNotNull().cast("int")) for name in fields}
    zipped = F.arrays_zip("split", *tasks, *(column.alias(f"there_{name}") for name, column in known.items()))
    each = rows.select("user_id", F.explode(zipped).alias("one")).select("user_id", "one.*").groupBy("split")
    sums = [F.sum(task).alias(task) for task in tasks] + [F.avg(f"there_{name}").alias(f"there_{name}") for name in fields]
    listed = each.agg(F.count("*").alias("impressions"), F.countDistinct("user_id").alias("users"), *sums).collect()
    return {
        row["split"]: Split(
            row["impressions"], row["users"], {task: row[task] for task in tasks}, {name: row[f"there_{name}"] for name in fields}
        )
        for row in listed
    }


def require_learnable(name: str, config: Config, splits: Mapping[str, Split]) -> None:
    """Raises DataError where a split has no impression, or the training split no representation or no response."""
    path = f"transfer.downstream.{name}"
    for split, called in (("train", "training"), ("validation", "validation")):
        if split not in splits:
            other = sum(one.impressions for one in splits.values())
            raise DataError(
                f"{path}: its condition holds for {other:,} impressions, none of them in the {called} split; ids are hashed there, so "
                "compare them with xxhash64('the id')"
            )
    learnt = splits["train"]
    for field, share in learnt.there.items():
        if not share:
            raise DataError(
                f"{path}: no impression of its training split has what ranking.fields.{field} reads, known before it: leave the field out, "
                "or run the chain over earlier days first"
            )
    for task in config.ranking_tasks:
        if task not in config.ranking_values and not 0 < learnt.responses[task] < learnt.impressions:
            what = "no response" if not learnt.responses[task] else "a response to every impression"
            raise DataError(f"{path}: the task '{task}' has {what} in its training split: leave it out of {path}.tasks, or give more data")
