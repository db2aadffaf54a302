"""TIM on jagged histories against equation 1, event by event."""

from __future__ import annotations

import math

import pytest
import torch

from alure_spark.batches.batch import SourceTokens, offsets_of
from alure_spark.batches.history import history_spans, known_ends
from alure_spark.clock import HOUR_MS
from alure_spark.ranking.encodings.behaviours import read_behaviours
from alure_spark.ranking.encodings.temporal_interest import INTERVALS_MS, Blocks, TemporalInterest

DIMENSION = 6
GENERATOR = torch.Generator().manual_seed(4)


def histories(lengths):
    total = sum(lengths)
    known = torch.cat([torch.sort(torch.randint(0, 200 * HOUR_MS, (length,), generator=GENERATOR)).values for length in lengths])
    happened = known - torch.randint(0, HOUR_MS, (total,), generator=GENERATOR)
    rows = {"category_id": torch.randint(0, 5, (total,), generator=GENERATOR)}
    return SourceTokens(offsets_of(torch.tensor(lengths)), known, happened, rows, {})


def expected(module, tokens, vectors, users, time_ms, targets):
    """Equation 1 with loops."""
    result = []
    for user, time, target in zip(users.tolist(), time_ms.tolist(), targets, strict=True):
        begin, end = tokens.offsets[user : user + 2].tolist()
        seen = [place for place in range(begin, end) if tokens.known_at_ms[place] < time][-module.events :]
        v = target + sum(table[0] for table in (module.places, module.intervals) if table is not None)
        met, scores = [], []
        for back, place in enumerate(reversed(seen), start=1):
            e = vectors[place]
            if module.places is not None:
                e = e + module.places[back]
            if module.intervals is not None:
                gap = time - int(tokens.event_time_ms[place])
                e = e + module.intervals[1 + sum(gap > bound for bound in INTERVALS_MS)]
            met.append(e * v)
            scores.append((e @ v) / math.sqrt(DIMENSION))
        weights = torch.softmax(torch.stack(scores), dim=0) if scores else []
        result.append(sum((w * one for w, one in zip(weights, met, strict=True)), torch.zeros(DIMENSION, dtype=torch.float64)))
    return torch.stack(result)


@pytest.mark.parametrize("position", [True, False])
@pytest.mark.parametrize("interval", [True, False])
@pytest.mark.parametrize("events", [1, 4, 50])
def test_every_impression_is_the_sum_of_equation_1(position, interval, events):
    torch.manual_seed(1)
    module = TemporalInterest(DIMENSION, events, position, interval, deviation=1.0).double()
    tokens = histories([7, 0, 12, 1])
    vectors = torch.randn(20, DIMENSION, dtype=torch.float64, generator=GENERATOR).requires_grad_()
    users = torch.tensor([0, 0, 1, 2, 2, 2, 3])
    time_ms = torch.cat([torch.randint(0, 250 * HOUR_MS, (6,), generator=GENERATOR), tokens.known_at_ms[-1:]])
    time_ms[3] = tokens.known_at_ms[9]  # an event known at the very moment is none of the history
    targets = torch.randn(7, DIMENSION, dtype=torch.float64, generator=GENERATOR).requires_grad_()
    found = module(tokens, vectors, users, time_ms, targets)
    read = read_behaviours(tokens, users, time_ms, events)
    whole = torch.zeros(7, dtype=torch.float64).index_add(0, read.impression, module.attention(read, vectors, targets))
    torch.testing.assert_close(whole, (read.impression.bincount(minlength=7) > 0).double())
    wanted = expected(module, tokens, vectors, users, time_ms, targets)
    torch.testing.assert_close(found, wanted)
    assert (found[2] == 0).all(), "no history"
    assert (found[6] == 0).all(), "known at the moment of the impression"
    inputs = [vectors, targets, *module.parameters()]
    for one, other in zip(torch.autograd.grad(found.sum(), inputs), torch.autograd.grad(wanted.sum(), inputs), strict=True):
        torch.testing.assert_close(one, other)


