"""Writes `ad_candidates` and `serving_candidates` of one as_of, from the edges of the graph that the conf retrieves through."""

from __future__ import annotations

import pandas as pd
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from ..clock import format_time
from ..config import Config
from ..errors import LakeError
from ..lake import JobRun, as_of_scope, timestamp
from ..tables import ORIGIN_BITS
from .candidates import ad_candidates, serving_candidates
from .standalone import Query, Standalone, shown_ads


def retrieved_edges(user_edges: DataFrame, config: Config, since_ms: int | None = None) -> DataFrame:
    """The edges of graph.retrieved at as_of, or at since_ms (epoch ms). Raises LakeError where there is none."""
    as_of = config.time.as_of_ms
    edges = user_edges.where(as_of_scope(as_of if since_ms is None else since_ms)).where(F.col("graph") == config.graph.retrieved)
    if edges.isEmpty():  # else everybody's candidates would go
        moment, remedy = format_time(as_of), "run jobs/build_graph.py for this as_of first"
        if since_ms is not None:
            moment, remedy = f"--since {format_time(since_ms)}", "give --since an as_of that has one"
        raise LakeError(f"table 'user_edges' has no graph '{config.graph.retrieved}' of {moment}: {remedy}")
    return edges


def searched(run: JobRun, config: Config, users: DataFrame, ads: DataFrame, query: Query) -> Standalone:
    """The standalone search of as_of. users: user_id, country, vector; ads: ad_id, vector.

    An ad may be shown in a country where it was shown, or engaged with, before as_of; one that was shown nowhere yet, in all.
    """
    sources = sorted({config.labels.impression_source, *config.retrieval.event_weights})
    shown = shown_ads(run.read("events"), sources, config.time.as_of_ms)
    return Standalone(users, ads, shown, query, config.transfer.retrieval)


def write_candidates(
    run: JobRun, config: Config, edges: DataFrame, standalone: Standalone | None = None
) -> tuple[dict[str, float | None], pd.DataFrame]:
    """(metrics, users per number of ads: ads, count). edges: `retrieved_edges`; standalone: one more source of candidates.

    serving_candidates are written where retrieval.hand_off_hours asks for them, but not for an old day that is run again.
    """
    as_of = config.time.as_of_ms
    scope = as_of_scope(as_of)
    candidates = ad_candidates(edges, run.read("events"), run.read("ads"), config.retrieval, as_of, standalone)
    users = run.write("ad_candidates", candidates, scope)
    written = run.written("ad_candidates").where(scope)
    later = run.written("ad_candidates").where(F.col("as_of") > timestamp(as_of))
    if config.retrieval.hand_off_hours and later.isEmpty():  # an old day that is run again is served no more
        run.write("serving_candidates", serving_candidates(written, config.retrieval.hand_off_hours))
    counts = written.select(F.size("ad_id").alias("ads"))
    listed = pd.DataFrame(counts.groupBy("ads").count().orderBy("ads").toPandas())
    total = int((listed["ads"] * listed["count"]).sum())
    metrics: dict[str, float | None] = {
        "users": users,
        "users_with_candidates": int(listed.loc[listed["ads"] > 0, "count"].sum()),
        "candidates": total,
        "candidates_per_user": total / users if users else None,
    }
    if standalone is not None:
        of_head = F.aggregate("graphs", F.lit(0), lambda total, one: total + one.bitwiseAND(ORIGIN_BITS["standalone"]))
        metrics["standalone.candidates"] = float(written.agg(F.sum(of_head)).collect()[0][0] or 0) / ORIGIN_BITS["standalone"]
    return metrics, listed
