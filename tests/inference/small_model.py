"""A small model in which every path matters, and histories to embed."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import torch

from alure_spark.batches.vocabulary import Vocabulary
from alure_spark.config import ModelConfig
from alure_spark.model.artifact import Artifact
from alure_spark.model.spec import ModelSpec
from alure_spark.model.user_model import UserModel

AS_OF_MS = 1_500_000_000_000
SOURCES = {
    "purchase": {"category_id": "categorical", "value": "numeric", "utc_offset_minutes": "numeric", "title": "text"},
    "ad_click": {"category_id": "categorical", "media": "embedding"},
    "visit": {"unread": "text"},
}
TEXTS = ["red shoes", "", "Shoes, blue and red", "hat"]
WIDTHS = {"title": 2, "media": 3}
KNOWN = 40  # hashes of the space item_id that the vocabulary knows: 1000, 1001, ...


def make_artifact(seed: int = 3, **config) -> Artifact:
    """Random weights, none of them at a neutral start."""
    vocabulary = Vocabulary.from_arrays(
        np.array(["item_id"] * KNOWN + ["category_id"] * 5),
        np.concatenate([1000 + np.arange(KNOWN), 70 + np.arange(5)]),
        np.concatenate([1 + np.arange(KNOWN), 1 + np.arange(5)]),
    )
    settings = {
        "dimension": 16,
        "heads": 2,
        "feed_forward": 32,
        "layers": 2,
        "max_events": 16,
        "views": ("svd", "item2vec"),
        "seed": seed,
    } | config
    spaces = {"item_id": KNOWN + 1, "category_id": 6}
    spec = ModelSpec(SOURCES, ("purchase", "ad_click"), spaces, item_dimension=8, widths=WIDTHS, config=ModelConfig(**settings))
    model = UserModel(spec)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.encoder.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
        model.encoder.item_vectors[0] = 0
    return Artifact.of(model, vocabulary, {})


def make_rows(users: int, seed: int = 0, longest: int = 40) -> pa.RecordBatch:
    """Rows shaped as user_sequences as of AS_OF_MS: nulls, unknown ids, null lists and, among the first ones, a user without events."""
    random = np.random.default_rng(seed)
    columns = {"user_id": pa.array([f"u{number}" for number in range(users)]), "country": pa.array(["AT", "DE"] * users)[:users]}
    for turn, (source, attributes) in enumerate(SOURCES.items()):
        lengths = np.minimum(random.geometric(0.15, users) - 1, longest)
        lengths[1::7] = 0
        lengths[2 + turn :: 11] = 0  # events in the other sources only
        lengths[4::9] = longest
        times = [np.sort(AS_OF_MS - random.integers(1, 10**10, length)) for length in lengths]
        no_list = (lengths == 0) & (random.random(users) < 0.5)

        def lists(of, no_list=no_list, times=times):
            return [None if missing else of(at) for missing, at in zip(no_list, times, strict=True)]

        def some(values):
            return [None if random.random() < 0.15 else value for value in values.tolist()]

        columns[f"{source}__known_at_ms"] = pa.array(lists(lambda at: at.tolist()), pa.list_(pa.int64()))
        columns[f"{source}__event_time_ms"] = pa.array(lists(lambda at: (at - 5).tolist()), pa.list_(pa.int64()))
        ids = lists(lambda at: some(random.integers(1000, 1000 + KNOWN + 10, len(at))))
        columns[f"{source}__item_id"] = pa.array(ids, pa.list_(pa.int64()))
        for name, kind in attributes.items():
            if kind == "categorical":
                columns[f"{source}__{name}"] = pa.array(lists(lambda at: some(random.integers(68, 76, len(at)))), pa.list_(pa.int64()))
            if kind == "numeric":
                columns[f"{source}__{name}"] = pa.array(lists(lambda at: some(random.normal(0, 50, len(at)))), pa.list_(pa.float64()))
            if kind == "text":
                columns[f"{source}__{name}"] = pa.array(lists(lambda at: some(random.choice(TEXTS, len(at)))), pa.list_(pa.string()))
            if kind == "embedding":
                vectors = lists(lambda at: some(random.normal(0, 1, (len(at), 3)).astype(np.float32)))
                columns[f"{source}__{name}"] = pa.array(vectors, pa.list_(pa.list_(pa.float32())))
    return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))