def test_padded_and_alone_are_the_same_as_jagged():
    torch.manual_seed(1)
    module = TemporalInterest(DIMENSION, 5)
    tokens = histories([9, 3])
    vectors, targets = torch.randn(12, DIMENSION), torch.randn(4, DIMENSION)
    users, time_ms = torch.tensor([0, 0, 1, 1]), torch.full((4,), 220 * HOUR_MS)
    together = module(tokens, vectors, users, time_ms, targets)
    for place in range(4):
        begin, end = tokens.offsets[users[place]], tokens.offsets[users[place] + 1]
        alone = SourceTokens(torch.tensor([0, end - begin]), tokens.known_at_ms[begin:end], tokens.event_time_ms[begin:end], {}, {})
        one = module(alone, vectors[begin:end], torch.tensor([0]), time_ms[place : place + 1], targets[place : place + 1])
        torch.testing.assert_close(one[0], together[place])


def test_what_was_known_before_is_counted_as_by_a_loop():
    tokens = histories([5, 0, 40, 3])
    users = torch.randint(0, 4, (200,), generator=GENERATOR)
    time_ms = torch.randint(-5, 205 * HOUR_MS, (200,), generator=GENERATOR)
    time_ms[:48] = tokens.known_at_ms
    users[:48] = tokens.users()
    wanted = [
        int((tokens.known_at_ms[tokens.offsets[user] : tokens.offsets[user + 1]] < time).sum())
        for user, time in zip(users.tolist(), time_ms.tolist(), strict=True)
    ]
    assert (known_ends(tokens, users, time_ms) - tokens.offsets[users]).tolist() == wanted
    assert known_ends(histories([0, 0]), torch.tensor([1]), torch.tensor([3])).tolist() == [0]


@pytest.mark.parametrize("events", [3, 50])
@pytest.mark.parametrize("counts", [[1, 9, 0, 4], [30, 1, 1, 1], [1, 1, 1, 1], [0, 0, 0, 5]])
def test_impressions_that_share_blocks_are_the_sums_of_equation_1(counts, events):
    torch.manual_seed(1)
    module = TemporalInterest(DIMENSION, events, deviation=1.0).double()
    tokens = histories([40, 12, 5, 0])
    vectors = torch.randn(57, DIMENSION, dtype=torch.float64, generator=GENERATOR).requires_grad_()
    users = torch.arange(4).repeat_interleave(torch.tensor(counts))
    time_ms = torch.cat([torch.randint(0, 210 * HOUR_MS, (count,), generator=GENERATOR).sort().values for count in counts])
    targets = torch.randn(len(users), DIMENSION, dtype=torch.float64, generator=GENERATOR).requires_grad_()
    sums, wanted = module(tokens, vectors, users, time_ms, targets), expected(module, tokens, vectors, users, time_ms, targets)
    torch.testing.assert_close(sums, wanted)
    if wanted.requires_grad and any(counts[:3]):
        inputs = [vectors, targets, *module.parameters()]
        for one, other in zip(torch.autograd.grad(sums.sum(), inputs), torch.autograd.grad(wanted.sum(), inputs), strict=True):
            torch.testing.assert_close(one, other)


def test_nobody_and_no_event_are_no_interest():
    module, empty = TemporalInterest(DIMENSION, 5), histories([0, 0])
    none = torch.zeros(0, dtype=torch.int64)
    assert module(empty, torch.zeros(0, DIMENSION), none, none, torch.zeros(0, DIMENSION)).shape == (0, DIMENSION)
    assert (module(empty, torch.zeros(0, DIMENSION), torch.tensor([0, 1]), torch.tensor([5, 6]), torch.ones(2, DIMENSION)) == 0).all()


def test_scores_that_are_large_are_no_numbers_lost():
    module, tokens = TemporalInterest(DIMENSION, 5), histories([3])
    vectors = 1e4 * torch.randn(3, DIMENSION)
    interest = module(tokens, vectors, torch.tensor([0]), torch.tensor([250 * HOUR_MS]), 1e4 * torch.ones(1, DIMENSION))
    assert interest.isfinite().all()


@pytest.mark.parametrize("counts", [[1] * 50, [500] + [1] * 50, [20] * 30, [0, 7, 300]])
def test_blocks_have_at_most_twice_the_places_and_the_events(counts):
    users = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    tokens = histories([40] * len(counts))
    time_ms = torch.cat([torch.randint(0, 210 * HOUR_MS, (count,), generator=GENERATOR).sort().values for count in counts])
    spans = history_spans(tokens, users, time_ms, 6)
    blocks = Blocks.of(users, spans, 6)
    assert len(blocks.place.unique()) == len(users)
    assert len(blocks.tokens) * blocks.size <= 2 * len(users)
    assert blocks.tokens.shape[1] <= 2 * 6
    torch.testing.assert_close(blocks.gathered(blocks.spread(time_ms)), time_ms)
