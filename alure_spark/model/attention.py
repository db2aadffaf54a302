"""Causal self-attention on packed tokens: no padding, linear work on all tokens at once, scores on views of equal-length runs.

Users of equal length lie next to each other, so a run of them is a view (users, length, heads, d / heads) of the packed
matrix. Runs are worked on in chunks that stay in the processor's cache; queries come in blocks, which see neither the keys
after them nor those before their window, so memory does not grow with the square of the length.
Relative order and pairwise time (ALURE, section 2.2: "added to the attention weights matrix as attention bias") enter as
-slope * log(1 + distance), one learned slope per head and kind: order counts tokens, time counts hours. Rotary encoding turns
pairs of a query's and a key's numbers by angles of their tokens, so that scores see differences of angles (RoFormer).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..batches.batch import offsets_of, ranges
from .linear import Linear, linear

CHUNK_TOKENS = 4096  # tokens that run through a layer at once, unless one user has more: what they need fits the cache
QUERY_BLOCK = 128  # queries of a user that are scored at once where there is a bias
Blocks = tuple[tuple[int, int], ...]  # (users, length) of runs that follow each other


@dataclass(frozen=True)
class Runs:
    """The users of a source ordered by length; users without tokens are left out."""

    order: Tensor  # (T,) int64: the i-th token by length is token order[i] of the packed row
    place: Tensor  # (T,) int64: the inverse of order
    users: Tensor  # (U,) int64: users with a token, by length
    last: Tensor  # (U,) int64: the i-th user's last token, counted by length
    chunks: tuple[Blocks, ...]  # the runs in order, together so many as make about CHUNK_TOKENS tokens

    @classmethod
    def of(cls, offsets: Tensor) -> Runs:
        """From the borders (B + 1,) of a packed row."""
        lengths = offsets[1:] - offsets[:-1]
        users = torch.argsort(lengths, stable=True)
        users = users[lengths[users] > 0]
        sizes = lengths[users]
        order = ranges(offsets[users], sizes)
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order))
        chunks: list[list[tuple[int, int]]] = []
        room = 0
        for length, count in zip(*(part.tolist() for part in torch.unique_consecutive(sizes, return_counts=True)), strict=True):
            while count:
                if room < length:
                    chunks.append([])
                    room = max(CHUNK_TOKENS, length)
                fitting = min(count, room // length)
                chunks[-1].append((fitting, length))
                count, room = count - fitting, room - fitting * length
        return cls(order, place, users, offsets_of(sizes)[1:] - 1, tuple(map(tuple, chunks)))

    def pieces(self) -> Iterator[tuple[slice, Blocks]]:
        """For each chunk its tokens by length, and its blocks."""
        first = 0
        for blocks in self.chunks:
            end = first + sum(users * length for users, length in blocks)
            yield slice(first, end), blocks
            first = end


@dataclass(frozen=True)
class Clock:
    """What attention is told of the time of T tokens, beside their vectors; None where that encoding is off."""

    hours: Tensor  # (T,) since the user's first token
    angles: Tensor | None = None  # (T, pairs) by which queries and keys turn
    encoding: Tensor | None = None  # (T, d) what queries and keys see added to the token, and values do not
    window: int | None = None  # tokens that attention looks back, where these may see fewer than the layer's own window

    def at(self, which: slice | Tensor) -> Clock:
        """The clock of these tokens."""
        angles, encoding = (None if part is None else part[which] for part in (self.angles, self.encoding))
        return Clock(self.hours[which], angles, encoding, self.window)


class CausalAttention(nn.Module):
    """Multi-head attention of each token to the last `window` tokens of its user, itself included."""

    def __init__(self, dimension: int, heads: int, window: int, order_bias: bool, time_bias: bool) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.inputs = Linear(dimension, 3 * dimension)
        self.output = Linear(dimension, dimension)
        slopes = torch.log(torch.expm1(2.0 ** -torch.arange(1, heads + 1).float()))  # softplus gives 1/2, 1/4, ... per head
        self.order_slope = nn.Parameter(slopes.clone()) if order_bias else None
        self.time_slope = nn.Parameter(slopes.clone()) if time_bias else None

    def forward(self, x: Tensor, clock: Clock, blocks: Blocks, asking: Tensor | None = None) -> Tensor:
        """x (T, d) and the clock of the blocks' tokens -> (T, d); asking (T, d) is what queries and keys are made of, else x."""
        order, time = self._slopes()
        window = self._seen(clock)
        near = _near(order, max(length for _, length in blocks), window, x.dtype)
        sizes, mixed = [users * length for users, length in blocks], []
        projected = self.inputs(x) if asking is None else torch.cat([self._projected(asking, 0, 2), self._projected(x, 2, 3)], dim=-1)
        turned = self._turned(projected, clock.angles)
        for (users, length), part, hours in zip(blocks, turned.split(sizes), clock.hours.split(sizes), strict=True):
            q, k, v = part.view(users, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)  # (users, heads, length, d / heads)
            if order is None and time is None and length <= window:
                mixed.append(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(len(part), -1))
            else:
                mixed.append(_BiasedAttention.apply(q, k, v, hours.view(users, length), order, time, near, window).view(len(part), -1))
        return self.output(torch.cat(mixed))

    def last(self, x: Tensor, clock: Clock, ends: Tensor, blocks: Blocks, asking: Tensor | None = None) -> Tensor:
        """The rows of forward at each user's last token: (U, d), from x (T, d) and the places (U,) of those tokens in it.

        One query per user: without rotary encoding the key matrix is applied to it instead of to all its tokens, and the value
        matrix always to what it picks.
        """
        d, sizes = x.shape[1], [users * length for users, length in blocks]
        asking = x if asking is None else asking
        w_v, b_v = self.inputs.weight[2 * d :], self.inputs.bias[2 * d :]
        query = self._projected(asking[ends], 0, 1).view(len(ends), self.heads, -1)  # (U, heads, d / heads)
        if clock.angles is None:
            w_k = self.inputs.weight[d : 2 * d]  # the bias of keys moves all scores of a query alike
            query = torch.matmul((query * query.shape[-1] ** -0.5).transpose(0, 1), w_k.view(self.heads, -1, d)).transpose(0, 1)
            keys = asking  # (U, heads, d) are the queries
        else:
            query = _turn(query, clock.angles[ends]) * query.shape[-1] ** -0.5
            keys = _turn(self._projected(asking, 1, 2).view(len(x), self.heads, -1), clock.angles).flatten(1)
        order, time = self._slopes()
        picked = []
        for (users, length), rows, key, hours, asked in zip(
            blocks, x.split(sizes), keys.split(sizes), clock.hours.split(sizes), query.split([users for users, _ in blocks]), strict=True
        ):
            seen = min(length, self._seen(clock))
            rows, key, hours = (part.view(users, length, -1)[:, -seen:] for part in (rows, key, hours))
            if clock.angles is None:
                scores = torch.bmm(asked, key.transpose(1, 2))  # (users, heads, seen)
            else:
                scores = torch.einsum("uhw,ushw->uhs", asked, key.view(users, seen, self.heads, -1))
            if order is not None:
                scores = scores - order[:, None] * torch.arange(seen - 1, -1, -1).to(x.dtype).log1p()
            if time is not None:
                scores = scores - time[:, None] * (hours[:, -1:] - hours).abs().log1p().transpose(1, 2)
            picked.append(torch.bmm(scores.softmax(dim=-1), rows))
        mixed = torch.matmul(torch.cat(picked).transpose(0, 1), w_v.view(self.heads, -1, d).transpose(1, 2))  # (heads, U, d / heads)
        return self.output(mixed.transpose(0, 1).reshape(len(ends), d) + b_v)

    def _seen(self, clock: Clock) -> int:
        """Tokens that attention looks back, itself included."""
        return self.window if clock.window is None else min(self.window, clock.window)

    def _projected(self, x: Tensor, first: int, end: int) -> Tensor:
        """x (n, d) by some of the matrices of queries (0), keys (1) and values (2): (n, (end - first) * d)."""
        d = x.shape[1]
        return linear(x, self.inputs.weight[first * d : end * d], self.inputs.bias[first * d : end * d])

    def _turned(self, projected: Tensor, angles: Tensor | None) -> Tensor:
        """(T, 3 d) with queries and keys turned."""
        if angles is None:
            return projected
        parts = projected.view(len(projected), 3 * self.heads, -1)
        return torch.cat([_turn(parts[:, : 2 * self.heads], angles), parts[:, 2 * self.heads :]], dim=1).flatten(1)

    def _slopes(self) -> tuple[Tensor | None, Tensor | None]:
        """(heads,) positive slopes of order and time, or None."""
        order, time = (None if slope is None else F.softplus(slope) for slope in (self.order_slope, self.time_slope))
        return order, time


