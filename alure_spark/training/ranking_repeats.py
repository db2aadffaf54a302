"""The training split in which repeated exposures weigh more (REW; Pan et al., section 6.2). Validation is not weighed.

Enters: batches of users. Leaves: the same batches, whose impressions have a factor per task (`Impressions.factors`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from torch import Tensor

from ..batches.batch import JaggedBatch
from ..batches.epochs import Batches
from ..config import RepeatConfig
from ..ranking.interactions import value_of
from ..ranking.repeats import factors, mean_of_negatives, repeat_weight
from ..ranking.spec import RankingSpec
from .ranking_split import TrainingSplit


class ReweighedRepeats(TrainingSplit):
    """Impressions without a response weigh by their repeats, and those with one so much that the weighted base rate stays."""

    def __init__(self, spec: RankingSpec, loader: Batches, config: RepeatConfig, positive: Mapping[str, float]) -> None:
        """positive: task -> what an impression with a response weighs."""
        super().__init__(loader)
        self.spec, self.config, self.positive = spec, config, positive

    @classmethod
    def fitted(cls, spec: RankingSpec, loader: Batches, config: RepeatConfig) -> ReweighedRepeats:
        """The weights of positives by the whole training split, which is read once; without `debias` they are 1."""
        sums = {task: [0.0, 0.0] for task in spec.tasks}
        for batch in TrainingSplit(loader).in_order() if config.debias else ():
            shown = batch.impressions
            assert shown is not None
            weight = _weight(spec, batch, config)
            for task, its in sums.items():
                for place, value in enumerate(mean_of_negatives(shown.labels[task], weight, shown.weight)):
                    its[place] += value
        return cls(spec, loader, config, {task: weighed / whole if whole else 1.0 for task, (weighed, whole) in sums.items()})

    def batches(self, epoch: int, start: int = 0) -> Iterator[tuple[JaggedBatch]]:
        for (batch,) in super().batches(epoch, start):
            yield (self.weighed(batch),)

    def in_order(self) -> Iterator[JaggedBatch]:
        return map(self.weighed, super().in_order())

    def weighed(self, batch: JaggedBatch) -> JaggedBatch:
        """The batch with the factors of its impressions."""
        shown = batch.impressions
        assert shown is not None
        weight = _weight(self.spec, batch, self.config)
        of_tasks = {task: factors(shown.labels[task], weight, positive).float() for task, positive in self.positive.items()}
        return replace(batch, impressions=replace(shown, factors=of_tasks))


def _weight(spec: RankingSpec, batch: JaggedBatch, config: RepeatConfig) -> Tensor:
    count, days_since = (value_of(spec, batch, name) for name in (config.count, config.days_since))
    return repeat_weight(count, days_since, config)
