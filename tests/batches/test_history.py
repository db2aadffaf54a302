"""What is history at a moment, against a loop over the events."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alure_spark.batches.batch import SourceTokens, offsets_of
from alure_spark.batches.history import history_spans

TIMES = st.lists(st.lists(st.integers(0, 9), max_size=6), min_size=1, max_size=4)  # of few values: many are equal


@settings(max_examples=200, deadline=None)
@given(TIMES, st.lists(st.tuples(st.integers(0, 3), st.integers(0, 11)), max_size=8), st.integers(0, 4), st.none() | st.integers(1, 6))
def test_a_span_holds_the_last_events_known_before_the_moment_and_none_older_than_the_days(times, reads, last_events, last_ms):
    times = [sorted(mine) for mine in times]
    known = torch.tensor([at for mine in times for at in mine], dtype=torch.int64)
    tokens = SourceTokens(offsets_of(torch.tensor([len(mine) for mine in times])), known, known, {}, {})
    reads = [(user % len(times), at) for user, at in reads]
    users, moments = (torch.tensor([read[place] for read in reads], dtype=torch.int64) for place in (0, 1))
    span = history_spans(tokens, users, moments, last_events, last_ms)
    for read, (user, moment) in enumerate(reads):
        before = [place for place, at in enumerate(times[user]) if at < moment]
        last = before[max(0, len(before) - last_events) :]
        expected = [place for place in last if last_ms is None or times[user][place] >= moment - last_ms]
        first = int(tokens.offsets[user])
        assert list(range(int(span.first[read]) - first, int(span.end[read]) - first)) == expected
    assert span.counts.tolist() == (span.end - span.first).tolist()
