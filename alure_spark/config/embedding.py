"""Section `embedding`: which method makes the user embedding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ..clock import HOUR_MS
from .rules import Largest, NonNegativeFloat, OneOf, PositiveInt
from .section import Section


@dataclass(frozen=True)
class EmbeddingConfig(Section, prefix="embedding."):
    """The user embedding: the ALURE model, or a classic one (truncated SVD of the idf-weighted user-item matrix, item2vec)."""

    method: Annotated[str, OneOf(("alure", "svd", "item2vec"))] = "alure"
    model: str = "champion"  # for alure: an alias or a version of the registered model; champion is the one of time.as_of
    sources: tuple[str, ...] = ()  # streams whose items describe a user; empty means all
    dimension: Annotated[PositiveInt, Largest(65_536)] = 64  # of a classic embedding, and of each of the model's item vectors
    window: Annotated[PositiveInt, Largest(100_000_000)] = 4  # item2vec: items this near in the time-ordered history co-occur
    min_items: PositiveInt = 1  # users with fewer distinct items get no embedding
    publish_lag_hours: NonNegativeFloat = 6.0  # ranking_examples: an embedding serves from so long after its as_of on
    fit_users: PositiveInt = 200_000  # the factorization sees at most so many users (smallest hash first); all are embedded
    seed: PositiveInt = 7

    @property
    def publish_lag_ms(self) -> int:
        return round(self.publish_lag_hours * HOUR_MS)
