"""Held out in time: what did users engage with after as_of, and would a policy have shown it?

Enters: events on both sides of as_of, and what each policy ranks. Leaves: Recall@k and NDCG@k per user, and tables that a
person reads. Two tasks: `ads` (candidates against later engagements with ads that were active at as_of) and `items` (the user
graph against later items, analysis/protocol.py). Everything on the driver is bounded by evaluate.max_users.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F
from scipy import sparse

from ..clock import known_before
from ..config import Config
from ..metrics import paired_interval
from ..retrieval.candidates import active_ads, engaged_ads
from ..tables import ORIGIN_BITS
from .protocol import evaluate_neighbours


def population(events: DataFrame, as_of_ms: int, new_user_events: int) -> DataFrame:
    """One row per user known before as_of: user_id, country (of the last event), new_user (few events)."""
    known = events.where(known_before(F.unix_millis("known_at"), as_of_ms)).groupBy("user_id")
    return known.agg(
        F.max_by("country", F.struct("known_at", "event_hash")).alias("country"), (F.count("*") < new_user_events).alias("new_user")
    )


def later_ads(events: DataFrame, ads: DataFrame, sources: Sequence[str], as_of_ms: int, end_ms: int) -> DataFrame:
    """user_id, ads (list): ads active at as_of that the user engaged with in [as_of, end), and not before."""
    engaged = engaged_ads(events, list(sources)).withColumn("known_ms", F.unix_millis("known_at"))
    first = engaged.groupBy("user_id", "ad_id").agg(F.min("known_ms").alias("known_ms"))
    later = first.where(~known_before(F.col("known_ms"), as_of_ms) & known_before(F.col("known_ms"), end_ms))
    return later.join(active_ads(ads, as_of_ms), "ad_id").groupBy("user_id").agg(F.sort_array(F.collect_set("ad_id")).alias("ads"))


def item_pairs(events: DataFrame, sources: Sequence[str], end_ms: int) -> DataFrame:
    """user_id, item_hash, known_ms: the first time that the user had the item, known before end."""
    rows = events.where(F.col("source").isin(list(sources))).withColumn("known_ms", F.unix_millis("known_at"))
    return rows.where(known_before(F.col("known_ms"), end_ms)).groupBy("user_id", "item_hash").agg(F.min("known_ms").alias("known_ms"))


def sample(users: DataFrame, most: int) -> DataFrame:
    """At most so many users, those with the smallest hash of the id: the same ones in every run."""
    return users.orderBy(F.xxhash64("user_id"), "user_id").limit(most)


def popular_ads(events: DataFrame, ads: DataFrame, sources: Sequence[str], users: DataFrame, as_of_ms: int, k: int) -> DataFrame:
    """user_id, ad_id (list of k): the active ads with most engaged users of the user's country, own history removed."""
    before = (
        engaged_ads(events, list(sources))
        .where(known_before(F.unix_millis("known_at"), as_of_ms))
        .select("user_id", "ad_id")
        .distinct()
        .persist()
    )
    countries = population(events, as_of_ms, 0).select("user_id", "country")
    counts = (
        before.join(countries, "user_id").join(active_ads(ads, as_of_ms), "ad_id").groupBy("country", "ad_id").agg(F.count("*").alias("n"))
    )
    history = before.groupBy("user_id").agg(F.count("*").alias("own"))
    longest = (history.agg(F.max("own")).first() or [0])[0] or 0
    top = Window.partitionBy("country").orderBy(F.col("n").desc(), "ad_id")
    best = counts.withColumn("place", F.row_number().over(top)).where(F.col("place") <= k + longest)
    shown = users.select("user_id", "country").join(best, "country").join(before, ["user_id", "ad_id"], "left_anti")
    ordered = F.slice(F.sort_array(F.collect_list(F.struct("place", "ad_id"))), 1, k)["ad_id"]
    return shown.groupBy("user_id").agg(ordered.alias("ad_id"))


def evaluate_lists(ranked: Mapping[str, Sequence[str]], relevant: Mapping[str, Sequence[str]], k: int) -> pd.DataFrame:
    """user_id, recall, ndcg of every user with a relevant ad; a user without a list scores 0.

    recall = hits in the first k / relevant; ndcg with gain 1 and discount 1 / log2(rank + 1), ideal of min(k, relevant) hits.
    """
    discounts = 1 / np.log2(np.arange(k) + 2)
    rows = []
    for user, wanted in relevant.items():
        found = np.isin(list(ranked.get(user, ()))[:k], list(wanted))
        ideal = discounts[: len(wanted)].sum()
        rows.append((user, found.sum() / len(wanted), (found * discounts[: len(found)]).sum() / ideal))
    return pd.DataFrame(rows, columns=["user_id", "recall", "ndcg"])


