"""A small ranking model in which every part matters, and batches for it."""

from __future__ import annotations

import numpy as np
import torch

from alure_spark.batches.batch import Impressions, JaggedBatch, SourceTokens, offsets_of
from alure_spark.clock import HOUR_MS
from alure_spark.config import ExpertConfig, SequenceConfig
from alure_spark.ranking.spec import FieldSpec, RankingSpec

CATEGORIES, ADS = 6, 20
SPEC = RankingSpec(
    fields={
        "age": FieldSpec("numeral_systems", {"low": 0, "high": 80, "steps": 81, "kind": "integer"}, group="person"),
        "country": FieldSpec("id", {"size": 4}, group="person"),
        "ad": FieldSpec("id", {"size": ADS}, group="ad", part="ad"),
        "category": FieldSpec("id", {"size": CATEGORIES}, group="ad", part="ad"),
        "creative": FieldSpec("hash_id", {"numbers": 5, "bits": 8}, group="ad", part="ad"),
        "media": FieldSpec("numbers", {"numbers": 5}, group="ad", part="ad"),
        "title": FieldSpec("words", {"words": 3, "buckets": 16}, group="ad", part="ad"),
        "similarity": FieldSpec("numeral_systems", {"low": -1, "high": 1, "steps": 16}, interacts=False),
    },
    tables={"first": 8, "second": 4},
    experts={
        "gwpfm": ExpertConfig("gwpfm", "first"),
        "flat": ExpertConfig("flat_dnn", "first", {"hidden": (12,)}),
        "ipnn": ExpertConfig("ipnn", "second"),
        "cross": ExpertConfig("dcn_v2", "second"),
    },
    tasks=("click", "conversion"),
    sequences={"clicked": SequenceConfig("click", "category", "category", events=5)},
    hidden=16,
    tower=(8,),
    deviation=0.1,
)


def batch(users: int, seed: int = 0) -> JaggedBatch:
    """Users with 0 to 9 events and 0 to 4 impressions, the first one with some."""
    random = np.random.default_rng(seed)
    events, shown = random.integers(0, 10, users), random.integers(0, 5, users)
    events[0], shown[0] = 5, 3
    total, rows = int(events.sum()), int(shown.sum())

    def times(lengths):
        return torch.from_numpy(np.concatenate([np.sort(random.integers(0, 500 * HOUR_MS, length)) for length in lengths]).astype(np.int64))

    def whole(high, *shape):
        return torch.from_numpy(random.integers(0, high, (rows, *shape)))

    known = times(events)
    tokens = SourceTokens(
        offsets_of(torch.from_numpy(events)), known, known - 5, {"category": torch.from_numpy(random.integers(0, CATEGORIES, total))}, {}
    )
    media = torch.from_numpy(random.normal(size=(rows, 5)).astype(np.float32))
    media[::4] = torch.nan
    age = torch.from_numpy(random.uniform(-5, 100, rows).astype(np.float32))
    age[1::5] = torch.nan
    impressions = Impressions(
        offsets=offsets_of(torch.from_numpy(shown)),
        time_ms=times(shown),
        rows={"country": whole(4), "ad": whole(ADS), "category": whole(CATEGORIES)},
        numbers={"age": age, "similarity": torch.from_numpy(random.uniform(-1, 1, rows).astype(np.float32))},
        labels={task: whole(2).float() for task in SPEC.tasks},
        weight=torch.from_numpy(random.uniform(0.5, 2, rows).astype(np.float32)),
        label_age_ms=torch.zeros(rows, dtype=torch.int64),
        validation=torch.zeros(rows, dtype=torch.bool),
        words={"title": whole(50, 3)},
        vectors={"media": media, "creative": media.flip(1)},
    )
    nobody = torch.zeros(users, dtype=torch.int64)
    return JaggedBatch("", tuple(map(str, range(users))), nobody, nobody + 600 * HOUR_MS, {"click": tokens}, impressions)
