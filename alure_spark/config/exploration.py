"""Section `ranking.exploration`: how unsure the ranking model is of an impression, and whether that decides what is shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from .rules import Largest, NonNegativeInt, OneOf, PositiveFloat, PositiveInt, require
from .section import Section

GREEDY, THOMPSON = "greedy", "thompson"


@dataclass(frozen=True)
class ExplorationConfig(Section, prefix="ranking.exploration."):
    """A Gaussian process over what the last layer of each task's tower reads (Pan et al., section 6.4)."""

    # Random features of its kernel, an even number: the more, the closer to the kernel, at a cost that grows with their square; 0: off.
    features: Annotated[NonNegativeInt, Largest(16_384)] = 0
    # Length scales of the kernel, as multiples of the median distance between impressions; of several, that with the least validation loss.
    length_scales: tuple[PositiveFloat, ...] = (1.0,)
    prior_variance: PositiveFloat = 1.0  # of a logit around the model's own, where no impression was alike
    # What orders candidates: greedy (expected value) or thompson (value of a draw from the posterior, so that uncertain ads are tried).
    policy: Annotated[str, OneOf((GREEDY, THOMPSON))] = GREEDY
    seed: PositiveInt = 7  # of the features, and with user and time of each draw

    @property
    def on(self) -> bool:
        return self.features > 0

    def check_together(self) -> None:
        require(self.features % 2 == 0, "ranking.exploration.features", self.features, "an even number")
        require(bool(self.length_scales), "ranking.exploration.length_scales", self.length_scales, "at least one")
        require(
            self.on or self.policy == GREEDY, "ranking.exploration.policy", self.policy, "greedy where ranking.exploration.features is 0"
        )
