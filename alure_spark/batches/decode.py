"""Arrays of whatever reader -> JaggedBatch: the one place where ids become embedding rows and nulls get their meaning.

Enters: per column one `Jagged` (the lists of B users, one after the other), named as in `user_sequences` and `training_examples`.
Leaves: `JaggedBatch`. Training reads packed binary, inference Arrow lists: both end here, so that they cannot differ.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..config import EVERYBODY
from ..errors import DataError, nearest
from .batch import Impressions, JaggedBatch, SourceTokens
from .layout import TIMES, Layout
from .vocabulary import ACCOUNT, ITEM, Vocabulary


@dataclass(frozen=True)
class Jagged:
    """One array column of B users."""

    offsets: np.ndarray  # (B + 1,) int64: user b has the values [offsets[b], offsets[b + 1])
    values: np.ndarray  # (n,) of the column's kind, (n, width) of texts and embeddings; anything where not present
    present: np.ndarray | None = None  # (n,) bool: not null; None where all are


def jagged_batch(
    user_ids: Sequence[str],
    countries: Sequence[str],
    as_of_ms: np.ndarray,
    columns: Mapping[str, Jagged],
    layout: Layout,
    vocabulary: Vocabulary,
    segment: str = EVERYBODY,
    with_impressions: bool = False,
) -> JaggedBatch:
    """The batch of B users, in their order: user_ids and countries (B,), as_of_ms (B,) int64.

    Ads share the space of items. A null or unknown id is row 0, a null number NaN. Raises DataError on a missing column, on
    parallel arrays of unequal length, and on times that are not ascending within a user.
    """
    sources = {source: _nothing(len(user_ids)) for source in layout.withheld}
    for source in layout.sources:
        known_at, event_time = (f"{source}__{name}" for name in TIMES)
        kinds = {f"{source}__{ITEM}": "categorical"} | {f"{source}__{name}": kind for name, kind in layout.attributes(source).items()}
        part = _parallel(columns, [known_at, event_time, *kinds], user_ids)
        _require_ascending(part[known_at], known_at, user_ids)
        if source in layout.last_events:
            part = _newest(part, part[known_at], _first_reads(columns, as_of_ms, with_impressions), layout.last_events[source])
        rows, numbers, words, vectors = _features(kinds, part, layout, vocabulary)
        sources[source] = SourceTokens(
            offsets=_tensor(part[known_at].offsets, np.int64),
            known_at_ms=_tensor(part[known_at].values, np.int64),
            event_time_ms=_tensor(part[event_time].values, np.int64),
            rows=rows,
            numbers=numbers,
            words=words,
            vectors=vectors,
            limit=layout.last_events.get(source),
        )
    return JaggedBatch(
        segment=segment,
        user_ids=tuple(user_ids),
        country=torch.tensor([country_hash(country) for country in countries], dtype=torch.int64),
        as_of_ms=_tensor(as_of_ms, np.int64),
        sources=sources,
        impressions=_impressions(columns, layout, vocabulary, user_ids) if with_impressions else None,
    )


def _nothing(users: int) -> SourceTokens:
    """A source that is withheld from so many users."""
    none = torch.zeros(0, dtype=torch.int64)
    return SourceTokens(torch.zeros(users + 1, dtype=torch.int64), none, none, {ITEM: none}, {}, limit=0)


def _first_reads(columns: Mapping[str, Jagged], as_of_ms: np.ndarray, with_impressions: bool) -> np.ndarray:
    """(B,) int64: the first moment at which a user's history is read: the first impression, or as_of."""
    moments = np.array(as_of_ms, np.int64)
    if with_impressions:
        shown = columns["time_ms"]
        some = np.diff(shown.offsets) > 0
        moments[some] = shown.values[shown.offsets[:-1][some]]
    return moments


def _newest(part: Mapping[str, Jagged], known_at: Jagged, moments: np.ndarray, last: int) -> dict[str, Jagged]:
    """Parallel columns without the events that a read at the moments (B,) or later, of the last events only, cannot see."""
    lengths = np.diff(known_at.offsets)
    user = np.repeat(np.arange(len(lengths)), lengths)
    before = np.bincount(user[known_at.values < moments[user]], minlength=len(lengths))
    skipped = np.maximum(before - last, 0)
    kept = np.arange(len(user)) - known_at.offsets[:-1][user] >= skipped[user]
    offsets = np.concatenate([[0], np.cumsum(lengths - skipped)])
    return {
        name: Jagged(offsets, jagged.values[kept], None if jagged.present is None else jagged.present[kept])
        for name, jagged in part.items()
    }


