"""K-means on arrays, without Spark: against a naive Lloyd loop and against faiss."""

import itertools

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alure_spark.config import GraphConfig
from alure_spark.graph.kmeans import assign_by_faiss, fit_country, lloyd, seed_centroids
from alure_spark.graph.search import nearest


@pytest.fixture(autouse=True)
def one_thread():
    faiss.omp_set_num_threads(1)


vector_lists = st.lists(st.lists(st.integers(-2, 2), min_size=3, max_size=3).filter(any), min_size=1, max_size=50)


def unit(vectors):
    vectors = np.asarray(vectors, np.float64)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def planted(seed, communities=8, per_community=60, d=16, noise=0.25):
    random = np.random.default_rng(seed)
    centres = unit(random.standard_normal((communities, d)))
    points = np.repeat(centres, per_community, axis=0) + noise * random.standard_normal((communities * per_community, d)) / np.sqrt(d)
    order = random.permutation(len(points))
    return unit(points[order]), np.repeat(np.arange(communities), per_community)[order]


def objective(points, centroids):
    return float(np.mean([max(float(p @ c) for c in centroids) for p in points.astype(np.float64)]))


def naive_lloyd(points, centroids, iterations):
    points, centroids = points.astype(np.float64), centroids.astype(np.float64)
    for _ in range(iterations):
        labels = [max(range(len(centroids)), key=lambda j, p=p: (round(float(p @ centroids[j]), 9), -j)) for p in points]
        for j in range(len(centroids)):
            total = sum((p for p, label in zip(points, labels, strict=True) if label == j), np.zeros(points.shape[1]))
            if np.linalg.norm(total) > 1e-12:
                centroids[j] = total / np.linalg.norm(total)
    return centroids


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_lloyd_reaches_the_objective_of_a_naive_loop_from_the_same_start(seed):
    points, _ = planted(seed, per_community=30, noise=0.8)
    start = points[:6]
    ours = lloyd(assign_by_faiss, points, start, 10, tolerance=-1).centroids
    assert np.allclose(ours, naive_lloyd(points, start, 10), atol=1e-4)
    assert objective(points, ours) == pytest.approx(objective(points, naive_lloyd(points, start, 10)), abs=1e-5)


def test_the_objective_never_falls_from_one_iteration_to_the_next():
    points, _ = planted(3, noise=1.5)
    values = [objective(points, lloyd(assign_by_faiss, points, points[:7], n, tolerance=-1).centroids) for n in range(1, 9)]
    assert all(after >= before - 1e-6 for before, after in itertools.pairwise(values))
    assert values[-1] > values[0] + 1e-3


def test_the_loop_stops_when_the_objective_no_longer_rises():
    calls = []

    def counting(points, centroids):
        calls.append(1)
        return assign_by_faiss(points, centroids)

    points, _ = planted(4)
    lloyd(counting, points, seed_centroids(points, 8, 1), 500)
    assert len(calls) < 60


@pytest.mark.parametrize("seed", [5, 6])
def test_the_objective_on_clustered_data_is_within_one_percent_of_faiss(seed):
    points, _ = planted(seed, communities=12, per_community=100)
    theirs = faiss.Kmeans(points.shape[1], 12, niter=20, spherical=True, seed=seed, nredo=3)
    theirs.train(points)
    ours = fit_country(points, len(points), GraphConfig(k1=12)).centroids
    assert objective(points, ours) >= 0.99 * objective(points, theirs.centroids)


def test_planted_communities_become_clusters():
    points, community = planted(7)
    _, cluster = nearest(points, fit_country(points, len(points), GraphConfig(k1=8)).centroids, 1)
    pairs = set(zip(community.tolist(), cluster[:, 0].tolist(), strict=True))
    assert len(pairs) == 8  # one to one


