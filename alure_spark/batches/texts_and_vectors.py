"""Attributes that are more than one number per event: texts as hashed words, given embeddings. numpy and Arrow only, for executors.

A text is read as a bag of its first words: lower case, whatever is neither letter nor digit parts them. A word is its CRC-32 plus
one, so that 0 stands for no word; the model spreads these over model.text_buckets rows ("feature hashing", Weinberger et al. 2009).
"""

from __future__ import annotations

import zlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import DataError

NUMBER_TYPES = {"text": np.dtype("<u4"), "embedding": np.dtype("<f4")}  # kind -> type of its numbers


def text_or_vector_array(values: pa.Array, kind: str, width: int, name: str) -> np.ndarray:
    """(n, width) numbers of n texts (UTF-8 strings) or embeddings (lists of `width` floats); null is 0 (no word) or NaN.

    Raises DataError, which names the column, on an embedding of another length.
    """
    return word_hashes(values, width) if kind == "text" else _vectors(values, width, name)


def word_hashes(texts: pa.Array, words: int) -> np.ndarray:
    """(n, words) uint32 hashes of the first words of each text, 0 after the last one."""
    found = np.zeros((len(texts), words), NUMBER_TYPES["text"])
    lists = pc.split_pattern_regex(pc.utf8_lower(pc.fill_null(texts.cast(pa.string()), "")), r"[^\p{L}\p{N}]+")
    row = pc.list_parent_indices(lists).to_numpy()
    flat = lists.flatten()
    kept = pc.not_equal(flat, "").to_numpy(zero_copy_only=False)  # before the first word and after the last one
    row, flat = row[kept], flat.filter(pa.array(kept)).dictionary_encode()
    place = np.arange(len(row)) - np.searchsorted(row, row)  # of the word in its text
    hashes = np.array([zlib.crc32(word.encode()) % (2**32 - 1) + 1 for word in flat.dictionary.to_pylist()], NUMBER_TYPES["text"])
    read = place < words
    found[row[read], place[read]] = hashes[flat.indices.to_numpy()[read]]
    return found


def _vectors(lists: pa.Array, width: int, name: str) -> np.ndarray:
    found, there = np.full((len(lists), width), np.nan, NUMBER_TYPES["embedding"]), lists.is_valid().to_numpy(zero_copy_only=False)
    lengths = pc.list_value_length(lists).drop_null().to_numpy()
    other = lengths[lengths != width]
    if len(other):
        raise DataError(f"'{name}' holds an embedding of {other[0]} numbers; model.embedding_dimensions says {width}")
    found[there] = lists.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
    return found
