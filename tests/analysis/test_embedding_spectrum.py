from __future__ import annotations

import numpy as np
import pytest

from alure_spark.analysis.embedding_spectrum import information_abundance, singular_values
from alure_spark.errors import DataError


def test_abundance_counts_the_directions_that_rows_use():
    assert information_abundance(np.eye(5)) == pytest.approx(5)
    assert information_abundance(np.outer(np.arange(1, 50), [1.0, 2, 3])) == pytest.approx(1, abs=1e-6)
    assert information_abundance(np.zeros((4, 3))) == 0
    two = np.zeros((40, 8))
    two[:20, 0], two[20:, 1] = 3, 1.5
    assert information_abundance(two) == pytest.approx(1.5)


@pytest.mark.parametrize("shape", [(3, 8), (8, 8), (500, 8)])
def test_singular_values_are_those_of_the_matrix_as_it_is(shape):
    rows = np.random.default_rng(1).normal(3, 1, shape)
    expected = np.linalg.svd(rows, compute_uv=False)
    np.testing.assert_allclose(singular_values(rows), expected, rtol=1e-9)
    assert information_abundance(rows) == pytest.approx(expected.sum() / expected.max())
    assert information_abundance(1e3 * rows) == pytest.approx(information_abundance(rows)), "the scale says nothing"
    longer = rows * np.arange(1, shape[0] + 1)[:, None]
    assert information_abundance(longer) != pytest.approx(information_abundance(rows)), "the lengths of rows do"


def test_what_is_no_table_is_a_sentence():
    for rows, says in (
        (np.zeros((0, 4)), r"\(0, 4\); allowed: \(n, K\)"),
        (np.zeros(4), "allowed"),
        (np.full((2, 2), np.nan), "NaN or infinite"),
    ):
        with pytest.raises(DataError, match=says):
            information_abundance(rows)
