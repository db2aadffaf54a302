"""Next item: the state must predict the next item of its source.

Sampled softmax with logQ correction (Bengio and Senecal 2008; Yi et al. 2019), or the whole one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from ...batches.batch import JaggedBatch, SourceTokens
from ...batches.vocabulary import ITEM
from ..linear import linear
from ..parallel import ALONE, Alone
from .objective import Objective

if TYPE_CHECKING:
    from ..user_model import Moments, UserModel


def next_item(model: UserModel, batch: JaggedBatch, states: Mapping[str, Tensor], moments: Moments, processes: Alone) -> Tensor | None:
    """The mean of `next_item_loss` over the item sources that have a next item within the moments."""
    config, keys = model.spec.config, model.next_item(model.encoder.item_vectors)
    since, until = (torch.full((len(batch),), moment) for moment in (moments.from_ms, moments.until_ms))
    parts = [
        next_item_loss(
            states[source],
            batch.sources[source],
            keys,
            model.log_frequency,
            since,
            until,
            config.next_items,
            config.full_softmax,
            processes,
        )
        for source in model.spec.item_sources
    ]
    there = [part for part in parts if part is not None]
    return torch.stack(there).mean() if there else None


def next_item_loss(
    states: Tensor,
    tokens: SourceTokens,
    keys: Tensor,
    log_frequency: Tensor,
    from_ms: Tensor,
    before_ms: Tensor,
    most: int = 1024,
    full: bool = False,
    processes: Alone = ALONE,
) -> Tensor | None:
    """Mean cross entropy of the next item, nats; None without a pair of events.

    Among the batch's own next items (sampled softmax with logQ correction), or with `full` among all items. states (T, S); keys
    (rows, S) of the items; log_frequency (rows,) of the training histories; targets known in [from_ms, before_ms), each (B,). At most
    `most` evenly spaced positions of each process.
    """
    following = torch.arange(len(states))[1:]
    users, known = tokens.users(), tokens.known_at_ms
    in_time = (known[1:] >= from_ms[users[1:]]) & (known[1:] < before_ms[users[1:]])
    following = following[(users[1:] == users[:-1]) & in_time & (tokens.rows[ITEM][1:] > 0)]
    following = following[torch.linspace(0, len(following) - 1, min(most, len(following))).long()]
    target = tokens.rows[ITEM][following]
    targets = processes.gathered(target)
    if not len(targets):
        return None
    if full:
        return F.cross_entropy(linear(states[following - 1], keys[1:]), target - 1, reduction="sum") / len(targets)
    own = int(processes.gathered(torch.tensor([len(target)]))[: processes.rank].sum()) + torch.arange(len(target))
    logits = linear(states[following - 1], keys[targets]) - log_frequency[targets]
    twin = target[:, None] == targets
    twin[torch.arange(len(target)), own] = False
    return F.cross_entropy(logits.masked_fill(twin, -1e4), own, reduction="sum") / len(targets)


NEXT_ITEM = Objective(next_item)