@dataclass(frozen=True)
class ItemSplit:
    """Who had what before as_of and took up what after it: U users, I items that one of them had before."""

    users: np.ndarray  # (U,) ids, ascending: the evaluated users and their neighbours
    countries: np.ndarray  # (U,); '' for a neighbour that is not evaluated
    had: sparse.csr_matrix  # (U, I)
    later: sparse.csr_matrix  # (U, I); rows of users that are not evaluated are empty
    popularity: np.ndarray  # (I,) users that had it before
    links: np.ndarray  # (U, n) int64 rows of the pipeline's neighbours by rank, -1 where there is none
    everybody: bool  # whether these are all eligible users: only then are exact neighbours by items known


def split_items(events: DataFrame, edges: DataFrame, people: DataFrame, sources: Sequence[str], config: Config) -> ItemSplit:
    """The items of at most evaluate.max_users users with min_items items before as_of, and of their neighbours, on the driver."""
    settings, as_of = config.evaluate, config.time.as_of_ms
    pairs = item_pairs(events, sources, config.time.horizon_end_ms).persist()
    counts = pairs.where(known_before(F.col("known_ms"), as_of)).groupBy("user_id").agg(F.count("*").alias("items"))
    eligible = counts.where(F.col("items") >= settings.min_items).join(people, "user_id").persist()
    chosen = sample(eligible, settings.max_users).select("user_id", "country").persist()
    near = (
        edges.where(F.col("rank") <= settings.neighbours)
        .join(chosen.select(F.col("user_id").alias("src_user_id")), "src_user_id")
        .persist()
    )
    pool = chosen.select("user_id").union(near.select("dst_user_id")).distinct()
    rows, links = (
        pd.DataFrame(frame.toPandas()) for frame in (pairs.join(pool, "user_id"), near.select("src_user_id", "dst_user_id", "rank"))
    )
    country = pd.DataFrame(chosen.toPandas()).set_index("user_id")["country"]
    everybody = eligible.count() == len(country)
    for frame in (pairs, eligible, chosen, near):
        frame.unpersist()

    before, after = (
        rows[known_before(rows["known_ms"], as_of)],
        rows[~known_before(rows["known_ms"], as_of) & rows["user_id"].isin(country.index)],
    )
    users, items = np.array(sorted(set(before["user_id"])), object), np.unique(before["item_hash"].to_numpy(np.int64))
    had = _cells(before, users, items)
    links = links[links["src_user_id"].isin(users) & links["dst_user_id"].isin(users)]
    neighbours = np.full((len(users), settings.neighbours), -1, np.int64)
    ends = [np.searchsorted(users, links[name].to_numpy()) for name in ("src_user_id", "dst_user_id")]
    neighbours[ends[0], links["rank"].to_numpy() - 1] = ends[1]
    later = _cells(after[after["user_id"].isin(users) & after["item_hash"].isin(items)], users, items)
    return ItemSplit(
        users, country.reindex(users).fillna("").to_numpy(), had, later, np.asarray(had.sum(axis=0)).ravel(), neighbours, everybody
    )


def evaluate_items(split: ItemSplit, policies: Mapping[str, np.ndarray], k: int) -> pd.DataFrame:
    """user_id, task, policy, recall, ndcg of every policy's neighbours (U, n); NaN where the user has no later item."""
    parts = []
    for policy, neighbours in policies.items():
        evaluated = evaluate_neighbours(split.had, split.later, neighbours, split.popularity, k)
        parts.append(pd.DataFrame({"user_id": split.users, "task": "items", "policy": policy, **evaluated._asdict()}))
    return pd.concat(parts)


def evaluate_ads(ranked: Mapping[str, DataFrame], wanted: DataFrame, k: int) -> tuple[pd.DataFrame, dict[str, list[str]]]:
    """(user_id, task, policy, recall, ndcg of every policy's lists; the pipeline's first k per user).

    ranked: policy -> user_id, ad_id (list, best first); wanted: user_id, ads (list), bounded.
    """
    relevant = {row["user_id"]: row["ads"] for row in wanted.collect()}
    parts = []
    shown: dict[str, list[str]] = {}
    for policy, frame in ranked.items():
        rows = frame.join(wanted.select("user_id"), "user_id").select("user_id", F.slice("ad_id", 1, k).alias("ads")).collect()
        lists = {row["user_id"]: row["ads"] for row in rows}
        shown = lists if policy == "pipeline" else shown
        parts.append(evaluate_lists(lists, relevant, k).assign(task="ads", policy=policy))
    return pd.concat(parts), shown


