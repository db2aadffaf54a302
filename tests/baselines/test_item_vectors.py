"""The classic user embeddings: naive counts, planted communities, folding in, and data too small for the dimension."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alure_spark.baselines.histories import ItemHistories, offsets
from alure_spark.baselines.item_vectors import (
    ItemVectors,
    co_occurrence,
    embed,
    fit_item2vec,
    fit_svd,
    inverse_document_frequency,
    positive_pmi,
)
from alure_spark.baselines.neighbours import embedding_neighbours
from alure_spark.config import EmbeddingConfig

EVENTS = st.lists(st.tuples(st.integers(0, 5), st.integers(-4, 4), st.integers(0, 6)), max_size=40)  # user, item, known_at


def histories_of(events: list[tuple[int, int, int]]) -> ItemHistories:
    columns = np.asarray(events, dtype=np.int64).reshape(-1, 3)
    return ItemHistories.from_events(np.asarray([f"u{user}" for user in columns[:, 0]], dtype=object), columns[:, 1], columns[:, 2])


def lists_of(histories: ItemHistories) -> dict[str, list[int]]:
    bounds = zip(histories.user_ids, histories.indptr[:-1], histories.indptr[1:], strict=True)
    return {user: histories.items[start:end].tolist() for user, start, end in bounds}


def communities(seed: int, users: int = 120, items: int = 60, groups: int = 4) -> tuple[ItemHistories, np.ndarray]:
    """Users of a planted community buy its items nine times in ten, each item popular to its own degree."""
    random = np.random.default_rng(seed)
    truth, hashes = random.integers(0, groups, users), random.permutation(items) * 1_000_003
    events = []
    for user in range(users):
        for time in range(20):
            group = truth[user] if random.random() < 0.9 else random.integers(0, groups)
            events.append((user, int(group + groups * random.integers(0, items // groups)), time))
    columns = np.asarray(events)
    ids = np.asarray([f"u{user:03d}" for user in columns[:, 0]], dtype=object)
    return ItemHistories.from_events(ids, hashes[columns[:, 1]], columns[:, 2]), truth


@settings(deadline=None)
@given(EVENTS)
def test_a_history_holds_each_item_once_by_first_time_then_by_hash(events):
    expected: dict[str, list[int]] = {}
    for user, item, _ in sorted(events, key=lambda event: (event[2], event[1])):
        row = expected.setdefault(f"u{user}", [])
        if item not in row:
            row.append(item)
    assert lists_of(histories_of(events)) == expected


@settings(deadline=None)
@given(EVENTS, st.randoms())
def test_the_order_and_the_repetition_of_events_do_not_change_histories(events, random):
    shuffled = events + events[: len(events) // 2]
    random.shuffle(shuffled)
    assert lists_of(histories_of(shuffled)) == lists_of(histories_of(events))


@settings(deadline=None)
@given(EVENTS, st.sets(st.integers(0, 5)))
def test_selected_users_keep_their_histories(events, wanted):
    histories = histories_of(events)
    rows = np.asarray([row for row in sorted(wanted) if row < len(histories.user_ids)], dtype=np.int64)
    everyone = lists_of(histories)
    assert lists_of(histories.select(rows)) == {user: everyone[user] for user in histories.user_ids[rows]}


@settings(deadline=None)
@given(EVENTS, st.integers(1, 4))
def test_co_occurrence_counts_equal_two_naive_loops(events, window):
    histories = histories_of(events)
    items = histories.vocabulary()
    expected = np.zeros((len(items), len(items)))
    for row in lists_of(histories).values():
        for place, left in enumerate(row):
            for right in row[place + 1 : place + 1 + window]:
                i, j = np.searchsorted(items, left), np.searchsorted(items, right)
                expected[i, j] += 1
                expected[j, i] += 1
    np.testing.assert_array_equal(co_occurrence(histories, items, window).toarray(), expected)


@settings(deadline=None)
@given(EVENTS)
def test_positive_pmi_follows_its_formula(events):
    histories = histories_of(events)
    counts = co_occurrence(histories, histories.vocabulary(), 2)
    dense, pmi = counts.toarray(), positive_pmi(counts).toarray()
    for i in range(len(dense)):
        for j in range(len(dense)):
            together = dense[i, j] * dense.sum()
            expected = max(0.0, math.log(together / (dense[i].sum() * dense[j].sum()))) if together else 0.0
            assert pmi[i, j] == pytest.approx(expected)


@settings(deadline=None)
@given(EVENTS)
def test_idf_is_the_log_of_users_over_users_with_the_item(events):
    histories = histories_of(events)
    rows, items = lists_of(histories).values(), histories.vocabulary()
    expected = [math.log(len(rows) / sum(item in row for row in rows)) for item in items]
    np.testing.assert_allclose(inverse_document_frequency(histories.matrix(items)), expected, atol=1e-12)


@settings(deadline=None)
@given(EVENTS)
def test_an_embedding_is_the_unit_sum_of_the_known_items_vectors(events):
    histories = histories_of(events)
    model = ItemVectors(np.asarray([-3, 0, 2, 3]), np.asarray([[1, 2], [-2, 1], [0, 3], [5, -1]], np.float32))
    embedded = embed(histories.indptr, histories.items, model)
    assert embedded.dtype == np.float32
    for vector, row in zip(embedded, lists_of(histories).values(), strict=True):
        total = np.zeros(2)
        for item in row:
            if item in model.items:
                total += model.vectors[model.items.tolist().index(item)]
        np.testing.assert_allclose(vector, total / (math.hypot(*total) or 1), atol=1e-6)


def test_users_without_items_or_without_a_known_item_get_zeros():
    model = ItemVectors(np.asarray([5]), np.ones((1, 3), np.float32))
    embedded = embed(offsets(np.asarray([0, 1, 1])), np.asarray([4, 5]), model)
    np.testing.assert_allclose(embedded, [[0, 0, 0], [0, 0, 0], [3**-0.5] * 3], rtol=1e-6)


@pytest.mark.parametrize("fit", [lambda h: fit_svd(h, 8, 7), lambda h: fit_item2vec(h, 8, 4, 7)], ids=["svd", "item2vec"])
def test_planted_communities_are_neighbours_again(fit):
    histories, truth = communities(seed=3)
    vectors = embed(histories.indptr, histories.items, fit(histories))
    neighbours = embedding_neighbours(vectors, np.zeros(len(truth)), 5)
    assert (truth[neighbours] == truth[:, None]).mean() > 0.95


@pytest.mark.parametrize("fit", [lambda h: fit_svd(h, 8, 7), lambda h: fit_item2vec(h, 8, 4, 7)], ids=["svd", "item2vec"])
def test_a_user_that_the_fit_never_saw_falls_into_its_community(fit):
    histories, truth = communities(seed=5)
    seen, unseen = np.arange(100), np.arange(100, 120)
    model = fit(histories.select(seen))
    vectors = embed(histories.indptr, histories.items, model)
    nearest = np.argsort(-(vectors[unseen] @ vectors[seen].T), axis=1)[:, :5]
    assert (truth[nearest] == truth[unseen, None]).mean() > 0.9


def test_svd_embeddings_are_the_projected_rows_of_an_exact_decomposition():
    histories, _ = communities(seed=1, users=40, items=20)
    had = histories.matrix(histories.vocabulary()).toarray()
    weighted = had * np.log(len(had) / had.sum(axis=0))
    unit = weighted / np.linalg.norm(weighted, axis=1, keepdims=True)
    _, _, right = np.linalg.svd(unit, full_matrices=False)
    projected = weighted @ right[:3].T
    expected = projected / np.linalg.norm(projected, axis=1, keepdims=True)
    vectors = embed(histories.indptr, histories.items, fit_svd(histories, 3, 7))
    np.testing.assert_allclose(vectors @ vectors.T, expected @ expected.T, atol=1e-4)


@pytest.mark.parametrize("fit", [lambda h, d: fit_svd(h, d, 7), lambda h, d: fit_item2vec(h, d, 4, 7)], ids=["svd", "item2vec"])
def test_a_dimension_above_the_size_of_the_data_is_reduced_to_it(fit):
    histories = histories_of([(0, 1, 1), (0, 2, 2), (1, 2, 1), (1, 3, 2), (2, 1, 3), (2, 4, 4)])
    vectors = fit(histories, 64).vectors
    assert vectors.shape[1] <= 4
    assert np.isfinite(vectors).all()
    alone = histories_of([(0, 1, 1)])
    assert not embed(alone.indptr, alone.items, fit(alone, 64)).any()  # one user: every idf is 0


@settings(deadline=None)
@given(EVENTS)
def test_any_small_history_gives_unit_or_zero_rows(events):
    histories = histories_of(events)
    for model in (fit_svd(histories, 4, 7), fit_item2vec(histories, 4, 2, 7)):
        lengths = np.linalg.norm(embed(histories.indptr, histories.items, model), axis=1)
        assert ((np.abs(lengths - 1) < 1e-5) | (lengths == 0)).all()


def test_two_fits_give_the_same_bits_and_model_id_and_another_seed_or_conf_another_id():
    histories, _ = communities(seed=2)
    config = EmbeddingConfig(method="svd", dimension=8)
    first, second, other = fit_svd(histories, 8, 7), fit_svd(histories, 8, 7), fit_svd(histories, 8, 8)
    np.testing.assert_array_equal(first.vectors, second.vectors)
    assert first.model_id(config) == second.model_id(config)
    assert first.model_id(config).startswith("svd-")
    assert len(first.model_id(config)) == len("svd-") + 12
    assert len({first.model_id(config), other.model_id(config), first.model_id(EmbeddingConfig(method="svd", dimension=8, window=5))}) == 3
    assert first.model_id(EmbeddingConfig(method="item2vec")).startswith("item2vec-")
