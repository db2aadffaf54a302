"""Section `model`: the shape of the ALURE user model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from ..errors import ConfigError, shown
from .rules import OFF_OR_MORE, Largest, OneOf, PositiveInt, Range, require
from .section import Section, Since

ROTARY_PAIRS = 4  # of each head: two of the hour, one of the weekday, and at least one of the order
Length = Annotated[PositiveInt, Largest(1_000_000)]


@dataclass(frozen=True)
class ModelConfig(Section, prefix="model."):
    """The ALURE user model (section 2.2 and 2.3): one module per source and layer on packed tokens, compressed to few embeddings."""

    dimension: Annotated[PositiveInt, Largest(65_536)] = 64  # d of the tokens and of the layers
    layers: Annotated[PositiveInt, Largest(1_000)] = 1
    heads: Annotated[PositiveInt, Largest(65_536)] = 4
    feed_forward: Annotated[PositiveInt, Largest(1_000_000)] = 256
    max_events: PositiveInt = 512  # N: a read-out sees at most the last N events of a source, and of what its stream keeps
    # Events that a layer's attention looks back at most (N / layers, where that is less).
    window: Annotated[PositiveInt, Largest(100_000_000)] = 128
    order_encoding: bool = True  # attention bias by the distance in order
    time_bias: bool = True  # attention bias by the pairwise time gap
    gap_encoding: bool = True  # log of the time since the previous event of the source
    clock_encoding: bool = True  # local hour and weekday
    # How many events of the source the user had in the last hour, day, week, month, and at all.
    frequency_encoding: Annotated[bool, Since("2026-11-24")] = False
    rotary_encoding: Annotated[bool, Since("2026-11-24")] = False  # queries and keys turn with order, local hour and weekday (RoFormer)
    # Values see the encodings of time as queries and keys do; else content alone.
    value_encodings: Annotated[bool, Since("2026-11-24")] = True
    exchange: bool = False  # sources also meet inside a layer
    # Whose states are read: 0 the tokens, `layers` the last one; empty: the last one.
    read_layers: Annotated[tuple[int, ...], Since("2026-11-24")] = ()
    # The embedding is made of the states at a source's last so many events.
    read_positions: Annotated[PositiveInt, Largest(1_000_000), Since("2026-11-24")] = 1
    # An impression's ad attends to a source's last so many events; 0: it does not.
    ad_attention: Annotated[int, OFF_OR_MORE, Largest(1_000_000), Since("2026-11-24")] = 0
    # Of states to the embedding: linear (two layers), dot_product or attention (ALURE, section 2.3).
    compression: Annotated[str, OneOf(("linear", "dot_product", "attention")), Since("2026-11-24")] = "linear"
    # Embeddings that dot_product makes of all before they become one.
    compressed: Annotated[PositiveInt, Largest(65_536), Since("2026-11-24")] = 4
    # A text is read as a bag of its first so many words.
    text_words: Annotated[PositiveInt, Largest(1_000_000), Since("2026-11-24")] = 16
    # Embedding rows over which the words of a text attribute are spread.
    text_buckets: Annotated[int, Range("an integer of at least 2", least=2), Largest(100_000_000), Since("2026-11-24")] = 4096
    # Attribute of kind embedding -> its length; others are not read.
    embedding_dimensions: Annotated[Mapping[str, Length], Since("2026-11-24")] = field(default_factory=dict)
    # Of these attributes, the ones that are read as codes (jobs/train_semantic_ids.py), not as numbers.
    semantic_ids: Annotated[tuple[str, ...], Since("2026-11-24")] = ()
    views: tuple[str, ...] = ("svd", "item2vec")  # E item vectors, each pooled to one vector of the embedding
    residual: bool = True  # the compressed states may move the embedding away from the pooled item vectors
    # Positions of a source and batch that the next-item objective asks at most.
    next_items: Annotated[PositiveInt, Largest(10_000_000), Since("2026-11-24")] = 1024
    # The next-item objective scores all items, not the batch's own: for corpora of some thousand.
    full_softmax: Annotated[bool, Since("2026-11-24")] = False
    item_vectors: bool = True  # start the pooled item vectors from the classic factorizations, else at random
    dropout: Annotated[float, Range("0 to below 1", least=0, below=1)] = 0.1
    seed: PositiveInt = 7

    def check_together(self) -> None:
        for name in self.semantic_ids:
            if name not in self.embedding_dimensions:
                raise ConfigError(f"model.semantic_ids names {shown(name)}, whose length model.embedding_dimensions must say")
        layers = all(0 <= layer <= self.layers for layer in self.read_layers) and len(set(self.read_layers)) == len(self.read_layers)
        require(layers, "model.read_layers", self.read_layers, f"different numbers from 0 (the tokens) to model.layers={self.layers}")
        pairs = not self.rotary_encoding or (self.dimension // self.heads >= 2 * ROTARY_PAIRS and self.dimension // self.heads % 2 == 0)
        require(pairs, "model.dimension", self.dimension, f"with rotary_encoding at least {2 * ROTARY_PAIRS} numbers a head, and even")
        require(self.dimension % self.heads == 0, "model.dimension", self.dimension, f"a multiple of model.heads={self.heads}")
        known = bool(self.views) and set(self.views) <= {"svd", "item2vec"}
        require(known, "model.views", self.views, "at least one of svd, item2vec")
        # One event to look at, and one before it for its gap.
        require(self.max_events >= max(2, self.layers), "model.max_events", self.max_events, f"at least 2 and model.layers={self.layers}")
