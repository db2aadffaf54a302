"""From what a ranking model starts: its spec as the conf wants it, and the vocabulary of the training split."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from typing import Any

import numpy as np
import pandas as pd
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from ..batches.vocabulary import Vocabulary
from ..config import TRANSFERRED, Config, FieldConfig, RankingConfig
from ..errors import ConfigError
from ..ranking.spec import FieldSpec, RankingSpec, UpstreamSpec

OF_ADS = ("impression", "ad")  # origins whose groups are by default the part AD; all others are of the part USER
AD, USER = "ad", "user"


def draft_spec(config: Config, upstream: UpstreamSpec | None = None) -> RankingSpec:
    """The spec before its encodings are fitted (training/ranking_model.fitted_spec): settings are the conf's.

    Raises ConfigError where the conf has no fields, or an embedding does not say how many numbers it has.
    """
    ranking = config.ranking
    if not ranking.fields:
        raise ConfigError("ranking.fields is empty: declare what the ranking model reads, e.g. ad: {reads: impression.ad_id, encoding: id}")
    fields, parts = {}, dict[str, str]()
    for name, one in ranking.fields.items():
        group = one.group or one.origin
        part = one.part or parts.get(group) or (AD if one.origin in OF_ADS else USER)
        parts.setdefault(group, part)
        space = ranking.space_of(name)
        fields[name] = FieldSpec(
            encoding=one.encoding,
            settings=_settings(config, name, one),
            group=group,
            part=part,
            interacts=one.interacts,
            history=one.name if one.origin == "history" else "",
            days=one.days,
            space=space if space != name else "",
        )
    return RankingSpec(
        fields=fields,
        tables=ranking.tables,
        experts=ranking.experts,
        tasks=config.ranking_tasks,
        sequences=ranking.sequences,
        hidden=ranking.hidden,
        tower=ranking.tower,
        deviation=ranking.deviation,
        linear=ranking.linear,
        dropout=ranking.dropout,
        scheme=ranking.scheme,
        main_task=ranking.main_task,
        towers=ranking.towers,
        values=config.ranking_values,
        scenario=ranking.scenario,
        upstream=upstream,
    )


def _settings(config: Config, name: str, one: FieldConfig) -> Mapping[str, Any]:
    if one.kind == "text":
        return {"words": config.model.text_words, "buckets": config.model.text_buckets} | dict(one.options)
    if one.kind == "embedding" and "numbers" not in one.options:
        return dict(one.options) | {"numbers": _numbers(config, name, one)}
    return one.options


def _numbers(config: Config, name: str, one: FieldConfig) -> int:
    """How many numbers an embedding has that is made here. Raises ConfigError of others."""
    if one.reads == "user.embedding":
        return (len(config.model.views) if config.embedding.method == "alure" else 1) * config.embedding.dimension
    if one.reads == "ad.representation" or (one.reads in TRANSFERRED and config.transfer.layer != "crosses"):
        return config.model.dimension
    raise ConfigError(f"ranking.fields.{name}.options lacks the key 'numbers': how many numbers {one.reads} has")


def fitted_vocabulary(rows: DataFrame, config: Config, earlier: Vocabulary | None = None) -> Vocabulary:
    """A row for each id of the training split, in the order of hashes; earlier: to whose rows those of new ids are added.

    rows: `ranking_rows`. Collects space and hash of every id. Raises ConfigError where earlier has other hash buckets.
    """
    ranking = config.ranking
    before = earlier or Vocabulary({}, ranking.hash_buckets)
    if before.buckets != ranking.hash_buckets:
        raise ConfigError(
            f"ranking.hash_buckets is {ranking.hash_buckets}, but {before.buckets} in the model that ranking.warm_start goes on from, and "
            f"rows once given stay: set it to {before.buckets}, or ranking.warm_start to false"
        )
    if not ranking.sequences and not any(one.encoding == "id" for one in ranking.fields.values()):
        return before
    border = config.time.as_of_ms - config.labels.validation_ms
    known: pd.DataFrame = known_ids(rows, ranking, border).toPandas()
    return before.grown({str(space): its.to_numpy(np.int64) for space, its in known.groupby("space")["hash"]})


def known_ids(rows: DataFrame, config: RankingConfig, border_ms: int) -> DataFrame:
    """space, hash of the ids that the training split has named at least min_count times: in fields, and in sequences known by then.

    rows: `ranking_rows`. Row 0 is for all others (batches/vocabulary.py).
    """
    columns: list[tuple[str, Column]] = []
    for name, one in config.fields.items():
        if one.encoding == "id":
            pairs = F.arrays_zip(F.col("split"), F.col(f"impression__{name}").alias("hash"))
            learnt = F.filter(pairs, lambda pair: pair["split"] == "train")
            columns.append((config.space_of(name), learnt["hash"]))
    for sequence in config.sequences.values():
        known, ids = F.col(f"{sequence.source}__known_at_ms"), F.col(f"{sequence.source}__{sequence.category}")
        pairs = F.arrays_zip(known.alias("ms"), ids.alias("hash"))
        columns.append((sequence.category, F.filter(pairs, lambda pair: pair["ms"] < border_ms)["hash"]))
    listed = [rows.select(F.lit(space).alias("space"), F.explode(hashes).alias("hash")) for space, hashes in columns]
    every = reduce(DataFrame.union, listed).where("hash IS NOT NULL")
    counted = every.groupBy("space", "hash").agg(F.count("*").alias("_n"))
    return counted.where(F.col("_n") >= config.min_count).select("space", "hash")
