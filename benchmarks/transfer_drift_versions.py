"""Versions of the user model in the world of drift, what each says of users and ads on a day, and how a version is turned to another.

The user model is the product's: item vectors by factorization, the training of jobs/train_model.py with its validation split, and the
representations of jobs/extract_representations.py, all in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from alure_spark.alignment import Alignment
from alure_spark.baselines.histories import ItemHistories
from alure_spark.baselines.item_vectors import item_views
from alure_spark.batches.batch import JaggedBatch
from alure_spark.batches.epochs import MemoryLoader
from alure_spark.batches.vocabulary import ACCOUNT, ITEM, Vocabulary
from alure_spark.clock import DAY_MS
from alure_spark.config import ModelConfig, ObjectiveConfig, TrainingConfig
from alure_spark.model.representations import cross_representations, item_representations
from alure_spark.model.spec import ModelSpec
from alure_spark.model.user_model import UserModel
from alure_spark.training import recurring, start, user_training
from benchmarks import transfer_drift_world as worlds
from benchmarks.transfer_drift_world import DriftWorld

HISTORY, SHOWN = 14, 7  # days before a moment that a history holds, and whose impressions are learnt from and summed
HALF_LIFE = 7.0  # days, as transfer.half_life_days
LAYER = "hidden"
WIDTHS = {"user": 16, "item": 32, "cross": 32}
SPEC = ModelSpec(
    sources={"view": {}, "click": {}},
    item_sources=("view", "click"),
    spaces={ITEM: worlds.vocabulary_size(0), ACCOUNT: 1},
    item_dimension=WIDTHS["user"],
    tasks=("click",),
    config=ModelConfig(dimension=WIDTHS["cross"], heads=4, feed_forward=64, views=("svd",), max_events=128, window=64),
)
# A tenth of the users that a step of the product has: there are few users, and the model needs the steps.
TRAINING = TrainingConfig(
    epochs=5, patience=5, batch_users=24, learning_rate=4e-3, threads=1, objectives=ObjectiveConfig(neighbour=0.0, next_item=0.2)
)

GOING_ON = replace(TRAINING, epochs=2)  # of a version that goes on: it has one more day to learn from


@dataclass(frozen=True)
class Representations:
    """What a version says as of one morning; NaN of ads that were not there yet, or had no impression."""

    user: np.ndarray  # (U, d) UR
    item: np.ndarray  # (ADS, d) IR
    cross: np.ndarray  # (U + ADS, d) CR: the means of users, then those of ads


def version(world: DriftWorld, end: int, seed: int, before: UserModel | None = None) -> UserModel:
    """The user model that is trained in the morning of the day `end`.

    From the start: the day before is its validation split. Or as a version goes on from the one of the day before (training.warm_start):
    with what became known since, and other users to validate each time.
    """
    size = worlds.vocabulary_size(end - 1)
    batch = worlds.histories(world, end - HISTORY, end, end - SHOWN, end - 1, size)
    model, loader = _new_model(batch, size, seed), MemoryLoader(batch, TRAINING.batch_users, seed)
    border, until = (worlds.START_MS + day * DAY_MS for day in (end - 1, end))
    when = user_training.calendar(loader, SPEC.item_sources, border, until)
    if before is None:
        return user_training.train(model, loader, when, replace(TRAINING, seed=seed)).model
    new = recurring.NewImpressions(loader, border, TRAINING.holdout_users, until)
    mine = recurring.SplitByUser(when.cuts_ms, until, until)
    return user_training.train(recurring.grown(before, model), new, mine, replace(GOING_ON, seed=seed), warm=True).model


def _new_model(batch: JaggedBatch, size: int, seed: int) -> UserModel:
    """Before training, with item vectors of the histories."""
    tokens = batch.sources.values()
    user, row, known = (
        np.concatenate([part.numpy() for part in parts])
        for parts in ([its.users() for its in tokens], [its.rows[ITEM] for its in tokens], [its.known_at_ms for its in tokens])
    )
    views = item_views(ItemHistories.from_events(user, row, known), SPEC.config.views, SPEC.item_dimension, 4, seed)
    rows = np.arange(1, size)
    spec = replace(SPEC, spaces=dict(SPEC.spaces) | {ITEM: size}, config=replace(SPEC.config, seed=seed))
    return start.new_model(spec, Vocabulary({ITEM: (rows, rows)}), views.items, list(views.vectors), views.idf, views.users)


@torch.no_grad()
def representations(world: DriftWorld, model: UserModel, end: int) -> Representations:
    """As of the morning of the day `end`, of what was known before it."""
    size = model.spec.spaces[ITEM]
    batch = worlds.histories(world, end - HISTORY, end, end - SHOWN, end, size)
    parts = list(MemoryLoader(batch, 256, 0).in_order())
    ads = torch.from_numpy(worlds.rows_of("ads", np.arange(worlds.ADS), size))
    crosses = torch.cat([cross_representations(model, part, LAYER) for part in parts]).numpy()
    items = item_representations(model, ads, torch.zeros_like(ads)).numpy()
    items[worlds.active("ads", end).stop :] = np.nan
    user = torch.cat([model.encoder.embed(part) for part in parts]).numpy()
    return Representations(user, items, _means(crosses, world, batch, end))


def _means(crosses: np.ndarray, world: DriftWorld, batch: JaggedBatch, end: int) -> np.ndarray:
    """The decaying means of crosses (M, d) per user and per ad."""
    shown = batch.impressions
    assert shown is not None
    age = (worlds.START_MS + end * DAY_MS - 1 - shown.time_ms.numpy()) // DAY_MS
    share = 0.5 ** (age / HALF_LIFE)
    ad = world.rich[end - SHOWN : end].transpose(1, 0, 2).ravel() + len(batch)  # its own, also where the model does not know it
    key, both = np.concatenate([shown.users().numpy(), ad]), np.tile(share, 2)
    sums = np.zeros((len(batch) + worlds.ADS, crosses.shape[1]))
    np.add.at(sums, key, both[:, None] * np.tile(crosses, (2, 1)))
    weight = np.bincount(key, both, len(sums))
    return (sums / np.where(weight > 0, weight, np.nan)[:, None]).astype(np.float32)


Turn = Callable[[np.ndarray, np.ndarray], Alignment]  # (vectors, those of the space) of the rows that both have


def unturned(mine: np.ndarray, theirs: np.ndarray) -> Alignment:
    """As they are; the residual says how far they are from those of the space."""
    missed = ((mine - theirs) ** 2).sum() / ((theirs - theirs.mean(axis=0)) ** 2).sum()
    return Alignment(np.eye(mine.shape[1]), np.zeros(mine.shape[1]), len(mine), float(np.sqrt(missed)))


def in_space(mine: Representations, theirs: Representations, turn: Turn) -> tuple[Representations, Mapping[str, float]]:
    """(All three turned into the space of theirs, the residual of each)."""
    turned, residuals = {}, {}
    for kind in WIDTHS:
        first, second = getattr(mine, kind), getattr(theirs, kind)
        common = np.isfinite(first).all(axis=1) & np.isfinite(second).all(axis=1)
        alignment = turn(first[common], second[common])
        turned[kind], residuals[kind] = alignment.turned(first), alignment.residual
    return Representations(**turned), residuals
