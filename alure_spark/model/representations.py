"""What a user model offers to other models: representations of ads (IR), and of a user and an ad together (CR).

LFM4Ads transfers all three kinds; that of users (UR) is what embeds the table (user_encoder.py). Which layer gives the CR is a choice:

ad       the ad tower in the impression's context;
crosses  per source the user's state times the ad, number by number, before they are summed to inner products;
hidden   the penultimate layer of the read-out, in which all of it has met.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..batches.batch import JaggedBatch
from ..batches.vocabulary import ACCOUNT, ITEM
from ..config import CROSS_LAYERS
from .readout import Read
from .spec import ModelSpec
from .user_model import UserModel

LAYERS: dict[str, Callable[[Read], Tensor]] = dict(
    zip(
        CROSS_LAYERS,
        (lambda read: read.ad, lambda read: torch.cat(read.crosses, dim=1), lambda read: read.hidden),
        strict=True,
    )
)


def cross_width(spec: ModelSpec, layer: str) -> int:
    """Numbers of a cross representation."""
    return spec.config.dimension * (len(spec.sources) if layer == "crosses" else 1)


@torch.no_grad()
def cross_representations(model: UserModel, batch: JaggedBatch, layer: str) -> Tensor:
    """(M, cross_width) of the batch's impressions, each by what was known before it; the model in evaluation mode."""
    return LAYERS[layer](model.readout.read(batch, model.encoder.states(batch), model.encoder))


@torch.no_grad()
def item_representations(model: UserModel, items: Tensor, accounts: Tensor) -> Tensor:
    """(n, d) the ad tower of ads at the mean context of training, without an attribute of an impression.

    items, accounts (n,) int64: rows of the vocabulary.
    """
    readout, unknown = model.readout, torch.zeros_like(items)
    rows = dict.fromkeys(readout.tables, unknown) | {ITEM: items, ACCOUNT: accounts}
    context = readout.fact_mean[-readout.context :].expand(len(items), -1)
    return readout.ad_vectors(model.encoder, rows, context)
