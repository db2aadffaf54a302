"""The evaluation of a user graph against a literal reading of the protocol in plain Python."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from alure_spark.analysis import protocol
from alure_spark.analysis.protocol import evaluate_neighbours


def evaluate(had, later, neighbours, popularity, k=50):
    return evaluate_neighbours(
        sparse.csr_matrix(np.asarray(had, float)),
        sparse.csr_matrix(np.asarray(later, float)),
        np.asarray(neighbours),
        np.asarray(popularity),
        k,
    )


def naive(had, later, neighbours, popularity, k):
    items = range(len(popularity))
    recalls, ndcgs = [], []
    for user, others in enumerate(neighbours):
        votes = [sum(bool(had[other][item]) for other in others if other >= 0) for item in items]
        ranked = sorted((item for item in items if not had[user][item]), key=lambda item: (-votes[item], -popularity[item], item))[:k]
        wanted = {item for item in items if later[user][item] and not had[user][item]}
        if not wanted:
            recalls.append(math.nan)
            ndcgs.append(math.nan)
            continue
        recalls.append(len(wanted & set(ranked)) / len(wanted))
        gain = sum(1 / math.log2(place + 2) for place, item in enumerate(ranked) if item in wanted)
        ndcgs.append(gain / sum(1 / math.log2(place + 2) for place in range(min(k, len(wanted)))))
    return recalls, ndcgs


@st.composite
def worlds(draw):
    users, items, near = draw(st.integers(1, 6)), draw(st.integers(1, 9)), draw(st.integers(1, 4))
    binary = st.lists(st.lists(st.integers(0, 1), min_size=items, max_size=items), min_size=users, max_size=users)
    neighbours = draw(st.lists(st.lists(st.integers(-1, users - 1), min_size=near, max_size=near), min_size=users, max_size=users))
    popularity = draw(st.lists(st.integers(0, 3), min_size=items, max_size=items))
    return draw(binary), draw(binary), neighbours, popularity, draw(st.integers(1, 6))


@settings(deadline=None)
@given(worlds())
def test_recall_and_ndcg_equal_a_literal_reading_of_the_protocol(world):
    recall, ndcg = naive(*world)
    evaluated = evaluate(*world)
    np.testing.assert_allclose(evaluated.recall, recall)
    np.testing.assert_allclose(evaluated.ndcg, ndcg)


@settings(deadline=None)
@given(worlds())
def test_the_size_of_a_block_changes_nothing(world):
    whole, cells = evaluate(*world), protocol.BLOCK_CELLS
    try:
        protocol.BLOCK_CELLS = 3
        blocked = evaluate(*world)
    finally:
        protocol.BLOCK_CELLS = cells
    np.testing.assert_array_equal(blocked.recall, whole.recall)
    np.testing.assert_array_equal(blocked.ndcg, whole.ndcg)


def test_votes_come_before_popularity_and_popularity_before_the_item_index():
    had = [[0, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]]
    # Item 0 has two votes; of the rest item 2 is most popular, then 1 and 3 are equal and the index decides.
    for k, wanted in ((1, 0), (2, 2), (3, 1), (4, 3)):
        later = np.zeros((3, 4))
        later[0, wanted] = 1
        assert evaluate(had, later, [[1, 2], [-1, -1], [-1, -1]], [0, 5, 9, 5], k).recall[0] == 1
        if k > 1:
            assert evaluate(had, later, [[1, 2], [-1, -1], [-1, -1]], [0, 5, 9, 5], k - 1).recall[0] == 0


def test_a_users_own_earlier_items_make_room_and_are_no_later_items():
    had = [[1, 0, 0], [1, 1, 0]]
    evaluated = evaluate(had, [[1, 1, 0], [0, 0, 0]], [[1], [0]], [9, 1, 5], k=1)
    assert evaluated.recall[0] == 1  # only item 1 is new to user 0, and item 0 does not take its place
    assert np.isnan(evaluated.recall[1])
    assert np.isnan(evaluated.ndcg[1])


def test_a_user_without_neighbours_gets_the_order_of_popularity():
    later = np.eye(5)[[0, 1, 2, 3, 4]]
    evaluated = evaluate(np.zeros((5, 5)), later, np.full((5, 3), -1), [1, 5, 3, 4, 2], k=3)
    np.testing.assert_array_equal(evaluated.recall, [0, 1, 1, 1, 0])
    np.testing.assert_allclose(evaluated.ndcg, [0, 1, 1 / math.log2(4), 1 / math.log2(3), 0])


def test_the_planted_neighbour_foretells_everything():
    random = np.random.default_rng(1)
    had, later = (random.random((50, 400)) < 0.05).astype(float), np.zeros((50, 400))
    neighbours = random.permutation(50)[:, None]
    for user, other in enumerate(neighbours[:, 0]):
        later[user] = had[other] * (1 - had[user])
    evaluated = evaluate(had, later, neighbours, had.sum(axis=0))
    assert np.nanmin(evaluated.recall) == 1
    assert np.nanmin(evaluated.ndcg) == pytest.approx(1)


def test_nobody_to_evaluate_is_no_error():
    empty = evaluate_neighbours(sparse.csr_matrix((0, 4)), sparse.csr_matrix((0, 4)), np.zeros((0, 10), int), np.zeros(4))
    assert empty.recall.shape == (0,)
