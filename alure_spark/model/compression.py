"""From hundreds of states (sources x read layers x positions) to the few vectors of a user (ALURE, section 2.3).

Three methods, chosen by model.compression, each a module from (R, n, d) to (R, views * item_dimension):
linear       two layers on all states side by side;
dot_product  linearly compressed states, and what their dot products with all states tell, joined by a skip (the paper's 1);
attention    one learned query per view, which attends to the states (the paper's 2).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .linear import Linear
from .spec import ModelSpec


def compression(spec: ModelSpec) -> nn.Module:
    """The module that spec.config.compression names."""
    kinds = {"linear": LinearCompression, "dot_product": DotProductCompression, "attention": AttentionCompression}
    return kinds[spec.config.compression](spec)


def states_read(spec: ModelSpec) -> int:
    """n: states that are compressed."""
    return len(spec.sources) * len(spec.read_layers) * spec.config.read_positions


class LinearCompression(nn.Sequential):
    """Two layers on all states side by side."""

    def __init__(self, spec: ModelSpec) -> None:
        d = spec.config.dimension
        super().__init__(Linear(states_read(spec) * d, 2 * d), nn.GELU(), Linear(2 * d, spec.views * spec.item_dimension))

    def forward(self, states: Tensor) -> Tensor:
        """(R, n, d) -> (R, views * item_dimension)."""
        return super().forward(states.flatten(1))


class DotProductCompression(nn.Module):
    """m linear mixtures of the n states, plus a network on their n * m dot products with the states, around a skip."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        n, m, d = states_read(spec), spec.config.compressed, spec.config.dimension
        self.mix = Linear(n, m, bias=False)
        self.interact = nn.Sequential(nn.LayerNorm(n * m), Linear(n * m, 2 * d), nn.GELU(), Linear(2 * d, m * d))
        self.output = Linear(m * d, spec.views * spec.item_dimension)

    def forward(self, states: Tensor) -> Tensor:
        """(R, n, d) -> (R, views * item_dimension)."""
        mixed = self.mix(states.transpose(1, 2)).transpose(1, 2)  # (R, m, d)
        dots = torch.bmm(states, mixed.transpose(1, 2)) / states.shape[2] ** 0.5  # (R, n, m)
        result: Tensor = self.output(mixed.flatten(1) + self.interact(dots.flatten(1)))
        return result


class AttentionCompression(nn.Module):
    """One learned query per view attends to the n states; feed-forward, each behind a norm and around a skip, and a matrix per view."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        config, d = spec.config, spec.config.dimension
        self.heads = config.heads
        self.queries = nn.Parameter(torch.empty(spec.views, d).normal_(std=d**-0.5))
        self.place = nn.Parameter(torch.zeros(states_read(spec), d))  # which source, layer and position a state is of
        self.query, self.key_value, self.mixed = Linear(d, d), Linear(d, 2 * d), Linear(d, d)
        self.norm = nn.LayerNorm(d)
        self.feed_forward = nn.Sequential(Linear(d, config.feed_forward), nn.GELU(), Linear(config.feed_forward, d))
        self.output = nn.ModuleList(Linear(d, spec.item_dimension) for _ in range(spec.views))

    def forward(self, states: Tensor) -> Tensor:
        """(R, n, d) -> (R, views * item_dimension)."""
        rows, _, d = states.shape
        keys, values = self.key_value(states + self.place).split(d, dim=-1)
        q = self.query(self.queries).expand(rows, -1, -1)
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in (q, keys, values))
        attended = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)  # (R, views, d)
        x = self.queries + self.mixed(attended)
        x = x + self.feed_forward(self.norm(x))
        return torch.cat([output(x[:, view]) for view, output in enumerate(self.output)], dim=-1)
