"""When does a past behaviour say something of the response, and does the model look there? (Pan et al., section 7.1)

Enters: a ranking network and the batches that it reads. Leaves, for one of its sequences, by target category, category of the behaviour,
and when it was (how many behaviours ago; how long ago): the mutual information with the response (equations 6 and 7), and the weight that
TIM gives, as Zhou et al. (2023) compare the two. Only what was known before an impression counts, as in training.

Impressions count once each, whatever their weight: where labels.negative_rate leaves out impressions without a response, the bits are
those of the impressions that are left.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ..batches.epochs import Batches
from ..errors import DataError
from ..ranking.encodings.behaviours import Behaviours
from ..ranking.encodings.temporal_interest import INTERVALS_MS
from ..ranking.network import RankingNetwork
from .mutual_information import Information, information_of_counts
from .own_tables import require_own_tables

TARGETS, BEHAVIOURS, POSITIONS = 4, 6, 20  # of a picture, each the most frequent or the newest ones
EVERY, OWN = -1, -1  # instead of a row: all targets together; the behaviour has the category of its target


@dataclass(frozen=True)
class Cells:
    """What is measured of a sequence: P panels of B behaviours at C places, for tasks and tables."""

    targets: np.ndarray  # (P,) rows of target categories, the first EVERY
    behaviours: np.ndarray  # (B,) rows of behaviour categories, the first OWN
    positions: int  # the first so many of the C places are positions, the others intervals (INTERVALS_MS and beyond)
    tasks: tuple[str, ...]
    tables: tuple[str, ...]
    impressions: np.ndarray  # (P,) int64
    responses: np.ndarray  # (P, tasks) int64
    present: np.ndarray  # (P, B, C) int64: impressions with such a behaviour there
    responded: np.ndarray  # (P, tasks, B, C) int64: of these with the response
    attention: np.ndarray  # (P, tables, B, C) float64: sum over impressions of the weights of these behaviours
    equal: np.ndarray  # (P, B, C) float64: that sum if all behaviours of an impression had the same weight

    def counted(self) -> np.ndarray:
        """(P, B, C) bool: cells with a behaviour, each once: in the panel of a target its category is OWN."""
        twice = (self.behaviours == self.targets[:, None]) & (self.behaviours != OWN)
        return (self.present > 0) & ~twice[:, :, None]

    def preference(self) -> np.ndarray:
        """(P, tables, B, C): attention by what equal weights would give; NaN where no behaviour is. 1: the model does not care.

        The plain weight is highest for the newest behaviour whatever was learnt, for a short history has no other one.
        """
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(self.equal[:, None] > 0, self.attention / self.equal[:, None], np.nan)

    def information(self, task: int, level: float = 0.05) -> Information:
        """(P, B, C) each, of a task. Where nothing matters, any cell at all lies above its interval in at most level / 2 of the cases.

        So the level of one cell is level / cells (Bonferroni). Cells without a behaviour have 0 bits, as have panels in which all or none
        responded.
        """
        shape, cells = self.present.shape, max(1, int(self.counted().sum()))
        parts = []
        for panel, rows in enumerate(self.impressions):
            counts = self.responded[panel, task].ravel(), self.present[panel].ravel()
            parts.append(information_of_counts(*counts, int(self.responses[panel, task]), int(rows), level / cells))
        return Information(*(np.stack(each).reshape(shape) for each in zip(*parts, strict=True)))


@torch.no_grad()
def feature_information(network: RankingNetwork, loader: Batches, name: str) -> Cells:
    """Of the sequence of that name. Reads the batches twice and holds counts.

    Raises DataError where there is no impression, and as require_own_tables.
    """
    spec = network.eval().spec
    require_own_tables(spec)
    sequence, tasks, tables = spec.sequences[name], spec.tasks, tuple(spec.plan().tables)
    targets, behaviours = _frequent(network, loader, name)
    positions = min(sequence.events, POSITIONS)
    shape = (len(targets), len(behaviours), positions + len(INTERVALS_MS) + 1)
    size = int(np.prod(shape))
    impressions, responses = np.zeros(len(targets), np.int64), np.zeros((len(targets), len(tasks)), np.int64)
    present, responded = np.zeros(size, np.int64), np.zeros((len(tasks), size), np.int64)
    equal, attention = np.zeros(size), np.zeros((len(tables), size))
    for batch in loader.in_order():
        shown = batch.impressions
        assert shown is not None
        labels, target = shown.labels_of(tasks).numpy() > 0, network.value(batch, sequence.target).numpy()
        for panel, row in enumerate(targets):
            its = (target == row) | (row == EVERY)
            impressions[panel] += its.sum()
            responses[panel] += labels[its].sum(axis=0)
        read = network.behaviours(batch, name)
        of_behaviour = batch.sources[sequence.source].rows[sequence.category][read.token].numpy()
        pair, cell = _cells(read, of_behaviour, target, targets, behaviours, positions)
        impression = read.impression.numpy()
        equal += np.bincount(cell, (1 / np.bincount(impression, minlength=len(target))[impression])[pair], size)
        for table, weight in enumerate(network.attention(batch, name, read).values()):
            attention[table] += np.bincount(cell, weight.double().numpy()[pair], size)
        facts = np.unique(impression[pair] * size + cell)  # several behaviours of an interval are one fact
        fact_of, fact_cell = facts // size, facts % size
        present += np.bincount(fact_cell, minlength=size)
        for task in range(len(tasks)):
            responded[task] += np.bincount(fact_cell[labels[fact_of, task]], minlength=size)

    def by_panel(sums: np.ndarray) -> np.ndarray:
        """(P, first axis, B, C)."""
        return sums.reshape(len(sums), *shape).swapaxes(0, 1)

    counts = present.reshape(shape), by_panel(responded), by_panel(attention), equal.reshape(shape)
    return Cells(targets, behaviours, positions, tasks, tables, impressions, responses, *counts)


def _cells(
    read: Behaviours, of_behaviour: np.ndarray, target: np.ndarray, targets: np.ndarray, behaviours: np.ndarray, positions: int
) -> tuple[np.ndarray, np.ndarray]:
    """(which behaviour that is read, its cell (panel * B + behaviour) * C + place), both (n,) int64: a behaviour is in several cells.

    of_behaviour: the row of each that is read; target: that of each impression. Row 0, of all unknown ids, is nobody's own category.
    """
    its_target = target[read.impression.numpy()]
    rows = [(its_target == of_behaviour) & (its_target > 0), *(of_behaviour == row for row in behaviours[1:])]
    place = read.place.numpy() - 1
    interval = read.intervals(torch.tensor(INTERVALS_MS)).numpy() - 1 + positions
    columns = positions + len(INTERVALS_MS) + 1
    pairs, cells = [], []
    for panel, wanted in enumerate(targets):
        for number, row in enumerate(rows):
            mine = np.flatnonzero(row if wanted == EVERY else row & (its_target == wanted))
            near = mine[place[mine] < positions]
            begin = (panel * len(behaviours) + number) * columns
            pairs += [near, mine]
            cells += [begin + place[near], begin + interval[mine]]
    return np.concatenate(pairs), np.concatenate(cells)


def _frequent(network: RankingNetwork, loader: Batches, name: str) -> tuple[np.ndarray, np.ndarray]:
    """(EVERY and the rows of the targets most often shown, OWN and those of the categories most often read); no unknown ones."""
    sequence = network.spec.sequences[name]
    size = network.encodings[sequence.target].rows
    shown, seen = np.zeros(size, np.int64), np.zeros(size, np.int64)
    for batch in loader.in_order():
        shown += np.bincount(network.value(batch, sequence.target).numpy(), minlength=size)
        rows = batch.sources[sequence.source].rows[sequence.category][network.behaviours(batch, name).token]
        seen += np.bincount(rows.numpy(), minlength=size)
    if not shown.sum():
        raise DataError(f"no impression is there by which the sequence '{name}' could be looked at")

    def most(counts: np.ndarray, count: int) -> np.ndarray:
        order = np.argsort(-counts[1:], kind="stable")[:count] + 1
        return order[counts[order] > 0]

    return np.r_[EVERY, most(shown, TARGETS)], np.r_[OWN, most(seen, BEHAVIOURS)]
