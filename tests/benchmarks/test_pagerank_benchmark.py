"""The benchmark of PageRank asserts the bound, and reports what performance.md asks for."""

from __future__ import annotations

import json

import numpy as np
import pytest

from alure_spark.graph.pagerank import Ranks
from benchmarks import pagerank


def test_the_methods_agree_on_a_small_graph(tmp_path):
    pagerank.main(
        ["--users", "3000", "--sources", "64", "--spark-users", "0", "--repetitions", "1", "--results", str(tmp_path)]
    )  # fmt: skip
    result = json.loads((tmp_path / "pagerank.json").read_text())
    rows = {row["road"]: row for row in result["rows"]}
    assert rows["ours"]["precision_at_50"] > 0.9
    assert rows["scipy, 20 iterations"]["precision_at_50"] > 0.95
    assert rows["igraph"]["precision_at_50"] > 0.99
    assert set(result["ratios"]) == {"vs_scipy", "vs_igraph", "precision_at_50"}


def test_a_number_outside_its_bound_is_an_error():
    truth = np.array([[0.5, 0.2]])
    pagerank.assert_bound(Ranks(np.array([0]), np.array([1]), np.array([0.15]), np.array([0.06])), truth)
    for weight, left in ((0.21, 0.1), (0.15, 0.04)):
        with pytest.raises(AssertionError, match="outside their bound"):
            pagerank.assert_bound(Ranks(np.array([0]), np.array([1]), np.array([weight]), np.array([left])), truth)
