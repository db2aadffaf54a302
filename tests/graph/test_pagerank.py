"""Personalised PageRank against networkx's and against the limit of plain iteration, within the bound that it states."""

from __future__ import annotations

import networkx
import numpy as np
import pytest

from alure_spark.config import PageRankConfig
from alure_spark.graph.pagerank import personalised_pagerank, transitions

EXACT = PageRankConfig(least_share=1e-9, steps=200)


def graphs():
    """name -> (source, target, strength, nodes): hubs, dangling nodes, self loops, parts that do not meet, a ring, doubled edges."""
    random = np.random.default_rng(5)
    source, target = random.integers(0, 60, (2, 400))
    yield "random", source, target, random.random(400) + 0.1, 60
    hub = np.r_[np.arange(1, 50), np.zeros(49, int)]
    yield "hub", hub, np.r_[np.zeros(49, int), np.arange(1, 50)], random.random(98) + 0.1, 50
    yield "dangling", np.array([0, 0, 1, 3]), np.array([1, 2, 2, 0]), np.array([1.0, 2.0, 1.0, 1.0]), 5
    yield "self loops", np.array([0, 0, 1, 2, 2]), np.array([0, 1, 1, 2, 0]), np.array([5.0, 1.0, 1.0, 1.0, 3.0]), 3
    yield "parts", np.array([0, 1, 2, 3, 4]), np.array([1, 0, 3, 4, 2]), np.ones(5), 6
    yield "ring", np.arange(30), (np.arange(30) + 1) % 30, np.ones(30), 30
    yield "doubled", np.array([0, 0, 0, 1, 2]), np.array([1, 1, 2, 0, 0]), np.ones(5), 3


def limit(walk, source, restart):
    """Where walks from the source end, by solving the linear system."""
    start = np.zeros(walk.shape[0])
    start[source] = restart
    return np.linalg.solve(np.eye(walk.shape[0]) - (1 - restart) * walk.toarray().T.astype(np.float64), start)


@pytest.mark.parametrize("case", graphs(), ids=lambda case: case[0])
@pytest.mark.parametrize("config", [EXACT, PageRankConfig(), PageRankConfig(least_share=0.02), PageRankConfig(restart=0.5, steps=3)])
def test_every_number_is_within_its_bound(case, config):
    _, source, target, strength, nodes = case
    walk = transitions(source, target, strength, nodes)
    found = personalised_pagerank(walk, np.arange(nodes), nodes, config)
    assert len(found.left) == nodes
    for me in range(nodes):
        truth = limit(walk, me, config.restart)
        ours = np.zeros(nodes)
        ours[found.node[found.row == me]] = found.weight[found.row == me]
        ours[me] = truth[me]  # oneself is no answer
        assert (ours <= truth + 2e-7).all()
        assert (truth <= ours + found.left[me] + 2e-7).all()
    if config is EXACT:
        assert found.left.max() < 1e-6


@pytest.mark.parametrize("case", graphs(), ids=lambda case: case[0])
def test_the_order_is_that_of_networkx(case):
    """networkx lets lost walks begin anew, which scales all numbers of a source alike."""
    _, source, target, strength, nodes = case
    graph = networkx.DiGraph()
    graph.add_nodes_from(range(nodes))
    for a, b, s in zip(source.tolist(), target.tolist(), strength.tolist(), strict=True):
        graph.add_edge(a, b, weight=s + (graph[a][b]["weight"] if graph.has_edge(a, b) else 0))
    found = personalised_pagerank(transitions(source, target, strength, nodes), np.arange(nodes), nodes, EXACT)
    for me in range(nodes):
        theirs = networkx.pagerank(graph, alpha=1 - EXACT.restart, personalization={me: 1}, tol=1e-12, max_iter=2000)
        mine = found.row == me
        others = np.array([theirs[node] for node in found.node[mine]])
        if len(others):
            assert others / found.weight[mine] == pytest.approx((others / found.weight[mine])[0], rel=2e-4)
        reached = {node for node, value in theirs.items() if value > 1e-6 and node != me}
        assert reached <= set(found.node[mine].tolist())


def test_an_answer_depends_on_its_source_alone_and_ties_go_to_the_lower_node():
    random = np.random.default_rng(1)
    source, target = random.integers(0, 500, (2, 4000))
    walk = transitions(source, target, np.ones(4000), 500)
    config = PageRankConfig(least_share=1e-4)
    whole = personalised_pagerank(walk, np.arange(500), 10, config)
    assert np.bincount(whole.row).max() == 10
    order = random.permutation(500)
    mixed = personalised_pagerank(walk, order, 10, config)
    for me in range(500):
        mine, theirs = whole.row == me, mixed.row == np.flatnonzero(order == me)[0]
        assert (whole.node[mine] == mixed.node[theirs]).all()
        assert (whole.weight[mine] == mixed.weight[theirs]).all()
        pairs = list(zip(-whole.weight[mine], whole.node[mine], strict=True))
        assert pairs == sorted(pairs)


def test_only_eligible_nodes_are_answers_but_walks_pass_through_the_others():
    walk = transitions(np.array([0, 1]), np.array([1, 2]), np.ones(2), 3)
    found = personalised_pagerank(walk, np.array([0]), 5, EXACT, np.array([True, False, True]))
    assert found.node.tolist() == [2]
    assert found.weight == pytest.approx([0.15 * 0.85**2])


def test_nobody_asked_nothing_found():
    found = personalised_pagerank(transitions(np.array([0]), np.array([1]), np.ones(1), 2), np.empty(0, int), 5, EXACT)
    assert [len(values) for values in found] == [0, 0, 0, 0]
