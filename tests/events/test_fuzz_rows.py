from __future__ import annotations

import pytest

from tests.fuzz_rows import fuzz


@pytest.mark.slow
def test_no_row_of_random_tables_is_lost_doubled_or_fatal(spark):
    found = fuzz(spark, 10_000, seed=11, per_round=5_000)
    assert found["accepted"] > 0
    assert found["refused"] > 0
    assert found["copies"] > 0


@pytest.mark.slow
def test_a_million_random_rows_are_accepted_copies_or_refused(spark):
    found = fuzz(spark, 1_000_000, seed=1)
    assert len([name for name in found if name.startswith("reason")]) >= 15
    assert found["sources refused whole"] > 0
