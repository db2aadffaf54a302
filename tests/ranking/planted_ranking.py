"""Users whose response depends on what they were shown and on what they did before, as batches in memory."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from alure_spark.batches.batch import Impressions, JaggedBatch, SourceTokens, offsets_of
from alure_spark.batches.vocabulary import Vocabulary
from alure_spark.clock import HOUR_MS
from alure_spark.config import ExpertConfig, SequenceConfig
from alure_spark.ranking.spec import FieldSpec, RankingSpec

ADS, CATEGORIES = 12, 4
VOCABULARY = Vocabulary.from_arrays(
    np.array(["ad"] * ADS + ["category"] * CATEGORIES, object), np.arange(1, ADS + CATEGORIES + 1), np.r_[1 : ADS + 1, 1 : CATEGORIES + 1]
)
DRAFT = RankingSpec(
    fields={
        "ad": FieldSpec("id", group="ad"),
        "category": FieldSpec("id", group="ad"),
        "price": FieldSpec("numeral_systems", {"steps": 16}, group="ad"),
        "clicks": FieldSpec("numeral_systems", {"kind": "integer"}, group="user", history="click.count"),
    },
    tables={"one": 8, "two": 4},
    experts={"gwpfm": ExpertConfig("gwpfm", "one"), "dcn": ExpertConfig("dcn_v2", "two")},
    tasks=("click",),
    sequences={"clicked": SequenceConfig("click", "category", "category", events=10)},
    hidden=16,
    tower=(8,),
    deviation=0.1,
)


def users(count: int = 300, seed: int = 0) -> JaggedBatch:
    """An ad is clicked with odds of its price, its own taste, and of the user's last category; a fifth of the impressions validates."""
    random = np.random.default_rng(seed)
    events, shown = random.integers(0, 8, count), random.integers(1, 6, count)
    total, rows = int(events.sum()), int(shown.sum())

    def times(lengths):
        return torch.from_numpy(np.concatenate([np.sort(random.integers(0, 500 * HOUR_MS, length)) for length in lengths]).astype(np.int64))

    ad = random.integers(1, ADS + 1, rows)
    category = ad % CATEGORIES + 1
    price = random.gamma(2.0, 5.0, rows)
    taste = np.random.default_rng(1).normal(size=ADS + 1)
    clicked = random.random(rows) < 1 / (1 + np.exp(-(2 * taste[ad] + 0.15 * (10 - price))))
    known, moment = times(events), times(shown)
    tokens = SourceTokens(
        offsets_of(torch.from_numpy(events)), known, known, {"category": torch.from_numpy(random.integers(1, CATEGORIES + 1, total))}, {}
    )
    impressions = Impressions(
        offsets=offsets_of(torch.from_numpy(shown)),
        time_ms=moment,
        rows={"ad": torch.from_numpy(ad), "category": torch.from_numpy(category)},
        numbers={"price": torch.from_numpy(price.astype(np.float32))},
        labels={"click": torch.from_numpy(clicked.astype(np.float32))},
        weight=torch.ones(rows),
        label_age_ms=torch.zeros(rows, dtype=torch.int64),
        validation=moment > 400 * HOUR_MS,
    )
    nobody = torch.zeros(count, dtype=torch.int64)
    return JaggedBatch("", tuple(map(str, range(count))), nobody, nobody + 600 * HOUR_MS, {"click": tokens}, impressions)


def with_labels(batch: JaggedBatch, labels: torch.Tensor) -> JaggedBatch:
    """The users with other responses (M,)."""
    shown = batch.impressions
    return replace(batch, impressions=replace(shown, labels={"click": labels.float()}))
