"""Impressions in memory as a model that learns through the day meets them: when each was known, and when it was answered.

Enters: one batch of users with the arrays of events/moments. Leaves: for each task what delayed_feedback.py works on, and the batch of any
of the impressions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from pyspark.sql import DataFrame

from ..batches.batch import JaggedBatch, known_until, ranges, select_users
from ..batches.vocabulary import Vocabulary
from ..packed.in_memory import collected
from ..ranking.spec import RankingSpec
from .delayed_feedback import Shown

NOTHING = np.zeros(0, np.int64)


@dataclass(frozen=True)
class LearningLog:
    """n impressions, users by id, the impressions of a user by time."""

    batch: JaggedBatch | None  # of their users; None: there are no impressions
    time_ms: np.ndarray  # (n,) int64 when it was shown
    known_ms: np.ndarray  # (n,) int64 when it became known
    event: np.ndarray  # (n,) int64 which one it is, also in another log
    account: np.ndarray  # (n,) int64 whose feedback tells how long it is waited for
    answered_ms: Mapping[str, np.ndarray]  # task -> (n,) int64 from when on its label is 1; NEVER where it is not

    @classmethod
    def of(cls, batch: JaggedBatch | None, names: Sequence[str], tasks: Sequence[str]) -> LearningLog:
        """names: what the batch calls event, known_ms, account, and the answers of the tasks, in this order."""
        shown = batch.impressions if batch else None
        if shown is None:
            return cls(None, NOTHING, NOTHING, NOTHING, NOTHING, dict.fromkeys(tasks, NOTHING))
        event, known, account, *answers = (shown.integers[name].numpy() for name in names)
        return cls(batch, shown.time_ms.numpy(), known, event, account, dict(zip(tasks, answers, strict=True)))

    @classmethod
    def collected(cls, rows: DataFrame, spec: RankingSpec, vocabulary: Vocabulary, names: Sequence[str]) -> LearningLog:
        """Of rows in the shape of training_examples, as a model of the spec reads them: all of them in memory."""
        return cls.of(collected(rows, replace(spec.layout(), integers=tuple(names)), vocabulary), names, spec.tasks)

    def shown(self, task: str, chosen: np.ndarray | slice = slice(None)) -> Shown:
        """The chosen impressions, as delayed_feedback.py has them."""
        return Shown(*(column[chosen] for column in (self.time_ms, self.account, self.answered_ms[task], self.known_ms)))

    def between(self, first_ms: int, end_ms: int) -> np.ndarray:
        """Which impressions were shown in [first_ms, end_ms), ascending."""
        return np.flatnonzero((self.time_ms >= first_ms) & (self.time_ms < end_ms))

    def part(self, places: np.ndarray, moment_ms: int) -> JaggedBatch:
        """The impressions at these places (m,) ascending, in this order, and of their users what was known before the moment.

        What else is in the log does not change it: neither other users nor what came later.
        """
        assert self.batch is not None
        assert self.batch.impressions is not None
        shown = self.batch.impressions
        wanted = torch.from_numpy(places)
        users = torch.unique(torch.searchsorted(shown.offsets, wanted, right=True) - 1)
        theirs = ranges(shown.offsets[users], shown.offsets[users + 1] - shown.offsets[users])
        part = known_until(select_users(self.batch, users), moment_ms)
        assert part.impressions is not None
        return replace(part, impressions=part.impressions.select(torch.isin(theirs, wanted)))
