"""The search kernel on arrays, without Spark: against plain loops over all pairs."""

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alure_spark.config import GraphConfig
from alure_spark.graph import search
from alure_spark.graph.search import ROWS_AT_A_TIME, choose_method, cluster_count, neighbours


@pytest.fixture(autouse=True)
def one_thread():
    faiss.omp_set_num_threads(1)


def unit(vectors):
    vectors = np.asarray(vectors, np.float64)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def brute_force(queries, query_ids, base, base_ids, k, query_lists=None, base_lists=None):
    """[(dst, weight), ..] per query, best first, by loops."""
    answers = []
    for i, (query, me) in enumerate(zip(queries.astype(np.float64), query_ids, strict=True)):
        scored = []
        for j, (other, them) in enumerate(zip(base.astype(np.float64), base_ids, strict=True)):
            if them != me and (query_lists is None or base_lists[j] in query_lists[i]):
                scored.append((-(round(float(query @ other), 6) + 0.0), them))
        answers.append([(them, -weight) for weight, them in sorted(scored)[:k]])
    return answers


def per_query(pairs, base_ids, count):
    answers = [[] for _ in range(count)]
    for row, position, weight in zip(*pairs, strict=True):
        answers[row].append((base_ids[position], weight))
    return answers


def assert_same(ours, expected):
    for mine, theirs in zip(ours, expected, strict=True):
        assert [dst for dst, _ in mine] == [dst for dst, _ in theirs]
        assert [weight for _, weight in mine] == pytest.approx([weight for _, weight in theirs], abs=1.1e-6)


def names(count):
    return np.array([f"u{i:05d}" for i in range(count)], object)


@settings(max_examples=150, deadline=None)
@given(
    # At most 14 distinct vectors, so that all of them are candidates, each there up to nine times: full of exact ties.
    st.lists(st.lists(st.integers(-2, 2), min_size=3, max_size=3).filter(any), min_size=1, max_size=14, unique_by=tuple),
    st.integers(1, 60),
    st.integers(1, 5),
    st.randoms(use_true_random=False),
)
def test_ties_of_equal_vectors_go_to_the_smaller_id(vectors, users, k, random):
    base = unit([random.choice(vectors) for _ in range(users)])
    pairs = neighbours(base, names(users), base, names(users), k)
    assert_same(per_query(pairs, names(users), users), brute_force(base, names(users), base, names(users), k))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 120), st.integers(1, 20), st.integers(1, 12), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_only_the_probed_lists_are_searched(users, k, lists, probed, seed):
    random = np.random.default_rng(seed)
    base = unit(random.standard_normal((users, 8)))
    base_lists = random.integers(0, lists, users).astype(np.int32)
    query_lists = np.array([random.permutation(lists)[:probed] for _ in range(users)], np.int32)
    some = random.permutation(users)[: max(1, users // 2)]  # queries are not the base, and in another order
    expected = brute_force(base[some], names(users)[some], base, names(users), k, query_lists[some], base_lists)
    pairs = neighbours(base[some], names(users)[some], base, names(users), k, query_lists[some], base_lists)
    assert_same(per_query(pairs, names(users), len(some)), expected)


@pytest.mark.parametrize("pending", [0, 40])
def test_rows_of_later_lists_that_beat_the_first_ones_are_found(monkeypatch, pending):
    monkeypatch.setattr(search, "PENDING_PER_QUERY", pending)
    monkeypatch.setattr(search, "PRODUCTS_AT_A_TIME", 700)
    random = np.random.default_rng(3)
    base, lists = unit(random.standard_normal((2000, 8))), random.integers(0, 40, 2000).astype(np.int32)
    probes = np.array([random.permutation(40)[:20] for _ in range(300)], np.int32)  # in no order: the best are anywhere
    ids = names(2000)
    pairs = neighbours(base[:300], ids[:300], base, ids, 10, probes, lists)
    probed = (probes[:, :, None] == lists).any(axis=1) & (np.arange(2000) != np.arange(300)[:, None])
    cosine = np.where(probed, np.round(base[:300].astype(np.float64) @ base.T.astype(np.float64), 6), -2)
    best = np.argsort(-cosine, axis=1, kind="stable")[:, :10]
    assert np.array_equal(pairs.position.reshape(300, 10), best)
    assert pairs.weight.reshape(300, 10) == pytest.approx(np.take_along_axis(cosine, best, axis=1), abs=1.1e-6)


def test_a_query_that_is_not_in_the_base_gets_all_k():
    base = unit(np.random.default_rng(0).standard_normal((10, 4)))
    pairs = neighbours(base, np.array([f"x{i}" for i in range(10)], object), base, names(10), 3)
    assert np.bincount(pairs.row).tolist() == [3] * 10
    assert (pairs.weight.reshape(10, 3)[:, 0] == 1).all()


def test_a_thousand_equal_users_name_the_first_k_of_each_other():
    base = np.repeat(unit([[3, 4, 12]]), 1000, axis=0)
    pairs = neighbours(base, names(1000), base, names(1000), 4)
    answers = pairs.position.reshape(1000, 4).tolist()
    assert answers[0] == [1, 2, 3, 4]
    assert answers[2] == [0, 1, 3, 4]
    assert all(answer == [0, 1, 2, 3] for answer in answers[4:])


def test_more_queries_than_are_handled_at_a_time_keep_their_own_answers():
    count = ROWS_AT_A_TIME + 100
    base = unit(np.random.default_rng(1).standard_normal((count, 8)))
    together = per_query(neighbours(base, names(count), base, names(count), 3), names(count), count)
    for i in (0, ROWS_AT_A_TIME - 1, ROWS_AT_A_TIME, count - 1):
        alone = neighbours(base[[i]], names(count)[[i]], base, names(count), 3)
        assert per_query(alone, names(count), 1)[0] == together[i]  # the same bits in a block of one


def test_opposite_and_orthogonal_users_have_weights_minus_one_and_plus_zero():
    base = unit([[1, 0], [-1, 0], [-1e-9, -1]])
    pairs = neighbours(base[:1], names(1), base, names(3), 5)
    assert pairs.weight.tolist() == [0.0, -1.0]
    assert not np.signbit(pairs.weight[0])


def test_small_countries_are_searched_exactly_and_large_ones_by_probing():
    config = GraphConfig()
    assert cluster_count(10, config) == 1
    assert cluster_count(1_000, config) == 20
    assert cluster_count(10**6, config) == 400
    methods = [choose_method(users, config) for users in (1, 1_000, 20_000, 30_000, 60_000, 10**6)]
    assert methods == ["exact"] * 4 + ["probed"] * 2
    assert choose_method(10**6, GraphConfig(k1_probed=400)) == "exact"  # probing everything is a detour
    assert choose_method(10, GraphConfig(search="probed")) == "probed"
    assert choose_method(10**7, GraphConfig(search="exact")) == "exact"
