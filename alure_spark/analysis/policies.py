"""What do feature policies per segment cost and save? One model each, on the same rows (DynamiX, section 4).

NE gain (equation 10): 1 - NE / NE of the model that it is compared with, on the same validation impressions, above 0 where it is better;
the mean over the seeds, with an interval over users and seeds. Throughput: users per CPU second of training steps and of embedding,
both from packed columns on disk, so that what a policy withholds is neither read, decoded nor multiplied; the ratio to the other policy
in each of several rounds, in which all policies are timed in turn.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from scipy import stats

from ..config import EVERYBODY, FeaturePolicy, TrainingConfig
from ..errors import DataError
from ..metrics import cluster_bootstrap, normalized_entropy
from ..model.spec import ModelSpec
from ..model.user_model import UserModel
from ..packed.segments import Segments
from ..training import ranking_model, user_evaluation, user_training
from ..training.optimizers import Optimizers

TOTAL = "total"
Policies = Mapping[str, FeaturePolicy]  # segment -> policy


class Gain(NamedTuple):
    """NE gain of one experiment in one segment, or in TOTAL."""

    experiment: str
    against: str
    segment: str
    task: str
    ne: float  # mean over the seeds
    gain: float
    low: float  # 95 % interval over users and seeds
    high: float
    least: float  # of the seeds
    most: float


class Speed(NamedTuple):
    """Users per CPU second of one experiment in one segment, or in TOTAL, over those of what it is compared with, minus 1."""

    experiment: str
    against: str
    segment: str
    stage: str  # training or inference
    users_per_second: float
    gain: float
    low: float  # 95 % interval over the rounds
    high: float


@dataclass(frozen=True)
class Predictions:
    """One trained model on the validation split."""

    tasks: tuple[str, ...]  # what the columns below are of
    labels: np.ndarray  # (M, tasks)
    probabilities: np.ndarray  # (M, tasks)
    weights: np.ndarray  # (M,)
    users: np.ndarray  # (M,)
    segments: np.ndarray  # (M,)

    @classmethod
    def of(cls, trained: user_training.Trained) -> Predictions:
        found = trained.validation
        probabilities = user_evaluation.probabilities(trained.model, found)
        return cls(found.tasks, found.labels, probabilities, found.weights, found.users, found.segments)

    @classmethod
    def of_ranking(cls, trained: ranking_model.TrainedRanking) -> Predictions:
        """Of the tasks whose label is 0 or 1."""
        its = trained.validation
        return cls(its.tasks, its.labels, ranking_model.probabilities(trained.network, its), its.weights, its.users, its.segments)

    def of_task(self, column: int) -> Predictions:
        """Those of the task of that column."""
        one = slice(column, column + 1)
        return replace(self, tasks=self.tasks[one], labels=self.labels[:, one], probabilities=self.probabilities[:, one])

    def of_rows(self, kept: np.ndarray) -> Predictions:
        """Those of kept (M,) bool."""
        rows = (self.labels, self.probabilities, self.weights, self.users, self.segments)
        return Predictions(self.tasks, *(part[kept] for part in rows))

    def ne(self, column: int, drawn: np.ndarray) -> float:
        """Normalized entropy of a task under further weights (M,)."""
        return normalized_entropy(self.labels[:, column], self.probabilities[:, column], self.weights * drawn)


def reads_alike(spec: ModelSpec, one: Policies, other: Policies, segments: Iterable[str]) -> bool:
    """Whether both policies leave the same of every segment."""
    whole = spec.layout()
    return all(whole.under(one.get(name, FeaturePolicy())) == whole.under(other.get(name, FeaturePolicy())) for name in segments)


def ne_gains(
    evaluated: Mapping[str, Sequence[Predictions]], against: Mapping[str, str], resamples: int = 200, by_segment: bool = True
) -> list[Gain]:
    """Of every experiment with something to compare with, in total and by segment, for each task with both labels there.

    evaluated: experiment -> a model per seed, on the same impressions in the same order.
    """
    found = []
    for name, other in against.items():
        segments = evaluated[name][0].segments
        for segment in (TOTAL, *(np.unique(segments) if by_segment else ())):
            kept = np.ones(len(segments), bool) if segment == TOTAL else segments == segment
            mine, theirs = ([one.of_rows(kept) for one in evaluated[which]] for which in (name, other))
            for column, task in enumerate(mine[0].tasks):
                if not 0 < mine[0].labels[:, column] @ mine[0].weights < mine[0].weights.sum():
                    continue
                everyone = np.ones(len(mine[0].users))
                each = _gains(mine, theirs, column, everyone)
                interval = cluster_bootstrap(_drawn_gain(mine, theirs, column), mine[0].users, resamples)
                ne = float(np.mean([one.ne(column, everyone) for one in mine]))
                found.append(Gain(name, other, segment, task, ne, float(each.mean()), *interval, float(each.min()), float(each.max())))
    return found


def _drawn_gain(mine: Sequence[Predictions], theirs: Sequence[Predictions], column: int) -> Callable[[np.ndarray], float]:
    """The mean gain over seeds that are drawn with replacement at every call, as the users are: trainings differ, too."""
    random = np.random.default_rng(7)

    def gain(drawn: np.ndarray) -> float:
        seeds = random.integers(0, len(mine), len(mine))
        return float(_gains([mine[seed] for seed in seeds], [theirs[seed] for seed in seeds], column, drawn).mean())

    return gain


def _gains(mine: Sequence[Predictions], theirs: Sequence[Predictions], column: int, drawn: np.ndarray) -> np.ndarray:
    """(seeds,) NE gains under the weights of a draw."""
    return np.array([1 - one.ne(column, drawn) / other.ne(column, drawn) for one, other in zip(mine, theirs, strict=True)])


class Cell(NamedTuple):
    """What is timed: users of a segment as a policy leaves them. Two experiments that treat a segment alike share its cell."""

    segment: str
    experiment: str  # the first of those that treat it so


def cells_of(spec: ModelSpec, experiments: Mapping[str, Policies], segments: Sequence[str]) -> dict[tuple[str, str], Cell]:
    """(experiment, segment) -> its cell."""
    found: dict[tuple[str, str], Cell] = {}
    for segment in segments:
        first: dict[str, Policies] = {}
        for name, policies in experiments.items():
            twin = next((one for one, its in first.items() if reads_alike(spec, its, policies, [segment])), name)
            first.setdefault(twin, policies)
            found[name, segment] = Cell(segment, twin)
    return found


def timed_rounds(works: Mapping[Cell, Callable[[], int]], rounds: int, seed: int) -> tuple[dict[Cell, np.ndarray], dict[Cell, int]]:
    """CPU seconds (rounds,) and users of each cell's work; in every round all of them in a new order, after one that does not count."""
    seconds: dict[Cell, list[float]] = {cell: [] for cell in works}
    users = {}
    order = list(works)
    random = np.random.default_rng(seed)
    for number in range(rounds + 1):
        for place in random.permutation(len(order)):
            began = time.process_time()
            users[order[place]] = works[order[place]]()
            if number:
                seconds[order[place]].append(time.process_time() - began)
    return {cell: np.array(values) for cell, values in seconds.items()}, users


