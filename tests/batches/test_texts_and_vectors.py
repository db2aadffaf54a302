"""Texts and embeddings as arrays, against plain Python."""

from __future__ import annotations

import zlib

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alure_spark.batches.texts_and_vectors import text_or_vector_array
from alure_spark.errors import DataError

TEXT = st.one_of(st.none(), st.text("aB1 ,-äÖ_\n日本", max_size=12))


def words_of(text):
    """Runs of letters and digits, in lower case."""
    cleaned = "".join(letter if letter.isalnum() else " " for letter in (text or "").lower())
    return [zlib.crc32(word.encode()) + 1 for word in cleaned.split()]


@settings(max_examples=300, deadline=None)
@given(st.lists(TEXT, max_size=8), st.integers(1, 4))
def test_words_are_those_of_plain_python(texts, width):
    found = text_or_vector_array(pa.array(texts, pa.string()), "text", width, "title")
    assert found.tolist() == [(words_of(text) + [0] * width)[:width] for text in texts]


def test_words_of_a_slice_are_its_own():
    texts = pa.array(["one two", "three", None, "four"])
    assert text_or_vector_array(texts[1:], "text", 2, "title").tolist() == [[*words_of(text), 0, 0][:2] for text in ("three", None, "four")]


def test_embeddings_keep_their_numbers_and_a_missing_one_is_nan():
    found = text_or_vector_array(pa.array([[1.0, 2.0], None, [3.0, None]], pa.list_(pa.float32())), "embedding", 2, "media")
    np.testing.assert_array_equal(found, np.array([[1, 2], [np.nan, np.nan], [3, np.nan]], np.float32))
    assert text_or_vector_array(pa.array([], pa.list_(pa.float32())), "embedding", 2, "media").shape == (0, 2)


def test_an_embedding_of_another_length_is_refused():
    with pytest.raises(DataError, match=r"'page__media' holds an embedding of 3 numbers; model.embedding_dimensions says 2"):
        text_or_vector_array(pa.array([[1.0, 2.0], [1.0, 2.0, 3.0]], pa.list_(pa.float32())), "embedding", 2, "page__media")
