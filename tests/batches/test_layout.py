"""What a policy leaves of a layout, and what is decoded by it."""

from __future__ import annotations

import numpy as np
import pytest

from alure_spark.batches.decode import Jagged, jagged_batch
from alure_spark.batches.layout import Layout
from alure_spark.batches.vocabulary import Vocabulary
from alure_spark.config import FeaturePolicy
from alure_spark.errors import DataError

LAYOUT = Layout({"view": {"category_id": "categorical", "value": "numeric"}, "click": {"value": "numeric"}}, {})
VOCABULARY = Vocabulary.from_arrays(np.array(["item_id"], object), np.array([5]), np.array([1]))


def decoded(layout, lists, users=2, **more):
    """jagged_batch of lists per user: column -> [values of user 0, of user 1]."""
    columns = {}
    for name, rows in lists.items():
        offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
        columns[name] = Jagged(offsets, np.array([one for row in rows for one in row], np.float64 if name.endswith("value") else np.int64))
    return jagged_batch([f"u{n}" for n in range(users)], ["X"] * users, np.full(users, 100), columns, layout, VOCABULARY, **more)


def test_what_a_policy_withholds_need_not_be_there_to_be_decoded():
    layout = LAYOUT.under(FeaturePolicy(sources=("view",), drop_attributes={"view": ("value",)}))
    assert set(layout.columns()) == {"view__known_at_ms", "view__event_time_ms", "view__item_id", "view__category_id"}
    lists = {"view__known_at_ms": [[1, 2], [3]], "view__event_time_ms": [[1, 2], [3]], "view__item_id": [[5, 6], [5]]}
    batch = decoded(layout, lists | {"view__category_id": [[5, 5], [5]]})
    assert set(batch.sources) == {"view", "click"}
    assert batch.sources["view"].lacks("value")
    assert not batch.sources["view"].lacks("category_id")
    assert batch.sources["click"].withheld
    assert batch.sources["click"].lengths.tolist() == [0, 0]
    with pytest.raises(DataError, match="view__category_id"):
        decoded(layout, lists)


def test_of_the_last_events_those_stay_that_the_first_impression_or_as_of_sees():
    layout = Layout({"view": {}}, {}).under(FeaturePolicy(max_events={"view": 2}))
    lists = {name: [[10, 20, 30, 40, 40, 50, 100], [5]] for name in ("view__known_at_ms", "view__event_time_ms", "view__item_id")}
    serving = decoded(layout, lists).sources["view"]
    assert serving.known_at_ms.tolist() == [40, 50, 100, 5]
    assert serving.limit == 2
    shown = {name: [[40, 60], []] for name in ("time_ms", "ad_id", "account_id", "click", "conversion", "label_age_ms", "weight", "split")}
    training = decoded(layout, lists | shown, with_impressions=True).sources["view"]
    assert training.known_at_ms.tolist() == [20, 30, 40, 40, 50, 100, 5]  # two before the impression at 40
