"""All of `python -m tests.chaos`, in full: for make test-full. What the reader of the chaos tests says is compared with Spark."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos import __main__ as chaos
from tests.chaos import delta_reader
from tests.chaos.writers import SCENARIOS

SEED = 7


def test_the_reader_of_the_chaos_tests_reads_what_spark_reads(chain):
    root = chain.lake.root
    versions = delta_reader.published(Path(root))
    assert versions == chain.lake.published_versions()
    found = delta_reader.content(Path(root), versions)
    assert {name: count for name, (_, count) in found.items()} == {name: chain.lake.read(name).count() for name in versions}


@pytest.mark.slow
def test_jobs_that_are_killed_at_random_moments_lose_and_double_nothing(tmp_path):
    assert chaos.run(tmp_path, 30, SEED, [], list(chaos.SHARES), list(SCENARIOS)) == 0
