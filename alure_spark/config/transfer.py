"""Section `transfer`: what of the user model other models may read beside the user embedding (jobs/extract_representations.py)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from .rules import Largest, OneOf, PositiveFloat, PositiveInt
from .section import Section, Since
from .standalone import StandaloneConfig

ALIGNMENT_KINDS = ("rotation", "linear")  # alure_spark/alignment.py
CROSS_LAYERS = ("ad", "crosses", "hidden")  # of the user model's read-out (model/representations.py)


@dataclass(frozen=True)
class TransferConfig(Section, prefix="transfer."):
    """Representations of ads, and of users and ads together, for fields of the ranking model to read (LFM4Ads)."""

    # Which layer of the read-out is the cross representation of an impression: ad, crosses or hidden; empty: there are none.
    layer: Annotated[str, OneOf(("", *CROSS_LAYERS))] = ""
    half_life_days: PositiveFloat = 7.0  # in the mean of a user or an ad, an impression counts half after so many days
    # Impressions of the last so many days are in the mean. Those of days that no run has seen by this model are looked for in
    # training_examples, so labels.days should not be fewer.
    window_days: Annotated[PositiveInt, Largest(3650)] = 28
    # Bits that a number of a representation is stored with: 32, or 8, which takes a third of the bytes. By 8 bits a number moves by
    # at most 1/127 of the largest one of its row.
    bits: Annotated[int, OneOf((8, 32)), Since("2026-11-30")] = 32
    # Turn what a new user model says into the space of the one before it, so that models which read it need not be trained anew with it:
    # rotation, or linear (any matrix); empty: each version is a space of its own.
    align: Annotated[str, OneOf(("", *ALIGNMENT_KINDS)), Since("2026-11-30")] = ""
    retrieval: Annotated[StandaloneConfig, Since("2026-11-30")] = field(default_factory=StandaloneConfig)
