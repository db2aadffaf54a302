"""The benchmark of K-means refuses clusters that are not the nearest."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks import kmeans, knn_graph


@pytest.mark.slow
def test_the_methods_run_on_a_small_table(tmp_path):
    kmeans.main(["--users", "3000", "--repetitions", "1", "--results", str(tmp_path)])
    result = json.loads((tmp_path / "kmeans.json").read_text())
    assert set(result["ratios"]) == {"assign_vs_mllib", "fit_vs_mllib", "cost_vs_faiss", "cost_vs_mllib"}
    assert 0.9 < result["ratios"]["cost_vs_faiss"]["median"] < 1.1


def test_a_wrong_cluster_is_an_error(spark):
    vectors, _ = knn_graph.community_vectors(500, 1.0, 7)
    centroids = vectors[:20]
    nearest = np.argmax(vectors @ centroids.T, axis=1)
    for wrong in (0, 1):
        named = zip(knn_graph.user_ids(500).tolist(), ((nearest + wrong) % 20).tolist(), strict=True)
        frame = spark.createDataFrame(list(named), "user_id string, cluster_id int")
        if wrong:
            with pytest.raises(AssertionError, match="other clusters"):
                kmeans.assert_nearest(frame, vectors, centroids)
        else:
            kmeans.assert_nearest(frame, vectors, centroids)
