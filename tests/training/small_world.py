"""A planted world of two communities and how a user model is trained on it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from alure_spark.batches.batch import Impressions, JaggedBatch, SourceTokens, offsets_of
from alure_spark.batches.epochs import MemoryLoader
from alure_spark.config import ModelConfig, TrainingConfig
from alure_spark.model.spec import ModelSpec
from alure_spark.model.user_model import UserModel
from alure_spark.training import user_training

DAY = 86_400_000
START, BORDER, END = 1_600_000_000_000, 1_600_000_000_000 + 40 * DAY, 1_600_000_000_000 + 50 * DAY
ITEMS, USERS = 40, 120
SPEC = ModelSpec(
    {"view": {}, "shown": {}}, ("view",), {"item_id": ITEMS + 3, "account_id": 3}, item_dimension=8,
    config=ModelConfig(dimension=8, heads=2, feed_forward=16, max_events=32, dropout=0.1),
)  # fmt: skip
TRAINING = TrainingConfig(
    epochs=6, patience=6, batch_users=32, learning_rate=0.02, checkpoint_steps=3, item_learning_rate_share=1.0, threads=1
)

LONG = replace(TRAINING, epochs=25, patience=25)


def world(seed: int = 0, informative: bool = True) -> JaggedBatch:
    """Two communities that view their own half of the items and click ads of their own community (row ITEMS+1 or +2)."""
    random = np.random.default_rng(seed)
    community = np.arange(USERS) % 2
    viewed = random.integers(5, 30, USERS)
    times = [np.sort(random.integers(START, END, n)) for n in viewed]
    items = [1 + (random.integers(0, ITEMS // 2, n) + community[u] * (ITEMS // 2)) for u, n in enumerate(viewed)]
    offsets = offsets_of(torch.from_numpy(viewed))
    known = torch.from_numpy(np.concatenate(times))
    view = SourceTokens(offsets, known, known, {"item_id": torch.from_numpy(np.concatenate(items))}, {})
    nothing = torch.zeros(0, dtype=torch.int64)
    shown = SourceTokens(torch.zeros(USERS + 1, dtype=torch.int64), nothing, nothing, {"item_id": nothing}, {})
    ad = random.integers(0, 2, (USERS, 6))
    match = (ad == community[:, None]) if informative else random.random((USERS, 6)) < 0.5
    click = random.random((USERS, 6)) < np.where(match, 0.8, 0.2)
    at = np.sort(random.integers(START + 10 * DAY, END, (USERS, 6)), axis=1)
    impressions = Impressions(
        offsets_of(torch.full((USERS,), 6)), torch.from_numpy(at.ravel()),
        {"item_id": torch.from_numpy(ITEMS + 1 + ad.ravel()), "account_id": torch.from_numpy(1 + ad.ravel())}, {},
        {"click": torch.from_numpy(click.ravel()).float(), "conversion": torch.zeros(USERS * 6)},
        torch.ones(USERS * 6), torch.zeros(USERS * 6, dtype=torch.int64), torch.from_numpy(at.ravel() >= BORDER),
    )  # fmt: skip
    return JaggedBatch(
        "all", tuple(f"u{n}" for n in range(USERS)), torch.zeros(USERS, dtype=torch.int64), torch.full((USERS,), END),
        {"view": view, "shown": shown}, impressions,
    )  # fmt: skip


def with_clicks(shown: Impressions, which: torch.Tensor, click) -> Impressions:
    """The impressions, those of which (M,) bool with another label of click: click(what it was)."""
    before = shown.labels["click"]
    return replace(shown, labels={**shown.labels, "click": torch.where(which, click(before), before)})


def trained(
    batch: JaggedBatch, config: TrainingConfig = TRAINING, checkpoint=None, observe=None
) -> tuple[user_training.Trained, MemoryLoader, user_training.Calendar]:
    loader = MemoryLoader(batch, config.batch_users, 3)
    when = user_training.calendar(loader, ["view"], BORDER, END)
    return user_training.train(UserModel(SPEC), loader, when, config, checkpoint, observe), loader, when
