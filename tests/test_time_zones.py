"""Nothing depends on the time zone of the driver or of the session: moments are epoch milliseconds, days are days of UTC."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest
from pyspark.sql import functions as F

from alure_spark.clock import parse_time
from alure_spark.config import Config, LakeConfig, StreamConfig, TrackingConfig
from alure_spark.errors import LakeError
from alure_spark.lake import Lake, as_of_scope, content_hash, latest_rows, timestamp
from alure_spark.privacy import identity
from alure_spark.running import open_context, run_jobs
from jobs import apply_retention, forget_users
from tests.conftest import ROOT, own_spark
from tests.lake.small_lake import CONFIG, edges, publish, say_started

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
ZONES = ("Asia/Tokyo", "America/Los_Angeles")
# What the subprocesses run: leases, retention, batches by the day, refused rows that come back, the golden lake.
TELLING = ("tests/lake/test_publishing.py", "tests/lake/test_erasure.py", "tests/lake/test_writers.py", "tests/test_daily.py")


pytestmark = pytest.mark.slow


@pytest.fixture(params=["UTC", *ZONES])
def zone(request, spark):
    """The session's zone, as somebody's notebook set it, and with it the driver's."""
    key, before = "spark.sql.session.timeZone", os.environ.get("TZ")
    spark.conf.set(key, request.param)
    os.environ["TZ"] = request.param
    time.tzset()
    yield request.param
    spark.conf.set(key, "UTC")
    os.environ.pop("TZ") if before is None else os.environ.update(TZ=before)
    time.tzset()


def test_a_lease_lasts_as_long_as_the_conf_says(spark, tmp_path, zone):
    lake = Lake(spark, LakeConfig(f"{tmp_path}/lake", lease_hours=6))
    publish(lake, edges(spark, 1, 100), 100)
    say_started(lake, "another-machine 1 1", {}, ago_ms=int(5.9 * HOUR_MS))
    with pytest.raises(LakeError, match="another-machine") as refusal:
        publish(lake, edges(spark, 1, 200), 200)
    begun = str(refusal.value).split(" since ")[1].split(" UTC")[0]
    assert abs(parse_time(begun) - (time.time() * 1000 - 5.9 * HOUR_MS)) < 10 * 60_000
    publish(Lake(spark, LakeConfig(lake.root, lease_hours=5.8)), edges(spark, 1, 200), 200)


def test_what_is_published_and_read_is_the_same_in_every_zone(spark, tmp_path, zone):
    as_of = parse_time("2025-03-09T10:30:00Z")  # Los Angeles has no such hour on its clock
    lake = Lake(spark, LakeConfig(f"{tmp_path}/lake"))
    for moment in (as_of, as_of + DAY_MS, as_of):
        publish(lake, edges(spark, 3, moment), moment)
    rows = lake.read("user_edges")
    assert rows.count() == 6
    assert {row[0] for row in rows.select(F.unix_millis("as_of")).distinct().collect()} == {as_of, as_of + DAY_MS}
    assert rows.where(F.col("as_of") <= timestamp(as_of)).count() == 3
    assert latest_rows(rows, as_of, "src_user_id").select(F.unix_millis("as_of")).distinct().collect()[0][0] == as_of
    first, second = (edges(spark, 3, moment) for moment in (as_of, as_of + DAY_MS))
    assert content_hash(rows) == content_hash(first.union(second))
    assert spark.conf.get("spark.sql.session.timeZone") == zone, "a job leaves the session as it was"
    finished = lake.runs().select(F.unix_millis("started"), F.unix_millis("finished")).collect()
    assert all(abs(moment - time.time() * 1000) < HOUR_MS for row in finished for moment in row)


def test_retention_and_tombstones_count_days_of_utc(spark, tmp_path, zone, monkeypatch):
    monkeypatch.setenv(identity.KEY_VARIABLE, "k" * 32)
    newest = parse_time("2025-03-10T00:00:00Z")
    tracking = TrackingConfig(f"sqlite:///{tmp_path}/mlflow.db", "e", f"{tmp_path}/artifacts", f"{tmp_path}/untracked")
    lake = LakeConfig(f"{tmp_path}/lake", f"{tmp_path}/scratch", keep_days={"user_edges": 2.0})
    context = open_context(Config(lake=lake, tracking=tracking, streams={"purchase": StreamConfig()}))
    spark.conf.set("spark.sql.session.timeZone", zone)  # a cell of the notebook, after the session was opened
    moments = [newest - hours * HOUR_MS for hours in (0, 24, 47, 48, 49, 72)]
    for number, moment in enumerate(moments):
        with context.lake.run("build_graph", CONFIG, as_of_scope(moment)) as run:
            run.write("user_edges", edges(spark, number + 1, moment), as_of_scope(moment))
    run_jobs(context, [apply_retention.JOB], "retention")
    context.lake.refresh()
    kept = context.lake.read("user_edges").select(F.unix_millis("as_of").alias("ms")).distinct().orderBy(F.desc("ms")).collect()
    assert [row["ms"] for row in kept] == moments[:4]
    run_jobs(context, [forget_users.job(["0"])], "forget")
    context.lake.refresh()
    forgotten = context.lake.read("tombstones").select(F.unix_millis("forgotten_at")).first()[0]
    assert abs(forgotten - time.time() * 1000) < HOUR_MS


@pytest.mark.parametrize("zone_of_machine", ZONES)
def test_the_telling_tests_pass_on_a_machine_of_another_zone(zone_of_machine):
    arguments = [sys.executable, "-m", "pytest", "-q", "-x", "-n0", "-m", "not slow", *TELLING]
    environment = own_spark(TZ=zone_of_machine, SPARK_SUBMIT_OPTS="")  # a session of tests, too
    result = subprocess.run(arguments, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-6000:]
    shift = subprocess.run(["date", "+%z"], env={"TZ": zone_of_machine}, capture_output=True, text=True, check=True).stdout
    assert shift.strip() != "+0000", "the machine knows no zones: install tzdata"
