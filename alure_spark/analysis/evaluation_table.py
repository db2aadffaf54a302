"""Writes `evaluation_users` of one as_of: what the held-out future said of each policy; and reads those of an earlier run again."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
from pyspark.sql import functions as F

from ..baselines.neighbours import idf_cosine_neighbours, random_neighbours
from ..config import Config
from ..errors import LakeError
from ..lake import JobRun, Lake, as_of_scope, timestamp
from ..retrieval.candidate_table import retrieved_edges
from ..retrieval.candidates import active_ads, ad_candidates
from ..tracking import Tracker
from . import evaluation

# What Spark and Delta say of a version whose files, or whose commits, were erased.
VACUUMED = re.compile(r"FILE_NOT_EXIST|FileNotFoundException|DELTA_FILE_NOT_FOUND|Cannot time travel Delta table|DELTA_VERSION_NOT_FOUND")
EDGES = "src_user_id string, dst_user_id string, country string, weight double, origins int"
COLUMNS = ["user_id", "country", "config_hash", "task", "policy", "new_user", "recall", "ndcg"]
SCHEMA = "user_id string, country string, config_hash string, task string, policy string, new_user boolean, recall double, ndcg double"


def write_evaluation(run: JobRun, config: Config) -> tuple[pd.DataFrame, dict[str, float | None]]:
    """(COLUMNS of at most evaluate.max_users users per task and policy, metrics of the ads that were shown)."""
    settings, spark = config.evaluate, run.lake.spark
    as_of, scope = config.time.as_of_ms, as_of_scope(config.time.as_of_ms)
    events, ads = run.read("events"), run.read("ads")
    people = evaluation.population(events, as_of, settings.new_user_events).persist()
    edges = retrieved_edges(run.read("user_edges"), config)
    split = evaluation.split_items(events, edges, people, settings.item_sources or config.item_sources, config)
    peers = {"random_neighbours": random_neighbours(split.countries, settings.neighbours, settings.seed)}
    if split.everybody:  # exact neighbours need everybody's items on the driver
        peers["idf_cosine"] = idf_cosine_neighbours(split.had, split.countries, settings.neighbours)
    nobody = np.full_like(split.links, -1)
    items = evaluation.evaluate_items(split, {"pipeline": split.links, **peers, "popularity": nobody}, settings.k)

    sources = list(config.retrieval.event_weights)
    wanted = evaluation.later_ads(events, ads, sources, as_of, config.time.horizon_end_ms)
    wanted = evaluation.sample(wanted.join(people, "user_id"), settings.max_users).persist()
    ranked = {"pipeline": run.read("ad_candidates").where(scope)}
    for policy, neighbours in peers.items():
        links = spark.createDataFrame(evaluation.neighbour_edges(split, neighbours), EDGES)
        mine = links.join(wanted.select(F.col("user_id").alias("src_user_id")), "src_user_id")
        ranked[policy] = ad_candidates(mine, events, ads, config.retrieval, as_of)
    ranked["popularity"] = evaluation.popular_ads(events, ads, sources, wanted, as_of, settings.k)
    found, shown = evaluation.evaluate_ads(ranked, wanted, settings.k)
    metrics: dict[str, float | None] = dict.fromkeys(("ads.judged_users", "ads.user_coverage", "ads.catalogue_coverage"))
    if len(found):
        users = found["user_id"].nunique()
        covered = {ad for user_ads in shown.values() for ad in user_ads}
        metrics["ads.judged_users"], metrics["ads.user_coverage"] = users, sum(map(bool, shown.values())) / users
        metrics["ads.catalogue_coverage"] = len(covered) / active_ads(ads, as_of).count()
        for graph, (share, of_hits) in evaluation.hits_by_graph(ranked["pipeline"], wanted, settings.k).items():
            metrics |= {f"ads.shown.{graph}": share, f"ads.hits.{graph}": of_hits}

    evaluated = pd.concat([found, items]).dropna(subset=["recall"])
    ids = spark.createDataFrame(evaluated[["user_id"]].drop_duplicates(), "user_id string")
    rows = evaluated.merge(pd.DataFrame(people.join(ids, "user_id").toPandas()), on="user_id").assign(config_hash=config.digest())
    frame = spark.createDataFrame(rows[COLUMNS], SCHEMA).withColumn("as_of", timestamp(as_of))
    run.write("evaluation_users", frame, f"{scope} AND config_hash = '{config.digest()}'")
    people.unpersist()
    wanted.unpersist()
    return rows, metrics


def earlier_rows(lake: Lake, tracker: Tracker, against: str, vacuum_hours: float) -> pd.DataFrame:
    """The evaluation_users rows of the run to compare with (an MLflow run id, or a run_id of `runs`).

    Raises LakeError when there is no such run, or the version that it published has been vacuumed.
    """
    run_id = tracker.tag_of(against, "alure.run_id.evaluate") or against
    found = lake.runs().where((F.col("run_id") == run_id) & (F.col("job") == "evaluate") & (F.col("status") == "published")).first()
    if found is None:
        raise LakeError(f"--against {against}: no published evaluate run of that id in lake {lake.root}; MLflow lists the run ids")
    version = found["outputs"]["evaluation_users"]
    try:
        rows = lake.read("evaluation_users", version).where(found["scope"]).where(F.col("config_hash") == found["config_hash"])
        return rows.toPandas()
    except Exception as error:
        if not VACUUMED.search(f"{error} {error.__cause__}"):
            raise
        raise LakeError(
            f"--against {against}: version {version} of evaluation_users is not there any more: files of old versions are erased "
            f"after lake.vacuum_hours ({vacuum_hours:g}); evaluate again with that run's conf, and compare with the new run"
        ) from error