def speeds(
    stage: str,
    seconds: Mapping[Cell, np.ndarray],
    users: Mapping[Cell, int],
    cells: Mapping[tuple[str, str], Cell],
    against: Mapping[str, str],
) -> list[Speed]:
    """Of every experiment with something to compare with, in total and per segment."""
    segments = list(dict.fromkeys(segment for _, segment in cells))
    found = []
    for name, other in against.items():
        for segment in (TOTAL, *segments):
            wanted = segments if segment == TOTAL else [segment]
            mine, theirs = (np.sum([seconds[cells[one, its]] for its in wanted], axis=0) for one in (name, other))
            count = sum(users[cells[name, its]] for its in wanted)
            ratios = theirs / mine - 1
            low, high = _interval(ratios)
            found.append(Speed(name, other, segment, stage, float(count / mine.mean()), float(ratios.mean()), low, high))
    return found


def _interval(values: np.ndarray) -> tuple[float, float]:
    """95 % interval of the mean of (n,) by Student's t; the values themselves where all are equal."""
    if len(values) < 2 or values.std() == 0:
        return float(values.min()), float(values.max())
    low, high = stats.t.interval(0.95, len(values) - 1, values.mean(), stats.sem(values))
    return float(low), float(high)


def training_works(
    model: UserModel,
    packed: Segments,
    experiments: Mapping[str, Policies],
    cells: Iterable[Cell],
    when: user_training.Calendar,
    config: TrainingConfig,
) -> dict[Cell, Callable[[], int]]:
    """Per cell: one epoch of training steps over its segment, the rows read from disk, with a model and an optimizer of its own."""
    works = {}
    for cell in cells:
        spec = replace(model.spec, policies=dict(experiments[cell.experiment]))
        works[cell] = _epoch_of(copy.deepcopy(model), packed.only(cell.segment).decoding(spec, packed.loaders[0].vocabulary), when, config)
    return works


