"""Attention on runs of packed tokens, against one query and one key at a time."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import softplus

from alure_spark.batches.batch import offsets_of, ranges
from alure_spark.model.attention import CausalAttention, Clock, Runs
from tests.model.worlds import assert_close, shaken

LENGTHS = [
    [5, 0, 3, 3, 1, 12, 5, 7],
    [4, 4, 4],  # one run
    [1, 1, 1, 1],
    [0, 0, 23],
    [40, 2, 33, 40],
]


def inputs_of(lengths, seed=5, dimension=8, pairs=0, apart=False):
    """(x (T, d), clock) of packed users; hours do not ascend everywhere, as event times in order of known_at."""
    draw = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(sum(lengths), *shape, generator=draw, dtype=torch.float64)

    x, hours = random(dimension), 50 * torch.rand(sum(lengths), generator=draw, dtype=torch.float64)
    return x, Clock(hours, 3 * random(pairs) if pairs else None, random(dimension) if apart else None)


def asking(x, clock):
    return None if clock.encoding is None else x + clock.encoding


def naive(attention, x, clock, lengths):
    """One user, one query, one key at a time."""
    d, heads, start, rows, hours = x.shape[1], attention.heads, 0, [], clock.hours
    told = x if clock.encoding is None else x + clock.encoding
    q, k, v = (attention.inputs(part)[:, at * d : (at + 1) * d].view(len(x), heads, -1) for at, part in enumerate((told, told, x)))
    if clock.angles is not None:
        q, k = q.clone(), k.clone()
        pairs = clock.angles.shape[1]
        for pair in range(pairs):
            cos, sin = clock.angles[:, pair, None].cos(), clock.angles[:, pair, None].sin()
            for part in (q, k):
                one, two = part[:, :, pair].clone(), part[:, :, pair + pairs].clone()
                part[:, :, pair], part[:, :, pair + pairs] = cos * one - sin * two, sin * one + cos * two
    for length in lengths:
        for i in range(start, start + length):
            parts = []
            for head in range(heads):
                seen = range(max(start, i - attention.window + 1), i + 1)
                scores = []
                for j in seen:
                    score = q[i, head] @ k[j, head] / math.sqrt(d / heads)
                    if attention.order_slope is not None:
                        score = score - softplus(attention.order_slope[head]) * math.log(1 + i - j)
                    if attention.time_slope is not None:
                        score = score - softplus(attention.time_slope[head]) * torch.log(1 + abs(hours[i] - hours[j]))
                    scores.append(score)
                share = torch.stack(scores).softmax(0)
                parts.append(sum(share[n] * v[j, head] for n, j in enumerate(seen)))
            rows.append(torch.cat(parts))
        start += length
    return attention.output(torch.stack(rows))


def run_through(attention, x, clock, runs):
    return torch.cat([attention(x[piece], clock.at(piece), blocks, asking(x[piece], clock.at(piece))) for piece, blocks in runs.pieces()])


def by_length(attention, x, clock, lengths):
    """forward, in the order of the packed row."""
    runs = Runs.of(offsets_of(torch.tensor(lengths)))
    return run_through(attention, x[runs.order], clock.at(runs.order), runs)[runs.place]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 6), max_size=12))
def test_runs_group_users_of_equal_length(lengths):
    offsets = offsets_of(torch.tensor(lengths, dtype=torch.int64))
    runs = Runs.of(offsets)
    users = sorted((user for user, length in enumerate(lengths) if length), key=lambda user: lengths[user])
    tokens = [list(range(int(offsets[user]), int(offsets[user + 1]))) for user in users]
    assert runs.users.tolist() == users
    assert runs.order.tolist() == [token for mine in tokens for token in mine]
    assert runs.order[runs.place].tolist() == list(range(sum(lengths)))
    assert runs.order[runs.last].tolist() == [mine[-1] for mine in tokens]
    assert [length for blocks in runs.chunks for count, length in blocks for _ in range(count)] == [lengths[user] for user in users]


def test_chunks_are_small_but_hold_whole_users(monkeypatch):
    monkeypatch.setattr("alure_spark.model.attention.CHUNK_TOKENS", 10)
    runs = Runs.of(offsets_of(torch.tensor([3, 3, 3, 3, 12, 1, 4, 0])))
    assert runs.chunks == (((1, 1), (3, 3)), ((1, 3), (1, 4)), ((1, 12),))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 4)), max_size=6))
def test_ranges_count_up_from_each_start(rows):
    starts, lengths = (torch.tensor([row[part] for row in rows], dtype=torch.int64) for part in (0, 1))
    assert ranges(starts, lengths).tolist() == [start + step for start, length in rows for step in range(length)]


@pytest.mark.parametrize("window", [1, 2, 5, 100])
@pytest.mark.parametrize(("order", "time"), [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("lengths", LENGTHS[:2])
@pytest.mark.parametrize(("pairs", "apart"), [(0, False), (2, False), (1, True)])
def test_attention_is_that_of_loops_over_queries_and_keys(lengths, order, time, window, pairs, apart):
    attention = shaken(CausalAttention(8, 2, window, order, time))
    x, clock = inputs_of(lengths, pairs=pairs, apart=apart)
    assert_close(by_length(attention, x, clock, lengths), naive(attention, x, clock, lengths))


@pytest.mark.parametrize("window", [1, 7, 32, 100])
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("pairs", "apart"), [(0, False), (2, False), (1, True), (0, True)])
def test_the_rows_of_the_last_tokens_alone_are_those_of_all_tokens(lengths, window, bias, pairs, apart):
    attention = shaken(CausalAttention(8, 2, window, bias, bias))
    x, clock = inputs_of(lengths, pairs=pairs, apart=apart)
    runs = Runs.of(offsets_of(torch.tensor(lengths)))
    x, clock = x[runs.order], clock.at(runs.order)
    found = []
    for piece, blocks in runs.pieces():
        ends = runs.last[(runs.last >= piece.start) & (runs.last < piece.stop)] - piece.start
        found.append(attention.last(x[piece], clock.at(piece), ends, blocks, asking(x[piece], clock.at(piece))))
    assert_close(torch.cat(found), run_through(attention, x, clock, runs)[runs.last])


@pytest.mark.parametrize(("order", "time"), [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("window", [3, 100])
def test_gradients_are_those_of_finite_differences(order, time, window):
    lengths = [4, 1, 4, 6]
    attention = shaken(CausalAttention(4, 2, window, order, time))
    x, clock = inputs_of(lengths, dimension=4)
    runs = Runs.of(offsets_of(torch.tensor(lengths)))
    parameters = list(attention.parameters())

    def function(x, *values):
        names = [name for name, _ in attention.named_parameters()]
        return torch.func.functional_call(attention, dict(zip(names, values, strict=True)), (x, clock, runs.chunks[0]))

    assert torch.autograd.gradcheck(function, (x.requires_grad_(), *parameters), fast_mode=True)


@pytest.mark.parametrize("name", ["CHUNK_TOKENS", "QUERY_BLOCK"])
@pytest.mark.parametrize("size", [1, 7, 60])
@pytest.mark.parametrize("window", [15, 100])
def test_the_size_of_the_pieces_changes_nothing(monkeypatch, name, size, window):
    lengths = LENGTHS[-1] + LENGTHS[0] + LENGTHS[1]
    attention = shaken(CausalAttention(8, 2, window, True, True))
    x, clock = inputs_of(lengths)
    x.requires_grad_()

    def results():
        found = by_length(attention, x, clock, lengths)
        return found, torch.autograd.grad(found.square().sum(), [x, *attention.parameters()])

    expected = results()
    monkeypatch.setattr(f"alure_spark.model.attention.{name}", size)
    assert_close(results(), expected)
