"""Recurring training: yesterday's champion goes on with what became known since, tables growing with the vocabulary.

Enters: the champion, a model as it would start today, packed rows. Leaves: the champion's weights in today's shapes, and batches in
which only new impressions count. What a row of a table has learnt stays that row's: a user whose items were all known before has the
same embedding in the grown model. Some users' new impressions are held back to evaluate by; others the next time.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import torch

from ..batches.batch import JaggedBatch
from ..batches.epochs import Batches, ChangedBatches
from ..config import LabelConfig
from ..model.spec import ModelSpec
from ..model.user_model import Moments, UserModel
from .user_training import Calendar


def obstacle(champion: ModelSpec, spec: ModelSpec) -> str:
    """Why the champion cannot go on as a model of today's spec, as a part of a sentence; empty where it can."""
    if replace(champion, spaces=spec.spaces) != spec or tuple(champion.sources) != tuple(spec.sources):
        return "its sources, attributes, tasks or shapes are not those of the conf"
    smaller = [name for name, rows in champion.spaces.items() if rows > spec.spaces[name]]
    return f"the vocabulary has lost rows of {', '.join(smaller)}" if smaller else ""


@torch.no_grad()
def grown(champion: UserModel, today: UserModel) -> UserModel:
    """`today` (a model before training, with today's shapes and item vectors) with the champion's weights, and rows of its own where
    the champion has none.

    Today's item vectors come from a factorisation of its own, whose axes are arbitrary: per view they are turned and scaled to
    lie on the champion's where both know an item (orthogonal Procrustes; Schoenemann 1966). Counts of items are today's.
    """
    old, new = champion.state_dict(), today.state_dict()
    name = "encoder.item_vectors"
    known = len(old[name])
    width = today.spec.item_dimension
    for view in range(today.spec.views):
        columns = slice(view * width, (view + 1) * width)
        theirs, mine = old[name][:, columns], new[name][:, columns]
        shared = (theirs.abs().sum(1) > 0) & (mine[:known].abs().sum(1) > 0)
        left, singular, right = torch.linalg.svd(mine[:known][shared].T @ theirs[shared])
        scale = singular.sum() / mine[:known][shared].square().sum().clamp(min=1e-12)
        mine[known:] = mine[known:] @ (left @ right) * scale
    for key, value in new.items():
        if key != "log_frequency":
            learnt = value[: len(old[key])] if value.ndim else value
            learnt.copy_(old[key])
    return today


@dataclass(frozen=True)
class SplitByUser(Calendar):
    """Everything before as_of is learnt from; users validate, not days."""

    @property
    def holds_back(self) -> bool:
        return True

    def validation(self) -> Moments:
        return Moments(self.cuts_ms[-1], self.end_ms, validation=True)


def new_since(labels: LabelConfig, champion_as_of_ms: int) -> int:
    """From which time on impressions are new to the champion: those whose labels it has not seen."""
    return champion_as_of_ms - labels.window_ms if labels.hold_back_immature else champion_as_of_ms


class NewImpressions(ChangedBatches):
    """A loader in which impressions before since_ms weigh nothing and a share of the users validates."""

    def __init__(self, loader: Batches, since_ms: int, share: float, salt: int) -> None:
        super().__init__(loader)
        self.since_ms, self.share, self.salt = since_ms, share, salt

    def changed(self, batch: JaggedBatch) -> JaggedBatch:
        shown = batch.impressions
        assert shown is not None
        held = torch.tensor([self._place(user) < self.share for user in batch.user_ids])[shown.users()]
        weight = torch.where(shown.time_ms >= self.since_ms, shown.weight, 0)
        return replace(batch, impressions=replace(shown, validation=held, weight=weight))

    def _place(self, user: str) -> float:
        """A number from 0 to 1 that is the user's under this salt."""
        found = hashlib.blake2b(user.encode(), digest_size=8, salt=self.salt.to_bytes(8, "little", signed=True)).digest()
        return int.from_bytes(found, "little") / 2**64
