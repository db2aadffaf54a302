"""All of `python -m tests.chaos`, in full: for make test-full. What the reader of the chaos tests says is compared with Spark."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from alure_spark.config import LakeConfig
from alure_spark.errors import LakeError
from alure_spark.lake import Lake, as_of_scope
from alure_spark.tables import table
from tests.chaos import __main__ as chaos
from tests.chaos import delta_reader
from tests.chaos.edges_writer import gated
from tests.chaos.writers import SCENARIOS
from tests.lake.small_lake import CONFIG, edges, publish

SEED, KILLS = 7, 6  # per job: 84 in all; the command line kills 30 times each, which takes hours on two cores


@pytest.mark.slow
def test_the_reader_of_the_chaos_tests_reads_what_spark_reads(chain):
    root = Path(chain.lake.root)
    versions = delta_reader.published(root)
    assert versions == chain.lake.published_versions()
    found = delta_reader.content(root, versions)
    assert {name: count for name, (_, count) in found.items()} == {name: chain.lake.read(name).count() for name in versions}


@pytest.mark.slow
@pytest.mark.parametrize("append", [False, True])
def test_what_comes_in_from_a_dead_writer_while_the_next_one_writes_is_never_published(spark, tmp_path, append):
    """A Spark Connect server ends what a killed client had begun: after the next writer has looked for leftovers, before it commits."""
    lake, gate = Lake(spark, LakeConfig(str(tmp_path / "lake"))), str(tmp_path / "gate")
    publish(lake, edges(spark, 10, 100), 100)

    def write(frame):
        with lake.run("build_graph", CONFIG, as_of_scope(300)) as run:
            run.write("user_edges", frame, as_of_scope(300), append=append)

    refused = []

    def next_writer():
        try:
            write(gated(edges(spark, 3, 300).coalesce(1), gate))  # one task waits: the other core is for the dead writer's
        except LakeError as error:  # is fair
            refused.append(error)

    thread = threading.Thread(target=next_writer)
    thread.start()
    while thread.is_alive() and not Path(f"{gate}.begun").exists():
        time.sleep(0.05)
    Lake(spark, lake.config).commit(table("user_edges"), edges(spark, 50, 200), as_of_scope(200), "dead", False)
    Path(f"{gate}.go").touch()
    thread.join()
    if refused:
        write(edges(spark, 3, 300))
    lake.refresh()
    counts = {row["as_of"].microsecond // 1000: row["count"] for row in lake.read("user_edges").groupBy("as_of").count().collect()}
    assert counts == {100: 10, 300: 3}


@pytest.mark.slow
def test_jobs_that_are_killed_at_random_moments_lose_and_double_nothing(tmp_path):
    assert chaos.run(tmp_path, KILLS, SEED, [], list(chaos.SHARES), list(SCENARIOS)) == 0
