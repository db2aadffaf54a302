"""Section `similarity`: the graph of who clicked what, and how GraphSAGE learns from it (jobs/train_similarity.py)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from .rules import OFF_OR_MORE, Largest, PositiveFloat, PositiveInt, Range, require
from .section import Section

Fanout = Annotated[PositiveInt, Largest(10_000)]


@dataclass(frozen=True)
class SimilarityConfig(Section, prefix="similarity."):
    """Embeddings of users and items by GraphSAGE without labels, whose cosine a ranking model can read (jobs/train_similarity.py)."""

    sources: tuple[str, ...] = ()  # streams whose events are edges between user and item; empty: that of the clicks (labels)
    dimension: Annotated[PositiveInt, Largest(65_536)] = 32  # length of an embedding
    # How many neighbors of a node are looked at, and how many of each of these: two numbers.
    fanout: tuple[Fanout, ...] = (10, 10)
    negatives: Annotated[PositiveInt, Largest(10_000)] = 5  # drawn items per edge: more cost more, and vary less
    epochs: PositiveInt = 10  # passes over the edges
    learning_rate: PositiveFloat = 0.01  # of Adam; it rises over the first twentieth of the steps and then falls to a tenth
    batch_edges: PositiveInt = 1024  # edges per step
    min_events: PositiveInt = 2  # users and items with fewer events are left out, and so get no embedding
    days: Annotated[float, OFF_OR_MORE] = 0.0  # events that became known in the last days before as_of; 0: all
    max_edges: PositiveInt = 5_000_000  # a larger graph is refused: it lies in the driver's memory, some 200 bytes an edge
    # Share of the edges that are held out: they choose the epoch and say how good the cosines are. 0: the last epoch, and nobody says.
    validation_share: Annotated[float, Range("0 (off) to 0.5", least=0, most=0.5)] = 0.1
    seed: PositiveInt = 7  # of the sampled neighbors, the weights, the order of the edges and the negatives

    def check_together(self) -> None:
        require(len(self.fanout) == 2, "similarity.fanout", self.fanout, "two numbers, one per layer")