def hits_by_graph(ad_candidates: DataFrame, wanted: DataFrame, k: int) -> dict[str, tuple[float, float]]:
    """Graph, or standalone -> (share of the first k candidates that it led to, share of the hits among them); {} without any.

    Several may lead to one candidate.

    ad_candidates: user_id, ad_id, graphs (lists, best first); wanted: user_id, ads (list). One row per set of graphs is collected.
    """
    first = F.explode(F.slice(F.arrays_zip("ad_id", "graphs"), 1, k)).alias("c")
    shown = ad_candidates.join(wanted, "user_id").select("ads", first)
    hit = F.expr("array_contains(ads, c.ad_id)").cast("int")
    counted = shown.groupBy("c.graphs").agg(F.count(F.lit(1)).alias("shown"), F.sum(hit).alias("hits")).collect()
    total, hits = sum(row["shown"] for row in counted), sum(row["hits"] for row in counted)
    found = {}
    for graph, bit in ORIGIN_BITS.items():
        mine = [row for row in counted if row["graphs"] & bit]
        if mine:
            found[graph] = (sum(row["shown"] for row in mine) / total, sum(row["hits"] for row in mine) / hits if hits else 0.0)
    return found


def neighbour_edges(split: ItemSplit, neighbours: np.ndarray) -> pd.DataFrame:
    """Neighbour rows (U, n) with -1 where there is none, as edges of weight 1: src_user_id, dst_user_id, country, weight, origins."""
    row, place = np.nonzero(neighbours >= 0)
    return pd.DataFrame({
        "src_user_id": split.users[row], "dst_user_id": split.users[neighbours[row, place]], "country": split.countries[row],
        "weight": 1.0, "origins": 0,
    })  # fmt: skip


def _cells(pairs: pd.DataFrame, users: np.ndarray, items: np.ndarray) -> sparse.csr_matrix:
    """(U, I) ones at the pairs."""
    cells = (np.searchsorted(users, pairs["user_id"].to_numpy()), np.searchsorted(items, pairs["item_hash"].to_numpy()))
    return sparse.csr_matrix((np.ones(len(pairs)), cells), shape=(len(users), len(items)))


def summary(evaluated: pd.DataFrame, resamples: int, seed: int) -> pd.DataFrame:
    """One row per task and policy: users, recall, ndcg, and recall of the pipeline minus the policy's with its paired interval."""
    rows = []
    for task, of_task in evaluated.groupby("task", sort=False):
        recall = of_task.pivot(index="user_id", columns="policy", values="recall")
        for policy, group in of_task.groupby("policy", sort=False):
            gap = paired_interval(recall["pipeline"].to_numpy(), recall[policy].to_numpy(), resamples, seed)
            rows.append((task, policy, int(group["recall"].notna().sum()), group["recall"].mean(), group["ndcg"].mean(), *gap))
    return pd.DataFrame(rows, columns=["task", "policy", "users", "recall", "ndcg", "pipeline_minus", "low", "high"])


def compare(ours: pd.DataFrame, theirs: pd.DataFrame, resamples: int, seed: int) -> pd.DataFrame:
    """Two runs' `evaluation_users` rows, paired by user: per task, in total, by country and for new users.

    task, group, users, ours, theirs, difference, low, high (of recall of the policy 'pipeline').
    """
    keys = ["user_id", "task"]
    mine, other = (frame[frame["policy"] == "pipeline"] for frame in (ours, theirs))
    both = mine.merge(other[[*keys, "recall"]], on=keys, suffixes=("", "_theirs")).dropna(subset=["recall", "recall_theirs"])
    rows = []
    for task, of_task in both.groupby("task"):
        groups = {"all users": of_task, "new users": of_task[of_task["new_user"]]}
        groups |= {f"country {country}": group for country, group in of_task.groupby("country")}
        for name, group in groups.items():
            if len(group):
                gap = paired_interval(group["recall"].to_numpy(), group["recall_theirs"].to_numpy(), resamples, seed)
                rows.append((task, name, len(group), group["recall"].mean(), group["recall_theirs"].mean(), *gap))
    return pd.DataFrame(rows, columns=["task", "group", "users", "ours", "theirs", "difference", "low", "high"])
