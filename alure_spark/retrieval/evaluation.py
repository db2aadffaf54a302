"""Held out in time: what did users engage with after as_of, and would a policy have shown it?

Enters: events on both sides of as_of, and what each policy ranks. Leaves: Recall@k and NDCG@k per user, and tables that a
person reads. Two tasks: `ads` (candidates against later engagements with ads that were active at as_of) and `items` (the user
graph against later items, protocol.py). Everything on the driver is bounded by evaluate.max_users.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from .candidates import active_ads, engaged_ads
from .protocol import paired_interval


def population(events: DataFrame, as_of_ms: int, new_user_events: int) -> DataFrame:
    """One row per user known before as_of: user_id, country (of the last event), new_user (few events)."""
    known = events.where(F.unix_millis("known_at") < as_of_ms).groupBy("user_id")
    return known.agg(
        F.max_by("country", F.struct("known_at", "event_hash")).alias("country"), (F.count("*") < new_user_events).alias("new_user")
    )


def later_ads(events: DataFrame, ads: DataFrame, sources: Sequence[str], as_of_ms: int, end_ms: int) -> DataFrame:
    """user_id, ads (list): ads active at as_of that the user engaged with in [as_of, end), and not before."""
    engaged = engaged_ads(events, list(sources)).withColumn("known_ms", F.unix_millis("known_at"))
    first = engaged.groupBy("user_id", "ad_id").agg(F.min("known_ms").alias("known_ms"))
    later = first.where((F.col("known_ms") >= as_of_ms) & (F.col("known_ms") < end_ms))
    return later.join(active_ads(ads, as_of_ms), "ad_id").groupBy("user_id").agg(F.sort_array(F.collect_set("ad_id")).alias("ads"))


def item_pairs(events: DataFrame, sources: Sequence[str], end_ms: int) -> DataFrame:
    """user_id, item_hash, known_ms: the first time that the user had the item, known before end."""
    rows = events.where(F.col("source").isin(list(sources))).withColumn("known_ms", F.unix_millis("known_at"))
    return rows.where(F.col("known_ms") < end_ms).groupBy("user_id", "item_hash").agg(F.min("known_ms").alias("known_ms"))


def sample(users: DataFrame, most: int) -> DataFrame:
    """At most so many users, those with the smallest hash of the id: the same ones in every run."""
    return users.orderBy(F.xxhash64("user_id"), "user_id").limit(most)


def popular_ads(events: DataFrame, ads: DataFrame, sources: Sequence[str], users: DataFrame, as_of_ms: int, k: int) -> DataFrame:
    """user_id, ad_id (list of k): the active ads with most engaged users of the user's country, own history removed."""
    before = engaged_ads(events, list(sources)).where(F.unix_millis("known_at") < as_of_ms).select("user_id", "ad_id").distinct().persist()
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


def judge_lists(ranked: Mapping[str, Sequence[str]], relevant: Mapping[str, Sequence[str]], k: int) -> pd.DataFrame:
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


def neighbour_edges(user_ids: np.ndarray, countries: np.ndarray, neighbours: np.ndarray) -> pd.DataFrame:
    """Neighbour rows (n, k) with -1 where there is none, as edges of weight 1: src_user_id, dst_user_id, country, graph, weight."""
    row, place = np.nonzero(neighbours >= 0)
    return pd.DataFrame({
        "src_user_id": user_ids[row], "dst_user_id": user_ids[neighbours[row, place]], "country": countries[row],
        "graph": "alure", "weight": 1.0,
    })  # fmt: skip


def summary(judged: pd.DataFrame, resamples: int, seed: int) -> pd.DataFrame:
    """One row per task and policy: users, recall, ndcg, and recall of the pipeline minus the policy's with its paired interval."""
    rows = []
    for task, of_task in judged.groupby("task", sort=False):
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
