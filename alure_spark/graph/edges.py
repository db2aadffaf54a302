"""The similarity graph: a directed edge from each user to the k2 nearest users of the country (ALURE, section 3).

Search is cut into units (country, block of the base, block of the queries), each one group of rows in one worker and each
of bounded size. With exact search a block of the base is any share of the country. With probed search it is a set of
whole lists (clusters), near ones together, so that the k1_probed lists of a user lie in few blocks: a query crosses the
shuffle once per block that holds one of its lists, not once per list. The best of all blocks are then merged per user.
The result of a unit is a file in a folder (lake/work_units.py): a killed run that starts again with the same folder goes on
where it stopped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from ..arrow import by_value, bytes_column, list_column
from ..config import GraphConfig
from ..errors import DataError
from ..lake.work_units import keep, kept, unfinished, unit_name
from ..tables import GRAPH_BITS
from .arrays import FOUND, column, found_column, matrix, one_batch, unpacked, worker_threads
from .kmeans import collect_centroids, collect_sizes
from .search import choose_method, nearest, neighbours

ROUTED = (
    "user_id string, country string, as_of timestamp, vector binary, "
    "own_list binary, lists binary, base_blocks int, block int, blocks array<int>, query_block int, query_blocks int"
)
WHOLE, PART = "whole", "part"  # kinds of units: of a country whose base is one block, and of another
PARTIAL = f"country string, user_id string, as_of timestamp, found {FOUND}"
# Users in a unit, in multiples of unit_users. The larger the base, the fewer blocks a query visits, each of which costs a copy of it, a
# search for its first neighbours and a merge: most countries are one block. Small blocks of queries are there for parallel tasks.
UNIT_USERS = 20_000
BASE, EXACT_QUERIES, PROBED_QUERIES = 10, 1, 5


@dataclass(frozen=True)
class Route:
    """How one country is searched."""

    method: str  # exact or probed
    centroids: np.ndarray  # (k1, d) float32
    block_of_list: np.ndarray  # (k1,) int32; probed only
    base_blocks: int
    query_blocks: int
    probed: int  # lists per query


def plan_route(centroids: np.ndarray, sizes: np.ndarray, config: GraphConfig, unit_users: int = UNIT_USERS) -> Route:
    """The method of choose_method, and the blocks, from the centroids (k1, d) of a country and their numbers of users (k1,)."""
    users = int(sizes.sum())
    method = choose_method(users, config, centroids.shape[1])
    blocks = max(1, -(-users // (BASE * unit_users)))
    order = _near_together(centroids)
    before = np.cumsum(sizes[order]) - sizes[order]
    block_of_list = np.empty(len(sizes), np.int32)
    block_of_list[order] = np.minimum(before * blocks // max(1, users), blocks - 1)  # an empty list may begin behind the last user
    queries = unit_users * (EXACT_QUERIES if method == "exact" else PROBED_QUERIES)
    return Route(method, centroids, block_of_list, blocks, -(-users // queries), min(config.k1_probed, len(sizes)))


def _near_together(centroids: np.ndarray) -> np.ndarray:
    """An order of the centroids (k1,) in which each is followed by the nearest one that is left."""
    order = [0]
    left = np.ones(len(centroids), bool)
    while len(order) < len(centroids):
        left[order[-1]] = False
        order.append(int(np.argmax(np.where(left, centroids @ centroids[order[-1]], -np.inf))))
    return np.array(order)


def visits(route: Route, vectors: np.ndarray, salt: np.ndarray) -> tuple[np.ndarray, ...]:
    """Where users (N, d) go: own list (N,), lists probed (N, P), own block (N,), blocks to visit (sum of counts,), counts (N,)."""
    rows = len(vectors)
    if route.method == "exact":
        everywhere = np.tile(np.arange(route.base_blocks, dtype=np.int32), rows)
        own = (salt // route.query_blocks) % route.base_blocks
        return np.zeros(rows, np.int32), np.zeros((rows, 1), np.int32), own, everywhere, np.full(rows, route.base_blocks)
    _, lists = nearest(vectors, route.centroids, route.probed)
    blocks = np.sort(route.block_of_list[lists], axis=1)
    fresh = np.diff(blocks, axis=1, prepend=-1) > 0
    own = lists[:, 0]
    return own, lists, route.block_of_list[own], blocks[fresh], fresh.sum(axis=1)


def similarity_edges(
    embeddings: DataFrame, cluster_centroids: DataFrame, config: GraphConfig, folder: str, unit_users: int = UNIT_USERS
) -> DataFrame:
    """user_edges of graph 'alure': at most k2 per user, weight = cosine rounded to 1e-6, rank 1 = nearest, ties by dst_user_id.

    embeddings: user_id, country, as_of, embedding (unit norm), one row per user; cluster_centroids with `size`.
    A user of a country with n users has min(k2, n - 1) edges with exact search; with probed search no more than the probed
    lists hold. Collects the centroids and sizes, and searches at once; the frame reads the units' results in `folder`: keep it until
    then. Cost: choose_method. Raises DataError on a country without centroids.
    """
    centroids = collect_centroids(cluster_centroids)
    sizes = collect_sizes(cluster_centroids)
    routes = {country: plan_route(centroids[country], sizes[country], config, unit_users) for country in sizes}

    # 1. every user: the lists to probe, and the blocks that hold them
    def route(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        worker_threads()
        for batch in batches:
            for country, some in by_value(batch, "country"):
                yield _routed(routes, country, some)

    salted = embeddings.select("user_id", "country", "as_of", "embedding", F.xxhash64("user_id").alias("salt"))
    routed = salted.mapInArrow(route, ROUTED)

    # 2. every user once per unit: as base in all query blocks of the own block, as query in the own query block of all blocks
    as_base = F.transform(F.sequence(F.lit(0), F.col("query_blocks") - 1), lambda other: _visit(F.col("block"), other, False))
    as_query = F.transform("blocks", lambda block: _visit(block, F.col("query_block"), True))
    kind = F.when(F.col("base_blocks") == 1, WHOLE).otherwise(PART)
    unit = unit_name(kind, F.col("country"), F.col("visit.block"), F.col("visit.query_block")).alias("unit")
    lists = F.when(F.col("visit.is_query"), F.col("lists")).otherwise(F.col("own_list")).alias("lists")
    visiting = routed.withColumn("visit", F.explode(F.concat(as_base, as_query)))
    units = visiting.select(unit, "visit.is_query", "country", "user_id", "as_of", "vector", lists)

    # 3. every unit that has no result yet: the best of this block of the base
    k2 = config.k2

    def search(table: pa.Table) -> pa.Table:
        worker_threads()
        batch = one_batch(table)
        return keep(folder, batch.column("unit")[0].as_py(), search_unit(batch, k2))

    unfinished(units, folder).groupBy("unit").applyInArrow(search, "unit string, rows long").agg(F.sum("rows")).collect()
    answers, partial = (kept(embeddings.sparkSession, folder, name, PARTIAL) for name in (WHOLE, PART))

    # 4. every user: the best of all blocks
    return ranked_found(answers.unionByName(best_found(partial, k2))).select(
        F.col("user_id").alias("src_user_id"),
        "dst_user_id",
        "country",
        F.lit("alure").alias("graph"),
        "weight",
        "rank",
        "as_of",
        F.lit(GRAPH_BITS["alure"]).alias("origins"),
    )


def pruned_edges(edges: DataFrame, config: GraphConfig) -> DataFrame:
    """The edges of one graph without those that the conf does not want, ranks closed up; the same frame where it wants all.

    In this order: min_similarity; mutual (of what is left, edges whose reverse is left too); hub_cap (of the edges to a user the
    heaviest, ties by src_user_id). Each option costs one shuffle of the edges.
    """
    kept = edges.where(F.col("weight") >= config.min_similarity) if config.min_similarity > -1 else edges
    if config.mutual:
        reverse = kept.select(F.col("dst_user_id").alias("src_user_id"), F.col("src_user_id").alias("dst_user_id"))
        kept = kept.join(reverse, ["src_user_id", "dst_user_id"], "left_semi")
    if config.hub_cap:
        heaviest = Window.partitionBy("dst_user_id").orderBy(F.col("weight").desc(), "src_user_id")
        kept = kept.withColumn("_place", F.row_number().over(heaviest)).where(F.col("_place") <= config.hub_cap).drop("_place")
    if kept is edges:
        return edges
    order = Window.partitionBy("src_user_id").orderBy("rank")
    return kept.withColumn("rank", F.row_number().over(order)).select(*edges.columns)


def best_found(partial: DataFrame, k: int) -> DataFrame:
    """Several partial answers per user -> one with the k best: columns of PARTIAL."""
    merged = partial.groupBy("country", "user_id", "as_of").agg(F.flatten(F.collect_list("found")).alias("found"))
    return merged.withColumn("found", F.slice(F.sort_array("found"), 1, k))


def ranked_found(answers: DataFrame) -> DataFrame:
    """One answer per user, best first -> a row per neighbour: country, user_id, as_of, dst_user_id, weight, rank."""
    exploded = answers.select("country", "user_id", "as_of", F.posexplode("found").alias("place", "best"))
    return exploded.select(
        "country", "user_id", "as_of", "best.dst_user_id",
        (F.lit(0.0) - F.col("best.distance")).alias("weight"), (F.col("place") + 1).cast("int").alias("rank"),
    )  # fmt: skip


def search_unit(batch: pa.RecordBatch, k2: int) -> pa.Table:
    """Rows (is_query, country, user_id, as_of, vector, lists) of one unit, ordered by user_id -> a row of PARTIAL per query."""
    is_query = column(batch, "is_query").astype(bool)
    queries, base = (batch.filter(pa.array(rows)) for rows in (is_query, ~is_query))
    if not len(base) or not len(queries):
        result = queries.slice(0, 0)
        best = found_column(np.empty(0, int), np.empty(0, object), np.empty(0), 0)
    else:
        ids = column(base, "user_id")
        vectors = [unpacked(side, "vector", np.float32) for side in (queries, base)]
        lists = [unpacked(side, "lists", np.int32) for side in (queries, base)]
        pairs = neighbours(vectors[0], column(queries, "user_id"), vectors[1], ids, k2, lists[0], lists[1][:, 0])
        result = queries
        best = found_column(pairs.row, ids[pairs.position], pairs.weight, len(queries))
    names = ["country", "user_id", "as_of"]
    return pa.Table.from_arrays([*(result.column(name) for name in names), best], names=[*names, "found"])


def _visit(block: Column, query_block: Column, is_query: bool) -> Column:
    return F.struct(block.alias("block"), query_block.cast("int").alias("query_block"), F.lit(is_query).alias("is_query"))


def _routed(routes: dict[str, Route], country: str, users: pa.RecordBatch) -> pa.RecordBatch:
    if country not in routes:
        raise DataError(f"country {country!r} has no centroids: build cluster_centroids from the same users")
    route, salt = routes[country], column(users, "salt")
    vectors = matrix(users, "embedding")
    own, lists, block, blocks, counts = visits(route, vectors, salt)
    values = {name: users.column(name) for name in ("user_id", "country", "as_of")}
    packed = {"vector": vectors, "own_list": own.astype(np.int32), "lists": lists.astype(np.int32)}
    values |= {name: bytes_column(numbers, name) for name, numbers in packed.items()}
    values |= {
        "base_blocks": _ints(np.full(len(vectors), route.base_blocks)),
        "block": _ints(block),
        "blocks": list_column(blocks.astype(np.int32), counts),
    }
    values |= {"query_block": _ints(salt % route.query_blocks), "query_blocks": _ints(np.full(len(vectors), route.query_blocks))}
    return pa.RecordBatch.from_pydict(values)


def _ints(values: np.ndarray) -> pa.Array:
    return pa.array(values.astype(np.int32))
