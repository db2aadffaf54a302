"""Ids -> rows of embedding tables."""

from __future__ import annotations

import numpy as np
import pytest

from alure_spark.batches.vocabulary import Vocabulary
from alure_spark.errors import DataError

VOCABULARY = Vocabulary.from_arrays(
    np.array(["item_id", "account_id", "item_id", "media_type", "item_id"], object),
    np.array([9, 9, -5, 40, 2**62]),
    np.array([1, 1, 3, 1, 2]),
)


def test_ids_get_their_row_and_everything_else_row_0():
    assert VOCABULARY.rows("item_id", np.array([2**62, -5, 9, 8, -(2**63), 2**63 - 1])).tolist() == [2, 3, 1, 0, 0, 0]
    assert VOCABULARY.rows("item_id", np.array([9, 9]), np.array([True, False])).tolist() == [1, 0]
    assert VOCABULARY.rows("surface", np.array([9])).tolist() == [0]
    assert [VOCABULARY.size(space) for space in ("item_id", "account_id", "surface")] == [4, 2, 1]


def test_a_vocabulary_agrees_with_a_dictionary():
    random = np.random.default_rng(3)
    hashes = np.unique(random.integers(-(2**63), 2**63 - 1, 500))
    rows = random.permutation(len(hashes)) + 1
    shuffled = random.permutation(len(hashes))
    vocabulary = Vocabulary.from_arrays(np.full(len(hashes), "item_id", object), hashes[shuffled], rows[shuffled])
    known = dict(zip(hashes.tolist(), rows.tolist(), strict=True))
    asked = np.concatenate([random.choice(hashes, 300), random.integers(-(2**63), 2**63 - 1, 300)])
    assert vocabulary.rows("item_id", asked).tolist() == [known.get(value, 0) for value in asked.tolist()]


def test_a_saved_vocabulary_comes_back_from_among_the_weights():
    state = VOCABULARY.state()
    assert "vocabulary.item_id.hash" in state
    assert state["vocabulary.item_id.hash"].tolist() == [-5, 9, 2**62]
    again = Vocabulary.from_state(state | {"item.hash": np.zeros(3)})
    assert again.state().keys() == state.keys()
    assert all(np.array_equal(again.state()[name], value) for name, value in state.items())


def test_an_empty_vocabulary_knows_nothing():
    empty = Vocabulary.from_arrays(np.array([], object), np.array([], np.int64), np.array([], np.int64))
    assert (empty.size("item_id"), empty.rows("item_id", np.array([4])).tolist(), empty.state()) == (1, [0], {})


def test_a_vocabulary_newer_than_the_model_is_refused():
    VOCABULARY.require_fits({"item_id": 4, "account_id": 2, "surface": 1})
    VOCABULARY.require_fits({"item_id": 100})
    with pytest.raises(DataError, match="newer than the model: the space 'item_id' has 4 rows, the model 3"):
        VOCABULARY.require_fits({"account_id": 2, "item_id": 3})


@pytest.mark.parametrize(
    ("hashes", "rows", "sentence"),
    [([1, 1], [1, 2], "a hash of the space 'x' twice"), ([1, 2], [3, 3], "a row of the space 'x' twice"), ([1, 2], [0, 1], "row 0 in")],
)
def test_two_ids_cannot_share_a_row(hashes, rows, sentence):
    with pytest.raises(DataError, match=sentence):
        Vocabulary.from_arrays(np.array(["x", "x"], object), np.array(hashes), np.array(rows))


def test_unknown_ids_share_hash_buckets_and_missing_ones_stay_row_0():
    hashes, rows = np.array([-7, 3, 40]), np.array([5, 6, 4])
    vocabulary = Vocabulary.from_arrays(np.full(3, "item_id", object), hashes, rows, buckets=3)
    asked = np.array([3, -1, 40, 8, -7, 8])
    found = vocabulary.rows("item_id", asked, np.array([True, True, True, True, True, False]))
    assert found.tolist() == [6, -1 % 3 + 1, 4, 8 % 3 + 1, 5, 0]
    assert vocabulary.knows("item_id", asked).tolist() == [True, False, True, False, True, False]
    assert (vocabulary.size("item_id"), vocabulary.size("nothing")) == (7, 4)
    assert vocabulary.rows("nothing", np.array([4])).tolist() == [2]
    again = Vocabulary.from_state(vocabulary.state())
    assert again.rows("item_id", asked).tolist() == vocabulary.rows("item_id", asked).tolist()
    with pytest.raises(DataError, match="row 4 in the space 'item_id'; allowed: 5 and above"):
        Vocabulary.from_arrays(np.full(3, "item_id", object), hashes, rows, buckets=4)


@pytest.mark.parametrize("buckets", [0, 5])
def test_it_grows_by_rows_behind_the_last_one_and_a_row_once_given_stays(buckets):
    """A vocabulary of all ids at once has the same rows where nothing was known before."""
    random = np.random.default_rng(4)
    hashes = random.permutation(np.unique(random.integers(-(2**63), 2**63 - 1, 60)))
    first = Vocabulary({}, buckets).grown({"ad": hashes[:40], "slot": np.array([3, 3, 1])})
    assert first.rows("ad", np.sort(hashes[:40])).tolist() == list(range(buckets + 1, buckets + 41))
    assert first.rows("slot", np.array([1, 3])).tolist() == [buckets + 1, buckets + 2]
    second = first.grown({"ad": np.concatenate([hashes[20:], hashes[50:]]), "place": np.array([7])})
    assert second.rows("ad", hashes[:40]).tolist() == first.rows("ad", hashes[:40]).tolist()
    assert second.rows("ad", np.sort(hashes[40:])).tolist() == list(range(buckets + 41, buckets + len(hashes) + 1))
    assert (second.size("ad"), second.size("slot"), second.size("place")) == (buckets + len(hashes) + 1, buckets + 3, buckets + 2)
    assert second.knows("ad", hashes).all()
    assert list(second.entries) == ["ad", "place", "slot"]
    assert second.grown({"ad": hashes, "slot": np.zeros(0, np.int64)}).state().keys() == second.state().keys()
    assert first.size("ad") == buckets + 41, "the one before stays as it was"
