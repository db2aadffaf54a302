"""The benchmark of retrieval holds all methods to equal candidates."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from benchmarks import retrieval


def test_all_methods_give_the_same_candidates(tmp_path):
    retrieval.main(["--users", "1000", "--repetitions", "1", "--results", str(tmp_path)])
    result = json.loads((tmp_path / "retrieval.json").read_text())
    assert set(result["ratios"]) == {"vs_join_window", "vs_duckdb"}
    assert result["size"]["candidates"] > 10_000


def test_another_candidate_is_an_error():
    ours = pd.DataFrame({"user_id": ["a", "a"], "rank": [1, 2], "ad_id": ["x", "y"], "score": [0.5, 0.4]})
    retrieval.assert_equal({"ours": ours, "other": ours.set_axis([1, 0])})  # rows are compared by their order, not by their index
    for name, value in (("ad_id", "z"), ("score", 0.3)):
        with pytest.raises(AssertionError, match="other candidates"):
            retrieval.assert_equal({"ours": ours, "other": ours.assign(**{name: [ours[name][0], value]})})
    with pytest.raises(AssertionError, match="other candidates"):
        retrieval.assert_equal({"ours": ours, "other": ours.head(1)})
