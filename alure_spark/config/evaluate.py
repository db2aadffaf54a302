"""Section `evaluate`: by which users and items a graph and its candidates are evaluated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from .rules import Largest, PositiveInt
from .section import Section


@dataclass(frozen=True)
class EvaluateConfig(Section, prefix="evaluate."):
    k: Annotated[PositiveInt, Largest(1_000_000)] = 50  # Recall@k and NDCG@k
    neighbours: Annotated[PositiveInt, Largest(1_000_000)] = 10  # of the user-graph protocol
    item_sources: tuple[str, ...] = ()  # streams whose later items evaluate the user graph; empty: embedding.sources
    min_items: int = 5  # users with fewer items before as_of are not evaluated by items
    max_users: PositiveInt = 20_000  # evaluated users (smallest hash first)
    new_user_events: int = 20  # fewer events before as_of make a user new
    bootstrap: Annotated[PositiveInt, Largest(1_000_000)] = 1000
    seed: PositiveInt = 7
