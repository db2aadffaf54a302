"""Ads through similar users: the job's method beside the plain recipe (joins, groups, a window) in Spark SQL and in DuckDB.

    python -m benchmarks.retrieval

Users of communities with 15 neighbours each, most in their own community, who clicked on the community's ads.
All methods read the same three Parquet files and write one row per user and candidate, at most 100 a user, with two threads; before
anything is published, all rows are asserted to be equal. The recipe is one SQL text for both engines.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import functions as F

from alure_spark.clock import DAY_MS
from alure_spark.config import RetrievalConfig, SparkConfig
from alure_spark.lake import UNITS
from alure_spark.retrieval.candidates import ad_candidates, explode_candidates
from alure_spark.session import get_session
from benchmarks import contract
from benchmarks.knn_graph import user_ids

AS_OF_MS = 1_735_689_600_000
CONFIG = RetrievalConfig(cap=100)
NEIGHBOURS, COMMUNITY, OWN_SHARE = 15, 200, 0.8  # of a user; users of a community; share of neighbours inside it
CLICKS, ADS_OF_COMMUNITY, ADS_OF_ACCOUNT = 5, 40, 2
ENGAGEMENT = f"CAST(units AS DOUBLE) / CAST({UNITS} AS DOUBLE) AS engagement"
RECIPE = f"""
WITH known AS (
  SELECT user_id, item_id, account_id, CAST({AS_OF_MS} - known_ms AS DOUBLE) / CAST({DAY_MS} AS DOUBLE) AS age,
         CAST(CASE source WHEN 'conversion' THEN 2.0 ELSE 1.0 END AS DOUBLE) AS per_ad,
         CAST(CASE source WHEN 'conversion' THEN 0.2 ELSE 0.1 END AS DOUBLE) AS per_account
  FROM events WHERE known_ms < {AS_OF_MS}
), with_ad AS (
  SELECT user_id, item_id, SUM(CAST(ROUND(per_ad * POW(0.5, age / {CONFIG.half_life_days}) * {UNITS}) AS BIGINT)) AS units
  FROM known GROUP BY user_id, item_id
), with_account AS (
  SELECT user_id, account_id, SUM(CAST(ROUND(per_account * POW(0.5, age / {CONFIG.half_life_days}) * {UNITS}) AS BIGINT)) AS units
  FROM known GROUP BY user_id, account_id
), best_ads AS (
  SELECT user_id, item_id, {ENGAGEMENT} FROM (
    SELECT *, ROW_NUMBER() OVER (PARTITION BY user_id ORDER BY units DESC, item_id) AS n FROM with_ad
  ) AS t WHERE n <= {CONFIG.max_engagements_per_user}
), best_accounts AS (
  SELECT user_id, account_id, {ENGAGEMENT} FROM (
    SELECT *, ROW_NUMBER() OVER (PARTITION BY user_id ORDER BY units DESC, account_id) AS n FROM with_account
  ) AS t WHERE n <= {CONFIG.max_engagements_per_user}
), by_ad AS (
  SELECT e.src_user_id AS user_id, b.item_id AS ad_id, SUM(CAST(ROUND(e.weight * b.engagement * {UNITS}) AS BIGINT)) AS units
  FROM edges e JOIN best_ads b ON e.dst_user_id = b.user_id JOIN ads a ON b.item_id = a.ad_id
  GROUP BY e.src_user_id, b.item_id
), by_account AS (
  SELECT e.src_user_id AS user_id, b.account_id, SUM(CAST(ROUND(e.weight * b.engagement * {UNITS}) AS BIGINT)) AS units
  FROM edges e JOIN best_accounts b ON e.dst_user_id = b.user_id GROUP BY e.src_user_id, b.account_id
), scored AS (
  SELECT user_id, ad_id, SUM(units) AS units FROM (
    SELECT user_id, ad_id, units FROM by_ad
    UNION ALL SELECT c.user_id, a.ad_id, c.units FROM by_account c JOIN ads a ON c.account_id = a.account_id
  ) AS t GROUP BY user_id, ad_id
), fresh AS (
  SELECT s.* FROM scored s LEFT JOIN (SELECT DISTINCT user_id, item_id FROM known) o ON s.user_id = o.user_id AND s.ad_id = o.item_id
  WHERE o.user_id IS NULL
)
SELECT user_id, ad_id, CAST(units AS DOUBLE) / CAST({UNITS} AS DOUBLE) AS score, rank FROM (
  SELECT *, ROW_NUMBER() OVER (PARTITION BY user_id ORDER BY units DESC, ad_id) AS rank FROM fresh
) AS t WHERE rank <= {CONFIG.cap}
"""


def write_world(folder: Path, users: int, seed: int) -> None:
    """edges, events and ads as Parquet."""
    random, ids = np.random.default_rng(seed), user_ids(users)
    communities = max(1, users // COMMUNITY)
    community = np.arange(users) % communities
    source = np.repeat(np.arange(users), NEIGHBOURS)
    inside = community[source] + communities * random.integers(0, users // communities, len(source))
    target = np.where(random.random(len(source)) < OWN_SHARE, inside, random.integers(0, users, len(source)))
    kept = np.unique(np.stack([source, target])[:, source != target], axis=1)
    weight = np.round(0.3 + 0.7 * random.random(kept.shape[1]), 6)
    pq.write_table(pa.table({"src_user_id": ids[kept[0]], "dst_user_id": ids[kept[1]], "weight": weight}), folder / "edges.parquet")
    who = np.repeat(np.arange(users), random.poisson(CLICKS, users))
    ad = community[who] * ADS_OF_COMMUNITY + (random.random(len(who)) ** 2 * ADS_OF_COMMUNITY).astype(np.int64)
    events = {
        "user_id": ids[who], "item_id": names("ad", ad), "account_id": names("account", ad // ADS_OF_ACCOUNT),
        "source": np.where(random.random(len(who)) < 0.1, "conversion", "ad_click").astype(object),
        "known_ms": AS_OF_MS - (random.random(len(who)) * 60 * DAY_MS).astype(np.int64) + 5 * DAY_MS,
    }  # fmt: skip
    pq.write_table(pa.table(events), folder / "events.parquet")
    number = np.arange(communities * ADS_OF_COMMUNITY)
    ads = {"ad_id": names("ad", number), "account_id": names("account", number // ADS_OF_ACCOUNT)}
    pq.write_table(pa.table(ads), folder / "ads.parquet")


def names(of: str, number: np.ndarray) -> np.ndarray:
    return np.char.add(of, number.astype(str)).astype(object)


def assert_equal(found: dict[str, pd.DataFrame]) -> None:
    """All methods give the same users, ads, ranks and scores (1e-6, to which ours are rounded)."""
    ours = found["ours"]
    for method, theirs in found.items():
        same = len(ours) == len(theirs) and (ours[["user_id", "rank", "ad_id"]].values == theirs[["user_id", "rank", "ad_id"]].values).all()
        if not same or np.abs(ours["score"].to_numpy() - theirs["score"].to_numpy()).max() > 1e-6:
            raise AssertionError(f"{method} gives other candidates than ours: {len(theirs):,} rows beside {len(ours):,}")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=50_000)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--results", type=Path, default=contract.RESULTS)
    options = parser.parse_args(arguments)
    spark = get_session(SparkConfig(master="local[2]"), "benchmark_retrieval")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_world(folder, options.users, 7)
        raw = {table: spark.read.parquet(str(folder / f"{table}.parquet")) for table in ("edges", "events", "ads")}
        for table, frame in raw.items():
            frame.createOrReplaceTempView(table)
        edges = raw["edges"].select("*", F.lit("A").alias("country"), F.lit(1).alias("origins"))
        events = raw["events"].withColumn("known_at", F.timestamp_millis("known_ms"))
        since, until = F.timestamp_millis(F.lit(0)).alias("active_from"), F.lit(None).cast("timestamp").alias("active_to")
        ads = raw["ads"].select("*", since, until)

        def target(method: str) -> str:
            return str(folder / f"{method}.out")

        def in_duckdb() -> None:
            with duckdb.connect(config={"threads": 2}) as connection:
                for table in raw:
                    connection.execute(f"CREATE VIEW {table} AS SELECT * FROM '{folder}/{table}.parquet'")
                connection.execute(f"COPY ({RECIPE}) TO '{target('DuckDB')}' (FORMAT parquet)")

        def ours() -> None:
            found = explode_candidates(ad_candidates(edges, events, ads, CONFIG, AS_OF_MS)).select("user_id", "ad_id", "score", "rank")
            found.write.mode("overwrite").parquet(target("ours"))

        methods: dict[str, Callable[[], None]] = {
            "ours": ours,
            "join + window": lambda: spark.sql(RECIPE).write.mode("overwrite").parquet(target("join + window")),
            "DuckDB": in_duckdb,
        }
        rows: dict[str, list[contract.Row]] = {method: [] for method in methods}
        for repetition in range(options.repetitions + 1):  # the first warms the JVM up and is not counted
            for method, answer in methods.items():
                row: contract.Row = {"road": method, "users": options.users}
                with contract.measured(row):
                    answer()
                if repetition:
                    rows[method].append(row)
        found = {method: pd.read_parquet(target(method)).sort_values(["user_id", "rank"]) for method in methods}
        assert_equal(found)
    spent = {method: np.array([row["seconds_cpu"] for row in measured]) for method, measured in rows.items()}
    ratios = {f"vs_{key}": contract.spread((spent[method] / spent["ours"]).tolist()) for key, method in PEERS.items()}
    size = {"users": options.users, "cap": CONFIG.cap, "candidates": len(found["ours"]), "repetitions": options.repetitions}
    contract.publish("retrieval", size, [contract.middle(measured) for measured in rows.values()], ratios, options.results)


PEERS = {"join_window": "join + window", "duckdb": "DuckDB"}

if __name__ == "__main__":
    main()
