"""The user sub-graph against its padded twin, torch's own encoder, and itself on other batches."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alure_spark.batches.batch import select_users
from alure_spark.batches.history import known_ends
from alure_spark.batches.vocabulary import ITEM
from alure_spark.model.user_encoder import UserEncoder, _occurred_before
from benchmarks.padded import PaddedEncoder, PlainPadded
from tests.model.worlds import (
    BEGIN_MS,
    DAY_MS,
    PLAIN,
    WIDE,
    assert_close,
    batch_of,
    cut_history,
    gradients,
    random_batch,
    shaken,
    spec_of,
)

SWITCHES = [
    {},
    PLAIN,
    PLAIN | {"order_encoding": True},
    PLAIN | {"time_bias": True},
    PLAIN | {"gap_encoding": True},
    PLAIN | {"clock_encoding": True},
    PLAIN | {"residual": True},
    {"layers": 1},
    {"layers": 3},
    {"max_events": 9},  # a window of four tokens
    {"layers": 3, "max_events": 11},
    {"window": 3},
    {"exchange": True},
    {"exchange": True, "layers": 1, "max_events": 6},
    PLAIN | {"frequency_encoding": True},
    {"frequency_encoding": True, "max_events": 200},
    PLAIN | {"rotary_encoding": True, "dimension": 16},
    {"rotary_encoding": True, "dimension": 20, "max_events": 9, "layers": 1},
    {"value_encodings": False},
    PLAIN | {"value_encodings": False},
    {"value_encodings": False, "rotary_encoding": True, "dimension": 16, "frequency_encoding": True, "exchange": True},
    {"read_layers": (0, 2)},
    {"read_layers": (2, 1, 0)},
    {"read_layers": (0,), "layers": 1},
    {"read_layers": (0, 1), "layers": 1, "exchange": True},
    {"read_positions": 3},
    {"read_positions": 3, "read_layers": (1, 2), "max_events": 9},
    {"compression": "dot_product"},
    {"compression": "dot_product", "compressed": 2, "read_positions": 2, "read_layers": (0, 2)},
    {"compression": "attention"},
    {"compression": "attention", "read_positions": 2, "read_layers": (0, 2)},
]
LENGTHS = {
    "random": {"purchase": [7, 0, 25, 3, 11, 3], "ad_click": [0, 4, 2, 9, 9, 1], "page": [1, 0, 6, 20, 0, 2]},
    "an empty source": {"purchase": [7, 2, 9], "ad_click": [0, 0, 0], "page": [3, 3, 0]},
    "one event each": {"purchase": [1, 1, 1], "ad_click": [1, 1, 1], "page": [1, 0, 1]},
    "equal lengths": {"purchase": [8, 8, 8, 8], "ad_click": [5, 5, 5, 5], "page": [2, 2, 2, 2]},
    "a user without events": {"purchase": [0, 6], "ad_click": [0, 2], "page": [0, 1]},
    "nothing at all": {"purchase": [0, 0], "ad_click": [0, 0], "page": [0, 0]},
}


def encoder_of(spec):
    torch.manual_seed(1)
    return shaken(UserEncoder(spec))


def probe(found, seed=9):
    """A loss that every number counts in."""
    draw = torch.Generator().manual_seed(seed)
    return sum((part * torch.randn(part.shape, generator=draw, dtype=part.dtype)).sum() for part in found)


def assert_twins(encoder, twin, batch):
    mine, theirs = encoder.states(batch), twin.states(batch)
    assert_close(mine, theirs)
    assert_close(encoder.embed(batch), twin.embed(batch))
    losses = [probe([*model.states(batch).values(), model.embed(batch)]) for model in (encoder, twin)]
    assert_close(gradients(encoder, losses[0]), gradients(encoder, losses[1]), 1e-7)


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_jagged_is_padded(switches):
    spec = spec_of(**switches)
    encoder = encoder_of(spec)
    assert_twins(encoder, PaddedEncoder(encoder), batch_of(spec, LENGTHS["random"]))


@pytest.mark.parametrize("switches", [{}, {"value_encodings": False, "text_buckets": 3}], ids=str)
def test_jagged_is_padded_with_texts_and_embeddings(switches):
    spec = spec_of(WIDE, **switches)
    encoder, batch = encoder_of(spec), batch_of(spec, {"page": [7, 0, 25, 3], "visit": [0, 4, 2, 9]})
    assert set(batch.sources["page"].words) == {"title"}, "what has no width is not read"
    assert_twins(encoder, PaddedEncoder(encoder), batch)
    users = torch.tensor([2, 0])
    assert_close(encoder.embed(select_users(batch, users)), encoder.embed(batch)[users])


@pytest.mark.parametrize("switches", [{}, {"value_encodings": False}], ids=str)
def test_jagged_is_padded_with_semantic_ids(switches):
    spec = replace(spec_of(WIDE, **switches), quantizers={"media": {"levels": 2, "codes": 3, "hidden": 4}})
    encoder, batch = encoder_of(spec), batch_of(spec, {"page": [7, 0, 25, 3], "visit": [0, 4, 2, 9]})
    encoder.quantizers["media"].codebooks.normal_(generator=torch.Generator().manual_seed(6))
    rows = encoder.coded(batch.sources["page"]).rows
    assert set(rows) == {ITEM, "media__0", "media__1"}
    assert set(rows["media__0"].tolist()) == {0, 1, 2, 3}
    assert_twins(encoder, PaddedEncoder(encoder), batch)


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("switches", [{}, PLAIN, {"exchange": True}], ids=str)
def test_jagged_is_padded_at_the_corners(lengths, switches):
    spec = spec_of(**switches)
    encoder = encoder_of(spec)
    assert_twins(encoder, PaddedEncoder(encoder), batch_of(spec, lengths))


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("residual", [False, True])
def test_the_plain_configuration_is_torchs_transformer_encoder(layers, residual):
    spec = spec_of(layers=layers, max_events=200, **PLAIN | {"residual": residual})
    encoder = encoder_of(spec)
    assert_twins(encoder, PlainPadded(encoder), batch_of(spec, LENGTHS["random"]))


def test_torchs_transformer_encoder_is_refused_what_it_cannot_do():
    with pytest.raises(ValueError, match="order encoding"):
        PlainPadded(encoder_of(spec_of()))
    spec = spec_of(**PLAIN | {"max_events": 9})
    with pytest.raises(ValueError, match="longer than the window"):
        PlainPadded(encoder_of(spec)).states(random_batch(spec, 4, 20))


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_last_states_are_the_states_at_the_last_tokens(switches):
    spec = spec_of(**switches)
    encoder, batch = encoder_of(spec), batch_of(spec, LENGTHS["random"])
    states, last = encoder.states(batch), encoder.last_states(batch)
    for source, tokens in batch.sources.items():
        for user in range(len(batch)):
            end = int(tokens.offsets[user + 1])
            for back in range(spec.config.read_positions):
                there = back < min(int(tokens.lengths[user]), spec.read_back(source))
                expected = states[source][end - 1 - back] if there else encoder.nothing[source]
                assert_close(last[source][user, back], expected)


@pytest.mark.parametrize("switches", [{}, {"exchange": True}, {"layers": 1}], ids=str)
def test_a_user_has_the_same_embedding_alone_and_in_any_batch(switches):
    spec = spec_of(**switches)
    encoder, batch = encoder_of(spec), random_batch(spec, 8, 30)
    together = encoder.embed(batch)
    for users in ([3], [5, 1], [7, 6, 5, 4, 3, 2, 1, 0], [2, 2, 0]):
        assert_close(encoder.embed(select_users(batch, torch.tensor(users))), together[users])


def test_selected_users_carry_their_own_rows():
    spec = spec_of()
    batch = random_batch(spec, 6, 5, impressions=4)
    users = [4, 0, 0, 5]
    chosen = select_users(batch, torch.tensor(users))
    assert chosen.user_ids == tuple(f"u{user}" for user in users)
    for old, new in [(batch.impressions, chosen.impressions), *((batch.sources[name], chosen.sources[name]) for name in spec.sources)]:
        columns = {name: [] for name in old.rows}
        for place, user in enumerate(users):
            rows = range(int(old.offsets[user]), int(old.offsets[user + 1]))
            assert new.offsets[place + 1] - new.offsets[place] == len(rows)
            for name, column in columns.items():
                column += old.rows[name][rows.start : rows.stop].tolist()
        assert {name: rows.tolist() for name, rows in new.rows.items()} == columns


REACHING = [
    {},
    {"layers": 1},
    {"residual": False},
    {"frequency_encoding": True},
    {"rotary_encoding": True, "dimension": 16},
    {"value_encodings": False},
    {"read_layers": (0, 1, 2)},
    {"read_positions": 4, "compression": "attention"},
    {"read_positions": 2, "frequency_encoding": True, "compression": "dot_product"},
]


@pytest.mark.parametrize("switches", [{"max_events": 12} | more for more in REACHING], ids=str)
def test_an_embedding_read_from_states_is_that_of_the_history_which_serving_would_hold(switches):
    """The rule of the receptive field: rows much longer than max_events, read at times all along them."""
    spec = replace(spec_of(**switches), max_events={"ad_click": 5, "page": 1})  # of some sources serving holds fewer events
    encoder, batch = encoder_of(spec), random_batch(spec, 6, 60)
    states = encoder.states(batch)
    for days in (0, 20, 100, 250, 399):
        time_ms = BEGIN_MS + days * DAY_MS + torch.arange(len(batch)) * DAY_MS // 2
        found = encoder.embed_at(batch, states, torch.arange(len(batch)), time_ms)
        assert_close(found, encoder.embed(cut_history(batch, time_ms, lambda source: {"ad_click": 5, "page": 1}.get(source, 12))))


@pytest.mark.parametrize("switches", [{}, {"exchange": True}], ids=str)
def test_events_at_or_after_a_read_change_nothing_in_it(switches):
    """Also an event known exactly at the moment, and also one that happened long before it was known."""
    spec = spec_of(**switches)
    encoder, batch = encoder_of(spec), random_batch(spec, 6, 30)
    users, moment = torch.arange(len(batch)), BEGIN_MS + 200 * DAY_MS  # events stand exactly there
    time_ms = torch.full((len(batch),), moment)
    sources = {}
    for name, tokens in batch.sources.items():
        later = tokens.known_at_ms >= moment
        rows = {space: torch.where(later, (row + 7) % 29, row) for space, row in tokens.rows.items()}
        numbers = {key: torch.where(later, 1.0, value) for key, value in tokens.numbers.items()}
        happened = torch.where(later, tokens.event_time_ms // 2, tokens.event_time_ms)
        sources[name] = replace(tokens, rows=rows, numbers=numbers, event_time_ms=happened)
    other = replace(batch, sources=sources)
    reads = [encoder.embed_at(one, encoder.states(one), users, time_ms) for one in (batch, other)]
    assert_close(*reads)
    assert (encoder.embed(batch) - encoder.embed(other)).abs().max() > 0.01, "the plant is seen where it may be seen"


def test_an_event_known_at_the_moment_of_the_read_is_not_history():
    spec = spec_of()
    batch = batch_of(spec, {"purchase": [3], "ad_click": [0], "page": [0]})
    tokens = batch.sources["purchase"]
    third = tokens.known_at_ms[2:]
    assert known_ends(tokens, torch.tensor([0]), third).tolist() == [int((tokens.known_at_ms < third).sum())]
    assert known_ends(tokens, torch.tensor([0]), third + 1).tolist() == [3]


def test_only_users_of_whom_something_is_known_have_an_embedding():
    spec = spec_of()
    encoder, batch = encoder_of(spec), batch_of(spec, {"purchase": [0, 4, 0], "ad_click": [0, 0, 0], "page": [0, 0, 2]})
    assert_close(encoder.embed(batch).norm(dim=1), torch.tensor([0.0, 1.0, 1.0], dtype=torch.float64))
    early = torch.full((3,), BEGIN_MS)
    assert encoder.embed_at(batch, encoder.states(batch), torch.arange(3), early).abs().max() == 0


def test_users_without_known_items_send_bounded_gradients():
    """F.normalize at zero multiplies a gradient by 1e12: one new user in a batch would have stopped the learning of all others."""
    spec = spec_of()
    torch.manual_seed(0)
    encoder = UserEncoder(spec).double()
    batch = batch_of(spec, {"purchase": [0, 4, 3], "ad_click": [0, 0, 0], "page": [2, 0, 2]})
    unknown = {ITEM: torch.tensor([0, 0, 0, 0, 1, 2, 3])}
    purchase = replace(batch.sources["purchase"], rows=batch.sources["purchase"].rows | unknown)
    batch = replace(batch, sources=batch.sources | {"purchase": purchase})
    found = gradients(encoder, probe([encoder.embed(batch)]))
    assert max(gradient.abs().max() for gradient in found.values()) < 100
    assert found["item_vectors"][0].abs().max() == 0, "the unknown item learns nothing"


def test_the_start_is_the_classic_embedding():
    """Before training an item counts by the root of its weight (idf), about once, and the states nothing."""
    spec = spec_of(sources={"purchase": {}}, order_encoding=False)
    encoder = UserEncoder(spec).double()
    draw = torch.Generator().manual_seed(4)
    vectors, weight = torch.randn(30, 10, generator=draw), torch.rand(30, generator=draw)
    encoder.set_items(vectors, weight)
    batch = batch_of(spec, {"purchase": [6]})
    items = batch.sources["purchase"].rows[ITEM].tolist()
    expected = sum(vectors[item].double() * (weight[item].double() / 2).exp() for item in set(items) if item)
    again = sum((items.count(item) - 1) * vectors[item].double() * (weight[item].double() / 2 - 4).exp() for item in set(items) if item)
    views = torch.nn.functional.normalize((expected + again).view(2, 5), dim=-1)
    assert_close(encoder.embed(batch), views.view(1, 10) / 2**0.5, 1e-6)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), max_size=25))
def test_occurred_before_is_that_of_a_loop(events):
    owner, row = (torch.tensor([event[part] for event in events], dtype=torch.int64) for part in range(2))
    assert _occurred_before(owner, row).tolist() == [event in events[:place] for place, event in enumerate(events)]


def test_the_padded_twin_reads_the_same_moment():
    spec = spec_of()
    encoder, batch = encoder_of(spec), random_batch(spec, 5, 30)
    time_ms = torch.full((5,), BEGIN_MS + 150 * DAY_MS)
    found = encoder.embed_at(batch, encoder.states(batch), torch.arange(5), time_ms)
    assert_close(found, PaddedEncoder(encoder).embed(replace(batch, as_of_ms=time_ms)))