def _epoch_of(model: UserModel, loader: Segments, when: user_training.Calendar, config: TrainingConfig) -> Callable[[], int]:
    optimizers = Optimizers(model.parameter_groups(), user_training.plan_of(config, model.spec.tasks, loader.steps))

    def work() -> int:
        model.train()
        users = 0
        for step, batch in enumerate(loader.batches(0)):
            optimizers.step(model.losses(batch, when.training(config.seed, 0, step), config.objectives))
            users += len(batch)
        return users

    return work


def reading_works(
    readers: Mapping[Cell, tuple[Sequence[str], Callable[[pa.RecordBatch], object]]], files: Mapping[str, Path], batch_rows: int
) -> dict[Cell, Callable[[], int]]:
    """Per cell: its columns of the Parquet file of its segment, read and handed on in batches."""

    def of(cell: Cell, columns: Sequence[str], use: Callable[[pa.RecordBatch], object]) -> Callable[[], int]:
        def work() -> int:
            users = 0
            for rows in pq.ParquetFile(files[cell.segment]).iter_batches(batch_rows, columns=list(columns)):
                use(rows)
                users += rows.num_rows
            return users

        return work

    return {cell: of(cell, *reader) for cell, reader in readers.items()}


def convergence(curves: Mapping[str, Sequence[Sequence[Mapping[str, float]]]], against: Mapping[str, str], task: str) -> pd.DataFrame:
    """experiment, epoch, gain: NE gain after each epoch that all seeds of both reached, mean over the seeds (DynamiX, Figure 5)."""
    name = f"validation.{task}"
    rows = []
    for experiment, other in against.items():
        epochs = min(len(one) for one in (*curves[experiment], *curves[other]))
        for epoch in range(epochs):
            pairs = [
                (mine[epoch].get(name), theirs[epoch].get(name)) for mine, theirs in zip(curves[experiment], curves[other], strict=True)
            ]
            gains = [1 - mine / theirs for mine, theirs in pairs if mine is not None and theirs is not None]
            if gains:
                rows.append((experiment, epoch + 1, float(np.mean(gains))))
    return pd.DataFrame(rows, columns=["experiment", "epoch", "gain"])


def require_segments(packed: Segments, experiments: Mapping[str, Policies]) -> list[str]:
    """The segments of the rows. Raises DataError where they are not told apart, or a policy is for one that nobody is in."""
    there = [loader.segment for loader in packed.loaders]
    named = {segment for policies in experiments.values() for segment in policies} - {EVERYBODY}
    if there == [EVERYBODY] or not named <= set(there):
        missing = ", ".join(sorted(named - set(there)))
        raise DataError(f"training_examples has rows of {', '.join(there)}, none of {missing}: run jobs/build_sequences.py with this conf")
    return there
