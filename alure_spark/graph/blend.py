"""Several user graphs as one: every edge counts as its graph does, and remembers where it comes from."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from ..config import GraphConfig
from ..lake import UNITS, in_units
from ..tables import GRAPH_BITS


def with_blend(made: Sequence[DataFrame], config: GraphConfig) -> DataFrame:
    """The edges of all graphs and, where there are several, of their blend. Persists the frames, which the blend reads too.

    Not their union: Spark makes one flat union of a union of unions, in which it does not find the persisted one again.
    """
    united = functools.reduce(DataFrame.unionByName, [frame.persist() for frame in made])
    return united.unionByName(blended_edges(united, config)) if len(made) > 1 else united


def blended_edges(edges: DataFrame, config: GraphConfig) -> DataFrame:
    """user_edges of graph 'blend' from those of the other graphs, at one as_of.

        weight(a, b) = sum over graphs g of blend(g, country) * weight_g(a, b) / max over c of weight_g(a, c)

    So a user's nearest neighbour in a graph counts what the graph counts, whatever its unit. Edges of weight 0 or less, and graphs
    that count 0 in the country, add nothing. A user has as many edges as all graphs together; rounded to 1e-6, ties by dst_user_id.
    """
    counts = _by_graph(config.blend)
    for country, weights in config.blend_by_country.items():
        counts = F.when(F.col("country") == country, _by_graph({**config.blend, **weights})).otherwise(counts)
    nearest = Window.partitionBy("src_user_id", "graph")
    share = F.col("weight") / F.max("weight").over(nearest) * counts
    shares = edges.where("weight > 0").withColumn("units", in_units(share)).where("units > 0")
    merged = shares.groupBy("src_user_id", "dst_user_id", "country", "as_of").agg(
        F.round(F.sum("units") / UNITS, 6).alias("weight"), F.bit_or("origins").alias("origins")
    )
    best = Window.partitionBy("src_user_id").orderBy(F.col("weight").desc(), "dst_user_id")
    return merged.where("weight > 0").select(
        "src_user_id",
        "dst_user_id",
        "country",
        F.lit("blend").alias("graph"),
        "weight",
        F.row_number().over(best).alias("rank"),
        "as_of",
        "origins",
    )


def _by_graph(weights: Mapping[str, float]) -> Column:
    column = F.lit(0.0)
    for graph in GRAPH_BITS:
        column = F.when(F.col("graph") == graph, F.lit(float(weights.get(graph, 0.0)))).otherwise(column)
    return column