def _near(order: Tensor | None, longest: int, window: int, dtype: torch.dtype) -> Tensor:
    """(heads or 1, n) bias by distance in order, -inf where a key is hidden; the last column is that of -QUERY_BLOCK + 1."""
    distance = torch.arange(min(longest, window + QUERY_BLOCK), -QUERY_BLOCK, -1)
    bias = torch.zeros(1, len(distance), dtype=dtype)
    if order is not None:
        bias = -order.detach()[:, None] * distance.abs().to(dtype).log1p()
    return bias.masked_fill((distance < 0) | (distance >= window), float("-inf"))


class _BiasedAttention(torch.autograd.Function):
    """softmax(q k^T / sqrt(d / heads) - order * log(1 + distance) - time * log(1 + hours)) v of one run.

    q, k, v (users, heads, length, d / heads), hours (users, length), order and time (heads,) or None, near as _near makes it
    -> (users, length, heads, d / heads). Shares are made block by block and made anew on the way back, not kept: a
    training batch would keep heads * window numbers per token and layer.
    """

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, hours: Tensor, order: Tensor | None, time: Tensor | None, near: Tensor, window: int
    ) -> Tensor:
        users, heads, length, width = q.shape
        mixed = q.new_empty(users, length, heads, width)
        for here, seen in _query_blocks(length, window):
            shares = _shares(q[:, :, here], k[:, :, seen], hours, time, near, here, seen)
            mixed[:, here] = torch.matmul(shares, v[:, :, seen]).transpose(1, 2)
        ctx.save_for_backward(q, k, v, hours, order, time, near, mixed)
        ctx.window = window
        return mixed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, hours, order, time, near, mixed = ctx.saved_tensors
        users, heads, length, width = q.shape
        g = gradients[0].transpose(1, 2)  # (users, heads, length, d / heads)
        d_q, d_k, d_v = (torch.zeros(users, length, heads, width, dtype=q.dtype).transpose(1, 2) for _ in range(3))
        d_order, d_time = (None if slope is None else torch.zeros_like(slope) for slope in (order, time))
        along = (gradients[0] * mixed).sum(-1).transpose(1, 2)[..., None]  # (users, heads, length, 1): what softmax takes off
        for here, seen in _query_blocks(length, ctx.window):
            shares = _shares(q[:, :, here], k[:, :, seen], hours, time, near, here, seen)
            d_v[:, :, seen] += torch.matmul(shares.transpose(2, 3), g[:, :, here])
            d_scores = torch.matmul(g[:, :, here], v[:, :, seen].transpose(2, 3)).sub_(along[:, :, here]).mul_(shares)
            d_q[:, :, here] = torch.matmul(d_scores, k[:, :, seen])
            d_k[:, :, seen] += torch.matmul(d_scores.transpose(2, 3), q[:, :, here])
            flat = d_scores.flatten(2)  # (users, heads, queries * keys)
            if d_order is not None:
                d_order -= torch.matmul(flat, _log_distance(here, seen, q.dtype).flatten()).sum(0)
            if d_time is not None:
                d_time -= torch.matmul(flat, _log_gap(hours, here, seen).flatten(1)[:, :, None]).sum(0).squeeze(1)
        scale = width**-0.5
        return d_q.mul_(scale), d_k.mul_(scale), d_v, None, d_order, d_time, None, None


