"""Neighbours on the driver against naive loops over all pairs."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import sparse

from alure_spark.baselines import neighbours as module
from alure_spark.baselines.neighbours import embedding_neighbours, idf_cosine_neighbours, random_neighbours

MATRICES = arrays.arrays(np.int8, st.tuples(st.integers(1, 9), st.integers(1, 6)), elements=st.integers(0, 1))


def naive(similarity: list[list[float]], groups: list[int], k: int) -> list[list[int]]:
    result = []
    for user, row in enumerate(similarity):
        others = [other for other in range(len(row)) if other != user and groups[other] == groups[user]]
        best = sorted(others, key=lambda other: (-round(row[other], 9), other))[:k]
        result.append(best + [-1] * (k - len(best)))
    return result


def cosine(a: list[float], b: list[float]) -> float:
    lengths = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(y * y for y in b))
    return sum(x * y for x, y in zip(a, b, strict=True)) / lengths if lengths else 0.0


@settings(deadline=None)
@given(MATRICES, st.lists(st.integers(0, 2), min_size=9, max_size=9), st.integers(1, 4))
def test_idf_cosine_neighbours_equal_loops_over_all_pairs(matrix, groups, k):
    users = len(matrix)
    frequency = matrix.sum(axis=0)
    idf = [math.log(users / count) if count else 0.0 for count in frequency]
    rows = [[value * weight for value, weight in zip(row, idf, strict=True)] for row in matrix.tolist()]
    expected = naive([[cosine(a, b) for b in rows] for a in rows], groups, k)
    found = idf_cosine_neighbours(sparse.csr_matrix(matrix.astype(float)), np.asarray(groups[:users]), k)
    assert found.dtype == np.int64
    assert found.tolist() == expected


@settings(deadline=None)
@given(MATRICES, st.lists(st.integers(0, 2), min_size=9, max_size=9), st.integers(1, 4))
def test_embedding_neighbours_equal_loops_over_all_pairs(matrix, groups, k):
    rows = (matrix.astype(float) - 0.25).tolist()
    expected = naive([[cosine(a, b) for b in rows] for a in rows], groups, k)
    assert embedding_neighbours(np.asarray(rows), np.asarray(groups[: len(rows)]), k).tolist() == expected


@pytest.mark.parametrize("cells", [1, 7, 50])
def test_the_size_of_a_block_changes_nothing(monkeypatch, cells):
    vectors = np.random.default_rng(1).normal(size=(40, 5)).round(1)
    groups = np.arange(40) % 3
    whole = embedding_neighbours(vectors, groups, 6)
    monkeypatch.setattr(module, "BLOCK_CELLS", cells)
    np.testing.assert_array_equal(embedding_neighbours(vectors, groups, 6), whole)


def test_equal_users_are_ordered_by_index_and_a_small_group_ends_in_minus_one():
    found = embedding_neighbours(np.ones((6, 2)), np.asarray(["A", "B", "A", "A", "B", "C"]), 3)
    assert found.tolist() == [[2, 3, -1], [4, -1, -1], [0, 3, -1], [0, 2, -1], [1, -1, -1], [-1, -1, -1]]


def test_random_neighbours_are_distinct_others_of_the_group_and_follow_the_seed():
    groups = np.asarray(["A"] * 30 + ["B"] * 4)
    found = random_neighbours(groups, 10, seed=7)
    for user, row in enumerate(found):
        real = row[row >= 0]
        assert len(set(real)) == len(real) == min(10, (groups == groups[user]).sum() - 1)
        assert user not in real
        assert (groups[real] == groups[user]).all()
    np.testing.assert_array_equal(found, random_neighbours(groups, 10, seed=7))
    assert (found != random_neighbours(groups, 10, seed=8)).any()


def test_nobody_has_neighbours_in_an_empty_set():
    assert random_neighbours(np.asarray([]), 3, 7).shape == (0, 3)
