"""Settings `transfer.retrieval`: ads by a head on the user's vector, one more source of candidates (LFM4Ads, model level)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from .rules import Largest, NonNegativeFloat, OneOf, PositiveFloat, PositiveInt, ShareBelowOne
from .section import Section

HEADS = ("linear", "two_layers")
USER_VECTORS = ("user.embedding", "user.cross")
Count = Annotated[PositiveInt, Largest(10_000_000)]


@dataclass(frozen=True)
class StandaloneConfig(Section, prefix="transfer.retrieval."):
    """Standalone retrieval: a head from the user's vector to the space of the ads' vectors, which stay as they are."""

    head: Annotated[str, OneOf(("", *HEADS))] = ""  # linear or two_layers; empty: there is none, and no such candidates
    reads: Annotated[str, OneOf(USER_VECTORS)] = "user.embedding"  # which vector of the user: user.embedding or user.cross
    task: str = "click"  # the head learns from the impressions whose label of this task is 1
    candidates: Count = 200  # ads that it gives each user, before retrieval.quota and retrieval.cap
    weight: PositiveFloat = 1.0  # what its best ad counts in the score of a candidate; the second counts a half, the third a third
    hidden: Annotated[PositiveInt, Largest(65_536)] = 64  # numbers between the two layers
    negatives: Count = 1024  # ads that each step compares the engaged ones with; where there are no more ads, with all
    epochs: PositiveInt = 20  # passes over the engagements at most
    batch: Count = 256  # engagements per step
    learning_rate: PositiveFloat = 0.01  # of Adam; it rises over the first twentieth of the steps and then falls to a tenth
    weight_decay: NonNegativeFloat = 0.01  # draws the weights of the head to 0
    validation_share: ShareBelowOne = 0.1  # the newest share of the engagements chooses the epoch, and no step learns from it
    min_examples: Count = 100  # of fewer engagements no head is trained
    max_examples: Count = 1_000_000  # the newest so many; they lie in the driver's memory
    seed: PositiveInt = 7  # of the weights, the order of the engagements and the drawn ads
