"""The protocol of next-item ranking: what is held out, what is learnt from, and that a planted chain is found."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from benchmarks import next_item

ITEMS = 20


@pytest.fixture(scope="module")
def frame():
    """Users who walk from item to item, nine times in ten to the next number; two ratings of a user may have one time."""
    random = np.random.default_rng(1)
    rows = []
    for user in range(150):
        item = random.integers(ITEMS)
        for step in range(random.integers(8, 20)):
            rows.append((f"u{user:03d}", f"i{item:02d}", float(1_000_000 * user + 60 * (step // 2))))
            item = (item + 1) % ITEMS if random.random() < 0.9 else random.integers(ITEMS)
    return pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])


@pytest.mark.parametrize("held_out", [1, 2])
def test_the_last_ratings_are_held_out_and_the_last_but_one_validates(frame, held_out):
    border = int(frame["timestamp"].max() * 1000) + 1
    batch, target = next_item.batch_of(frame, held_out, border)
    tokens = batch.sources[next_item.SOURCE]
    for place, (user, mine) in enumerate(frame.groupby("user_id")):
        own = slice(int(tokens.offsets[place]), int(tokens.offsets[place + 1]))
        rows = [1 + int(item[1:]) for item in mine["item_id"]]
        assert batch.user_ids[place] == user
        assert tokens.rows["item_id"][own].tolist() == rows[:-held_out]
        assert target[place] == rows[-held_out]
        known = tokens.known_at_ms[own].tolist()
        assert known == sorted(known)
        assert [moment >= border for moment in known] == [False] * (len(rows) - 2) + [True] * (2 - held_out)
        assert tokens.event_time_ms[own].tolist() == [int(time * 1000) for time in mine["timestamp"][:-held_out]]


def test_a_planted_chain_is_found(frame):
    training = replace(next_item.TRAINING, epochs=6)
    found, operations = next_item.ours(frame, 7, replace(next_item.MODEL, layers=1, dropout=0.1), training)
    ranks = np.array(list(found.values()))
    assert operations > 1e4
    assert (ranks == 1).mean() > 0.7, "chance is 1 in 20"
    hit, gain = next_item.gains(np.array([1, 2, 10, 11]))
    assert hit.tolist() == [1, 1, 1, 0]
    assert gain.tolist() == pytest.approx([1, 1 / np.log2(3), 1 / np.log2(11), 0])


def test_peers_and_gaps_are_summed_over_the_seeds():
    costs = [{"seconds_wall": 2.0, "seconds_cpu": 1.0, "peak_mb": 5.0}, {"seconds_wall": 3.0, "seconds_cpu": 2.0, "peak_mb": 4.0}]
    first, last = [np.array([1, 1, 1]), np.array([1, 1, 11])], [np.array([11, 11, 11])] * 2
    row = next_item.summary("ours", first, costs)
    assert (row["hr"], row["ndcg_min"], row["ndcg_max"]) == pytest.approx((5 / 6, 2 / 3, 1))
    assert (row["seconds_wall"], row["seconds_cpu"], row["peak_mb"]) == (5, 3, 5)
    gap = next_item.gap("ours_minus", first, last, np.array(["a", "b", "c"]), 200)
    assert gap["ours_minus"] == pytest.approx(5 / 6)
    assert 0.5 <= gap["low"] < gap["high"] == 1
