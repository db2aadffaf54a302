"""What a training starts from: vocabulary and quantizers, the spec that conf and vocabulary ask for, and item vectors that the classic
methods found.

Items that start from a factorisation and stay put are what generalises at these data sizes: free item vectors overfit within
a hundred steps (docs/explanation/user-model.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

import numpy as np
import pandas as pd
import torch
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from ..baselines.item_vectors import item_views
from ..baselines.user_embeddings import collect_histories, item_histories, longest_per_user
from ..batches.vocabulary import ACCOUNT, ITEM, Vocabulary
from ..config import Config
from ..errors import ConfigError, DataError, TrackingError
from ..lake import timestamp
from ..model import semantic_ids
from ..model.artifact import Artifact
from ..model.semantic_ids import SemanticIds
from ..model.spec import ModelSpec
from ..model.user_model import UserModel
from ..tracking import Tracker

ABSENT = -30.0  # log weight of an item that tells nothing: everybody had it


def known_vocabulary(vocabularies: DataFrame, config: Config) -> Vocabulary:
    """What has a row in the table `vocabularies` at as_of, on the driver."""
    known: pd.DataFrame = vocabularies.where(F.col("first_seen") <= timestamp(config.time.as_of_ms)).toPandas()
    space, hash, row = (known[name].to_numpy() for name in ("space", "hash", "row"))
    return Vocabulary.from_arrays(space, hash, row, config.vocabulary.hash_buckets)


def quantizer_of(config: Config, tracker: Tracker, attribute: str, origin: Artifact | None = None) -> SemanticIds:
    """The registered quantiser of the attribute; a model that goes on (origin) keeps its own, so that no code moves.

    Raises TrackingError where there is none, ConfigError where it is of another length.
    """
    if origin is not None and attribute in origin.spec.quantizers:
        return cast(SemanticIds, origin.encoder()[0].quantizers[attribute])
    name, width = config.semantic_ids_name(attribute), config.model.embedding_dimensions[attribute]
    found = tracker.find_model(name)
    if found is None:
        raise TrackingError(f"MLflow at {tracker.place} has no model {name}: run jobs/train_semantic_ids.py first")
    quantizer = semantic_ids.read(found.folder, found.digest)
    if len(quantizer.mean) != width:
        raise ConfigError(f"model.embedding_dimensions.{attribute} is {width}, but {name} was trained on {len(quantizer.mean)} numbers")
    return quantizer


def spec_of(config: Config, vocabulary: Vocabulary, quantizers: Mapping[str, SemanticIds] | None = None) -> ModelSpec:
    """The spec of a new model; quantizers: those of model.semantic_ids. Raises DataError when no item is known."""
    streams = config.policed_streams
    sources = {name: stream.attributes for name, stream in streams.items()}
    kinds = {name: kind for attributes in sources.values() for name, kind in attributes.items()}
    words = {name: config.model.text_words for name, kind in kinds.items() if kind == "text"}
    vectors = {name: width for name, width in config.model.embedding_dimensions.items() if name in kinds}
    if vocabulary.size(ITEM) < 2:
        raise DataError("the vocabulary has no item: run jobs/build_sequences.py for this as_of first")
    everywhere = [config.impression_attributes, *sources.values()]
    spaces = {ITEM, ACCOUNT} | {name for attributes in everywhere for name, kind in attributes.items() if kind == "categorical"}
    return ModelSpec(
        sources=sources,
        item_sources=tuple(source for source in config.item_sources if source in streams),
        spaces={space: vocabulary.size(space) for space in sorted(spaces)},
        impression_attributes=config.impression_attributes,
        max_events={name: stream.max_events for name, stream in streams.items()},
        max_days_ms={name: stream.max_days_ms for name, stream in streams.items() if stream.max_days},
        item_dimension=config.embedding.dimension,
        widths=words | vectors,
        quantizers={name: quantizer.size for name, quantizer in (quantizers or {}).items()},
        config=config.model,
        policies=config.segment_policies,
        tasks=config.labels.heads,
    )


def new_model(
    spec: ModelSpec,
    vocabulary: Vocabulary,
    items: np.ndarray,
    views: list[np.ndarray],
    idf: np.ndarray,
    users_of: np.ndarray,
    quantizers: Mapping[str, SemanticIds] | None = None,
) -> UserModel:
    """A model before training.

    items (I,) int64 hashes; views: E arrays (I, at most item_dimension) without idf; idf (I,); users_of (I,) how many of the
    training users had the item; quantizers: those of spec.quantizers.
    """
    model = UserModel(spec)
    for name, quantizer in (quantizers or {}).items():
        model.encoder.quantizers[name].load_state_dict(quantizer.state_dict())
    frequency = np.zeros(spec.spaces[ITEM])
    np.add.at(frequency, vocabulary.rows(ITEM, items), users_of)  # a hash bucket is as frequent as its items together
    own = vocabulary.knows(ITEM, items)  # a bucket has no vector: its items have nothing in common
    rows, idf = vocabulary.rows(ITEM, items[own]), idf[own]
    model.log_frequency.copy_(torch.from_numpy(np.log((frequency + 1) / (frequency.sum() + len(frequency)))))  # type: ignore[operator]
    if spec.config.item_vectors:
        table = np.zeros((spec.spaces[ITEM], spec.views, spec.item_dimension), np.float32)
        for view, vectors in enumerate(views):
            table[rows, view, : vectors.shape[1]] = vectors[own]
        weight = np.zeros(spec.spaces[ITEM], np.float32)
        weight[rows] = np.where(idf > 0, np.log(np.where(idf > 0, idf, 1)), ABSENT)
        model.encoder.set_items(torch.from_numpy(table.reshape(len(table), -1)), torch.from_numpy(weight))
    return model


def model_maker(
    config: Config,
    examples: DataFrame,
    spec: ModelSpec,
    vocabulary: Vocabulary,
    quantizers: Mapping[str, SemanticIds],
    before_ms: int | None,
) -> Callable[[ModelSpec], UserModel]:
    """Makes models before training, whose item vectors are of the histories before before_ms (None: of all), factorised once.

    examples: rows of `training_examples`; at most embedding.fit_users histories are collected.
    """
    histories = longest_per_user(item_histories(examples, spec.item_sources, before_ms))
    collected = collect_histories(histories, config.embedding)
    views = item_views(collected, config.model.views, config.embedding.dimension, config.embedding.window, config.embedding.seed)

    def new(its: ModelSpec) -> UserModel:
        return new_model(its, vocabulary, views.items, list(views.vectors), views.idf, views.users, quantizers)

    return new