def _impressions(columns: Mapping[str, Jagged], layout: Layout, vocabulary: Vocabulary, user_ids: Sequence[str]) -> Impressions:
    kinds = layout.impression_columns()
    part = _parallel(columns, list(kinds), user_ids)
    given = {name: kind for name, kind in kinds.items() if name.startswith("impression__")}
    rows, numbers, words, vectors = _features(given, part, layout, vocabulary)
    ad, account, split = part["ad_id"], part["account_id"], part["split"].values
    rows[ITEM] = _tensor(vocabulary.rows(ITEM, ad.values, ad.present), np.int64)
    rows[ACCOUNT] = _tensor(vocabulary.rows(ACCOUNT, account.values, account.present), np.int64)
    _require_ascending(part["time_ms"], "time_ms", user_ids)
    return Impressions(
        offsets=_tensor(part["time_ms"].offsets, np.int64),
        time_ms=_tensor(part["time_ms"].values, np.int64),
        rows=rows,
        numbers=numbers,
        labels={task: _tensor(part[task].values, np.float32) for task in layout.tasks},
        weight=_tensor(part["weight"].values, np.float32),
        label_age_ms=_tensor(part["label_age_ms"].values, np.int64),
        # Packed rows hold the flag, lists of the table the word.
        validation=_tensor(split == "validation" if split.dtype == object else split, np.bool_),
        words=words,
        vectors=vectors,
        integers={name: _tensor(part[name].values, np.int64) for name in layout.integers},
    )


def _features(
    kinds: Mapping[str, str], part: Mapping[str, Jagged], layout: Layout, vocabulary: Vocabulary
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """(rows, numbers, words, vectors) by attribute of columns `<source>__<name>`; a space is called as it, or as layout.spaces says."""
    rows: dict[str, Tensor] = {}
    numbers: dict[str, Tensor] = {}
    words: dict[str, Tensor] = {}
    vectors: dict[str, Tensor] = {}
    for column, kind in kinds.items():
        name, jagged = column.split("__", 1)[1], part[column]
        if kind == "categorical":
            rows[name] = _tensor(vocabulary.rows(layout.spaces.get(name, name), jagged.values, jagged.present), np.int64)
        elif kind == "numeric":
            values = jagged.values if jagged.present is None else np.where(jagged.present, jagged.values, np.nan)
            numbers[name] = _tensor(values, np.float32)
        elif kind == "text":
            words[name] = _tensor(jagged.values, np.int64)
        elif kind == "embedding":
            vectors[name] = _tensor(jagged.values, np.float32)
    return rows, numbers, words, vectors


def _parallel(columns: Mapping[str, Jagged], names: Sequence[str], user_ids: Sequence[str]) -> dict[str, Jagged]:
    """The named columns, which must be as long as the first of them for every user."""
    for name in names:
        if name not in columns:
            raise DataError(f"the rows lack the array column '{name}'{nearest(name, columns)}")
        first, other = columns[names[0]].offsets, columns[name].offsets
        if not np.array_equal(first, other):
            user = int(np.flatnonzero(np.diff(first) != np.diff(other))[0])
            raise DataError(
                f"user '{user_ids[user]}' has {other[user + 1] - other[user]} values in '{name}' but {first[user + 1] - first[user]} in "
                f"'{names[0]}': parallel arrays must be equally long; rebuild the table with jobs/build_sequences.py"
            )
    return {name: columns[name] for name in names}


def _require_ascending(times: Jagged, name: str, user_ids: Sequence[str]) -> None:
    """Attention and read-outs find what is history by bisection, so an unordered array would leak the future in silence."""
    user = np.repeat(np.arange(len(user_ids)), np.diff(times.offsets))
    falls = np.flatnonzero((times.values[1:] < times.values[:-1]) & (user[1:] == user[:-1]))
    if len(falls):
        raise DataError(
            f"'{name}' of user '{user_ids[user[falls[0]]]}' is not ascending: events must be ordered by the time at which they were known; "
            "rebuild the table with jobs/build_sequences.py"
        )


@functools.cache
def country_hash(country: str) -> int:
    """A hash of 63 bits that is the same in every process (Python's own is salted)."""
    return int.from_bytes(hashlib.blake2b(country.encode(), digest_size=8).digest(), "little") >> 1


def _tensor(values: np.ndarray, dtype: Any) -> Tensor:
    """Shares the memory of the array where it can: torch takes neither read-only arrays (Arrow's) nor foreign byte order."""
    return torch.from_numpy(np.require(values, dtype, ["C", "W"]))
