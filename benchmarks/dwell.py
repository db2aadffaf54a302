"""Dwell statistics of DynamiX beside a plain self-join in Spark SQL, and a day beside a rebuild.

    python -m benchmarks.dwell

10^7 impressions and 10^6 conversions of users whose activity is lognormal, from one Parquet file, two cores. The recipe joins each user's
impressions with the conversions in [t - 60 s, t + 300 s]. Before anything is published, all sums of both methods are asserted to be equal.
day: only the impressions that entered on the last of 30 days. carried alone: read, shuffled by user and handed to Python, and nothing
made of them; what is left of ours are the sums.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import functions as F

from alure_spark.clock import DAY_MS
from alure_spark.config import DynamixConfig, SparkConfig
from alure_spark.dynamix.statistics import SUMS, by_user, new_statistics
from alure_spark.session import get_session
from benchmarks import contract
from benchmarks.knn_graph import user_ids

DAYS, CONVERSIONS_SHARE = 30, 0.1
START_MS = 1_735_689_600_000
END_MS = START_MS + DAYS * DAY_MS + 3_600_000  # every window is settled
CONFIG = DynamixConfig()
CARRIED = "user_id string, surface string, time_ms long, dwell_ms long, utc_offset_minutes int"
GOOD = f"dwell_ms BETWEEN {CONFIG.dwell_min_ms} AND {CONFIG.dwell_max_ms}"
RECIPE = f"""
WITH impressions AS (
  SELECT monotonically_increasing_id() AS id, user_id, surface, time_ms, dwell_ms FROM log WHERE source = 'ad_impression'
), conversions AS (
  SELECT user_id, time_ms FROM log WHERE source IN ('ad_click', 'conversion')
), converted AS (
  SELECT DISTINCT i.id FROM impressions i JOIN conversions c
  ON i.user_id = c.user_id AND c.time_ms BETWEEN i.time_ms - {CONFIG.buffer_ms} AND i.time_ms + {CONFIG.window_ms}
), labelled AS (
  SELECT i.*, c.id IS NOT NULL AS c, LN(CAST(dwell_ms AS DOUBLE)) AS x FROM impressions i LEFT JOIN converted c ON i.id = c.id
)
SELECT user_id, surface,
  SUM(CASE WHEN {GOOD} AND c THEN 1 ELSE 0 END) AS n_1, SUM(CASE WHEN {GOOD} AND NOT c THEN 1 ELSE 0 END) AS n_0,
  SUM(CASE WHEN {GOOD} AND c THEN CAST(ROUND(x * 1e6) AS BIGINT) ELSE 0 END) AS sum_log_dwell_micro_1,
  SUM(CASE WHEN {GOOD} AND NOT c THEN CAST(ROUND(x * 1e6) AS BIGINT) ELSE 0 END) AS sum_log_dwell_micro_0,
  SUM(CASE WHEN {GOOD} AND c THEN CAST(ROUND(x * x * 1e6) AS BIGINT) ELSE 0 END) AS sum_log_dwell_sq_micro_1,
  SUM(CASE WHEN {GOOD} AND NOT c THEN CAST(ROUND(x * x * 1e6) AS BIGINT) ELSE 0 END) AS sum_log_dwell_sq_micro_0
FROM labelled GROUP BY user_id, surface
"""


def write_log(path: Path, impressions: int, users: int, seed: int) -> None:
    """Impressions at random times, log dwell normal; a tenth of them are followed by a conversion within minutes."""
    random, ids = np.random.default_rng(seed), user_ids(users)
    activity = np.exp(random.normal(0, 1, users))
    who = random.choice(users, impressions, p=activity / activity.sum())
    time = START_MS + (random.random(impressions) * DAYS * DAY_MS).astype(np.int64)
    converts = random.random(impressions) < CONVERSIONS_SHARE
    dwell = np.exp(random.normal(9.6 + 0.4 * converts, 1.1)).astype(np.int64) + 1
    surface = np.array(["feed", "reels", "stories", "marketplace"], object)[random.integers(0, 4, impressions)]
    later = time[converts] + (np.exp(random.normal(4, 1.5, converts.sum())) * 1000).astype(np.int64) - 30_000
    kind = np.where(random.random(converts.sum()) < 0.7, "ad_click", "conversion").astype(object)
    nothing = np.full(converts.sum(), None)
    table = pa.table({
        "user_id": np.r_[ids[who], ids[who[converts]]], "time_ms": np.r_[time, later],
        "source": np.r_[np.full(impressions, "ad_impression", object), kind],
        "surface": pa.array(np.r_[surface, nothing], pa.string()), "dwell_ms": pa.array(np.r_[dwell.astype(object), nothing], pa.int64()),
    })  # fmt: skip
    pq.write_table(table.take(pa.array(random.permutation(len(table)))), path, row_group_size=1_000_000)


def assert_equal(ours: pd.DataFrame, theirs: pd.DataFrame) -> None:
    """The same users and surfaces with the same sums."""
    keys = ["user_id", "surface"]
    one, other = (frame.sort_values(keys)[[*keys, *SUMS]].to_numpy() for frame in (ours, theirs))
    if one.shape != other.shape or (one != other).any():
        raise AssertionError(f"the self-join has other sums: {len(other):,} rows beside {len(one):,}")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--impressions", type=int, default=10_000_000)
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--results", type=Path, default=contract.RESULTS)
    options = parser.parse_args(arguments)
    spark = get_session(SparkConfig(master="local[2]"), "benchmark_dwell")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_log(folder / "log.parquet", options.impressions, options.users, 7)
        log = spark.read.parquet(str(folder / "log.parquet"))
        log.createOrReplaceTempView("log")
        events = log.select("*", F.timestamp_millis("time_ms").alias("known_at"), F.lit(0).alias("utc_offset_minutes")).drop("time_ms")
        day = END_MS - DAY_MS

        def write(method: str, frame: Callable[[], object]) -> Callable[[], None]:
            return lambda: frame().write.mode("overwrite").parquet(str(folder / f"{method}.out"))  # type: ignore[attr-defined]

        methods = {
            "ours": write("ours", lambda: new_statistics(events, CONFIG, None, END_MS)),
            "self-join": write("self-join", lambda: spark.sql(RECIPE)),
            "day": write("day", lambda: new_statistics(events, CONFIG, day, END_MS)),
            "carried alone": write("carried", lambda: by_user(events, CONFIG, None, END_MS, lambda rows: rows.slice(0, 0), CARRIED)),
        }
        rows: dict[str, list[contract.Row]] = {method: [] for method in methods}
        for repetition in range(options.repetitions + 1):  # the first warms the JVM up and is not counted
            for method, answer in methods.items():
                row: contract.Row = {"road": method}
                with contract.measured(row):
                    answer()
                if repetition:
                    rows[method].append(row | {"impressions_per_core_second": options.impressions / row["seconds_cpu"]})
        assert_equal(*(pd.read_parquet(folder / f"{method}.out") for method in ("ours", "self-join")))
    spent = {method: np.array([row["seconds_cpu"] for row in measured]) for method, measured in rows.items()}
    ratios = {
        "vs_self_join": contract.spread((spent["self-join"] / spent["ours"]).tolist()),
        "day_cost": contract.spread((spent["day"] / spent["ours"]).tolist()),
        "carried_share": contract.spread((spent["carried alone"] / spent["ours"]).tolist()),
    }
    size = {"impressions": options.impressions, "users": options.users, "repetitions": options.repetitions}
    contract.publish("dwell", size, [contract.middle(measured) for measured in rows.values()], ratios, options.results)


if __name__ == "__main__":
    main()
