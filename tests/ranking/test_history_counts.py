"""Fields counted from histories: against a plain loop over what was known before each impression."""

from __future__ import annotations

import math

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


@pytest.mark.parametrize("days", [0.0, 7.0])
@pytest.mark.parametrize(("what", "of"), [("count", ""), ("days_since", ""), ("sum", "value"), ("same", "account")])
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
            row = shown.rows["account"][place].item()
            expected = sum(tokens.rows["account_id"][at].item() == row for at in seen) if row else 0
        assert counted[place].item() == pytest.approx(expected, nan_ok=True)


def test_without_events_nothing_is_counted():
    _, shown = world(1)
    nothing = torch.zeros(0, dtype=torch.int64)
    none = SourceTokens(torch.zeros(10, dtype=torch.int64), nothing, nothing, {"account_id": nothing}, {})
    assert history_count(none, shown, "count", "", "", 0).tolist() == [0.0] * len(shown.time_ms)
    assert history_count(none, shown, "same", "account", "account_id", 0).tolist() == [0.0] * len(shown.time_ms)
    assert history_count(none, shown, "days_since", "", "", 0).isnan().all()