def _turn(x: Tensor, angles: Tensor) -> Tensor:
    """x (T, heads, width) whose first pairs of numbers (i, i + pairs) turn by angles (T, pairs); the others stay."""
    pairs = angles.shape[1]
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]
    one, two, rest = x.split([pairs, pairs, x.shape[-1] - 2 * pairs], dim=-1)
    return torch.cat([one * cos - two * sin, one * sin + two * cos, rest], dim=-1)


def _query_blocks(length: int, window: int) -> Iterator[tuple[slice, slice]]:
    """(queries, keys that any of them sees), over a row."""
    for first in range(0, length, QUERY_BLOCK):
        stop = min(first + QUERY_BLOCK, length)
        yield slice(first, stop), slice(max(0, first - window + 1), stop)


def _shares(q: Tensor, k: Tensor, hours: Tensor, time: Tensor | None, near: Tensor, here: slice, seen: slice) -> Tensor:
    """(users, heads, queries, keys), rows that sum to 1."""
    users, heads, queries, width = q.shape
    # A row of the bias is the row above it moved by one: windows over the bias by distance, the last query first.
    first = near.shape[1] - QUERY_BLOCK - (here.stop - 1 - seen.start)
    bias = near[:, first : first + queries + k.shape[2] - 1].unfold(1, k.shape[2], 1).flip(1)  # (heads or 1, queries, keys)
    if time is not None:
        scores = torch.addcmul(bias, _log_gap(hours, here, seen)[:, None], -time[:, None, None])
    else:
        scores = bias.expand(users, heads, -1, -1).contiguous()
    flat = scores.view(users * heads, queries, -1)
    flat.baddbmm_(q.reshape(users * heads, queries, width), k.reshape(users * heads, -1, width).transpose(1, 2), alpha=width**-0.5)
    return torch.softmax(scores, dim=-1)


def _log_distance(here: slice, seen: slice, dtype: torch.dtype) -> Tensor:
    """(queries, keys): log(1 + tokens between), any number where the key comes later."""
    return (torch.arange(here.start, here.stop)[:, None] - torch.arange(seen.start, seen.stop)).abs_().to(dtype).log1p_()


def _log_gap(hours: Tensor, here: slice, seen: slice) -> Tensor:
    """(users, queries, keys): log(1 + hours between)."""
    return (hours[:, here, None] - hours[:, None, seen]).abs_().log1p_()
