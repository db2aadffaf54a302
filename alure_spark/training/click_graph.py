"""The graph of who clicked what, as it was known at one moment: Spark finds its edges and samples the neighbors, the driver trains on it.

Enters: `events`. Leaves: a `ClickGraph` with the ids of its nodes; and, of a trained model, rows of `similarity_embeddings`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from ..arrow import matrix_column
from ..clock import DAY_MS, EARLIEST_MS, format_time, known_before
from ..config import SimilarityConfig
from ..errors import DataError
from ..ranking.graph_sage import ClickGraph
from ..tables import SIMILARITY_EMBEDDINGS

USER, ITEM = "user", "item"  # kinds of nodes
MILLION = 1_000_000  # in which shares are drawn


@dataclass(frozen=True)
class NamedGraph:
    """A graph, and whose its nodes are."""

    graph: ClickGraph
    users: pa.Array  # (users,) string, ascending: the ids of the first nodes
    items: pa.Array  # (items,) string, ascending: of those behind them


def click_edges(events: DataFrame, sources: tuple[str, ...], config: SimilarityConfig, as_of_ms: int) -> DataFrame:
    """user_id, item_id: one row per user and item with an event of the sources that was known before as_of, however many there were.

    Users and items with fewer than min_events events (of these sources, in these days) are left out, once: who has no edge after that
    is in no row.
    """
    known_ms = F.unix_millis("known_at")
    known = events.where(known_before(known_ms, as_of_ms) & F.col("source").isin(list(sources)) & F.col("item_id").isNotNull())
    if config.days:
        known = known.where(known_ms >= max(as_of_ms - round(config.days * DAY_MS), EARLIEST_MS))
    pairs = known.groupBy("user_id", "item_id").agg(F.count("*").alias("events"))
    edges = pairs
    for node in ("user_id", "item_id"):  # both are counted before either is left out
        frequent = pairs.groupBy(node).agg(F.sum("events").alias("of_node")).where(F.col("of_node") >= config.min_events)
        edges = edges.join(frequent.select(node), node, "left_semi")
    return edges.select("user_id", "item_id")


def with_draws(edges: DataFrame, seed: int, validation_share: float = 0.0) -> DataFrame:
    """The edges with of_user, of_item INT: the place of the neighbor in the draw of the edge's user, and of its item, from 1; held_out.

    The draw of a node is the order of hash (seed, node, neighbor), ties by the neighbor: the first of it are a sample without
    replacement that no partition and no other edge decides. held_out BOOLEAN: about validation_share of the edges, by a hash; never the
    first of a draw, so that every node keeps an edge.
    """

    def place(node: str, neighbour: str) -> Column:
        drawn = Window.partitionBy(node).orderBy(F.xxhash64(F.lit(seed), node, neighbour), neighbour)
        return F.row_number().over(drawn)

    drawn = edges.withColumns({"of_user": place("user_id", "item_id"), "of_item": place("item_id", "user_id")})
    chosen = F.pmod(F.xxhash64(F.lit("held out"), F.lit(seed), "user_id", "item_id"), F.lit(MILLION)) < round(validation_share * MILLION)
    return drawn.withColumn("held_out", chosen & (F.col("of_user") > 1) & (F.col("of_item") > 1))


def collect_graph(events: DataFrame, sources: tuple[str, ...], config: SimilarityConfig, as_of_ms: int) -> NamedGraph:
    """The graph on the driver, some 200 bytes an edge while it is made: millions of edges, not billions.

    Raises DataError without an edge, and above similarity.max_edges.
    """
    edges = click_edges(events, sources, config, as_of_ms).persist()
    try:
        count = edges.count()
        if not count:
            raise DataError(
                f"no click of similarity.sources ({', '.join(sources) or 'none that the policy leaves'}) known before "
                f"{format_time(as_of_ms)} is an edge between a user and an item with similarity.min_events={config.min_events} events "
                "each: name other sources, lower min_events, raise similarity.days, or choose a later time.as_of"
            )
        if count > config.max_edges:
            raise DataError(
                f"the graph of similarity.sources has {count:,} edges, and similarity.max_edges is {config.max_edges:,}: shorten "
                "similarity.days, raise similarity.min_events, or raise max_edges where the driver has some 200 bytes for each"
            )
        rows = with_draws(edges, config.seed, config.validation_share).toArrow()
    finally:
        edges.unpersist()
    return graph_of(rows, max(config.fanout))


def graph_of(rows: pa.Table, width: int) -> NamedGraph:
    """Rows of with_draws in any order -> the graph; neighbors are the first `width` of each draw, without those that are held out."""
    names, node = {}, {}
    for column in ("user_id", "item_id"):
        distinct = pc.unique(rows.column(column))
        names[column] = distinct.take(pc.sort_indices(distinct))
        node[column] = pc.index_in(rows.column(column), value_set=names[column]).to_numpy().astype(np.int64)
    users, held_out = len(names["user_id"]), rows.column("held_out").to_numpy()
    user, item = node["user_id"], node["item_id"] + users
    neighbours = np.full((users + len(names["item_id"]), width), -1, np.int64)
    for of, near, column in ((user, item, "of_user"), (item, user, "of_item")):
        place = rows.column(column).to_numpy() - 1
        sampled = (place < width) & ~held_out
        neighbours[of[sampled], place[sampled]] = near[sampled]
    order = np.lexsort((item, user))
    edges, held_out = np.stack([user, item], axis=1)[order], held_out[order]
    graph = ClickGraph(users, *map(torch.from_numpy, (neighbours, edges[~held_out], edges[held_out])))
    return NamedGraph(graph, names["user_id"], names["item_id"])


def embedding_rows(named: NamedGraph, embeddings: torch.Tensor, model: str, as_of_ms: int) -> pa.Table:
    """Rows of `similarity_embeddings`, one per node. embeddings (N, D) float32, in the order of the nodes; model: the model_id."""
    count = len(embeddings)
    kind = np.repeat([USER, ITEM], [len(named.users), len(named.items)])
    columns = {
        "kind": pa.array(kind, pa.string()),
        "node_id": pa.concat_arrays([named.users.cast(pa.string()), named.items.cast(pa.string())]),
        "as_of": pa.array(np.full(count, as_of_ms * 1000), pa.timestamp("us", tz="UTC")),
        "model_id": pa.array([model] * count, pa.string()),
        "embedding": matrix_column(embeddings.numpy()),
    }
    return pa.table([columns[name] for name in SIMILARITY_EMBEDDINGS.column_names], names=list(SIMILARITY_EMBEDDINGS.column_names))
