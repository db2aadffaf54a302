"""Representations with 8 bits: how far a number moves, and what a file of them takes."""

from __future__ import annotations

import numpy as np
import pytest

from alure_spark.inference.storage import with_bits

ROWS, WIDTH = 2_000, 32


@pytest.fixture(scope="module")
def vectors():
    random = np.random.default_rng(5)
    made = random.standard_normal((ROWS, WIDTH)) * np.exp(random.normal(0, 2, (ROWS, 1)))
    made[0] = 0
    made[1] = 2.0 ** np.arange(WIDTH)
    return made.astype(np.float32)


@pytest.fixture(scope="module")
def table(spark, vectors):
    rows = [(number, vector.tolist()) for number, vector in enumerate(vectors)]
    return spark.createDataFrame(rows, "id int, representation array<float>").coalesce(1).localCheckpoint()


def test_a_number_moves_by_at_most_its_share_of_the_largest_of_its_row(table, vectors):
    rows = with_bits(table, 8).orderBy("id").collect()
    stored = np.array([row["representation"] for row in rows])
    largest = np.abs(vectors).max(axis=1, keepdims=True)
    assert (np.abs(stored - vectors) <= largest / 127 + 1e-12).all()
    assert not stored[0].any()
    for mine, its in zip(stored[1:], vectors[1:], strict=True):
        assert len(np.unique(mine)) <= 256
        assert mine @ its / np.linalg.norm(mine) / np.linalg.norm(its) > 0.999
    again = with_bits(with_bits(table, 8), 8).orderBy("id").collect()
    assert rows == again, "what is stored is stored as it is"
    assert with_bits(table, 32) is table


def test_a_table_of_them_takes_less_than_half_of_the_bytes(table, tmp_path):
    def size(bits):
        with_bits(table, bits).write.parquet(f"{tmp_path}/{bits}")
        return sum(path.stat().st_size for path in (tmp_path / str(bits)).glob("*.parquet"))

    assert size(8) < size(32) / 2
