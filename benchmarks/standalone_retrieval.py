"""What standalone retrieval finds alone, and what it adds to other sources of candidates (LFM4Ads, model level).

    python -m benchmarks.standalone_retrieval

The project's own jobs make a synthetic world: the user model is trained up to FIRST, its vectors of users and ads are published at FIRST
and at AS_OF, and the heads learn from the clicks between the two, with the vectors of FIRST. Searched is with those of AS_OF. Recall: of
the ads that a user engages with in the week after AS_OF, active at AS_OF and not engaged with before. Alone, and in pools of equal size
that are filled from their sources in turn and topped up with popular ads, so that one more source has to take the places of others.

Quality, not speed. A head is trained with each of three seeds; recalls are their mean per user. Intervals: paired bootstrap over users.
The null: the same head, asked for another user of the country. Worlds: as it is, and one in which nobody prefers anything.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from scipy import sparse

from alure_spark.analysis import evaluation, funnel
from alure_spark.clock import known_before
from alure_spark.config import Config, StandaloneConfig, load
from alure_spark.events.standalone_rows import ads_of_day, engaged_rows, upstream_model, vectors_of_day
from alure_spark.lake import JobRun, as_of_scope
from alure_spark.metrics import paired_interval
from alure_spark.model.retrieval_head import RetrievalHead
from alure_spark.retrieval.candidate_table import searched
from alure_spark.retrieval.candidates import active_ads, ad_candidates, engaged_ads
from alure_spark.retrieval.standalone import AdVectors, ad_vectors, best_ads
from alure_spark.running import Context, open_context, run_jobs
from alure_spark.training.retrieval_head import Catalogue, Engagements, collected, train_head
from benchmarks import contract
from jobs import build_graph, build_sequences, embed_users, extract_representations, pipeline

FIRST, AS_OF = "2025-01-20T00:00:00Z", "2025-02-03T00:00:00Z"  # the user model is trained up to FIRST; heads from the clicks in between
WORLD = [
    "source.options.users=1500", "source.options.days=35", "source.options.events_per_user=90", "source.options.accounts_per_category=8",
    "source.options.ads_per_account=8", "training.epochs=4", "inference.precision=float32", "graph.graphs=[alure]", "graph.k2=15",
    "time.horizon_days=7", "transfer.layer=hidden", "transfer.window_days=35", "transfer.retrieval.head=linear",
]  # fmt: skip
WORLDS: dict[str, list[str]] = {"synthetic": [], "null": ["source.options.null=true"]}
KS, POOLS, SEEDS = (50, 200, 500), (50, 200), (7, 8, 9)
READS, HEADS = {"user.embedding": "UR", "user.cross": "CR"}, {"linear": "linear", "two_layers": "two layers"}
ALONE = ("popularity", "item-kNN", "user graph")
BASES: dict[str, tuple[str, ...]] = {**{source: (source,) for source in ALONE}, "all three": ALONE}
STRANGER = ", of another user"


@dataclass(frozen=True)
class Space:
    """What a head of one kind of user vector learns from and searches."""

    engagements: Engagements
    catalogue: Catalogue
    users: np.ndarray  # (U,) ids
    countries: np.ndarray  # (U,)
    vectors: np.ndarray  # (U, k) float32 of AS_OF
    ads: AdVectors


@dataclass(frozen=True)
class World:
    """One lake at AS_OF."""

    ids: np.ndarray  # (A,) active ads, ascending
    met: dict[str, list[str]]  # user -> ads that are not given to it again
    wanted: dict[str, list[str]]  # user -> ads that it engages with later
    others: dict[str, funnel.Lists]  # source -> its lists
    spaces: dict[str, Space]  # transfer.retrieval.reads -> its space


def published(folder: str, settings: Sequence[str]) -> Context:
    """Model trained up to FIRST; vectors of both times by this one model; the graph of AS_OF."""
    context = None
    after = [build_sequences.JOB, embed_users.JOB, extract_representations.JOB, build_graph.JOB]
    for as_of, jobs in ((FIRST, pipeline.stages("", "extract_representations", transferred=True)), (AS_OF, after)):
        context = open_context(load("conf/test.yml", [*WORLD, *settings, *contract.places(folder), f"time.as_of={as_of}"]))
        run_jobs(context, jobs, "benchmark_standalone_retrieval")
    assert context is not None
    return context


def item_neighbours(had: sparse.csr_matrix, allowed: np.ndarray, most: int) -> list[np.ndarray]:
    """Of each user the columns of at most so many allowed ads, by the sum of their cosines with those that it had, ties by column.

    had: (users, ads) ones; allowed (ads,) bool. Ads that the user had, and those without a common user, are left out.
    """
    norms = np.sqrt(np.asarray(had.sum(axis=0)).ravel())
    scaled = had @ sparse.diags(1 / np.where(norms > 0, norms, 1))
    likeness = (scaled.T @ scaled).tolil()
    likeness.setdiag(0)
    scores = np.asarray((had @ likeness.tocsr()).todense())
    scores[:, ~allowed] = 0
    scores[had.nonzero()] = 0
    order = np.argsort(-scores.round(9), axis=1, kind="stable")
    return [columns[scores[row, columns] > 0][:most] for row, columns in enumerate(order)]


def lists(frame: DataFrame) -> dict[str, list[str]]:
    return {row["user_id"]: row["ad_id"] for row in frame.select("user_id", "ad_id").collect()}


def other_sources(context: Context, met: Mapping[str, list[str]], ids: np.ndarray) -> dict[str, funnel.Lists]:
    """The lists of popularity in the country, item-kNN and the user graph, of at most max(KS) ads."""
    config, most = context.config, max(KS)
    as_of, events, ads = config.time.as_of_ms, context.lake.read("events"), context.lake.read("ads")
    people = evaluation.population(events, as_of, 0)
    edges = context.lake.read("user_edges").where(as_of_scope(as_of)).where(F.col("graph") == config.graph.retrieved)
    everything = np.array(sorted({ad for one in met.values() for ad in one} | set(ids)), object)
    users = sorted(met)
    rows = np.repeat(np.arange(len(users)), [len(met[user]) for user in users])
    columns = np.searchsorted(everything, np.array([ad for user in users for ad in met[user]], object))
    had = sparse.csr_matrix((np.ones(len(rows)), (rows, columns)), shape=(len(users), len(everything)))
    near = item_neighbours(had, np.isin(everything, ids), most)
    item_lists = {user: everything[columns].tolist() for user, columns in zip(users, near, strict=True)}
    return {
        "popularity": lists(evaluation.popular_ads(events, ads, list(config.retrieval.event_weights), people, as_of, most)),
        "item-kNN": item_lists,
        "user graph": lists(ad_candidates(edges, events, ads, replace(config.retrieval, cap=most), as_of)),
    }


def space(context: Context, run: JobRun, ids: np.ndarray, reads: str) -> Space:
    settings = replace(context.config.transfer.retrieval, reads=reads)
    config: Config = replace(context.config, transfer=replace(context.config.transfer, retrieval=settings))
    upstream = upstream_model(run, config)
    engagements, catalogue = collected(engaged_rows(run, config, upstream), ads_of_day(run, config))
    users, ads = vectors_of_day(run, config, upstream)
    mine = pd.DataFrame(users.orderBy("user_id").toPandas())
    search = searched(run, config, users, ads, lambda vectors: vectors)
    vectors = np.array(mine["vector"].to_list(), np.float32)
    of_ads = ad_vectors(search, pa.array(ids, pa.string()))
    return Space(engagements, catalogue, mine["user_id"].to_numpy(), mine["country"].to_numpy(), vectors, of_ads)


def read_world(context: Context) -> World:
    config, as_of = context.config, context.config.time.as_of_ms
    events, ads = context.lake.read("events"), context.lake.read("ads")
    sources = list(config.retrieval.event_weights)
    known = engaged_ads(events, sources).where(known_before(F.unix_millis("known_at"), as_of))
    met = known.groupBy("user_id").agg(F.sort_array(F.collect_set("ad_id")).alias("ad_id"))
    ids = np.array(sorted(row["ad_id"] for row in active_ads(ads, as_of).collect()), object)
    later = evaluation.later_ads(events, ads, sources, as_of, config.time.horizon_end_ms)
    run, of_users = JobRun(context.lake, "benchmark", "", "true"), lists(met)
    return World(
        ids, of_users, {row["user_id"]: row["ads"] for row in later.collect()}, other_sources(context, of_users, ids),
        {reads: space(context, run, ids, reads) for reads in READS},
    )  # fmt: skip


def head_lists(head: RetrievalHead, of: Space, world: World, strangers: int | None = None) -> dict[str, list[str]]:
    """The head's lists of at most max(KS) ads; strangers: a seed, by which each user gets what is for another one of its country."""
    listed = dict[str, list[str]]()
    for country in np.unique(of.countries):
        rows = np.flatnonzero(of.countries == country)
        asked = rows
        if strangers is not None and len(rows) > 1:
            order = np.random.default_rng(strangers).permutation(rows)
            asked = np.roll(order, 1)[np.argsort(order)]  # one round through all of them: nobody is asked for itself
        own = [np.searchsorted(world.ids, kept(world.met.get(user, []), world.ids)).astype(np.int32) for user in of.users[rows]]
        row, place = best_ads(head.query(of.vectors[asked]), *of.ads.of(country), own, max(KS))
        parts = np.split(world.ids[place], np.searchsorted(row, np.arange(1, len(rows))))
        listed |= {user: part.tolist() for user, part in zip(of.users[rows], parts, strict=True)}
    return listed


