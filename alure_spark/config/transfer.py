"""Section `transfer`: what of the user model other models may read beside the user embedding (jobs/extract_representations.py)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from .ranking import FieldName
from .rules import Largest, OneOf, PositiveFloat, PositiveInt, require
from .section import Section, Since
from .standalone import StandaloneConfig

ALIGNMENT_KINDS = ("rotation", "linear")  # alure_spark/alignment.py
CROSS_LAYERS = ("ad", "crosses", "hidden")  # of the user model's read-out (model/representations.py)
ADAPTERS = ("linear", "nonlinear", "gate", "raw")  # of the encoding `numbers` (ranking/adapters.py)
# What jobs/compare_transfer.py may try: the representations that are read, all of them through one adapter, or with another layer.
VARIANTS = ("none", "ur", "ur_ir", "ur_ir_cr", *ADAPTERS, *(f"layer_{layer}" for layer in CROSS_LAYERS))


@dataclass(frozen=True)
class DownstreamConfig(Section, prefix="transfer.downstream "):
    """A smaller task that reads what the user model knows, with a ranking model of its own (jobs/compare_transfer.py)."""

    # Which impressions are its own: a condition in SQL over one impression, in the columns of training_examples (time_ms, ad_id, country,
    # impression__NAME); ids are hashed there, so write account_id = xxhash64('brand_7'). Empty: all impressions.
    where: str = ""
    tasks: tuple[str, ...] = ()  # of labels.tasks; empty: those of the ranking model


@dataclass(frozen=True)
class TransferConfig(Section, prefix="transfer."):
    """Representations of ads, and of users and ads together, for fields of the ranking model to read (LFM4Ads)."""

    # Which layer of the read-out is the cross representation of an impression: ad, crosses or hidden; empty: there are none.
    layer: Annotated[str, OneOf(("", *CROSS_LAYERS))] = ""
    half_life_days: PositiveFloat = 7.0  # in the mean of a user or an ad, an impression counts half after so many days
    # Impressions of the last so many days are in the mean. Those of days that no run has seen by this model are looked for in
    # training_examples, so labels.days should not be fewer.
    window_days: Annotated[PositiveInt, Largest(3650)] = 28
    # Bits that a number of a representation is stored with: 32, or 8, which takes less than half of the bytes. By 8 bits a number moves by
    # at most 1/127 of the largest one of its row.
    bits: Annotated[int, OneOf((8, 32)), Since("2026-11-30")] = 32
    # Turn what a new user model says into the space of the one before it, so that models which read it need not be trained anew with it:
    # rotation, or linear (any matrix); empty: each version is a space of its own.
    align: Annotated[str, OneOf(("", *ALIGNMENT_KINDS)), Since("2026-11-30")] = ""
    # Name -> a downstream task that jobs/compare_transfer.py trains models for; empty: one, `all`, of all impressions.
    downstream: Annotated[Mapping[FieldName, DownstreamConfig], Since("2026-11-30")] = field(default_factory=dict)
    # From which impressions the user model learns: all, or others, those that no downstream task has.
    upstream: Annotated[str, OneOf(("all", "others")), Since("2026-11-30")] = "all"
    # What jobs/compare_transfer.py compares with none: ur, ur_ir and ur_ir_cr read user embeddings, representations of ads, and cross
    # ones; linear, nonlinear, gate and raw read all through that adapter; layer_NAME reads all, the cross ones of that layer.
    compare: Annotated[tuple[Annotated[str, OneOf(VARIANTS)], ...], Since("2026-11-30")] = ("none", "ur", "ur_ir", "ur_ir_cr")
    compare_seeds: Annotated[tuple[PositiveInt, ...], Since("2026-11-30")] = (7, 8, 9)  # of each model that it trains
    retrieval: Annotated[StandaloneConfig, Since("2026-11-30")] = field(default_factory=StandaloneConfig)

    def check_together(self) -> None:
        require(bool(self.compare_seeds), "transfer.compare_seeds", self.compare_seeds, "at least one seed")
        different = len(set(self.compare_seeds)) == len(self.compare_seeds)
        require(different, "transfer.compare_seeds", self.compare_seeds, "seeds that differ, for the same one trains the same model")
        require(bool({*self.compare} - {"none"}), "transfer.compare", self.compare, "at least one to compare with none")
        apart = self.upstream == "all" or bool(self.downstream)
        require(apart, "transfer.upstream", self.upstream, "all where transfer.downstream names no task")
