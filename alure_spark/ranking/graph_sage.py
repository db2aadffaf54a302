"""GraphSAGE without labels on the graph of who clicked what (Hamilton et al., 2017): the pre-trained similarity of section 3.3.

Enters: a graph of users and items whose neighbors were sampled before. Leaves: a vector of length 1 per node. The cosine of a user's
and an item's vector says how likely an edge is; the ranking model reads it as a number (encodings/numeral_systems.py). No Spark here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..model.linear import Linear
from ..model.trainable import ParameterGroup

DEGREE_POWER = 0.75  # of an item's edges: how often it is drawn as a negative (word2vec's exponent, which GraphSAGE takes over)
DEVIATION = 0.1  # of the numbers that nodes start from
EMBEDDED = 8192  # nodes that are embedded at once


@dataclass(frozen=True)
class ClickGraph:
    """A graph with edges between users and items only. Nodes are numbered: the users first, 0 .. users - 1, then the items."""

    users: int
    neighbours: Tensor  # (N, F) int64: sampled neighbors of each node, in the order of the draw; -1 where there is none
    edges: Tensor  # (E, 2) int64: user's node, item's node; each pair once
    held_out: Tensor  # (H, 2) int64: further edges, which nobody sees and nobody learns from

    @property
    def items(self) -> int:
        return len(self.neighbours) - self.users


class SageLayer(nn.Module):
    """W_self h(v) + W_neighbours mean of h(n) over v's neighbors n + bias."""

    def __init__(self, width: int, made: int) -> None:
        super().__init__()
        self.own, self.near = Linear(width, made), Linear(width, made, bias=False)

    def forward(self, own: Tensor, near: Tensor, there: Tensor) -> Tensor:
        """own (n, D), near (n, F, D), there (n, F) bool -> (n, D'). The mean of no neighbor is 0."""
        kept = there.unsqueeze(2).to(near.dtype)
        mean = (near * kept).sum(1) / kept.sum(1).clamp(min=1)
        result: Tensor = self.own(own) + self.near(mean)
        return result


class GraphSage(nn.Module):
    """Two layers over a learnt vector per node. The graph is not part of the state: whoever loads weights gives the same one.

    fanout: how many of the sampled neighbors the second layer takes of a node, and the first layer of each of these.
    negatives: Q of the loss, see `losses`.
    """

    neighbours: Tensor
    drawn_below: Tensor

    def __init__(self, graph: ClickGraph, dimension: int, fanout: Sequence[int] = (10, 10), negatives: int = 5) -> None:
        super().__init__()
        self.users, self.fanout, self.negatives = graph.users, tuple(fanout), negatives
        self.table = nn.Embedding(len(graph.neighbours), dimension, sparse=True)
        nn.init.normal_(self.table.weight, std=DEVIATION)
        self.first, self.second = SageLayer(dimension, dimension), SageLayer(dimension, dimension)
        degrees = torch.bincount(graph.edges[:, 1] - graph.users, minlength=graph.items)
        shares = degrees.double().pow(DEGREE_POWER).cumsum(0)
        self.register_buffer("neighbours", graph.neighbours, persistent=False)
        self.register_buffer("drawn_below", shares / shares[-1], persistent=False)  # (items,) float64, ascending to 1

    def losses(self, users: Tensor, items: Tensor) -> dict[str, Tensor]:
        """similarity: mean of -log s(z_u z_v - log Q) - sum over Q negatives n of log s(log Q - z_u z_n). Nodes users (B,), items (B,).

        With Q = 1 this is the paper's loss. Without log Q, which the paper has not, a pair's best cosine is log(lift / Q), where lift says
        how much more often it is an edge than by chance: vectors of length 1 end at -1 for all pairs as soon as Q is near the lifts
        (docs/decisions.md). With it the best cosine is log(lift), 0 at chance, and Q only says how many draws the mean is taken over.
        B items are drawn, each a negative of Q edges, by torch's generator, which the loop seeds by (seed, epoch, step).
        """
        count, shift = len(users), math.log(self.negatives)
        z_user, z_item, z_drawn = self(torch.cat([users, items, self.draw(count)])).chunk(3)
        loss = -F.logsigmoid((z_user * z_item).sum(1) - shift)  # (B,)
        for turn in range(self.negatives):
            loss = loss - F.logsigmoid(shift - (z_user * z_drawn.roll(turn, 0)).sum(1))
        return {"similarity": loss.mean()}

    def draw(self, count: int) -> Tensor:
        """(count,) int64 nodes of items, each with probability degree^0.75 over the sum of these."""
        place = torch.searchsorted(self.drawn_below, torch.empty(count, dtype=torch.float64).uniform_(), right=True)
        return self.users + place.clamp(max=len(self.drawn_below) - 1)

    def forward(self, nodes: Tensor) -> Tensor:
        """(n, D): vectors of length 1 of the nodes (n,) int64, which may repeat.

        Cost: the first layer runs once per distinct node among these and their neighbors. Gathers are embeddings, whose gradients are
        added in the same order on any number of threads.
        """
        near = self.neighbours[nodes, : self.fanout[0]]  # (n, F0)
        seen, place = _distinct(nodes, near)  # (m,), (n, 1 + F0)
        near_seen = self.neighbours[seen, : self.fanout[1]]  # (m, F1)
        known, place_seen = _distinct(seen, near_seen)  # (k,), (m, 1 + F1)
        x = F.embedding(place_seen, self.table(known))  # (m, 1 + F1, D)
        hidden = F.relu(self.first(x[:, 0], x[:, 1:], near_seen >= 0))  # (m, D)
        h = F.embedding(place, hidden)  # (n, 1 + F0, D)
        return F.normalize(self.second(h[:, 0], h[:, 1:], near >= 0), dim=1)

    @torch.no_grad()
    def embeddings(self) -> Tensor:
        """(N, D) of all nodes, in their order."""
        return torch.cat([self(nodes) for nodes in torch.arange(len(self.neighbours)).split(EMBEDDED)])

    def parameter_groups(self) -> list[ParameterGroup]:
        layers = [*self.first.parameters(), *self.second.parameters()]
        return [
            ParameterGroup("nodes", [*self.table.parameters()], decays=False, optimizer=torch.optim.SparseAdam),
            ParameterGroup("layers", layers, decays=False),
        ]


def _distinct(nodes: Tensor, near: Tensor) -> tuple[Tensor, Tensor]:
    """Distinct nodes (m,) ascending among nodes (n,) and their neighbors near (n, F), and the place of each in them: (n, 1 + F).

    Where there is no neighbor (-1) stands the node itself, so that no other node gets a gradient of 0, by which Adam would move it.
    """
    both = torch.cat([nodes[:, None], torch.where(near >= 0, near, nodes[:, None])], dim=1)
    distinct, place = torch.unique(both, return_inverse=True)
    return distinct, place