def kept(ads: Sequence[str], ids: np.ndarray) -> np.ndarray:
    """Those of ads that are among ids, ascending."""
    mine = np.array(sorted(ads), object)
    return mine[np.isin(mine, ids)]


def pools(sources: Sequence[funnel.Lists], popular: funnel.Lists, users: Sequence[str], size: int) -> dict[str, list[str]]:
    """User -> `size` ads from the sources in turn, topped up with popular ones."""
    filled = funnel.fill_pool(sources, size)
    return {user: list(dict.fromkeys([*filled.get(user, ()), *popular.get(user, ())]))[:size] for user in users}


def recall(ranked: funnel.Lists, world: World, k: int) -> np.ndarray:
    """(users of wanted,) share of the later ads among the first k, in ascending order of the users."""
    evaluated = evaluation.evaluate_lists(ranked, world.wanted, k).set_index("user_id").sort_index()
    return evaluated["recall"].to_numpy(float)


def of_world(name: str, world: World, settings: StandaloneConfig, resamples: int) -> list[contract.Row]:
    """Rows 'alone', one per method, and 'added', one per base, source and size of the pool."""
    by_seed: dict[str, list[funnel.Lists]] = {}
    for seed in SEEDS:
        for reads, said in READS.items():
            of = world.spaces[reads]
            for kind, words in HEADS.items():
                head, _ = train_head(of.engagements, of.catalogue, replace(settings, head=kind, reads=reads, seed=seed))
                by_seed.setdefault(f"{said}, {words}", []).append(head_lists(head, of, world))
                by_seed.setdefault(f"{said}, {words}{STRANGER}", []).append(head_lists(head, of, world, seed))
    tried = {**{source: [ranked] for source, ranked in world.others.items()}, **by_seed}
    users, popular = sorted(world.wanted), world.others["popularity"]
    size = {"set": name, "users": len(users)}
    rows: list[contract.Row] = []
    for method, ranked in tried.items():
        recalls = {k: np.mean([recall(one, world, k) for one in ranked], axis=0) for k in KS}
        rows.append({**size, "part": "alone", "method": method} | {f"recall_{k}": float(one.mean()) for k, one in recalls.items()})
    for base, names in BASES.items():
        given = [world.others[source] for source in names]
        for most in POOLS:
            without = recall(pools(given, popular, users, most), world, most)
            for source, ranked in by_seed.items():
                added = np.mean([recall(pools([*given, one], popular, users, most), world, most) for one in ranked], axis=0)
                gain = paired_interval(added, without, resamples)
                row = {**size, "part": "added", "base": base, "source": source, "pool": most, "recall": float(without.mean())}
                rows.append(row | dict(zip(("gain", "low", "high"), map(float, gain), strict=True)))
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", choices=list(WORLDS), default=list(WORLDS))
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--results", type=Path, default=contract.RESULTS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows = contract.earlier("standalone_retrieval", lambda row: row["set"] not in options.sets, options.results)
    for name in options.sets:
        with tempfile.TemporaryDirectory(prefix="standalone_") as folder:
            context = published(folder, WORLDS[name])
            world = read_world(context)
        measured = of_world(name, world, context.config.transfer.retrieval, options.resamples)
        engaged = {reads: len(of.engagements.ad) for reads, of in world.spaces.items()}
        rows += [row | {"ads": len(world.ids), "engagements": engaged} for row in measured]
        rows.sort(key=lambda row: list(WORLDS).index(row["set"]))
        size = {"seeds": SEEDS, "resamples": options.resamples, "world": WORLD, "pools": POOLS, "k": KS, "first": FIRST, "as_of": AS_OF}
        contract.publish("standalone_retrieval", size, rows, {}, options.results)


if __name__ == "__main__":
    main()
