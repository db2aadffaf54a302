"""Fields counted from histories: against a plain loop over what was known before each impression."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from alure_spark.batches.batch import Impressions, SourceTokens, offsets_of
from alure_spark.clock import DAY_MS
from alure_spark.ranking.history_counts import history_count


def world(seed):
    random = np.random.default_rng(seed)
    events, shown = random.integers(0, 12, 9), random.integers(0, 4, 9)
    total, rows = int(events.sum()), int(shown.sum())

    def times(lengths):  # whole days, so that an event and an impression are often at one moment
        return torch.from_numpy(np.concatenate([np.sort(random.integers(1, 40, length)) * DAY_MS for length in lengths]).astype(np.int64))

    amount = random.integers(-3, 9, total).astype(np.float32)
    amount[::5] = np.nan
    known = times(events)
    tokens = SourceTokens(
        offsets_of(torch.from_numpy(events)),
        known,
        known,
        {"account_id": torch.from_numpy(random.integers(0, 4, total))},
        {"value": torch.from_numpy(amount)},
    )
    impressions = Impressions(
        offsets=offsets_of(torch.from_numpy(shown)),
        time_ms=times(shown),
        rows={"account": torch.from_numpy(random.integers(0, 4, rows))},
        numbers={},
        labels={},
        weight=torch.ones(rows),
        label_age_ms=torch.zeros(rows, dtype=torch.int64),
        validation=torch.zeros(rows, dtype=torch.bool),
    )
    return tokens, impressions


def of_same(tokens, shown, place, seen):
    """Of the tokens seen those with the account of the impression at that place."""
    row = shown.rows["account"][place].item()
    return [at for at in seen if row and tokens.rows["account_id"][at].item() == row]


@pytest.mark.parametrize("days", [0.0, 7.0])
@pytest.mark.parametrize(
    ("what", "of"), [("count", ""), ("days_since", ""), ("sum", "value"), ("same", "account"), ("days_since_same", "account")]
)
@pytest.mark.parametrize("seed", range(4))
def test_a_count_is_that_of_a_loop(what, of, days, seed):
    tokens, shown = world(seed)
    counted = history_count(tokens, shown, what, of, "account_id", days)
    assert counted.dtype == torch.float32
    users = shown.users()
    for place, (user, moment) in enumerate(zip(users.tolist(), shown.time_ms.tolist(), strict=True)):
        begin, end = tokens.offsets[user], tokens.offsets[user + 1]
        seen = [
            at
            for at in range(begin, end)
            if tokens.known_at_ms[at] < moment and (not days or tokens.known_at_ms[at] >= moment - days * DAY_MS)
        ]
        if what == "count":
            expected = len(seen)
        elif what == "days_since":
            expected = (moment - tokens.known_at_ms[seen[-1]].item()) / DAY_MS if seen else math.nan
        elif what == "sum":
            amounts = tokens.numbers["value"][seen]
            expected = float(amounts[~amounts.isnan()].sum()) if seen else 0
        else:
            same = of_same(tokens, shown, place, seen)
            since = (moment - tokens.known_at_ms[same[-1]].item()) / DAY_MS if same else math.nan
            expected = len(same) if what == "same" else since
        assert counted[place].item() == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("half_life", [0.01, 3.0, 1000.0])
@pytest.mark.parametrize("seed", range(4))
def test_a_decayed_count_is_that_of_a_loop(half_life, seed):
    tokens, shown = world(seed)
    counted = history_count(tokens, shown, "decayed_same", "account", "account_id", half_life)
    assert counted.dtype == torch.float32
    for place, (user, moment) in enumerate(zip(shown.users().tolist(), shown.time_ms.tolist(), strict=True)):
        before = [at for at in range(tokens.offsets[user], tokens.offsets[user + 1]) if tokens.known_at_ms[at] < moment]
        ages = [(moment - tokens.known_at_ms[at].item()) / DAY_MS for at in of_same(tokens, shown, place, before)]
        assert counted[place].item() == pytest.approx(sum(0.5 ** (age / half_life) for age in ages))


def test_what_is_shown_at_one_moment_is_no_repeat_of_itself_and_a_late_log_is_not_known_yet():
    hours = torch.tensor([5, 5, 9, 30]) * 3_600_000
    row = torch.tensor([3, 3, 3, 3])
    known = torch.tensor([5, 5, 40, 30]).sort().values * 3_600_000  # the one of hour 9 was logged at hour 40
    tokens = SourceTokens(torch.tensor([0, 4]), known, hours, {"ad": row}, {})
    shown = world(0)[1]
    nothing = torch.zeros(4, dtype=torch.int64)
    shown = replace(shown, offsets=torch.tensor([0, 4]), time_ms=hours, rows={"ad": row}, label_age_ms=nothing)
    assert history_count(tokens, shown, "same", "ad", "ad", 0).tolist() == [0, 0, 2, 2]
    torch.testing.assert_close(
        history_count(tokens, shown, "days_since_same", "ad", "ad", 0),
        torch.tensor([math.nan, math.nan, 4 / 24, 25 / 24]),
        equal_nan=True,
    )


def test_without_events_nothing_is_counted():
    _, shown = world(1)
    nothing = torch.zeros(0, dtype=torch.int64)
    none = SourceTokens(torch.zeros(10, dtype=torch.int64), nothing, nothing, {"account_id": nothing}, {})
    assert history_count(none, shown, "count", "", "", 0).tolist() == [0.0] * len(shown.time_ms)
    assert history_count(none, shown, "same", "account", "account_id", 0).tolist() == [0.0] * len(shown.time_ms)
    assert history_count(none, shown, "decayed_same", "account", "account_id", 1).tolist() == [0.0] * len(shown.time_ms)
    assert history_count(none, shown, "days_since", "", "", 0).isnan().all()
    assert history_count(none, shown, "days_since_same", "account", "account_id", 0).isnan().all()
