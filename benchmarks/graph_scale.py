"""From embeddings to candidates for 10^6 users in five unequal countries: the jobs build_graph and retrieve_ads, each measured.

    python -m benchmarks.graph_scale --folder /big/disk/graph_scale                # 10^6 users
    python -m benchmarks.graph_scale --folder /tmp/graph_scale --users 20000

Countries hold 50, 25, 15, 8 and 2 % of the users. Users are noisy members of 2,000 communities of Zipf sizes in which they click on the
same ads (3 clicks each on average). A tenth of the users, all of the third country, follow 15 others: they are the sources of PageRank.
The tables are written before the clock starts. One process, 4 GB for the driver, 2 cores. `purity`: edges inside a community, by graph;
`by chance`: the same of pairs of users of one country drawn at random.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import functions as F

from alure_spark.arrow import matrix_column
from alure_spark.clock import DAY_MS, format_time
from alure_spark.config import Config, load
from alure_spark.lake import Lake, as_of_scope
from alure_spark.running import open_context, run_jobs
from alure_spark.tables import table
from benchmarks import contract
from benchmarks.knn_graph import COMMUNITIES, community_vectors, user_ids
from benchmarks.pagerank import follow_graph
from jobs import build_graph, retrieve_ads

AS_OF_MS = 1_735_689_600_000
SHARES = {"A": 0.5, "B": 0.25, "C": 0.15, "D": 0.08, "E": 0.02}
FOLLOWING = "C"  # the first tenth of all users that live there follow
CLICKS, ADS_OF_COMMUNITY, ADS_OF_ACCOUNT = 3, 40, 2
CAP = 100
CONF = """
name: graph_scale
source: {{kind: tables, options: {{root: {folder}, events: []}}}}
time: {{as_of: "{as_of}"}}
streams: {{ad_click: {{}}}}
graph: {{graphs: [alure, ppr]}}
retrieval: {{cap: {cap}}}
"""


def write_world(folder: Path, users: int) -> None:
    """user_embeddings, follows, ads and events as Parquet, and who is in which community."""
    random = np.random.default_rng(7)
    ids = user_ids(users)
    vectors, community = community_vectors(users, 1.0, 7)
    country = np.repeat(list(SHARES), [round(share * users) for share in SHARES.values()])
    folder.mkdir(parents=True)
    made = {"user_id": pa.array(ids), "country": pa.array(country)}
    pq.write_table(pa.table(made | {"embedding": matrix_column(vectors)}), folder / "user_embeddings.parquet", row_group_size=20_000)
    pq.write_table(pa.table(made | {"community": community}), folder / "communities.parquet")

    here = np.flatnonzero(country == FOLLOWING)[: users // 10]
    source, target, _ = follow_graph(len(here), 7)
    follows = {"src_user_id": ids[here[source]], "dst_user_id": ids[here[target]]}
    age = random.integers(0, 365, len(source))
    pq.write_table(pa.table(follows | {"days": age}).group_by(list(follows)).aggregate([("days", "min")]), folder / "follows.parquet")

    clicks = random.poisson(CLICKS, users)
    who = np.repeat(np.arange(users), clicks)
    ad = community[who] * ADS_OF_COMMUNITY + (random.random(len(who)) ** 2 * ADS_OF_COMMUNITY).astype(np.int64)
    rows = {"user_id": ids[who], "country": country[who], "ad": ad, "days": random.random(len(who)) * 30, "number": np.arange(len(who))}
    pq.write_table(pa.table(rows), folder / "clicks.parquet", row_group_size=100_000)


def publish_world(lake: Lake, folder: Path, config: Config) -> None:
    """The Parquet files as the tables that the jobs read."""
    spark, account = lake.spark, F.concat(F.lit("account"), (F.col("ad") / ADS_OF_ACCOUNT).cast("int")).alias("account_id")
    moment = F.timestamp_millis(F.lit(AS_OF_MS) - (F.col("days") * DAY_MS).cast("bigint") - 1)
    clicks = spark.read.parquet(str(folder / "clicks.parquet")).select(
        "*",
        F.concat(F.lit("ad"), "ad").alias("item_id"),
        account,
    )
    events = clicks.select(
        F.col("number").cast("string").alias("event_id"), "user_id", "country", "item_id", "account_id", moment.alias("event_time"),
        F.lit("ad_click").alias("source"), moment.alias("known_at"), moment.cast("date").alias("known_date"),
        F.xxhash64("number").alias("event_hash"), F.xxhash64("item_id").alias("item_hash"),
    )  # fmt: skip
    missing = [F.lit(None).cast(column.type).alias(column.name) for column in table("events").columns if column.name not in events.columns]
    number = spark.range(COMMUNITIES * ADS_OF_COMMUNITY).select(F.col("id").alias("ad"))
    ads = number.select(
        F.concat(F.lit("ad"), "ad").alias("ad_id"), account,
        F.lit("c").alias("category_id"), F.timestamp_millis(F.lit(AS_OF_MS - 30 * DAY_MS)).alias("active_from"),
        F.lit(None).alias("active_to"), F.lit(1.0).alias("bid"), F.lit(1.0).alias("value"), F.lit(None).alias("title"),
        F.lit(None).alias("media_embedding"), F.xxhash64("ad").alias("ad_hash"),
    )  # fmt: skip
    follows = spark.read.parquet(str(folder / "follows.parquet")).withColumn("days", F.col("days_min"))
    vectors = spark.read.parquet(str(folder / "user_embeddings.parquet"))
    before = F.timestamp_millis(F.lit(AS_OF_MS)).alias("as_of")
    with lake.run("graph_scale", config, "true") as run:
        run.write("events", events.select("*", *missing))
        run.write("ads", ads)
        run.write("follows", follows.select("src_user_id", "dst_user_id", moment.alias("event_time")))
        run.write("user_embeddings", vectors.select("*", before, F.lit("world").alias("model_id")), as_of_scope(AS_OF_MS))
    lake.refresh()


def purity(lake: Lake, folder: Path) -> dict[str, float]:
    """Share of edges inside one community, by graph, and of random pairs of a country."""
    people = lake.spark.read.parquet(str(folder / "communities.parquet")).persist()
    ends = [people.select(F.col("user_id").alias(f"{end}_user_id"), F.col("community").alias(end)) for end in ("src", "dst")]
    named = lake.read("user_edges").select("src_user_id", "dst_user_id", "graph").join(ends[0], "src_user_id").join(ends[1], "dst_user_id")
    inside = F.avg((F.col("src") == F.col("dst")).cast("int"))
    found = {f"purity {row['graph']}": row["purity"] for row in named.groupBy("graph").agg(inside.alias("purity")).collect()}
    sizes = people.groupBy("country", "community").agg(F.count("*").alias("n"))
    of_country = sizes.groupBy("country").agg(F.sum("n").alias("users"), (F.sum(F.col("n") * (F.col("n") - 1))).alias("pairs"))
    chance = of_country.agg((F.sum(F.col("pairs") / (F.col("users") - 1)) / F.sum("users")).alias("chance")).first()
    assert chance is not None
    people.unpersist()
    return found | {"purity by chance": chance["chance"]}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where the world and the lake lie; is emptied first")
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--results", type=Path, default=contract.RESULTS)
    options = parser.parse_args(arguments)
    folder, world = options.folder.absolute(), options.folder.absolute() / "world"
    shutil.rmtree(folder, ignore_errors=True)
    write_world(world, options.users)
    (folder / "events").mkdir()
    conf = folder / "graph_scale.yml"
    conf.write_text(CONF.format(folder=folder, as_of=format_time(AS_OF_MS), cap=CAP))
    settings = [f"spark.settings={{{', '.join(f'{key}: {value!r}' for key, value in contract.event_log(str(folder / 'events')).items())}}}"]
    config = load(str(conf), [*contract.places(str(folder)), *settings])
    context = open_context(config)
    publish_world(context.lake, world, config)
    rows = []
    for job in (build_graph.JOB, retrieve_ads.JOB):
        row: contract.Row = {"road": job.name}
        before = contract.shuffled_bytes(folder / "events")
        with contract.measured(row):
            run_jobs(context, [job], "graph_scale")
        row["shuffle_mb"] = (contract.shuffled_bytes(folder / "events") - before) / 2**20
        rows.append(row)
        context.lake.refresh()
        print(contract.table([row]), flush=True)
    edges = {row["graph"]: row["count"] for row in context.lake.read("user_edges").groupBy("graph").count().collect()}
    candidates = context.lake.read("ad_candidates").agg(F.avg(F.size("ad_id"))).collect()[0][0]
    sources = context.lake.read("user_edges").where("graph = 'ppr'").select("src_user_id").distinct().count()
    size = {
        "users": options.users, "countries": len(SHARES), "cap": CAP, "pagerank_sources": sources,
        "driver_memory": config.spark.driver_memory, "candidates_per_user": candidates, "edges": edges,
    }  # fmt: skip
    size |= purity(context.lake, world)
    size["tables_gb"] = sum(path.stat().st_size for path in (folder / "lake").rglob("*") if path.is_file()) / 1e9
    for key, value in size.items():
        print(f"{key}: {value}")
    contract.publish("graph_scale", size, rows, {}, options.results)


if __name__ == "__main__":
    main()
