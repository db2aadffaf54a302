"""Everything published for as_of, judged by what happened after it -> evaluation_users, metrics and plots; --against compares runs."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
from pyspark.sql import functions as F

from alure_spark.analysis import evaluation
from alure_spark.baselines.neighbours import idf_cosine_neighbours, random_neighbours
from alure_spark.clock import format_time
from alure_spark.errors import LakeError
from alure_spark.lake import JobRun, as_of_scope, timestamp
from alure_spark.plots import bars
from alure_spark.retrieval.candidates import active_ads, ad_candidates
from alure_spark.retrieval.protocol import paired_interval
from alure_spark.running import Context, Job, Report


def evaluate(context: Context, run: JobRun) -> Report:
    config, judge = context.config, context.config.evaluate
    as_of, scope = config.time.as_of_ms, as_of_scope(config.time.as_of_ms)
    events, ads = run.read("events"), run.read("ads")
    people = evaluation.population(events, as_of, judge.new_user_events).persist()
    edges = run.read("user_edges").where(scope).where(F.col("graph") == config.graph.retrieved)
    if edges.isEmpty():
        moment = format_time(as_of)
        raise LakeError(
            f"table 'user_edges' has no graph '{config.graph.retrieved}' of {moment}: run jobs/build_graph.py for this as_of first"
        )
    split = evaluation.split_items(events, edges, people, judge.item_sources or config.item_sources, config)
    peers = {"random_neighbours": random_neighbours(split.countries, judge.neighbours, judge.seed)}
    if split.everybody:  # exact neighbours need everybody's items on the driver
        peers["idf_cosine"] = idf_cosine_neighbours(split.had, split.countries, judge.neighbours)
    nobody = np.full_like(split.links, -1)
    items = evaluation.judge_items(split, {"pipeline": split.links, **peers, "popularity": nobody}, judge.k)

    sources = list(config.retrieval.event_weights)
    wanted = evaluation.later_ads(events, ads, sources, as_of, config.time.horizon_end_ms)
    wanted = evaluation.sample(wanted.join(people, "user_id"), judge.max_users).persist()
    ranked = {"pipeline": run.read("ad_candidates").where(scope)}
    for policy, neighbours in peers.items():
        links = context.spark.createDataFrame(evaluation.neighbour_edges(split, neighbours), _EDGES)
        mine = links.join(wanted.select(F.col("user_id").alias("src_user_id")), "src_user_id")
        ranked[policy] = ad_candidates(mine, events, ads, config.retrieval, as_of)
    ranked["popularity"] = evaluation.popular_ads(events, ads, sources, wanted, as_of, judge.k)
    found, shown = evaluation.judge_ads(ranked, wanted, judge.k)
    metrics: dict[str, float | None] = dict.fromkeys(("ads.judged_users", "ads.user_coverage", "ads.catalogue_coverage"))
    if len(found):
        users = found["user_id"].nunique()
        covered = {ad for user_ads in shown.values() for ad in user_ads}
        metrics["ads.judged_users"], metrics["ads.user_coverage"] = users, sum(map(bool, shown.values())) / users
        metrics["ads.catalogue_coverage"] = len(covered) / active_ads(ads, as_of).count()
        for graph, (share, of_hits) in evaluation.hits_by_graph(ranked["pipeline"], wanted, judge.k).items():
            metrics |= {f"ads.shown.{graph}": share, f"ads.hits.{graph}": of_hits}

    judged = pd.concat([found, items]).dropna(subset=["recall"])
    ids = context.spark.createDataFrame(judged[["user_id"]].drop_duplicates(), "user_id string")
    rows = judged.merge(pd.DataFrame(people.join(ids, "user_id").toPandas()), on="user_id").assign(config_hash=config.digest())
    frame = context.spark.createDataFrame(rows[_COLUMNS], _SCHEMA).withColumn("as_of", timestamp(as_of))
    run.write("evaluation_users", frame, f"{scope} AND config_hash = '{config.digest()}'")
    people.unpersist()
    wanted.unpersist()
    return _report(context, rows, metrics)


def _report(context: Context, rows: pd.DataFrame, metrics: dict[str, float | None]) -> Report:
    judge = context.config.evaluate
    table = evaluation.summary(rows, judge.bootstrap, judge.seed)
    figures, texts = (
        {},
        {
            "evaluate/summary.txt": table.to_string(index=False, float_format="%.4f")
            if len(table)
            else "nothing to judge: no later items or ads"
        },
    )
    for task in ("ads", "items"):
        mine = table[table["task"] == task]
        metrics[f"{task}.recall"] = metrics[f"{task}.ndcg"] = None
        for row in mine.itertuples():
            suffix = "" if row.policy == "pipeline" else f".{row.policy}"
            metrics[f"{task}.recall{suffix}"], metrics[f"{task}.ndcg{suffix}"] = row.recall, row.ndcg
            if suffix:
                metrics |= {f"{task}.recall_minus{suffix}": row.pipeline_minus, f"{task}.recall_minus{suffix}.low": row.low}
        if len(mine):
            recall = rows[rows["task"] == task].pivot(index="user_id", columns="policy", values="recall")
            spread = {
                name: paired_interval(recall[name].to_numpy(), np.zeros(len(recall)), judge.bootstrap, judge.seed)[1:] for name in recall
            }
            figures[f"evaluate/{task}_recall.png"] = bars(
                dict(zip(mine["policy"], mine["recall"], strict=True)), spread, f"{task}: Recall@{judge.k}", "pipeline"
            )
    if context.against:
        comparison = evaluation.compare(rows, _earlier(context), judge.bootstrap, judge.seed)
        texts["evaluate/against.txt"] = f"against {context.against}\n{comparison.to_string(index=False, float_format='%.4f')}"
        for row in comparison[comparison["group"] == "all users"].itertuples():
            metrics |= {
                f"{row.task}.recall_gain": row.difference,
                f"{row.task}.recall_gain.low": row.low,
                f"{row.task}.recall_gain.high": row.high,
            }
    return Report(metrics, figures, texts)


def _earlier(context: Context) -> pd.DataFrame:
    """The evaluation_users rows of the run to compare with (an MLflow run id, or a run_id of `runs`).

    Raises LakeError when there is no such run, or the version that it published has been vacuumed.
    """
    run_id = context.tracker.tag_of(context.against, "alure.run_id.evaluate") or context.against
    found = context.lake.runs().where((F.col("run_id") == run_id) & (F.col("job") == "evaluate") & (F.col("status") == "published")).first()
    if found is None:
        raise LakeError(
            f"--against {context.against}: no published evaluate run of that id in lake {context.lake.root}; MLflow lists the run ids"
        )
    version = found["outputs"]["evaluation_users"]
    try:
        rows = context.lake.read("evaluation_users", version).where(found["scope"]).where(F.col("config_hash") == found["config_hash"])
        return rows.toPandas()
    except Exception as error:
        if not VACUUMED.search(f"{error} {error.__cause__}"):
            raise
        raise LakeError(
            f"--against {context.against}: version {version} of evaluation_users is not there any more: files of old versions are erased "
            f"after lake.vacuum_hours ({context.config.lake.vacuum_hours:g}); evaluate again with that run's conf, and compare with the "
            "new run"
        ) from error


# What Spark and Delta say of a version whose files, or whose commits, were erased.
VACUUMED = re.compile(r"FILE_NOT_EXIST|FileNotFoundException|DELTA_FILE_NOT_FOUND|Cannot time travel Delta table|DELTA_VERSION_NOT_FOUND")
_EDGES = "src_user_id string, dst_user_id string, country string, weight double, origins int"
_COLUMNS = ["user_id", "country", "config_hash", "task", "policy", "new_user", "recall", "ndcg"]
_SCHEMA = "user_id string, country string, config_hash string, task string, policy string, new_user boolean, recall double, ndcg double"

JOB = Job(
    "evaluate",
    "recall and NDCG of candidates and graph by the held-out future",
    ("events", "ads", "user_edges", "ad_candidates"),
    ("evaluation_users",),
    lambda config: as_of_scope(config.time.as_of_ms),
    evaluate,
)

if __name__ == "__main__":
    JOB.main()
