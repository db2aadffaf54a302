"""Users who respond where their last behaviour was of the target's category and less than an hour ago; a null twin; naive counting."""

from __future__ import annotations

import numpy as np
import torch

from alure_spark.analysis.feature_information import EVERY, OWN
from alure_spark.batches.batch import Impressions, JaggedBatch, SourceTokens, offsets_of
from alure_spark.batches.vocabulary import Vocabulary
from alure_spark.clock import DAY_MS, HOUR_MS, MINUTE_MS
from alure_spark.config import ExpertConfig, SequenceConfig
from alure_spark.ranking.encodings.temporal_interest import INTERVALS_MS
from alure_spark.ranking.spec import FieldSpec, RankingSpec

CATEGORIES = 4
HASHES = np.array([11, 22, 33, 44])
VOCABULARY = Vocabulary.from_arrays(np.array(["category"] * CATEGORIES, object), HASHES, np.arange(1, CATEGORIES + 1))
DRAFT = RankingSpec(
    fields={"category": FieldSpec("id")},
    tables={"one": 16, "two": 8},
    experts={"dnn": ExpertConfig("flat_dnn", "one"), "other": ExpertConfig("flat_dnn", "two")},
    tasks=("click", "like"),
    sequences={"seen": SequenceConfig("view", "category", "category", events=6)},
    hidden=16,
    tower=(8,),
    deviation=0.3,
)
HOUR = INTERVALS_MS.index(HOUR_MS)  # the interval of 30 minutes to an hour, in which all that matters happens


def users(count: int, seed: int = 0, planted: bool = True, unknown: float = 0.0) -> JaggedBatch:
    """One impression per user, after up to 9 behaviours, of which the newest is half an hour to an hour old for every second user.

    One behaviour per user becomes known after the impression, always of the target's category. unknown: this share of ids is row 0.
    """
    random = np.random.default_rng(seed)
    lengths, moment = random.integers(0, 10, count), 400 * DAY_MS + np.arange(count) * MINUTE_MS
    target = random.integers(1, CATEGORIES + 1, count) * (random.random(count) >= unknown)
    known, category, matters = [], [], np.zeros(count, bool)
    for user, length in enumerate(lengths):
        gaps = np.sort(np.exp(random.uniform(np.log(2 * HOUR_MS), np.log(300 * DAY_MS), length)))[::-1].astype(np.int64)
        rows = random.integers(1, CATEGORIES + 1, length) * (random.random(length) >= unknown)
        if length and random.random() < 0.5:
            gaps[-1] = random.integers(31 * MINUTE_MS, 59 * MINUTE_MS)
            matters[user] = rows[-1] == target[user] > 0
        known.append(np.r_[moment[user] - gaps, moment[user] + random.integers(0, 2)])
        category.append(np.r_[rows, target[user]])
    clicked = random.random(count) < (np.where(matters, 0.9, 0.1) if planted else 0.3)
    happened = torch.from_numpy(np.concatenate(known))
    liked = torch.from_numpy(random.random(count) < 0.5)
    tokens = SourceTokens(
        offsets_of(torch.from_numpy(lengths + 1)), happened, happened, {"category": torch.from_numpy(np.concatenate(category))}, {}
    )
    shown = Impressions(
        offsets=torch.arange(count + 1),
        time_ms=torch.from_numpy(moment),
        rows={"category": torch.from_numpy(target)},
        numbers={},
        labels={"click": torch.from_numpy(clicked).float(), "like": liked.float()},
        weight=torch.ones(count),
        label_age_ms=torch.zeros(count, dtype=torch.int64),
        validation=torch.from_numpy(random.random(count) < 0.2),
    )
    nobody = torch.zeros(count, dtype=torch.int64)
    return JaggedBatch("", tuple(map(str, range(count))), nobody, nobody + 500 * DAY_MS, {"view": tokens}, shown)


def counted(batch: JaggedBatch, cells, weights):
    """(present, responded, attention, equal) of `Cells`, by loops. weights: table -> a list of weights per impression, the oldest first."""
    present, responded = np.zeros_like(cells.present), np.zeros_like(cells.responded)
    attention, equal = np.zeros_like(cells.attention), np.zeros_like(cells.equal)
    tokens, shown = batch.sources["view"], batch.impressions
    for number, time in enumerate(shown.time_ms.tolist()):
        begin, end = tokens.offsets[number : number + 2].tolist()
        seen = [place for place in range(begin, end) if tokens.known_at_ms[place] < time][-6:]
        target = int(shown.rows["category"][number])
        for panel, wanted in enumerate(cells.targets):
            if wanted not in (EVERY, target):
                continue
            for number_of, behaviour in enumerate(cells.behaviours):
                facts = set()
                for back, place in enumerate(reversed(seen)):
                    row = int(tokens.rows["category"][place])
                    if row != behaviour and not (behaviour == OWN and row == target > 0):
                        continue
                    gap = time - int(tokens.event_time_ms[place])
                    for column in (back, cells.positions + sum(gap > bound for bound in INTERVALS_MS)):
                        facts.add(column)
                        equal[panel, number_of, column] += 1 / len(seen)
                        for table, its in enumerate(weights.values()):
                            attention[panel, table, number_of, column] += its[number][len(seen) - 1 - back]
                for column in facts:
                    present[panel, number_of, column] += 1
                    for task, name in enumerate(cells.tasks):
                        responded[panel, task, number_of, column] += int(shown.labels[name][number])
    return present, responded, attention, equal
