from __future__ import annotations

import numpy as np
import pytest
import torch

from alure_spark.batches.decode import Jagged, country_hash, jagged_batch
from alure_spark.batches.layout import Layout
from alure_spark.batches.vocabulary import Vocabulary
from alure_spark.errors import DataError

LAYOUT = Layout(
    {"view": {"account_id": "categorical", "value": "numeric", "text": "text"}}, {"position": "numeric", "media_type": "categorical"}
)
VOCABULARY = Vocabulary.from_arrays(
    np.array(["item_id", "account_id", "item_id", "media_type", "item_id"], object),
    np.array([9, 9, -5, 40, 2**62]),
    np.array([1, 1, 3, 1, 2]),
)


def jagged(lists, dtype, nulls=False):
    """What a reader makes of lists: nulls have some value or other and are told by present."""
    flat = [value for values in lists for value in values]
    present = np.array([value is not None for value in flat], bool) if nulls else None
    values = np.array([77 if value is None else value for value in flat], dtype)
    return Jagged(np.cumsum([0, *map(len, lists)]), values, present)


def columns():
    """Three users; the second has no events, the third no impressions."""
    return {
        "view__known_at_ms": jagged([[5, 5, 8], [], [1]], np.int64),
        "view__event_time_ms": jagged([[5, 4, 8], [], [1]], np.int64),
        "view__item_id": jagged([[9, 7, None], [], [-5]], np.int64, nulls=True),
        "view__account_id": jagged([[9, -5, 9], [], [None]], np.int64, nulls=True),
        "view__value": jagged([[0.5, None, -1.0], [], [2.0]], np.float64, nulls=True),
        "time_ms": jagged([[6, 6], [3], []], np.int64),
        "ad_id": jagged([[2**62, None], [8], []], np.int64, nulls=True),
        "account_id": jagged([[9, 9], [None], []], np.int64, nulls=True),
        "click": jagged([[1, 0], [0], []], np.uint8),
        "conversion": jagged([[0, 0], [1], []], np.uint8),
        "label_age_ms": jagged([[4, 4], [7], []], np.int64),
        "weight": jagged([[1.0, 0.25], [1.0], []], np.float32),
        "split": jagged([[0, 1], [1], []], np.uint8),
        "impression__position": jagged([[0.0, None], [3.0], []], np.float64, nulls=True),
        "impression__media_type": jagged([[40, None], [9], []], np.int64, nulls=True),
    }


def decoded(given=None, **more):
    return jagged_batch(["a", "b", "c"], ["X", "Y", "X"], np.array([10, 11, 12]), given or columns(), LAYOUT, VOCABULARY, **more)


def test_every_array_becomes_the_tensor_that_the_batch_promises():
    batch = decoded(with_impressions=True, segment="active")
    view, shown = batch.sources["view"], batch.impressions
    assert (batch.segment, batch.user_ids, batch.as_of_ms.tolist()) == ("active", ("a", "b", "c"), [10, 11, 12])
    assert batch.country[0] == batch.country[2] != batch.country[1]
    assert view.offsets.tolist() == [0, 3, 3, 4]
    assert view.known_at_ms.tolist() == [5, 5, 8, 1]
    assert view.event_time_ms.tolist() == [5, 4, 8, 1]
    assert {space: rows.tolist() for space, rows in view.rows.items()} == {"item_id": [1, 0, 0, 3], "account_id": [1, 0, 1, 0]}
    torch.testing.assert_close(view.numbers["value"], torch.tensor([0.5, torch.nan, -1.0, 2.0]), rtol=0, atol=0, equal_nan=True)
    assert set(view.numbers) == {"value"}, "text is not decoded"
    assert shown.offsets.tolist() == [0, 2, 3, 3]
    assert shown.time_ms.tolist() == [6, 6, 3]
    assert {space: rows.tolist() for space, rows in shown.rows.items()} == {
        "item_id": [2, 0, 0], "account_id": [1, 1, 0], "media_type": [1, 0, 0],
    }  # fmt: skip
    torch.testing.assert_close(shown.numbers["position"], torch.tensor([0.0, torch.nan, 3.0]), rtol=0, atol=0, equal_nan=True)
    assert (shown.labels["click"].tolist(), shown.labels["conversion"].tolist(), shown.weight.tolist()) == (
        [1, 0, 0],
        [0, 0, 1],
        [1, 0.25, 1],
    )
    assert (shown.label_age_ms.tolist(), shown.validation.tolist()) == ([4, 4, 7], [False, True, True])
    assert {view.offsets.dtype, view.known_at_ms.dtype, view.rows["item_id"].dtype, batch.country.dtype, shown.offsets.dtype} == {
        torch.int64
    }
    assert {view.numbers["value"].dtype, shown.labels["click"].dtype, shown.labels["conversion"].dtype, shown.weight.dtype} == {
        torch.float32
    }
    assert shown.validation.dtype == torch.bool


def test_without_impressions_their_columns_are_not_needed():
    given = {name: column for name, column in columns().items() if name.startswith("view__")}
    assert decoded(given).impressions is None


def test_the_split_may_be_the_word_of_the_table_or_the_packed_flag():
    given = columns() | {"split": jagged([["train", "validation"], ["validation"], []], object)}
    assert decoded(given, with_impressions=True).impressions.validation.tolist() == [False, True, True]


def test_read_only_arrays_are_taken():
    given = columns()
    given["view__known_at_ms"].values.flags.writeable = False
    assert decoded(given).sources["view"].known_at_ms.tolist() == [5, 5, 8, 1]


def test_the_hash_of_a_country_is_the_same_in_every_process():
    assert country_hash("ALL") == 4404259866017729913
    assert 0 <= country_hash("") < 2**63


def test_no_users_make_an_empty_batch():
    given = {name: Jagged(np.zeros(1, np.int64), column.values[:0], None) for name, column in columns().items()}
    batch = jagged_batch([], [], np.array([], np.int64), given, LAYOUT, VOCABULARY, with_impressions=True)
    assert (len(batch), batch.tokens(), batch.sources["view"].offsets.tolist()) == (0, 0, [0])


@pytest.mark.parametrize(
    ("column", "lists", "sentence"),
    [
        ("view__value", [[1.0, 2.0], [], [3.0]], "user 'a' has 2 values in 'view__value' but 3 in 'view__known_at_ms'"),
        ("view__item_id", [[1, 2, 3], [4], []], "user 'b' has 1 values in 'view__item_id' but 0"),
        ("click", [[1, 0], [0], [1]], "user 'c' has 1 values in 'click' but 0 in 'time_ms'"),
        ("view__known_at_ms", [[5, 4, 8], [], [1]], "'view__known_at_ms' of user 'a' is not ascending"),
        ("time_ms", [[6, 5], [3], []], "'time_ms' of user 'a' is not ascending"),
    ],
)
def test_arrays_that_do_not_fit_are_an_error_that_names_user_and_column(column, lists, sentence):
    with pytest.raises(DataError, match=sentence):
        decoded(columns() | {column: jagged(lists, columns()[column].values.dtype)}, with_impressions=True)


def test_a_missing_column_is_an_error_that_names_the_nearest():
    given = columns()
    given["view__valeu"] = given.pop("view__value")
    with pytest.raises(DataError, match="lack the array column 'view__value'; did you mean 'view__valeu'"):
        decoded(given)
