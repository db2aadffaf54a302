"""Neighbour: similar users must predict a user's next engagements, so that the cosine of two embeddings means something.

ALURE, section 3, searches by it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...batches.batch import JaggedBatch, SourceTokens
from ...batches.vocabulary import ITEM
from ..linear import linear
from ..parallel import ALONE, Alone
from .objective import Objective

if TYPE_CHECKING:
    from ..user_model import Moments, UserModel

TEMPERATURE = 0.1
SCORED_ITEMS = 2000  # most popular items of a batch, which the objective scores
LISTED = 50  # the length of the list whose border it looks at
SOFTNESS = 0.05  # of the border, in shares of attention
POPULARITY = 0.1  # weight of an item's popularity beside the neighbours' votes


def neighbour(model: UserModel, batch: JaggedBatch, states: Mapping[str, Tensor], moments: Moments, processes: Alone) -> Tensor | None:
    """`neighbour_loss` of the embeddings at the moments' cut and the items that are new from there to their end."""
    cut, until = (torch.full((len(batch),), moment) for moment in (moments.cut_ms, moments.until_ms))
    embeddings = model.encoder.embed_at(batch, states, torch.arange(len(batch)), cut)
    tokens = [batch.sources[source] for source in model.spec.item_sources]
    return neighbour_loss(embeddings, batch.country, *item_pairs(tokens, cut, until), processes)


def item_pairs(tokens: list[SourceTokens], time_ms: Tensor, until_ms: Tensor) -> tuple[Tensor, Tensor]:
    """((users, rows) known before time_ms, (users, rows) that are new in [time_ms, until_ms)), each (2, n) int64, distinct.

    time_ms and until_ms (B,); the unknown row is left out.
    """
    users = torch.cat([part.users() for part in tokens])
    rows, known = torch.cat([part.rows[ITEM] for part in tokens]), torch.cat([part.known_at_ms for part in tokens])
    if not len(rows):
        return torch.zeros(2, 0, dtype=torch.int64), torch.zeros(2, 0, dtype=torch.int64)
    size = int(rows.max()) + 1
    pairs = users * size + rows
    had = torch.unique(pairs[(known < time_ms[users]) & (rows > 0)])
    later = torch.unique(pairs[(known >= time_ms[users]) & (known < until_ms[users]) & (rows > 0)])
    later = later[~torch.isin(later, had, assume_unique=True)]
    return torch.stack([had // size, had % size]), torch.stack([later // size, later % size])


def neighbour_loss(embeddings: Tensor, country: Tensor, had: Tensor, later: Tensor, processes: Alone = ALONE) -> Tensor | None:
    """1 - a soft Recall@50 of the users' later items among what similar users had; None when nobody can be asked.

    With a_uv = softmax over the other users v of u's country of cos(u, v) / 0.1, an item's score for u is the share of a_u that had
    it, plus a tenth of its popularity; u's own items are out. A later item counts sigmoid((score - the 51st score) / 0.05), so that
    the gradient is about the border of the list, as the evaluated Recall is (analysis/protocol.py). The 2,000 most popular items
    are scored. embeddings (B, D) unit rows as of one moment, country (B,), had and later (2, n) as item_pairs gives.
    """
    sizes = processes.gathered(torch.tensor([len(embeddings)]))
    first = int(sizes[: processes.rank].sum())  # of this process's users among all
    mine = torch.zeros(int(sizes.sum()), dtype=torch.bool)
    mine[first : first + len(embeddings)] = True
    embeddings, country = processes.gathered(embeddings), processes.gathered(country)
    had, later = (processes.gathered((pairs + torch.tensor([[first], [0]])).T).T.contiguous() for pairs in (had, later))
    counts = torch.bincount(had[1]) if had.shape[1] else had.new_zeros(0)
    items = torch.sort(torch.argsort(counts, descending=True, stable=True)[:SCORED_ITEMS]).values
    items = items[counts[items] > 0]
    if not len(items):
        return None
    owned, wanted = (torch.zeros(len(embeddings), len(items), dtype=embeddings.dtype) for _ in range(2))
    for cells, pairs in ((owned, had), (wanted, later)):
        user, place = _of_items(pairs, items)
        cells[user, place] = 1
    stranger = (country[:, None] != country) | torch.eye(len(embeddings), dtype=torch.bool)
    answering = (wanted.sum(dim=1) > 0) & ~stranger.all(dim=1)
    if not answering.any():
        return None
    asked = torch.nonzero(answering & mine).squeeze(1)
    similar = (linear(embeddings[asked], embeddings) / TEMPERATURE).masked_fill(stranger[asked], -1e4)
    scores = linear(similar.softmax(dim=-1), owned.T) + POPULARITY * owned.mean(dim=0)
    scores = scores.masked_fill(owned[asked] > 0, -1e4)
    border = scores.topk(min(LISTED + 1, scores.shape[1]), dim=1).values[:, -1:].detach()
    found = torch.sigmoid((scores - border) / SOFTNESS) * wanted[asked]
    return (1 - found.sum(dim=1) / wanted[asked].sum(dim=1)).sum() / answering.sum()


def _of_items(pairs: Tensor, items: Tensor) -> Tensor:
    """The pairs (2, n) whose item is among the ascending items, as (user, place among items)."""
    place = torch.searchsorted(items, pairs[1]).clamp(max=len(items) - 1)
    kept = items[place] == pairs[1]
    return torch.stack([pairs[0], place])[:, kept]


NEIGHBOUR = Objective(neighbour, reads_states=False)
