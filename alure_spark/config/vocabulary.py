"""Section `vocabulary`: which ids get an embedding row of their own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from .rules import Largest, PositiveInt, Range
from .section import Section


@dataclass(frozen=True)
class VocabularyConfig(Section, prefix="vocabulary."):
    """Which ids get an embedding row of their own; the others share (house rule 1: a row once given never changes)."""

    min_count: PositiveInt = 1  # events that must have named an id before it gets a row
    # Rows of every space among which ids without one are spread; 0: they all are the unknown id.
    hash_buckets: Annotated[int, Range("0 (none) or more", least=0), Largest(100_000_000)] = 0
