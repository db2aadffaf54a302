"""From what a ranking model starts: its spec as the conf wants it, and the vocabulary of the training split."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from pyspark.sql import DataFrame

from ..batches.vocabulary import Vocabulary
from ..config import Config, FieldConfig
from ..errors import ConfigError
from ..events.ranking_fields import known_ids
from ..ranking.spec import FieldSpec, RankingSpec


def draft_spec(config: Config) -> RankingSpec:
    """The spec before its encodings are fitted (training/ranking_model.fitted_spec): settings are the conf's.

    Raises ConfigError where the conf has no fields, or an embedding does not say how many numbers it has.
    """
    ranking = config.ranking
    if not ranking.fields:
        raise ConfigError("ranking.fields is empty: declare what the ranking model reads, e.g. ad: {reads: impression.ad_id, encoding: id}")
    fields = {}
    for name, one in ranking.fields.items():
        group = one.group or one.origin
        space = ranking.space_of(name)
        fields[name] = FieldSpec(
            encoding=one.encoding,
            settings=_settings(config, name, one),
            group=group,
            part=one.part or group,
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
    )


def _settings(config: Config, name: str, one: FieldConfig) -> Mapping[str, Any]:
    if one.kind == "text":
        return {"words": config.model.text_words, "buckets": config.model.text_buckets} | dict(one.options)
    if one.kind == "embedding" and "numbers" not in one.options:
        if one.reads != "embedding.user":
            raise ConfigError(f"ranking.fields.{name}.options lacks the key 'numbers': how many numbers {one.reads} has")
        views = len(config.model.views) if config.embedding.method == "alure" else 1
        return dict(one.options) | {"numbers": views * config.embedding.dimension}
    return one.options


def fitted_vocabulary(rows: DataFrame, config: Config) -> Vocabulary:
    """A row for each id of the training split, in the order of hashes. rows: `ranking_rows`. Collects space and hash of every id."""
    ranking = config.ranking
    if not ranking.sequences and not any(one.encoding == "id" for one in ranking.fields.values()):
        return Vocabulary({}, ranking.hash_buckets)
    border = config.time.as_of_ms - config.labels.validation_ms
    known = pd.DataFrame(known_ids(rows, ranking, border).toPandas()).sort_values(["space", "hash"])
    row = known.groupby("space").cumcount() + 1 + ranking.hash_buckets
    arrays = known["space"].to_numpy(object), known["hash"].to_numpy(np.int64), row.to_numpy(np.int64)
    return Vocabulary.from_arrays(*arrays, buckets=ranking.hash_buckets)
