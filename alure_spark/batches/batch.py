"""The one type between reader and model (house rule 9): users' events as packed tokens, no padding anywhere.

Enters: arrays of whatever reader. Leaves: `JaggedBatch`, tensors only. Shapes stand above the fields: B users, T tokens of a
source, M impressions. Rows of embedding tables are what the vocabulary gave an id; 0 is the unknown or missing id.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..clock import known_before

T = TypeVar("T")


@dataclass(frozen=True)
class SourceTokens:
    """The events of one source, users one after the other, oldest first."""

    offsets: Tensor  # (B + 1,) int64: user b has the tokens [offsets[b], offsets[b + 1])
    known_at_ms: Tensor  # (T,) int64, ascending within a user: what may be history when (house rule 2)
    event_time_ms: Tensor  # (T,) int64: when it happened, for clocks and gaps
    rows: Mapping[str, Tensor]  # space -> (T,) int64 embedding row; 'item_id' and the categorical attributes
    numbers: Mapping[str, Tensor]  # numeric attribute -> (T,) float32, NaN where missing
    words: Mapping[str, Tensor] = field(default_factory=dict)  # text attribute -> (T, words) int64 hashes above 0, 0 after the last word
    vectors: Mapping[str, Tensor] = field(default_factory=dict)  # embedding attribute -> (T, its dimension) float32, NaN where missing
    limit: int | None = None  # a policy lets a read see the last so many events only; 0: it withholds the source, which has no tokens

    @property
    def withheld(self) -> bool:
        """Whether nobody can tell if the users had events of this source."""
        return self.limit == 0

    def lacks(self, attribute: str) -> bool:
        """Whether a policy dropped the attribute."""
        return not any(attribute in part for part in (self.rows, self.numbers, self.words, self.vectors))

    @property
    def lengths(self) -> Tensor:
        """(B,) int64 tokens per user."""
        return self.offsets[1:] - self.offsets[:-1]

    def users(self) -> Tensor:
        """(T,) int64: whose token."""
        return torch.repeat_interleave(torch.arange(len(self.offsets) - 1), self.lengths)


@dataclass(frozen=True)
class Impressions:
    """Labelled impressions, users one after the other, by time."""

    offsets: Tensor  # (B + 1,) int64
    time_ms: Tensor  # (M,) int64: the read time; history is known_at_ms < time_ms
    rows: Mapping[str, Tensor]  # 'item_id' (the ad), 'account_id' and categorical impression attributes -> (M,) int64
    numbers: Mapping[str, Tensor]  # numeric impression attribute -> (M,) float32, NaN where missing
    labels: Mapping[str, Tensor]  # task -> (M,) float32, 0 or 1; of a value task the number
    weight: Tensor  # (M,) float32 sample weight
    label_age_ms: Tensor  # (M,) int64
    validation: Tensor  # (M,) bool: of the validation split
    words: Mapping[str, Tensor] = field(default_factory=dict)  # text of the impression -> (M, words) int64, as of SourceTokens
    vectors: Mapping[str, Tensor] = field(default_factory=dict)  # embedding of the impression -> (M, its dimension) float32, or NaN
    factors: Mapping[str, Tensor] = field(default_factory=dict)  # task -> (M,) float32 by which its loss multiplies the weight
    integers: Mapping[str, Tensor] = field(default_factory=dict)  # name -> (M,) int64 that no model reads: identities, moments

    def users(self) -> Tensor:
        """(M,) int64: to whom it was shown."""
        return torch.repeat_interleave(torch.arange(len(self.offsets) - 1), self.offsets[1:] - self.offsets[:-1])

    def labels_of(self, tasks: Sequence[str]) -> Tensor:
        """(M, tasks) float32, in their order."""
        return torch.stack([self.labels[task] for task in tasks], dim=-1)

    def weights_of(self, tasks: Sequence[str]) -> Tensor:
        """(M, tasks) float32 weights in the losses of the tasks; (M, 1) where all tasks weigh alike."""
        if not self.factors:
            return self.weight[:, None]
        return torch.stack([self.weight * self.factors[task] if task in self.factors else self.weight for task in tasks], dim=-1)

    def select(self, kept: Tensor) -> Impressions:
        """Those of kept (M,) bool, of as many users as before."""
        counts = torch.bincount(self.users()[kept], minlength=len(self.offsets) - 1)
        return replace(_map_tensors(self, lambda tensor: tensor[kept]), offsets=offsets_of(counts))


@dataclass(frozen=True)
class JaggedBatch:
    """B users of one segment."""

    segment: str
    user_ids: tuple[str, ...]  # B
    country: Tensor  # (B,) int64: a stable hash of the country; users of two countries are never neighbours
    as_of_ms: Tensor  # (B,) int64: history ends here, exclusive
    sources: Mapping[str, SourceTokens]
    impressions: Impressions | None = None

    def __len__(self) -> int:
        return len(self.user_ids)

    def tokens(self) -> int:
        """Tokens over all sources."""
        return sum(len(source.known_at_ms) for source in self.sources.values())


def known_until(batch: JaggedBatch, moment_ms: int) -> JaggedBatch:
    """The batch without the tokens that were not known before the moment."""

    def cut(source: SourceTokens) -> SourceTokens:
        kept = known_before(source.known_at_ms, moment_ms)
        lengths = torch.bincount(source.users()[kept], minlength=len(source.offsets) - 1)
        return replace(_map_tensors(source, lambda tensor: tensor[kept]), offsets=offsets_of(lengths))

    return replace(batch, sources={name: cut(source) for name, source in batch.sources.items()})


def select_users(batch: JaggedBatch, users: Tensor) -> JaggedBatch:
    """The batch of these users (n,) int64, in that order; a user may come more than once."""

    def jagged(part: Any, offsets: Tensor) -> Any:
        lengths = (offsets[1:] - offsets[:-1])[users]
        kept = ranges(offsets[users], lengths)
        cut = _map_tensors(part, lambda tensor: tensor[kept])
        return replace(cut, offsets=offsets_of(lengths))

    return replace(
        batch,
        user_ids=tuple(batch.user_ids[user] for user in users.tolist()),
        country=batch.country[users],
        as_of_ms=batch.as_of_ms[users],
        sources={name: jagged(source, source.offsets) for name, source in batch.sources.items()},
        impressions=batch.impressions and jagged(batch.impressions, batch.impressions.offsets),
    )


def offsets_of(lengths: Tensor) -> Tensor:
    """(n + 1,) int64 borders of jagged rows of these lengths (n,)."""
    return torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])


def ranges(starts: Tensor, lengths: Tensor) -> Tensor:
    """(sum of lengths,) int64: starts[0], starts[0] + 1, ... for each row in turn."""
    borders = offsets_of(lengths)
    return torch.arange(int(borders[-1])) + torch.repeat_interleave(starts - borders[:-1], lengths)


def _map_tensors(part: T, change: Any) -> T:
    """The dataclass with every tensor but its offsets changed, also inside mappings."""
    assert is_dataclass(part)
    changed: dict[str, Any] = {}
    for item in fields(part):
        value = getattr(part, item.name)
        if item.name == "offsets" or not isinstance(value, Mapping | Tensor):
            continue
        changed[item.name] = {key: change(one) for key, one in value.items()} if isinstance(value, Mapping) else change(value)
    return replace(part, **changed)  # type: ignore[type-var]
