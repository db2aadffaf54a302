"""The registered ranking model beside models of one task each, trained on the same rows, and the pairs on which the tasks disagree.

Enters: a network, its vocabulary and the batches of its training. Leaves: one `Entanglement` for the first task and each other one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ..batches.batch import JaggedBatch
from ..config import RankingConfig
from ..errors import DataError
from ..packed.segments import Segments
from ..ranking.spec import RankingSpec
from ..training import ranking_model
from .entanglement import Entanglement, entanglement
from .own_tables import require_own_tables
from .ranking_batches import RankingBatches

MOST_TASKS = 5  # that are trained by themselves: the first ones
MOST_PAIRS = 50_000  # impressions of the validation split that are compared: the first ones


def single_task_spec(spec: RankingSpec, task: str) -> RankingSpec:
    """The same fields, and tables and experts of its own, for one task alone."""
    values = tuple(name for name in spec.values if name == task)
    return replace(spec, tasks=(task,), scheme="ame", main_task="", towers={}, auxiliary=(), values=values, upstream=None)


def registered_entanglement(given: RankingBatches, config: RankingConfig) -> list[Entanglement]:
    """Trains a model of each of the first MOST_TASKS tasks by `config`, so it takes as many trainings.

    Raises DataError where the model has one task, as with a main task (STEM-AL), and as require_own_tables.
    """
    spec, single = given.network.spec, {}
    require_own_tables(spec)
    if len(spec.tasks) < 2:
        raise DataError(f"the registered ranking model predicts '{spec.tasks[0]}' alone: entanglement is between tasks, so it needs two")
    for task in spec.tasks[:MOST_TASKS]:
        its = single_task_spec(spec, task)
        loader = given.loader.decoding(its, given.vocabulary)
        single[task] = ranking_model.train(ranking_model.new_network(its, loader, config.seed), loader, config).network
    first, *others = single
    pairs = list(_pairs(given.loader))
    name = spec.scheme
    return [entanglement((first, other), [single[first], single[other]], {name: given.network}, pairs) for other in others]


def _pairs(loader: Segments) -> Iterator[JaggedBatch]:
    """The first impressions of the validation split, whole batches."""
    count = 0
    for whole in loader.in_order():
        batch = ranking_model.split_of(whole, validation=True)
        assert batch.impressions is not None
        yield batch
        count += len(batch.impressions.time_ms)
        if count >= MOST_PAIRS:
            return
