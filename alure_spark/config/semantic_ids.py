"""Section `semantic_ids`: how given embeddings are quantized."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from .rules import Largest, PositiveFloat, PositiveInt, Range
from .section import Section


@dataclass(frozen=True)
class SemanticIdConfig(Section, prefix="semantic_ids."):
    """The residual-quantized autoencoder of each attribute in model.semantic_ids (model/semantic_ids.py)."""

    levels: Annotated[PositiveInt, Largest(64)] = 3  # codes per embedding
    codes: Annotated[int, Range("an integer of at least 2", least=2), Largest(1_000_000)] = 256  # per level
    hidden: Annotated[PositiveInt, Largest(1_000_000)] = 128  # of the encoder and of the decoder
    epochs: PositiveInt = 20
    batch: PositiveInt = 1024
    learning_rate: PositiveFloat = 1e-3
    commitment: PositiveFloat = 1.0  # how much the encoder is drawn to its codes: less lets it run away from them
    kmeans_iterations: PositiveInt = 10
    sample: PositiveInt = 200_000  # embeddings that are learned from (smallest hash of the item first)
    seed: PositiveInt = 7
