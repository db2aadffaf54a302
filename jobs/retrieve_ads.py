"""user_edges, events, ads -> ad_candidates: ads through similar users, at one as_of."""

from __future__ import annotations

import pandas as pd
from pyspark.sql import functions as F

from alure_spark.lake import JobRun, as_of_scope
from alure_spark.plots import histogram
from alure_spark.retrieval.candidates import ad_candidates
from jobs.command import Context, Job, Report


def retrieve(context: Context, run: JobRun) -> Report:
    config = context.config
    scope = as_of_scope(config.time.as_of_ms)
    edges = run.read("user_edges").where(scope).where(F.col("graph") == config.graph.retrieved)
    candidates = ad_candidates(edges, run.read("events"), run.read("ads"), config.retrieval, config.time.as_of_ms)
    users = run.write("ad_candidates", candidates, scope)
    counts = context.lake.read("ad_candidates", run.outputs["ad_candidates"]).where(scope).select(F.size("ad_id").alias("ads"))
    listed = pd.DataFrame(counts.groupBy("ads").count().orderBy("ads").toPandas())
    total = int((listed["ads"] * listed["count"]).sum())
    with_ads = int(listed.loc[listed["ads"] > 0, "count"].sum())
    metrics: dict[str, float | None] = {
        "users": users,
        "users_with_candidates": with_ads,
        "candidates": total,
        "candidates_per_user": total / users if total else None,
    }
    figure = histogram(listed["ads"].to_numpy(), listed["count"].to_numpy(), "ads retrieved per user", "users")
    return Report(metrics, {"retrieve_ads/ads_per_user.png": figure} if users else {})


JOB = Job(
    "retrieve_ads",
    "candidate ads of each user from what similar users engaged with",
    ("user_edges", "events", "ads"),
    ("ad_candidates",),
    lambda config: as_of_scope(config.time.as_of_ms),
    retrieve,
)

if __name__ == "__main__":
    JOB.main()
