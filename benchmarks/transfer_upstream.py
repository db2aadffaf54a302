"""The upstream side of benchmarks/transfer.py: a user model of the rich surface, and what it hands to others as of each day.

As jobs/train_model.py, embed_users.py and extract_representations.py do it, by arrays instead of tables: the model is trained once, on
what was known before a moment. From then on, every midnight, the user embedding (UR) is of the events before it, and a cross representation
(CR) of a user or an ad is the decaying mean over the impressions before it. The representation of an ad (IR) stays.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from alure_spark.baselines.histories import ItemHistories
from alure_spark.baselines.item_vectors import item_views
from alure_spark.batches.batch import JaggedBatch, known_until, select_users
from alure_spark.batches.epochs import MemoryLoader
from alure_spark.batches.vocabulary import ACCOUNT, ITEM, Vocabulary
from alure_spark.clock import DAY_MS
from alure_spark.config import ModelConfig, ObjectiveConfig, TrainingConfig, TransferConfig
from alure_spark.model.representations import cross_representations, item_representations
from alure_spark.model.spec import ModelSpec
from alure_spark.model.user_model import UserModel
from alure_spark.training import user_training
from alure_spark.training.start import new_model

VALIDATION_DAYS = 4
MODEL = ModelConfig(dimension=16, heads=2, feed_forward=32, max_events=128, dropout=0.1, views=("svd",))
DIMENSION = 16  # of the user embedding
TRAINING = TrainingConfig(
    epochs=10, patience=3, batch_users=32, learning_rate=1e-2, item_learning_rate_share=1.0,
    objectives=ObjectiveConfig(click=1.0, neighbour=0.2, next_item=0.2),
)  # fmt: skip
CHUNK = 256  # users that are read at once


def trained_user_model(log: JaggedBatch, item_source: str, end_ms: int, seed: int) -> UserModel:
    """The user model of what was known before end_ms; clicks on the impressions of the last VALIDATION_DAYS say when it stops."""
    shown = log.impressions
    assert shown is not None
    known = known_until(replace(log, impressions=None), end_ms)
    border = end_ms - VALIDATION_DAYS * DAY_MS
    before = shown.select(shown.time_ms < end_ms)
    known = replace(known, impressions=replace(before, validation=before.time_ms >= border), as_of_ms=torch.full_like(log.as_of_ms, end_ms))
    loader = MemoryLoader(known, TRAINING.batch_users, seed)
    when = user_training.calendar(loader, [item_source], border, end_ms)
    model = _new_model(known, item_source, border, seed)
    return user_training.train(model, loader, when, replace(TRAINING, seed=seed, threads=torch.get_num_threads())).model


def _new_model(log: JaggedBatch, item_source: str, border_ms: int, seed: int) -> UserModel:
    """Before training; its item vectors start at the factorization of the histories before border_ms."""
    shown = log.impressions
    assert shown is not None
    rows = {space: np.arange(1, int(shown.rows[space].max()) + 1) for space in (ITEM, ACCOUNT)}
    vocabulary = Vocabulary({space: (its, its) for space, its in rows.items()})
    spec = ModelSpec(
        {name: {} for name in log.sources}, (item_source,), {space: len(its) + 1 for space, its in rows.items()},
        item_dimension=DIMENSION, config=replace(MODEL, seed=seed), tasks=("click",),
    )  # fmt: skip
    tokens = known_until(log, border_ms).sources[item_source]
    owners, items = tokens.users().numpy(), tokens.rows[ITEM].numpy()
    views = item_views(ItemHistories.from_events(owners, items, tokens.known_at_ms.numpy()), MODEL.views, DIMENSION, 5, seed)
    return new_model(spec, vocabulary, views.items, list(views.vectors), views.idf, views.users)


@torch.no_grad()
def user_embeddings(model: UserModel, log: JaggedBatch, users: np.ndarray, time_ms: np.ndarray) -> np.ndarray:
    """(n, D) float32 of users (n,), each as of the last midnight at or before its time_ms (n,)."""
    midnight, found = last_midnight(time_ms), np.zeros((len(users), model.spec.views * model.spec.item_dimension), np.float32)
    for moment in np.unique(midnight):
        at = np.flatnonzero(midnight == moment)
        whose, place = np.unique(users[at], return_inverse=True)
        known = known_until(replace(log, impressions=None), int(moment))
        parts = [model.encoder.embed(select_users(known, some)) for some in torch.from_numpy(whose).split(CHUNK)]
        found[at] = torch.cat(parts).numpy()[place]
    return found


def crosses(model: UserModel, log: JaggedBatch, layer: str) -> np.ndarray:
    """(M, numbers) float32 of all impressions of the log, in its order, each by what was known before it."""
    parts = [cross_representations(model, select_users(log, some), layer) for some in torch.arange(len(log)).split(CHUNK)]
    made: np.ndarray = torch.cat(parts).numpy()
    return made


def ad_representations(model: UserModel, items: np.ndarray, accounts: np.ndarray) -> np.ndarray:
    """(n, D) float32 of ads; items and accounts (n,) are rows of the vocabulary."""
    made: np.ndarray = item_representations(model, torch.from_numpy(items), torch.from_numpy(accounts)).numpy()
    return made


@dataclass(frozen=True)
class Seen:
    """n impressions that were read."""

    owner: np.ndarray  # (n,) int64 from 0 on: its user, or its ad
    known_at_ms: np.ndarray  # (n,) int64
    values: np.ndarray  # (n, numbers)


def decaying_means(seen: Seen, owner: np.ndarray, time_ms: np.ndarray, config: TransferConfig) -> np.ndarray:
    """(n, numbers) float32 of owner (n,) as of the last midnight at or before time_ms (n,); NaN where nothing of it was known before that.

    As alure_spark/inference/cross_table.py: an impression counts in the day in which it became known, and half after half_life_days;
    none counts that is older than window_days.
    """
    midnight = last_midnight(time_ms)
    count, width = int(max(seen.owner.max(initial=-1), owner.max(initial=-1))) + 1, seen.values.shape[1]
    ends = last_midnight(seen.known_at_ms) + DAY_MS  # of each one's day, exclusive: what is known at midnight is of the next day
    found = np.full((len(owner), width), np.nan, np.float32)
    for moment in np.unique(midnight):
        age = (moment - ends) // DAY_MS
        inside = np.flatnonzero((age >= 0) & (age < config.window_days))
        share = 0.5 ** (age[inside] / config.half_life_days)
        weight = np.bincount(seen.owner[inside], share, count)
        total = np.stack([np.bincount(seen.owner[inside], share * column, count) for column in seen.values[inside].T], axis=1)
        at = np.flatnonzero(midnight == moment)
        known = at[weight[owner[at]] > 0]
        found[known] = total[owner[known]] / weight[owner[known], None]
    return found


def last_midnight(time_ms: np.ndarray) -> np.ndarray:
    """(n,) int64 the last midnight at or before."""
    midnight: np.ndarray = time_ms // DAY_MS * DAY_MS
    return midnight
