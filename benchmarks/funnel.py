"""Are ads through similar users worth more? Policies of retrieval valued by the world's own truth (ALURE, Table 2).

    python -m benchmarks.funnel

Every policy fills a pool of equal size from its sources in turn; the same pre-ranking and the same ranking, fitted on the impressions of
the week before, choose what is shown (alure_spark/analysis/funnel.py). control: popular ads of the country, and ads of accounts
that the user engaged with. bff, ppr, alure: ads through the neighbours of that graph. random: through random users, the placebo.

Quality, not speed. value: bid * p(click) + value * p(conversion) of the shown ads by the synthetic world's truth, which also knows ads
that were never shown; recall and ndcg: of the ads that the user did click or convert on within a week, of those that the logging policy
happened to show. Intervals: paired bootstrap over users. Worlds: as it is; only behaviour tells the community; only follows do;
null, where nothing prefers anything. completejourney, which has no follows, no impressions and no truth: recall of the pools.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from alure_spark.analysis import evaluation, funnel
from alure_spark.baselines.neighbours import random_neighbours
from alure_spark.clock import parse_time
from alure_spark.config import build, load
from alure_spark.graph.embeddings import current_embeddings, usable_embeddings
from alure_spark.lake import as_of_scope
from alure_spark.metrics import paired_interval
from alure_spark.retrieval.candidates import active_ads, ad_candidates
from alure_spark.running import Context, open_context, run_jobs
from alure_spark.sources.synthetic import truth
from alure_spark.sources.synthetic.options import WorldOptions
from benchmarks import contract
from jobs import build_graph, build_sequences, embed_users, pipeline

POOL, PRE_RANKED, SHOWN = 60, 30, 10
FIRST, AS_OF = "2025-01-20T00:00:00Z", "2025-01-27T00:00:00Z"  # the model is trained up to FIRST; the ranker in between
WORLD = [
    "source.options.users=3000", "source.options.days=28", "source.options.accounts_per_category=8", "source.options.ads_per_account=8",
    "training.epochs=6", "inference.precision=float32", "graph.k2=15", "time.horizon_days=7",
]  # fmt: skip
ORGANIC = "[organic_impression,page_impression]"
WORLDS: dict[str, list[str]] = {
    "synthetic": [],
    "only behaviour": ["source.options.follow_homophily=false"],
    "only follows": ["source.options.organic_interest=false", f"feature_policy.all.sources={ORGANIC}", f"embedding.sources={ORGANIC}"],
    "null": ["source.options.null=true"],
}
POLICIES: dict[str, tuple[str, ...]] = {
    "control": ("popular", "own"),
    "bff, ppr": ("popular", "own", "bff", "ppr"),
    "bff, ppr, alure": ("popular", "own", "bff", "ppr", "alure"),
    "bff, ppr, random": ("popular", "own", "bff", "ppr", "random"),
    "alure": ("popular", "own", "alure"),
    "blend": ("popular", "own", "blend"),
}
AGAINST = {"bff, ppr": "control", "bff, ppr, alure": "bff, ppr", "bff, ppr, random": "bff, ppr", "alure": "control", "blend": "bff, ppr"}


@dataclass(frozen=True)
class World:
    """One lake at AS_OF: its people with country and group, and the ads that each source retrieves for them."""

    context: Context
    people: pd.DataFrame  # user_id, country, group: 'cold' (no event yet), 'new' (few) or 'known'
    sources: dict[str, funnel.Lists]


def published(folder: str, settings: Sequence[str]) -> Context:
    """Model trained up to FIRST; embeddings of both times by this one model; graphs at AS_OF."""
    places = contract.places(folder)
    first = open_context(load("conf/test.yml", [*WORLD, *settings, *places, f"time.as_of={FIRST}"]))
    run_jobs(first, [*pipeline.stages("ingest_events", "embed_users"), build_graph.JOB], "benchmark_funnel")
    context = open_context(load("conf/test.yml", [*WORLD, *settings, *places, f"time.as_of={AS_OF}"]))
    run_jobs(context, [build_sequences.JOB, embed_users.JOB, build_graph.JOB], "benchmark_funnel")
    return context


def lists(frame: DataFrame) -> dict[str, list[str]]:
    return {row["user_id"]: row["ad_id"] for row in frame.select("user_id", "ad_id").collect()}


def retrieved(context: Context, people: DataFrame) -> dict[str, funnel.Lists]:
    """Source -> user -> at most POOL ads."""
    config, as_of = context.config, context.config.time.as_of_ms
    retrieval = replace(config.retrieval, cap=POOL)
    events, ads = context.lake.read("events"), context.lake.read("ads")
    edges = context.lake.read("user_edges").where(as_of_scope(as_of)).persist()

    def through(links: DataFrame) -> dict[str, list[str]]:
        return lists(ad_candidates(links, events, ads, retrieval, as_of))

    def links(ends: pd.DataFrame) -> DataFrame:
        return context.spark.createDataFrame(ends, "src_user_id string, dst_user_id string, country string, weight double, origins int")

    everybody = pd.DataFrame(people.select("user_id", "country").orderBy("user_id").toPandas())
    ids, countries = everybody["user_id"].to_numpy(), everybody["country"].to_numpy()
    itself = pd.DataFrame({"src_user_id": ids, "dst_user_id": ids, "country": countries, "weight": 1.0, "origins": 0})
    anybody = random_neighbours(countries, config.graph.k2, config.evaluate.seed)
    row, place = np.nonzero(anybody >= 0)
    strangers = itself.iloc[row].assign(dst_user_id=ids[anybody[row, place]])
    sources: dict[str, funnel.Lists] = {
        "popular": lists(evaluation.popular_ads(events, ads, list(retrieval.event_weights), people, as_of, POOL)),
        "own": through(links(itself)),
        "random": through(links(strangers)),
    }
    for (graph,) in edges.select("graph").distinct().collect():
        sources[graph] = through(edges.where(F.col("graph") == graph))
    edges.unpersist()
    return sources


def synthetic(folder: str, settings: Sequence[str]) -> World:
    context = published(folder, settings)
    config = context.config
    everybody = truth.truth_users(context.spark, build(WorldOptions, config.source.options, "source.options"))
    known = evaluation.population(context.lake.read("events"), config.time.as_of_ms, config.evaluate.new_user_events)
    group = F.when(F.col("new_user").isNull(), "cold").when(F.col("new_user"), "new").otherwise("known").alias("group")
    people = everybody.select("user_id", "country").join(known.drop("country"), "user_id", "left").select("user_id", "country", group)
    return World(context, pd.DataFrame(people.toPandas()), retrieved(context, people))


def histories(world: World) -> tuple[funnel.History, funnel.Ranker]:
    """What is known at AS_OF, and the ranker that was fitted on the impressions since FIRST with what was known then."""
    context, config = world.context, world.context.config
    events, ads = context.lake.read("events"), context.lake.read("ads")
    first, as_of = parse_time(FIRST), config.time.as_of_ms

    def at(moment: int) -> funnel.History:
        vectors = usable_embeddings(current_embeddings(context.lake.read("user_embeddings"), moment))[0]
        return funnel.read_history(events, ads, vectors, config.labels, moment)

    return at(as_of), funnel.fit_ranker(at(first), funnel.logged_impressions(events, config.labels, first, as_of))


def true_value(world: World, shown: Mapping[str, funnel.Lists]) -> dict[str, pd.Series]:
    """Policy -> (user_id) sum of expected_value over the ads that it shows at AS_OF."""
    context = world.context
    pairs = pd.DataFrame(
        {(user, ad) for listed in shown.values() for user, ads in listed.items() for ad in ads}, columns=["user_id", "ad_id"]
    )
    frame = context.spark.createDataFrame(pairs).withColumn("time", F.timestamp_millis(F.lit(context.config.time.as_of_ms)))
    options = build(WorldOptions, context.config.source.options, "source.options")
    valued = pd.DataFrame(truth.respond(frame, context.spark, options).select("user_id", "ad_id", "expected_value").toPandas())
    worth = valued.set_index(["user_id", "ad_id"])["expected_value"].to_dict()
    users = world.people["user_id"]
    return {
        policy: pd.Series([sum(worth[user, ad] for ad in listed.get(user, ())) for user in users], index=users)
        for policy, listed in shown.items()
    }


def of_world(name: str, folder: str, resamples: int) -> list[contract.Row]:
    """One row per policy and group of users."""
    world = synthetic(folder, WORLDS[name])
    context, config = world.context, world.context.config
    history, ranker = histories(world)
    pools = {policy: funnel.fill_pool([world.sources[source] for source in sources], POOL) for policy, sources in POLICIES.items()}
    shown = {policy: funnel.show(pool, history, ranker, PRE_RANKED, SHOWN) for policy, pool in pools.items()}
    values = true_value(world, shown)
    as_of, events, ads = config.time.as_of_ms, context.lake.read("events"), context.lake.read("ads")
    later = evaluation.later_ads(events, ads, list(config.retrieval.event_weights), as_of, config.time.horizon_end_ms)
    wanted = {row["user_id"]: row["ads"] for row in later.collect()}
    running = active_ads(ads, as_of).count()
    clicks = history.ads["clicks"].sort_values(ascending=False, kind="stable")
    tail = set(clicks.index[len(clicks) // 5 :])
    groups = world.people.set_index("user_id")[["country", "group"]]
    chosen = {"all": groups.index} | {f"{kind} users": groups.index[groups["group"] == kind] for kind in ("new", "cold")}
    chosen |= {f"country {country}": groups.index[groups["country"] == country] for country in sorted(groups["country"].unique())}
    rows = []
    for policy, listed in shown.items():
        evaluated = evaluation.evaluate_lists(listed, wanted, SHOWN)
        flat = [ad for ads_of_user in listed.values() for ad in ads_of_user]
        other = AGAINST.get(policy)
        for group, users in chosen.items():
            if len(users) < 20:
                continue
            mine = values[policy][users].to_numpy()
            row: contract.Row = {"set": name, "group": group, "policy": policy, "users": len(users), "value": float(mine.mean())}
            if other:
                theirs = values[other][users].to_numpy()
                gap = paired_interval(mine, theirs, resamples)
                row |= {"against": other} | {
                    key: float(part / theirs.mean()) for key, part in zip(("gain", "low", "high"), gap, strict=True)
                }
            if group == "all":
                row |= {"recall": float(evaluated["recall"].mean()), "ndcg": float(evaluated["ndcg"].mean())}
                row |= {"coverage": len(set(flat)) / running, "long_tail": float(np.mean([ad in tail for ad in flat]))}
            rows.append(row)
    return rows + [{"set": name, **row} for row in purity(world)]


def purity(world: World) -> list[contract.Row]:
    """Share of the edges between users of one community, by graph, beside that of random pairs of a country."""
    context = world.context
    options = build(WorldOptions, context.config.source.options, "source.options")
    people = pd.DataFrame(truth.truth_users(context.spark, options).select("user_id", "country", "community").toPandas())
    community = people.set_index("user_id")["community"]
    edges = context.lake.read("user_edges").where(as_of_scope(context.config.time.as_of_ms))
    links = pd.DataFrame(edges.where(F.col("rank") <= context.config.graph.k2).select("src_user_id", "dst_user_id", "graph").toPandas())
    same = community.reindex(links["src_user_id"]).to_numpy() == community.reindex(links["dst_user_id"]).to_numpy()
    found = pd.Series(same).groupby(links["graph"]).mean().to_dict()
    ids = people["user_id"].to_numpy()
    anybody = random_neighbours(people["country"].to_numpy(), context.config.graph.k2, 7)
    row, place = np.nonzero(anybody >= 0)
    found["random"] = float((community[ids[row]].to_numpy() == community[ids[anybody[row, place]]].to_numpy()).mean())
    return [{"group": "edges", "policy": graph, "purity": float(share)} for graph, share in found.items()]


def of_completejourney(folder: str, resamples: int) -> list[contract.Row]:
    """Recall of the pools, which no ranker orders here."""
    context = open_context(load("conf/demo.yml", contract.places(folder)))
    run_jobs(context, pipeline.stages("ingest_events", "build_graph"), "benchmark_funnel")
    config, events, ads = context.config, context.lake.read("events"), context.lake.read("ads")
    people = evaluation.population(events, config.time.as_of_ms, config.evaluate.new_user_events)
    sources = retrieved(context, people)
    later = evaluation.later_ads(events, ads, list(config.retrieval.event_weights), config.time.as_of_ms, config.time.horizon_end_ms)
    wanted = {row["user_id"]: row["ads"] for row in later.collect()}
    evaluated = {}
    for policy in ("control", "alure"):
        pools = funnel.fill_pool([sources[source] for source in POLICIES[policy]], SHOWN)
        evaluated[policy] = evaluation.evaluate_lists(pools, wanted, SHOWN).set_index("user_id")
    rows = []
    for policy, found in evaluated.items():
        row: contract.Row = {"set": "completejourney", "group": "all", "policy": policy, "users": len(found)}
        row |= {"recall": float(found["recall"].mean()), "ndcg": float(found["ndcg"].mean())}
        if policy != "control":
            gap = paired_interval(found["recall"].to_numpy(), evaluated["control"]["recall"].reindex(found.index).to_numpy(), resamples)
            row |= {"against": "control"} | dict(zip(("recall_minus", "recall_low", "recall_high"), map(float, gap), strict=True))
        rows.append(row)
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", choices=[*WORLDS, "completejourney"], default=[*WORLDS, "completejourney"])
    parser.add_argument("--resamples", type=int, default=1000)
    options = parser.parse_args(arguments)
    rows = contract.earlier("funnel", lambda row: row["set"] not in options.sets)
    for name in options.sets:
        with tempfile.TemporaryDirectory(prefix="funnel_") as folder:
            rows += (
                of_completejourney(folder, options.resamples) if name == "completejourney" else of_world(name, folder, options.resamples)
            )
        rows.sort(key=lambda row: [*WORLDS, "completejourney"].index(row["set"]))
        size = {"pool": POOL, "pre_ranked": PRE_RANKED, "shown": SHOWN, "resamples": options.resamples, "world": WORLD}
        contract.publish("funnel", size, rows, {})


if __name__ == "__main__":
    main()
