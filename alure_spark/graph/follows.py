"""Who is near whom by follows: shared followees (BFF), and personalised PageRank along follows (ALURE, section 5.2).

    follows + users with events -> follow_strengths   one row per follow that counts, within a country
    strengths -> followee_edges    user_edges of graph 'bff': shared followees, direct and mutual follows
    strengths -> pagerank_edges    user_edges of graph 'ppr': where walks along follows end

The paper names both graphs and defines neither; the scores are ours. A user without events has edges here as soon as somebody near
them by follows has events: that is how new users get candidates. They are nobody's neighbour, since they have nothing to lend.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F
from scipy import sparse

from ..clock import DAY_MS, known_before
from ..config import FollowConfig, GraphConfig
from ..lake import UNITS, in_units, make_private, timestamp
from ..lake.work_units import keep, kept, unfinished, unit_name
from ..tables import GRAPH_BITS
from .pagerank import personalised_pagerank, transitions

SOURCES_PER_UNIT = 4096  # seconds of one core
RANKED = "country string, src_user_id string, dst_user_id string, weight double, rank int"


def follow_strengths(follows: DataFrame, users: DataFrame, config: FollowConfig, as_of_ms: int) -> DataFrame:
    """country, src_user_id, dst_user_id, strength (0 to 1], src_known, dst_known: follows before as_of between users of one country.

    users: user_id, country of those with events. One without events belongs to the country in which most of those live whom it
    follows or who follow it (ties: the first by name); where there is none it is left out. strength = 0.5 ** (age / half life); of a
    user's follows the strongest most_followees stay, ties by id.
    """
    known = follows.where(known_before(F.unix_millis("event_time"), as_of_ms)).where("src_user_id != dst_user_id")
    age_days = (F.lit(as_of_ms) - F.unix_millis("event_time")) / DAY_MS
    known = known.withColumn("strength", F.pow(F.lit(0.5), age_days / config.half_life_days))
    strongest = Window.partitionBy("src_user_id").orderBy(F.col("strength").desc(), "dst_user_id")
    known = known.withColumn("place", F.row_number().over(strongest)).where(F.col("place") <= config.most_followees)
    known = known.select("src_user_id", "dst_user_id", "strength")

    ends = known.select(F.col("src_user_id").alias("user_id"), F.col("dst_user_id").alias("other")).union(
        known.select("dst_user_id", "src_user_id")
    )
    others = users.select(F.col("user_id").alias("other"), "country")
    votes = ends.join(users, "user_id", "left_anti").join(others, "other").groupBy("user_id", "country").agg(F.count("*").alias("n"))
    settled = votes.groupBy("user_id").agg(F.min_by("country", F.struct(-F.col("n"), F.col("country"))).alias("country"))
    homes = users.select("user_id", "country", F.lit(True).alias("known")).union(settled.withColumn("known", F.lit(False)))

    def at(end: str) -> DataFrame:
        return homes.select(F.col("user_id").alias(f"{end}_user_id"), "country", F.col("known").alias(f"{end}_known"))

    columns = ("country", "src_user_id", "dst_user_id", "strength", "src_known", "dst_known")
    return known.join(at("src"), "src_user_id").join(at("dst"), ["dst_user_id", "country"]).select(*columns)


def followee_edges(strengths: DataFrame, config: GraphConfig, as_of_ms: int) -> DataFrame:
    """user_edges of graph 'bff': at most k2 per user, by

        score(a, b) = cosine(a, b) + direct * strength(a -> b) + mutual * min(strength(a -> b), strength(b -> a))

    cosine of the vectors of followees, each as strength / sqrt(log2(1 + its followers)): Adamic and Adar's weight of what two share.
    A followee with more than hub_followers followers counts in the lengths, not in the product. Rounded to 1e-6, ties by id.
    Reads the strengths three times: persist them. Cost: the sum over followees of the square of their followers, none above hub_followers.
    """
    follow = config.follow
    of_followee, of_user = Window.partitionBy("country", "dst_user_id"), Window.partitionBy("country", "src_user_id")
    counted = strengths.withColumn("followers", F.count(F.lit(1)).over(of_followee))
    valued = counted.withColumn("value", F.col("strength") / F.sqrt(F.log2(1.0 + F.col("followers"))))
    square = F.sum(in_units(F.col("value") * F.col("value"))).over(of_user) / UNITS
    shareable = valued.withColumn("value", F.col("value") / F.sqrt(square)).where(
        (F.col("followers") <= follow.hub_followers) & (F.col("followers") > 1)
    )
    mine, theirs = (
        shareable.select("country", "dst_user_id", *(F.col(c).alias(f"{name}_{c}") for c in ("src_user_id", "src_known", "value")))
        for name in ("a", "b")
    )
    met = mine.join(theirs, ["country", "dst_user_id"]).where("a_src_user_id < b_src_user_id")
    product = in_units(F.col("a_value") * F.col("b_value"))
    keys = ("a_src_user_id", "b_src_user_id", "a_src_known", "b_src_known")
    shared = met.groupBy("country", *keys).agg((F.sum(product) / UNITS).alias("score"))
    ways = [
        F.when(F.col(f"{dst}_src_known"), F.struct(F.col(f"{src}_src_user_id").alias("src"), F.col(f"{dst}_src_user_id").alias("dst")))
        for src, dst in (("a", "b"), ("b", "a"))
    ]
    both_ways = shared.select("country", F.explode(F.array_compact(F.array(*ways))).alias("way"), "score").select(
        "country", F.col("way.src").alias("src_user_id"), F.col("way.dst").alias("dst_user_id"), "score"
    )
    back = strengths.select(
        "country", F.col("dst_user_id").alias("src_user_id"), F.col("src_user_id").alias("dst_user_id"), F.col("strength").alias("back")
    )
    strength = F.col("strength")
    mutual = F.least(strength, F.coalesce("back", F.lit(0.0)))
    linked = strengths.where("dst_known").join(back, ["country", "src_user_id", "dst_user_id"], "left")
    direct = linked.select("country", "src_user_id", "dst_user_id", (follow.direct * strength + follow.mutual * mutual).alias("score"))
    scores = both_ways.union(direct).groupBy("country", "src_user_id", "dst_user_id")
    weighed = scores.agg(F.round(F.sum("score"), 6).alias("weight")).where("weight > 0")  # of at most two numbers: no order to depend on
    best = Window.partitionBy("country", "src_user_id").orderBy(F.col("weight").desc(), "dst_user_id")
    return _as_edges(weighed.withColumn("rank", F.row_number().over(best)).where(F.col("rank") <= config.k2), "bff", as_of_ms)


def pagerank_edges(strengths: DataFrame, config: GraphConfig, as_of_ms: int, folder: str) -> DataFrame:
    """user_edges of graph 'ppr': at most k2 per user with a followee, weight = personalised PageRank along follows, ties by id.

    The follows of a country are laid down in `folder` (which driver and executors reach) as one sparse matrix, that the tasks of a
    machine share by mapping it into memory: no task holds a copy, and nothing crosses the shuffle once per task. A country must fit in
    one worker: 16 bytes per follow, and its ids. Walks at once; the frame reads the units' results in the folder: keep it until then.
    """
    spark = strengths.sparkSession
    summary = strengths.groupBy("country").applyInArrow(lambda table: _lay_down(table, folder), "country string, nodes long").collect()
    cut = [
        (row["country"], begin, min(begin + SOURCES_PER_UNIT, row["nodes"]))
        for row in sorted(summary, key=lambda row: (-row["nodes"], row["country"]))
        for begin in range(0, row["nodes"], SOURCES_PER_UNIT)
    ]
    units = spark.createDataFrame(cut, "country string, begin long, end long")
    units = unfinished(units.withColumn("unit", unit_name(F.lit("ppr"), F.col("country"), F.col("begin"))), folder)
    k2, pagerank = config.k2, config.pagerank

    def rank(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for unit in batch.to_pylist():
                walk, ids, eligible = _take_up(folder, unit["country"])
                sources = np.arange(unit["begin"], unit["end"])
                found = personalised_pagerank(walk, sources, k2, pagerank, eligible)
                place = np.arange(len(found.row)) - np.searchsorted(found.row, found.row)
                ranked = pa.table(
                    [
                        pa.array([unit["country"]] * len(found.row), pa.string()),
                        ids.take(pa.array(sources[found.row])).cast(pa.string()),
                        ids.take(pa.array(found.node)).cast(pa.string()),
                        pa.array(found.weight),
                        pa.array((place + 1).astype(np.int32)),
                    ],
                    names=[name.split()[0] for name in RANKED.split(", ")],
                )
                yield from keep(folder, unit["unit"], ranked).to_batches()

    units.repartition(max(1, len(cut))).mapInArrow(rank, "unit string, rows long").agg(F.sum("rows")).collect()
    return _as_edges(kept(spark, folder, "ppr", RANKED), "ppr", as_of_ms)


def _as_edges(edges: DataFrame, graph: str, as_of_ms: int) -> DataFrame:
    return edges.select(
        "src_user_id",
        "dst_user_id",
        "country",
        F.lit(graph).alias("graph"),
        "weight",
        "rank",
        timestamp(as_of_ms).alias("as_of"),
        F.lit(GRAPH_BITS[graph]).alias("origins"),
    )


def _place_of(folder: str, country: str) -> Path:
    return Path(folder) / hashlib.sha256(country.encode()).hexdigest()[:32]  # any name may be a country's


def _lay_down(table: pa.Table, folder: str) -> pa.Table:
    """One country's follows as files: ids ascending, the walk's transitions, who may be an answer. Returns country, nodes."""
    country = table.column("country")[0].as_py()
    ends = [table.column(name).cast(pa.large_string()).combine_chunks() for name in ("src_user_id", "dst_user_id")]
    ids = pc.unique(pa.chunked_array(ends))
    ids = ids.take(pc.sort_indices(ids))
    source, target = (pc.index_in(end, value_set=ids).to_numpy(zero_copy_only=False) for end in ends)
    # Equal rows in whatever order the shuffle gave them.
    order = np.lexsort((target, source))
    strength = table.column("strength").to_numpy()
    walk = transitions(source[order], target[order], strength[order], len(ids))
    eligible = np.zeros(len(ids), bool)
    for rows, known in ((source, "src_known"), (target, "dst_known")):
        eligible[rows] = table.column(known).to_numpy()
    arrays = {"indptr": walk.indptr, "indices": walk.indices, "data": walk.data, "eligible": eligible}
    place = _place_of(folder, country)
    unfinished = tempfile.mkdtemp(dir=folder)
    for name, values in arrays.items():
        np.save(os.path.join(unfinished, name), values)
    with pa.OSFile(os.path.join(unfinished, "ids.arrow"), "wb") as sink, pa.ipc.new_file(sink, pa.schema([("id", ids.type)])) as writer:
        writer.write(pa.record_batch([ids], names=["id"]))
    make_private(unfinished)
    try:
        os.rename(unfinished, place)
    except OSError:  # a second attempt at the same task was faster: what it wrote is the same
        if not place.is_dir():
            raise
        shutil.rmtree(unfinished)
    return pa.table({"country": [country], "nodes": [len(ids)]})


def _take_up(folder: str, country: str) -> tuple[sparse.csr_matrix, pa.Array, np.ndarray]:
    """(walk, ids, eligible) of a country, mapped into memory."""
    place = _place_of(folder, country)
    data, indices, indptr, eligible = (np.load(place / f"{name}.npy", mmap_mode="r") for name in ("data", "indices", "indptr", "eligible"))
    ids = pa.ipc.open_file(pa.memory_map(str(place / "ids.arrow"))).get_batch(0).column(0)
    nodes = len(indptr) - 1
    return sparse.csr_matrix((data, indices, indptr), shape=(nodes, nodes), copy=False), ids, eligible
