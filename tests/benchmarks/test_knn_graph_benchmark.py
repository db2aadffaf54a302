"""The benchmark of the nearest users holds its methods to each other, and counts what Spark shuffles."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import contract, knn_graph


def test_every_method_finds_what_it_should():
    vectors, _ = knn_graph.community_vectors(3000, 1.0, 7)
    ids, everybody = knn_graph.user_ids(3000), np.arange(3000)
    centroids = vectors[::75]
    exact = knn_graph.ours(vectors, ids, None)
    assert not (exact == everybody[:, None]).any()
    lists = knn_graph.inverted_lists(vectors, centroids)
    lists.nprobe = len(centroids)
    theirs = knn_graph.without_itself(lists.search(vectors, knn_graph.K + 1)[1], everybody)
    knn_graph.assert_equal(exact, theirs, vectors, everybody)
    truth = [set(row) for row in exact[:100].tolist()]
    assert knn_graph.recall(exact, everybody, everybody[:100], truth) == 1
    broken = exact.copy()
    broken[:, -1] = (everybody + 1500) % 3000
    assert knn_graph.recall(broken, everybody, everybody[:100], truth) < 1
    with pytest.raises(AssertionError, match="other neighbours"):
        knn_graph.assert_equal(broken, theirs, vectors, everybody)


def test_shuffled_bytes_are_summed_over_the_tasks_that_ended(tmp_path):
    with pytest.raises(FileNotFoundError, match="no event log"):
        contract.shuffled_bytes(tmp_path)
    task = '{{"Event":"SparkListenerTaskEnd","Task Metrics":{{"Shuffle Write Metrics":{{"Shuffle Bytes Written":{}}}}}}}\n'
    other = '{"Event":"SparkListenerStageCompleted","Shuffle Bytes Written":100}\n'
    (tmp_path / "one").write_text(task.format(5) + other + task.format(7))
    (tmp_path / "two").write_text(task.format(30))
    assert contract.shuffled_bytes(tmp_path) == 42
