"""The benchmark of the semantic ids runs, and ours is not above the yardstick."""

from __future__ import annotations

import json

from benchmarks import semantic_ids


def test_ours_remakes_embeddings_at_least_as_well_as_faiss(tmp_path):
    semantic_ids.main(["--sets", "digits", "--seeds", "7", "--epochs", "2", "--resamples", "50", "--results", str(tmp_path)])
    result = json.loads((tmp_path / "semantic_ids.json").read_text())
    ours, faiss = result["rows"]
    assert (ours["road"], faiss["road"]) == ("ours", "faiss")
    assert 0 < ours["error"] < faiss["error"] < 1
    assert ours["low"] <= ours["over_faiss"] <= ours["high"]
    assert result["ratios"]["digits_error_cost"]["median"] == ours["over_faiss"]
