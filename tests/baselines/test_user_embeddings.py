"""The Spark rim does what the pure functions do, whatever the partitions, the null arrays and the empty users."""

from datetime import datetime

import numpy as np
import pytest

from alure_spark.baselines import user_embeddings as rim
from alure_spark.baselines.histories import ItemHistories
from alure_spark.baselines.item_vectors import ItemVectors, embed, fit_item2vec, fit_svd
from alure_spark.config import EmbeddingConfig
from alure_spark.errors import DataError
from alure_spark.tables import USER_EMBEDDINGS

AS_OF = datetime(2025, 1, 10)
SEQUENCES = (
    "user_id string, country string, as_of timestamp, view__known_at_ms array<bigint>, view__item_id array<bigint>,"
    "buy__known_at_ms array<bigint>, buy__item_id array<bigint>, text__known_at_ms array<bigint>"
)


def sequences(spark, rows):
    return spark.createDataFrame([(user, country, AS_OF, *arrays, None) for user, country, *arrays in rows], SEQUENCES)


@pytest.fixture(scope="module")
def events():
    """(user, item, known_at, source) of 60 users."""
    random = np.random.default_rng(4)
    return [
        (f"u{user:02d}", int(random.integers(0, 30)) * 10**15 - 10**16, int(random.integers(0, 50)), str(random.choice(["view", "buy"])))
        for user in range(60)
        for _ in range(int(random.integers(1, 25)))
    ]


@pytest.fixture(scope="module")
def histories(spark, events):
    """The frame of the same events, and a user with null arrays, one with empty arrays, one with a null item only."""
    rows = []
    for user in sorted({event[0] for event in events}):
        arrays = []
        for source in ("view", "buy"):
            mine = sorted((at, item) for who, item, at, where in events if (who, where) == (user, source))
            arrays += [[at for at, _ in mine], [item for _, item in mine]]
        rows.append((user, "GB" if user < "u30" else "FR", *arrays))
    rows += [("x0", "GB", None, None, None, None), ("x1", "GB", [], [], [], []), ("x2", "GB", [1], [None], None, None)]
    return rim.item_histories(sequences(spark, rows), ["view", "buy"]).cache()


@pytest.fixture(scope="module")
def pure(events):
    users, items, times, _ = zip(*events, strict=True)
    return ItemHistories.from_events(np.asarray(users, dtype=object), np.asarray(items), np.asarray(times))


def test_items_are_distinct_over_the_sources_and_in_order_of_first_known_then_hash(spark):
    frame = sequences(spark, [("a", "GB", [1, 5, 5], [30, 20, 10], [0, 1, 9], [20, 40, None]), ("b", "GB", [3], [7], None, None)])
    both = {row.user_id: row.items for row in rim.item_histories(frame, ["view", "buy"]).collect()}
    assert both == {"a": [20, 30, 40, 10], "b": [7]}
    views = {row.user_id: row.items for row in rim.item_histories(frame, ["view"]).collect()}
    assert views == {"a": [30, 10, 20], "b": [7]}


def test_histories_of_the_frame_equal_the_pure_ones(histories, pure):
    found = {row.user_id: row.items for row in histories.collect()}
    assert [found.pop(user) for user in ("x0", "x1", "x2")] == [[], [], []]
    bounds = zip(pure.user_ids, pure.indptr[:-1], pure.indptr[1:], strict=True)
    assert found == {user: pure.items[start:end].tolist() for user, start, end in bounds}


def test_a_source_without_arrays_is_an_error_that_names_the_nearest(spark):
    with pytest.raises(DataError, match="did you mean 'view'"):
        rim.item_histories(sequences(spark, []), ["views"])
    with pytest.raises(DataError, match="known: buy, view"):
        rim.item_histories(sequences(spark, []), [])


@pytest.mark.parametrize(("method", "splits"), [("svd", (1, 2, 7)), ("item2vec", (2,))])
def test_the_rim_equals_the_pure_functions_whatever_the_partitions(histories, pure, method, splits):
    config = EmbeddingConfig(method=method, dimension=6, min_items=5)
    enough = pure.select(pure.counts >= 5)
    expected = fit_svd(enough, 6, 7) if method == "svd" else fit_item2vec(enough, 6, 4, 7)
    vectors = embed(enough.indptr, enough.items, expected)
    for partitions in splits:
        frame = histories.repartition(partitions, "user_id")
        model = rim.fit(frame, config)
        np.testing.assert_array_equal(model.items, expected.items)
        np.testing.assert_array_equal(model.vectors, expected.vectors)
        embedded = rim.embed_users(frame, model, config)
        assert embedded.columns == list(USER_EMBEDDINGS.column_names)
        rows = sorted(embedded.collect())
        assert [row.user_id for row in rows] == enough.user_ids.tolist()
        np.testing.assert_array_equal(np.asarray([row.embedding for row in rows], np.float32), vectors)
        assert {row.country for row in rows if row.user_id < "u30"} == {"GB"}
        assert {(row.as_of, row.model_id) for row in rows} == {(AS_OF, expected.model_id(config))}


def test_users_without_a_known_item_get_no_row(histories, pure):
    item = pure.items[0]
    model = ItemVectors(np.asarray([item]), np.asarray([[3.0, 4.0]], np.float32))
    rows = rim.embed_users(histories, model, EmbeddingConfig()).collect()
    owners = np.repeat(pure.user_ids, pure.counts)[pure.items == item]
    assert 0 < len(owners) < len(pure.user_ids)
    assert {row.user_id for row in rows} == set(owners)
    np.testing.assert_allclose([row.embedding for row in rows], [[0.6, 0.8]] * len(owners), rtol=1e-6)


def test_the_fit_sees_the_users_of_smallest_hash_and_all_are_embedded(histories, pure):
    from pyspark.sql import functions as F

    config = EmbeddingConfig(method="svd", dimension=6, fit_users=20)
    ordered = [row.user_id for row in histories.where("size(items) > 0").orderBy(F.xxhash64("user_id")).collect()][:20]
    expected = fit_svd(pure.select(np.isin(pure.user_ids, ordered)), 6, 7)
    model = rim.fit(histories, config)
    np.testing.assert_array_equal(model.vectors, expected.vectors)
    assert rim.embed_users(histories, model, config).count() > 50


def test_a_fit_without_users_says_what_to_change(histories):
    with pytest.raises(DataError, match=r"embedding\.min_items=1000"):
        rim.fit(histories, EmbeddingConfig(min_items=1000))
