"""Which graph foretells what users do next? An earlier day's edges, evaluated by what happened since: what each counts in the blend.

    lift = hits / expected
    hits      pairs (edge, ad) of which the neighbour had engaged with the ad before, and the user did for the first time since
    expected  the same if the neighbour had engaged with as many ads, drawn by their popularity in the country

So an active neighbour, or a popular ad, is no merit of a graph: one that knows nothing of its users has a lift of 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from ..clock import known_before
from ..config import GraphConfig
from ..lake import UNITS, in_units

DEVIATIONS = 2.0  # of the Poisson law, by which the hits of all countries must be more than expected
PRIOR_HITS = 100.0  # expected hits with which a country's lift is drawn towards that of all countries


class Hits(NamedTuple):
    country: str
    graph: str
    hits: float
    expected: float


def count_hits(edges: DataFrame, engaged: DataFrame, users: DataFrame, since_ms: int, until_ms: int) -> list[Hits]:
    """One row per country and graph with an edge whose user engaged with something new in [since, until).

    edges: user_edges at `since`; engaged: user_id, ad_id, known_at; users: user_id, country. Cost: new engagements times edges per
    user, joined with what the neighbours had.
    """
    first = engaged.groupBy("user_id", "ad_id").agg(F.min(F.unix_millis("known_at")).alias("known_ms")).join(users, "user_id").persist()
    had = first.where(known_before(F.col("known_ms"), since_ms))
    per_ad = had.groupBy("country", "ad_id").agg(F.count(F.lit(1)).alias("n"))
    total = per_ad.groupBy("country").agg(F.sum("n").alias("total"))
    share = per_ad.join(total, "country").select("country", "ad_id", in_units(F.col("n") / F.col("total")).alias("units"))
    new = first.where(~known_before(F.col("known_ms"), since_ms) & known_before(F.col("known_ms"), until_ms)).join(
        share, ["country", "ad_id"]
    )
    wanted = new.groupBy(F.col("user_id").alias("src_user_id")).agg(F.collect_list("ad_id").alias("wanted"), F.sum("units").alias("units"))
    lent = had.groupBy(F.col("user_id").alias("dst_user_id")).agg(F.collect_list("ad_id").alias("lent"))
    met = edges.join(wanted, "src_user_id").join(lent, "dst_user_id")
    counted = met.groupBy("country", "graph").agg(
        F.sum(F.size(F.array_intersect("wanted", "lent"))).alias("hits"), (F.sum(F.size("lent") * F.col("units")) / UNITS).alias("expected")
    )
    found = [
        Hits(row["country"], row["graph"], float(row["hits"]), row["expected"]) for row in counted.orderBy("country", "graph").collect()
    ]
    first.unpersist()
    return found


def overall(counted: Sequence[Hits]) -> dict[str, Hits]:
    """Graph -> its hits in all countries together."""
    graphs = sorted({row.graph for row in counted})
    sums = {graph: [row for row in counted if row.graph == graph] for graph in graphs}
    return {graph: Hits("", graph, sum(row.hits for row in rows), sum(row.expected for row in rows)) for graph, rows in sums.items()}


def measured_blend(counted: Sequence[Hits], config: GraphConfig) -> dict[str, dict[str, float]]:
    """Country -> graph -> what it counts: the conf's weight times (lift - 1), as a share of the best graph's; {} where none is above 1.

    The lift of a country is drawn towards that of all countries, which is taken DEVIATIONS below what was counted.
    """
    everywhere = {
        graph: max(1.0, (row.hits - DEVIATIONS * row.hits**0.5) / row.expected) if row.expected else 1.0
        for graph, row in overall(counted).items()
        if graph in config.graphs
    }
    if max(everywhere.values(), default=1.0) <= 1:
        return {}
    weights = {}
    for country in sorted({row.country for row in counted}):
        mine = {row.graph: row for row in counted if row.country == country}
        given = {**config.blend, **config.blend_by_country.get(country, {})}
        gains = {}
        for graph, lift in everywhere.items():
            row = mine.get(graph, Hits(country, graph, 0.0, 0.0))
            drawn = (row.hits + PRIOR_HITS * lift) / (row.expected + PRIOR_HITS)
            gains[graph] = max(0.0, drawn - 1.0) if lift > 1 else 0.0
        best = max(gains.values())
        if best > 0:
            weights[country] = {graph: given.get(graph, 0.0) * gain / best for graph, gain in gains.items()}
    return weights
