"""One local Spark session for all tests, and one small synthetic world carried through the whole chain."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from pyspark.sql.classic.dataframe import DataFrame
from xdist.scheduler import LoadFileScheduling

os.environ["PYSPARK_PYTHON"] = sys.executable
os.environ.setdefault("OMP_NUM_THREADS", "1")

from alure_spark.config import SparkConfig, load
from alure_spark.session import get_session

ROOT = Path(__file__).parent.parent
# Of a JVM that lives for a job: with its first compiler alone three publications took 53 CPU seconds instead of 88. After ten of them it
# is slower (31 and 24), so the session of the tests, which lives long, has both.
SHORT_LIVED = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
# Spark writes and compiles a Java class for each plan. For tables of a few rows that costs more than it saves: fourteen publications took
# 98 CPU seconds without and 126 with it. Where slow tests run too, and in jobs in processes of their own, it is on as users have it.
INTERPRETED = {"spark.sql.codegen.wholeStage": "false", "spark.sql.codegen.factoryMode": "NO_CODEGEN"}


NAMES = ("daily", "end_to_end", "ranking_chain", "ranking_value_jobs", "standalone_retrieval", "transfer")
OF_THE_CHAIN = {f"tests/test_{name}.py" for name in NAMES}  # what reads the fixture `chain`


class FilesInOneProcess(LoadFileScheduling):
    """As --dist loadfile, and all files that read the chain run in one process, which builds it once."""

    def _split_scope(self, nodeid):
        file = super()._split_scope(nodeid)
        return "chain" if file in OF_THE_CHAIN else file


def pytest_xdist_make_scheduler(config, log):
    return FilesInOneProcess(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.fixture(autouse=True, scope="session")
def no_empty_withcolumns():
    """Spark Connect ends in an AssertionError where withColumns is given no column, which other sessions take."""
    add = DataFrame.withColumns

    def checked(self, columns):
        assert columns, "withColumns without a column fails on Spark Connect: use select('*', *columns)"
        return add(self, columns)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DataFrame, "withColumns", checked)
        yield


@pytest.fixture(scope="session")
def spark(request):
    settings = {"spark.sql.adaptive.enabled": "false", "spark.default.parallelism": "2"}
    if request.config.getoption("markexpr") == "not slow":
        settings |= INTERPRETED
    session = get_session(SparkConfig(master="local[2]", shuffle_partitions=2, driver_memory="3g", settings=settings))
    session.sparkContext.setLogLevel("ERROR")
    return session


def own_spark(**more: str) -> dict[str, str]:
    """The environment of a process that starts a Spark of its own, not that of this test session."""
    foreign = ("PYSPARK_GATEWAY", "PYTEST_", "SPARK_")
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
    return inherited | {"SPARK_SUBMIT_OPTS": SHORT_LIVED} | more


def overrides(folder: Path, *more: str) -> list[str]:
    """--set values that put lake, tracking store and artifacts into the folder."""
    places = {"lake.root": f"{folder}/lake", "lake.scratch": f"{folder}/scratch", "tracking.uri": f"sqlite:///{folder}/mlflow.db"}
    places |= {"tracking.artifact_root": f"{folder}/artifacts", "tracking.offline_root": f"{folder}/untracked"}
    return [f"{key}={value}" for key, value in places.items()] + list(more)


@pytest.fixture(scope="session")
def chain(spark, tmp_path_factory):
    """The test world after the whole pipeline: a Context whose lake holds every table; tests must not write to it."""
    from alure_spark.running import open_context, run_jobs
    from jobs.pipeline import stages

    folder = tmp_path_factory.mktemp("chain")
    context = open_context(load(ROOT / "conf" / "test.yml", overrides(folder)))
    run_jobs(context, stages(ranked=True), "pipeline")
    return context


@pytest.fixture(scope="session")
def days(chain, tmp_path_factory):
    """A lake with the representations of two days in turn, and one in which the second day is the first to be extracted."""
    from tests.transfer_lake import extracted

    return extracted(chain, tmp_path_factory)
