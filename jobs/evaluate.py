"""Everything published for as_of, judged by what happened after it -> evaluation_users, metrics and plots; --against compares runs."""

from __future__ import annotations

import numpy as np
import pandas as pd
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from alure_spark.baselines.histories import ItemHistories
from alure_spark.baselines.neighbours import idf_cosine_neighbours, random_neighbours
from alure_spark.errors import LakeError
from alure_spark.lake import JobRun, as_of_scope
from alure_spark.plots import bars
from alure_spark.retrieval import evaluation
from alure_spark.retrieval.candidates import active_ads, ad_candidates
from alure_spark.retrieval.protocol import judge_neighbours, paired_interval
from jobs.command import Context, Job, Report


def evaluate(context: Context, run: JobRun) -> Report:
    config = context.config
    as_of, scope = config.time.as_of_ms, as_of_scope(config.time.as_of_ms)
    events = run.read("events")
    people = evaluation.population(events, as_of, config.evaluate.new_user_events).persist()
    edges = run.read("user_edges").where(scope).where("graph = 'alure'")
    items, peers = judge_items(context, events, edges, people)
    ads, metrics = judge_ads(context, run, events, people, peers)
    judged = pd.concat([part for part in (ads, items) if len(part)] or [_NOTHING])
    facts = people.toPandas() if people.count() <= 10 * config.evaluate.max_users else None
    judged = _with_facts(context, judged, people) if facts is None else judged.merge(facts, on="user_id")
    rows = judged.dropna(subset=["recall"]).assign(config_hash=config.digest())
    frame = context.spark.createDataFrame(rows[_COLUMNS], _SCHEMA).withColumn("as_of", F.timestamp_millis(F.lit(as_of)))
    run.write("evaluation_users", frame, f"{scope} AND config_hash = '{config.digest()}'")
    people.unpersist()
    return _report(context, rows, metrics)


