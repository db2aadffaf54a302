"""When a behaviour says something: counts by loops, a planted hour, its null twin, and attention that has learnt it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from alure_spark.analysis.feature_information import EVERY, OWN, feature_information
from alure_spark.batches.epochs import MemoryLoader
from alure_spark.config import RankingConfig
from alure_spark.errors import DataError
from alure_spark.training import ranking_model
from tests.analysis.planted_interest import DRAFT, HOUR, VOCABULARY, counted, users

CONFIG = RankingConfig(epochs=20, patience=5, learning_rate=1e-2, batch_users=256)


def loader(batch, rows=256):
    return MemoryLoader(batch, rows, seed=5)


def network_of(batch):
    return ranking_model.new_network(ranking_model.fitted_spec(DRAFT, loader(batch), VOCABULARY), loader(batch), 7)


def expected_weights(network, batch):
    """Table -> weights per impression, by equation 1 and loops."""
    tokens, shown, weights_of = batch.sources["view"], batch.impressions, {}
    for table in network.spec.tables:
        rows, module = network.field_rows()[table]["category"], network.interest(table, "seen")
        weights_of[table] = []
        for number, time in enumerate(shown.time_ms.tolist()):
            begin, end = tokens.offsets[number : number + 2].tolist()
            seen = [place for place in range(begin, end) if tokens.known_at_ms[place] < time][-6:]
            target = rows[shown.rows["category"][number]] + module.places[0] + module.intervals[0]
            scores = []
            for back, place in enumerate(reversed(seen), start=1):
                gap = time - tokens.event_time_ms[place]
                e = rows[tokens.rows["category"][place]] + module.places[back] + module.intervals[1 + int((gap > module.ends).sum())]
                scores.insert(0, (e @ target / np.sqrt(rows.shape[1])).item())
            weights_of[table].append(torch.softmax(torch.tensor(scores, dtype=torch.float64), dim=0).tolist())
    return weights_of


@pytest.mark.parametrize("rows", [1, 7, 500])
def test_counts_and_attention_are_those_of_loops_however_users_are_batched(rows):
    batch = users(120, unknown=0.2)
    network = network_of(batch)
    with torch.no_grad():
        for weights in network.parameters():
            weights.mul_(3)  # so that attention is far from equal
    cells = feature_information(network, loader(batch, rows), "seen")
    assert list(cells.targets) == [
        EVERY,
        *(1 + np.argsort(-np.bincount(batch.impressions.rows["category"], minlength=5)[1:], kind="stable")),
    ]
    assert cells.behaviours[0] == OWN
    assert set(cells.behaviours[1:]) == {1, 2, 3, 4}, "the unknown row is no category"
    assert cells.positions == 6
    present, responded, attention, equal = counted(batch, cells, expected_weights(network, batch))
    np.testing.assert_array_equal(cells.present, present)
    np.testing.assert_array_equal(cells.responded, responded)
    np.testing.assert_allclose(cells.attention, attention, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(cells.equal, equal, rtol=1e-9)
    labels = batch.impressions.labels_of(cells.tasks).numpy()
    for panel, target in enumerate(cells.targets):
        its = np.ones(120, bool) if target == EVERY else batch.impressions.rows["category"].numpy() == target
        assert cells.impressions[panel] == its.sum()
        np.testing.assert_array_equal(cells.responses[panel], labels[its].sum(axis=0))


@pytest.fixture(scope="module")
def planted():
    batch = users(6000)
    trained = ranking_model.train(network_of(batch), loader(batch), CONFIG).network
    return trained, feature_information(trained, loader(batch), "seen")


def test_what_was_planted_tells_most_and_is_no_chance(planted):
    _, cells = planted
    bits, _, high = cells.information(cells.tasks.index("click"))
    for panel in range(len(cells.targets)):
        for part, place in ((slice(0, 6), 0), (slice(6, None), HOUR)):
            assert bits[panel, 0, part][place] == bits[panel, :, part].max()
        assert bits[panel, 0, 6 + HOUR] > 2 * high[panel, 0, 6 + HOUR]
    elsewhere = bits[:, 0, 1:6] > high[:, 0, 1:6]
    assert not elsewhere.any(), "older behaviours say nothing"


def test_a_task_in_which_nothing_matters_has_no_cell_above_chance(planted):
    bits, low, high = planted[1].information(1)
    assert (bits <= high).all()
    assert (low <= high).all()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_null_twin_has_no_cell_above_chance(seed):
    batch = users(3000, seed, planted=False)
    cells = feature_information(network_of(batch), loader(batch), "seen")
    for task in range(2):
        bits, _, high = cells.information(task)
        assert (bits <= high).all()
        single = cells.information(task, level=0.05 * (cells.present > 0).sum())
        share = (single.bits > single.high)[cells.present > 0].mean()
        assert share < 0.08, "each cell by itself at its own 95 %"


def test_attention_is_highest_where_it_was_planted_and_equal_before_training(planted):
    _, cells = planted
    # The gates rest on one of the two tables, and the other need not learn where to look.
    table = cells.tables.index("one")
    preference = cells.preference()[0, table]
    assert np.nanargmax(preference[0, :6]) == 0
    assert np.nanargmax(preference[0, 6:]) == HOUR
    assert preference[0, 6 + HOUR] == np.nanmax(preference)
    assert preference[0, 6 + HOUR] > 1.5
    batch = users(500)
    untrained = network_of(batch)
    with torch.no_grad():
        for weights in untrained.parameters():
            weights.zero_()
    flat = feature_information(untrained, loader(batch), "seen").preference()
    np.testing.assert_allclose(flat[~np.isnan(flat)], 1, rtol=1e-5)


def test_without_impressions_it_says_so():
    batch = users(20)
    shown = batch.impressions
    nothing = replace(batch, impressions=shown.select(torch.zeros(20, dtype=torch.bool)))
    with pytest.raises(DataError, match="no impression is there by which the sequence 'seen'"):
        feature_information(network_of(batch), loader(nothing), "seen")