def test_a_centroid_that_attracts_nobody_moves_to_the_farthest_point():
    points = unit([[1, 0.01, 0], [1, -0.01, 0], [1, 0, 0.02], [0, 1, 0]])
    start = unit([[1, 0, 0], [-1, 0, 0]])  # nobody is nearest to the second
    after = lloyd(assign_by_faiss, points, start, 1).centroids
    assert np.allclose(after[1], [0, 1, 0])
    final = lloyd(assign_by_faiss, points, start, 10).centroids
    assert sorted(np.bincount(assign_by_faiss(points, final)[1], minlength=2).tolist()) == [1, 3]


def test_points_that_cancel_out_leave_their_centroid_where_it_was():
    points = unit([[1, 0], [-1, 0]])
    after = lloyd(assign_by_faiss, points, unit([[0, 1]]), 3).centroids
    assert np.allclose(after, [[0, 1]])


def test_duplicates_give_no_more_clusters_than_distinct_points():
    points = np.repeat(unit([[1, 0, 0], [0, 1, 0], [0, 0, 1]]), 50, axis=0)
    centroids = fit_country(points, 150, GraphConfig(k1=20, users_per_cluster=5)).centroids
    assert sorted(map(tuple, centroids.tolist())) == [(0, 0, 1), (0, 1, 0), (1, 0, 0)]


@settings(max_examples=60, deadline=None)
@given(vector_lists, st.integers(1, 9), st.integers(1, 99))
def test_centroids_have_unit_norm_whatever_the_points(vectors, k1, seed):
    points = unit(vectors)
    centroids = fit_country(points, len(points), GraphConfig(k1=k1, users_per_cluster=2, seed=seed)).centroids
    assert 1 <= len(centroids) <= max(1, min(k1, len(points) // 2))
    assert np.allclose(np.linalg.norm(centroids, axis=1), 1, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(vector_lists, st.integers(1, 6), st.integers(0, 99))
def test_the_nearest_rows_are_the_argmax_and_ties_go_to_the_lower_number(vectors, k, seed):
    points = unit(vectors)
    base = np.unique(points, axis=0)[:7]
    weights, rows = nearest(points, base, k)
    for point, weight, row in zip(points.astype(np.float64), weights, rows, strict=True):
        scores = [round(float(sum(a * b for a, b in zip(point, c, strict=True))), 6) for c in base.astype(np.float64)]
        expected = sorted(range(len(base)), key=lambda j, scores=scores: (-scores[j], j))[:k]
        assert row.tolist() == expected
        assert weight.tolist() == pytest.approx([scores[j] for j in expected], abs=1e-9)
    one_by_one = np.vstack([nearest(point[None], base, k)[1] for point in points])
    assert np.array_equal(rows, one_by_one)  # the batch does not matter


def test_a_warm_start_saves_rounds_and_ends_no_worse():
    config = GraphConfig(k1=24, kmeans_iterations=200, kmeans_tolerance=1e-5)
    points, _ = planted(11, communities=24, per_community=100, noise=1.2)
    yesterday = fit_country(points, len(points), config)
    moved = unit(points + 0.05 * np.random.default_rng(1).standard_normal(points.shape))
    cold, warm = (fit_country(moved, len(moved), config, earlier) for earlier in (None, yesterday.centroids))
    assert (cold.warm, warm.warm) == (False, True)
    assert warm.rounds < cold.rounds
    assert warm.similarity >= cold.similarity - 2e-3
    drift = 1 - (warm.centroids * yesterday.centroids).sum(axis=1)
    assert drift.max() < 0.05, "a cluster keeps its number"


@pytest.mark.parametrize("earlier", ["another space", "another k", "another length"])
def test_centroids_that_do_not_fit_are_no_start(earlier):
    config, random = GraphConfig(k1=8), np.random.default_rng(2)
    points, _ = planted(12)
    shape = {"another space": (8, 16), "another k": (7, 16), "another length": (8, 15)}[earlier]
    given_ = unit(random.standard_normal(shape))
    found = fit_country(points, len(points), config, given_)
    assert not found.warm
    assert np.array_equal(found.centroids, fit_country(points, len(points), config).centroids)
