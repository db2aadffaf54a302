"""Sections `ranking.loss` and `ranking.repeats`: what the ranking model minimizes, and what repeated exposures weigh in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from .rules import Largest, OneOf, PositiveFloat, PositiveInt, Range, require
from .section import Section

Share = Annotated[float, Range("0 to 1", least=0, most=1)]


@dataclass(frozen=True)
class LossConfig(Section, prefix="ranking.loss."):
    """What training minimizes (Pan et al., section 6.1). Validation is by the likelihood whatever stands here."""

    # bce: cross entropy; pairwise: and pairs of a positive and a negative; listwise: and the batch as one list; jrc: and a list per class.
    # A value task has the likelihood of its value instead of cross entropy, and with every kind but bce pairs of unequal values.
    kind: Annotated[str, OneOf(("bce", "pairwise", "listwise", "jrc"))] = "bce"
    alpha: Share = 0.65  # of the cross entropy, or likelihood, where the kind has another part, which has the rest
    pairs: Annotated[PositiveInt, Largest(100_000_000)] = 200_000  # of a batch and task that are compared at most


@dataclass(frozen=True)
class RepeatConfig(Section, prefix="ranking.repeats."):
    """What an impression without a response weighs that repeats an earlier one (REW; Pan et al., section 6.2)."""

    count: str = ""  # the field that says how often the user was shown the same before; empty: all impressions weigh alike
    days_since: str = ""  # the field that says how many days ago the last time was
    alpha: Share = 0.5  # share of the number of exposures in the weight; the rest is of how recent the last one is
    half_life_days: PositiveFloat = 1.0  # how recent an exposure is falls from 1 by half in so many days
    literal: bool = False  # instead of how recent: the days themselves, as the paper has it, by which a late repeat weighs more
    # Positives weigh more by the mean of these weights, so that the weighted base rate stays, as the paper has it. First exposures are
    # scored too high then.
    debias: bool = False

    def check_together(self) -> None:
        both = bool(self.count) == bool(self.days_since)
        require(both, "ranking.repeats.days_since", self.days_since, "a field beside ranking.repeats.count, and none without it")
