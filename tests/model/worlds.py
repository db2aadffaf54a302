"""Random specs and batches for the tests of the model: several sources, ties in time, unknown items, missing numbers, empty users."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from alure_spark.batches.batch import Impressions, JaggedBatch, SourceTokens, offsets_of
from alure_spark.batches.vocabulary import ACCOUNT, ITEM
from alure_spark.config import ModelConfig
from alure_spark.model.spec import ModelSpec

DAY_MS = 86_400_000
BEGIN_MS = 1_479_945_600_000  # 2016-11-24, midnight
TIE_MS = 10 * DAY_MS  # half of all times stand at multiples of it after the beginning
AS_OF_MS = BEGIN_MS + 400 * DAY_MS
ROWS = 30  # of every space
SOURCES: Mapping[str, Mapping[str, str]] = {
    "purchase": {"category_id": "categorical", "value": "numeric", "utc_offset_minutes": "numeric"},
    "ad_click": {"account_id": "categorical"},
    "page": {},
}
WIDE: Mapping[str, Mapping[str, str]] = {"page": {"title": "text", "media": "embedding", "unread": "text", "value": "numeric"}, "visit": {}}
SMALL = {"dimension": 8, "heads": 2, "feed_forward": 12, "layers": 2, "max_events": 40, "dropout": 0.0, "views": ("svd", "item2vec")}
PLAIN = {"order_encoding": False, "time_bias": False, "gap_encoding": False, "clock_encoding": False, "residual": False}


def spec_of(sources: Mapping[str, Mapping[str, str]] = SOURCES, item_sources: Sequence[str] = (), **config) -> ModelSpec:
    """A small spec of two views of five numbers; item_sources defaults to the first two sources."""
    return ModelSpec(
        sources=sources,
        item_sources=tuple(item_sources) or tuple(sources)[:2],
        spaces=dict.fromkeys((ITEM, ACCOUNT, "category_id"), ROWS),
        impression_attributes={"category_id": "categorical", "position": "numeric"},
        item_dimension=5,
        widths={"title": 3, "media": 2},
        config=ModelConfig(**{**SMALL, **config}),
    )


def batch_of(
    spec: ModelSpec, lengths: Mapping[str, Sequence[int]], impressions: Sequence[int] | None = None, seed: int = 1, items: int = ROWS
) -> JaggedBatch:
    """Users with so many events per source, and so many impressions each; all random, all before AS_OF_MS."""
    draw = torch.Generator().manual_seed(seed)
    users = len(next(iter(lengths.values())))
    return JaggedBatch(
        segment="all",
        user_ids=tuple(f"u{user}" for user in range(users)),
        country=torch.arange(users) % 2,
        as_of_ms=torch.full((users,), AS_OF_MS),
        sources={source: _tokens(spec, source, lengths[source], items, draw) for source in spec.sources},
        impressions=None if impressions is None else _impressions(spec, impressions, items, draw),
    )


def random_batch(spec: ModelSpec, users: int, longest: int, seed: int = 1, impressions: int = 0, items: int = ROWS) -> JaggedBatch:
    """Lengths drawn from 0 to `longest`, and from 0 to `impressions` where that is above 0."""
    draw = torch.Generator().manual_seed(seed)
    lengths = {source: torch.randint(0, longest + 1, (users,), generator=draw).tolist() for source in spec.sources}
    shown = torch.randint(0, impressions + 1, (users,), generator=draw).tolist() if impressions else None
    return batch_of(spec, lengths, shown, seed, items)


def shaken(model: nn.Module, seed: int = 3) -> nn.Module:
    """The model in float64 and evaluation mode with every parameter moved at random: what starts at zero is tested too.

    The item vectors' row 0, the unknown item, stays zero.
    """
    draw = torch.Generator().manual_seed(seed)
    model = model.double().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=draw, dtype=torch.float64)
            if name.endswith(("item_vectors", "account.weight")) or ".tables." in name or ".texts." in name:
                parameter[0] = 0
    return model


def cut_history(batch: JaggedBatch, time_ms: Tensor, reach: Callable[[str], int]) -> JaggedBatch:
    """What serving holds of each user at time_ms (B,): the last reach(source) events known before it, as_of the time; by a loop."""
    sources = {}
    for name, tokens in batch.sources.items():
        kept, lengths = [], []
        for user in range(len(batch)):
            places = range(int(tokens.offsets[user]), int(tokens.offsets[user + 1]))
            mine = [place for place in places if tokens.known_at_ms[place] < time_ms[user]][-reach(name) :]
            kept += mine
            lengths.append(len(mine))
        at = torch.tensor(kept, dtype=torch.int64)
        sources[name] = SourceTokens(
            offsets_of(torch.tensor(lengths, dtype=torch.int64)),
            tokens.known_at_ms[at],
            tokens.event_time_ms[at],
            {space: rows[at] for space, rows in tokens.rows.items()},
            *({name: values[at] for name, values in part.items()} for part in (tokens.numbers, tokens.words, tokens.vectors)),
        )
    return replace(batch, sources=sources, as_of_ms=time_ms)


def gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    """Parameter that learns -> gradient of the loss, zeros where it has none."""
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    return {name: torch.zeros_like(parameters[name]) if grad is None else grad for name, grad in zip(parameters, found, strict=True)}


def assert_close(mine: object, theirs: object, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(mine, theirs, rtol=tolerance, atol=tolerance)


def _times(lengths: Sequence[int], draw: torch.Generator, days: int) -> Tensor:
    """(sum of lengths,) int64 ascending per user; half of the times stand at one of few moments, so that many are equal."""
    parts = []
    for length in lengths:
        times = torch.randint(0, days * DAY_MS, (length,), generator=draw)
        tied = torch.rand(length, generator=draw) < 0.5
        parts.append(BEGIN_MS + torch.where(tied, times // TIE_MS * TIE_MS, times).sort().values)
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int64)


def _rows(count: int, items: int, draw: torch.Generator) -> Tensor:
    """(count,) int64 rows, some of them unknown."""
    return torch.randint(0, items, (count,), generator=draw)


def _numbers(count: int, draw: torch.Generator) -> Tensor:
    """(count,) float32, a fifth of them missing."""
    values = 3 * torch.randn(count, generator=draw)
    return torch.where(torch.rand(count, generator=draw) < 0.2, torch.nan, values)


def _tokens(spec: ModelSpec, source: str, lengths: Sequence[int], items: int, draw: torch.Generator) -> SourceTokens:
    known, count = _times(lengths, draw, 390), sum(lengths)
    late = torch.randint(0, 2 * DAY_MS, (count,), generator=draw) * (torch.rand(count, generator=draw) < 0.5)
    numbers = {name: _numbers(count, draw) for name in spec.of_kind(source, "numeric")}
    if "utc_offset_minutes" in numbers:
        numbers["utc_offset_minutes"] = 30 * numbers["utc_offset_minutes"].round()
    words = {name: torch.randint(1, 2**32, (count, spec.widths[name]), generator=draw) for name in spec.of_kind(source, "text")}
    for hashes in words.values():  # texts of any number of words
        hashes[torch.arange(hashes.shape[1]) >= torch.randint(0, hashes.shape[1] + 1, (count, 1), generator=draw)] = 0
    vectors = {name: torch.randn(count, spec.widths[name], generator=draw) for name in spec.of_kind(source, "embedding")}
    for values in vectors.values():
        values[torch.rand(count, generator=draw) < 0.2] = torch.nan
    return SourceTokens(
        offsets=offsets_of(torch.tensor(lengths, dtype=torch.int64)),
        known_at_ms=known,
        event_time_ms=known - late,
        rows={space: _rows(count, items, draw) for space in (ITEM, *spec.of_kind(source, "categorical"))},
        numbers=numbers,
        words=words,
        vectors=vectors,
    )


def _impressions(spec: ModelSpec, lengths: Sequence[int], items: int, draw: torch.Generator) -> Impressions:
    count = sum(lengths)
    return Impressions(
        offsets=offsets_of(torch.tensor(lengths, dtype=torch.int64)),
        time_ms=_times(lengths, draw, 399),
        rows={space: _rows(count, items, draw) for space in (ITEM, ACCOUNT, *spec.of_impressions("categorical"))},
        numbers={name: _numbers(count, draw) for name in spec.of_impressions("numeric")},
        labels={task: (torch.rand(count, generator=draw) < rate).float() for task, rate in (("click", 0.4), ("conversion", 0.3))},
        weight=1 + torch.rand(count, generator=draw),
        label_age_ms=torch.randint(0, DAY_MS, (count,), generator=draw),
        validation=torch.rand(count, generator=draw) < 0.3,
    )