def judge_items(context: Context, events: DataFrame, edges: DataFrame, people: DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(per-user judgement of the user graph by later items, edges of the classic peers for the ads task)."""
    config, judge = context.config, context.config.evaluate
    sources = judge.item_sources or config.item_sources
    pairs = evaluation.item_pairs(events, sources, config.time.horizon_end_ms).persist()
    before = pairs.where(F.col("known_ms") < config.time.as_of_ms)
    eligible = before.groupBy("user_id").agg(F.count("*").alias("items")).where(F.col("items") >= judge.min_items).join(people, "user_id")
    everybody = eligible.count() <= judge.max_users
    chosen = evaluation.sample(eligible, judge.max_users).select("user_id", "country").persist()
    links = edges.where(F.col("rank") <= judge.neighbours).join(chosen.select(F.col("user_id").alias("src_user_id")), "src_user_id")
    links = pd.DataFrame(links.select("src_user_id", "dst_user_id", "rank").toPandas())
    pool = chosen.select("user_id").union(context.spark.createDataFrame(links[["dst_user_id"]], "user_id string")).distinct()
    collected = pd.DataFrame(pairs.join(pool, "user_id").toPandas())
    countries = pd.DataFrame(chosen.toPandas()).set_index("user_id")["country"]
    for frame in (pairs, chosen):
        frame.unpersist()
    if collected.empty:
        return _NOTHING, _NO_EDGES
    first = collected[collected["known_ms"] < config.time.as_of_ms]
    known = ItemHistories.from_events(first["user_id"].to_numpy(), first["item_hash"].to_numpy(), first["known_ms"].to_numpy())
    vocabulary, users = known.vocabulary(), known.user_ids
    rest = collected[(collected["known_ms"] >= config.time.as_of_ms) & collected["user_id"].isin(countries.index)]
    later = _matrix(users, vocabulary, rest)
    had, place = known.matrix(vocabulary), {user: row for row, user in enumerate(users)}
    ours = np.full((len(users), judge.neighbours), -1)
    links = links[links["dst_user_id"].isin(users) & links["src_user_id"].isin(users)]
    ours[links["src_user_id"].map(place), links["rank"] - 1] = links["dst_user_id"].map(place)
    groups = countries.reindex(users).fillna("").to_numpy()
    policies = {"pipeline": ours, "random_neighbours": random_neighbours(groups, judge.neighbours, judge.seed)}
    policies["popularity"] = np.full_like(ours, -1)
    if everybody:  # exact neighbours need everybody's items on the driver
        policies["idf_cosine"] = idf_cosine_neighbours(had, groups, judge.neighbours)
    popularity = np.asarray(had.sum(axis=0)).ravel()
    parts = [_judged("items", name, users, *judge_neighbours(had, later, rows, popularity, judge.k)) for name, rows in policies.items()]
    names = [name for name in ("random_neighbours", "idf_cosine") if name in policies]
    peers = [evaluation.neighbour_edges(users, groups, policies[name]).assign(policy=name) for name in names]
    return pd.concat(parts), pd.concat(peers)


def judge_ads(context: Context, run: JobRun, events: DataFrame, people: DataFrame, peers: pd.DataFrame) -> tuple[pd.DataFrame, dict]:
    """(per-user judgement of the candidates by later engagements with ads, metrics of coverage)."""
    config, judge, as_of = context.config, context.config.evaluate, context.config.time.as_of_ms
    ads, sources = run.read("ads"), list(config.retrieval.event_weights)
    relevant = evaluation.later_ads(events, ads, sources, as_of, config.time.horizon_end_ms)
    chosen = evaluation.sample(relevant.join(people, "user_id"), judge.max_users).persist()
    wanted = {row["user_id"]: row["ads"] for row in chosen.collect()}
    metrics: dict[str, float | None] = dict.fromkeys(("ads.judged_users", "ads.user_coverage", "ads.catalogue_coverage"))
    if not wanted:
        return _NOTHING, metrics
    ranked = {"pipeline": run.read("ad_candidates").where(as_of_scope(as_of))}
    for policy, links in peers.groupby("policy", sort=False):
        mine = context.spark.createDataFrame(links.drop(columns="policy")).join(
            chosen.select(F.col("user_id").alias("src_user_id")), "src_user_id"
        )
        ranked[str(policy)] = ad_candidates(mine, events, ads, config.retrieval, as_of)
    ranked["popularity"] = evaluation.popular_ads(events, ads, sources, chosen, as_of, judge.k)
    parts = []
    for policy, frame in ranked.items():
        rows = frame.join(chosen.select("user_id"), "user_id").select("user_id", F.slice("ad_id", 1, judge.k).alias("ads")).collect()
        lists = {row["user_id"]: row["ads"] for row in rows}
        result = evaluation.judge_lists(lists, wanted, judge.k)
        parts.append(result.assign(task="ads", policy=policy))
        if policy == "pipeline":
            shown = {ad for user_ads in lists.values() for ad in user_ads}
            metrics["ads.judged_users"] = len(wanted)
            metrics["ads.user_coverage"] = sum(bool(found) for found in lists.values()) / len(wanted)
            metrics["ads.catalogue_coverage"] = len(shown) / max(1, active_ads(ads, as_of).count())
    chosen.unpersist()
    return pd.concat(parts), metrics


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
    """The evaluation_users rows of the run to compare with (an MLflow run id, or a run_id of `runs`)."""
    run_id = context.tracker.tag_of(context.against, "alure.run_id.evaluate") or context.against
    found = context.lake.runs().where((F.col("run_id") == run_id) & (F.col("job") == "evaluate") & (F.col("status") == "published")).first()
    if found is None:
        raise LakeError(
            f"--against {context.against}: no published evaluate run of that id in lake {context.lake.root}; MLflow lists the run ids"
        )
    return (
        context.lake.read("evaluation_users", found["outputs"]["evaluation_users"])
        .where(found["scope"])
        .where(F.col("config_hash") == found["config_hash"])
        .toPandas()
    )


def _judged(task: str, policy: str, users: np.ndarray, recall: np.ndarray, ndcg: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame({"user_id": users, "task": task, "policy": policy, "recall": recall, "ndcg": ndcg})


def _matrix(users: np.ndarray, vocabulary: np.ndarray, pairs: pd.DataFrame):  # type: ignore[no-untyped-def]
    """(U, I) sparse ones of the pairs whose user and item are known."""
    from scipy import sparse

    inside = pairs[pairs["item_hash"].isin(vocabulary) & pairs["user_id"].isin(users)]
    cells = (np.searchsorted(users, inside["user_id"].to_numpy()), np.searchsorted(vocabulary, inside["item_hash"].to_numpy()))
    return sparse.csr_matrix((np.ones(len(inside)), cells), shape=(len(users), len(vocabulary)))


def _with_facts(context: Context, judged: pd.DataFrame, people: DataFrame) -> pd.DataFrame:
    ids = context.spark.createDataFrame(judged[["user_id"]].drop_duplicates(), "user_id string")
    return judged.merge(people.join(ids, "user_id").toPandas(), on="user_id")


_NOTHING = pd.DataFrame({"user_id": [], "recall": [], "ndcg": [], "task": [], "policy": []})
_NO_EDGES = pd.DataFrame({"src_user_id": [], "dst_user_id": [], "country": [], "graph": [], "weight": [], "policy": []})
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
