"""From what was retrieved to what is shown (ALURE, section 4 and Table 2): one pool per user, pre-ranking, ranking.

    sources of ads per user -> fill_pool   as many ads for every policy, the best of each source in turn
    pool -> pre_rank                       those whose clickers are most like the user: one dot product per ad
    pre-ranked -> rank                     bid * p(click) + value * p(conversion), by two logistic regressions on logged impressions

For the evaluation of policies, on the driver: a `History` has a row for every user, ad, and user and category. It holds what was
known at its time and nothing later: a ranker that is fitted with a history evaluates impressions after it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from scipy.special import logit
from sklearn.linear_model import LogisticRegression

from ..attribution import answers, given, matched, number
from ..clock import known_before
from ..config import LabelConfig
from ..errors import DataError

PRIOR = 50.0  # impressions that a rate of few impressions is drawn with towards the rate of all
Lists = Mapping[str, Sequence[str]]  # user -> ads, best first


def fill_pool(sources: Sequence[Lists], size: int) -> dict[str, list[str]]:
    """User -> at most `size` distinct ads: the best of each source in turn, then the second best of each, and so on."""
    pools = {}
    for user in sorted(set().union(*sources)):
        lists = [source.get(user, ()) for source in sources]
        in_turn = (ads[place] for place in range(max(map(len, lists))) for ads in lists if place < len(ads))
        pools[user] = list(dict.fromkeys(in_turn))[:size]
    return pools


@dataclass(frozen=True)
class History:
    """Everything that the funnel knows at one time. U users with an embedding, A ads that were shown or may be."""

    ads: pd.DataFrame  # ad_id (index): account_id, category_id, bid, value, impressions, clicks, conversions
    users: pd.DataFrame  # user_id (index): impressions, clicks
    interest: pd.Series  # (user_id, category_id) -> events of any source with that category
    user_ids: pd.Index  # (U,)
    embeddings: np.ndarray  # (U, d) float32, unit norm
    ad_vectors: np.ndarray  # (A, d) float32 in the order of `ads`: mean embedding of those who clicked the ad, unit norm or 0

    def affinity(self, users: np.ndarray, ads: np.ndarray) -> np.ndarray:
        """(M,) dot product of each user's embedding with the ad's vector; 0 where either is missing."""
        row, place = self.user_ids.get_indexer(users), self.ads.index.get_indexer(ads)
        found = np.einsum("md,md->m", self.embeddings[row], self.ad_vectors[place])
        return np.where((row < 0) | (place < 0), 0.0, found)

    def features(self, users: np.ndarray, ads: np.ndarray) -> np.ndarray:
        """(M, F) float64: log-odds of ad, account and user to be clicked, of the ad to convert, interest in its category, affinity."""
        ad, user = self.ads.reindex(ads), self.users.reindex(users).fillna(0)
        account = self.ads.groupby("account_id")[["impressions", "clicks"]].sum().reindex(ad["account_id"])
        total = self.ads[["impressions", "clicks", "conversions"]].sum()
        categories = self.interest.index.get_level_values("category_id").nunique()
        mine = self.interest.groupby("user_id").sum().reindex(users).fillna(0).to_numpy()
        both = self.interest.reindex(pd.MultiIndex.from_arrays([users, ad["category_id"]])).fillna(0).to_numpy()

        def odds(counted: pd.DataFrame, kind: str) -> np.ndarray:
            rate = (total[kind] + 1) / (total["impressions"] + 2)
            return logit((counted[kind] + PRIOR * rate) / (counted["impressions"] + PRIOR)).to_numpy()

        return np.column_stack([
            odds(ad, "clicks"), odds(ad, "conversions"), odds(account, "clicks"), odds(user, "clicks"),
            np.log((both + 1) / (mine + categories)), self.affinity(users, ads),
        ])  # fmt: skip


@dataclass(frozen=True)
class Ranker:
    """Two logistic regressions on a History's features."""

    centre: np.ndarray  # (F,)
    scale: np.ndarray  # (F,)
    click: LogisticRegression
    conversion: LogisticRegression

    def expected_value(self, history: History, users: np.ndarray, ads: np.ndarray) -> np.ndarray:
        """(M,) bid * p(click) + value * p(conversion) of one impression; a bid or value that is not known counts 1."""
        x = (history.features(users, ads) - self.centre) / self.scale
        p_click, p_conversion = (model.predict_proba(x)[:, 1] for model in (self.click, self.conversion))
        worth = history.ads.reindex(ads)[["bid", "value"]].fillna(1.0).to_numpy()
        return worth[:, 0] * p_click + worth[:, 1] * p_conversion


def read_history(events: DataFrame, ads: DataFrame, embeddings: DataFrame, labels: LabelConfig, as_of_ms: int) -> History:
    """What was known before as_of. embeddings: user_id, embedding (unit norm) of that time. Raises DataError where there are none."""
    known = events.where(known_before(F.unix_millis("known_at"), as_of_ms))
    kinds = {"impressions": labels.impression_source, "clicks": labels.click_source, "conversions": labels.conversion_source}
    counts = [F.count(F.when(F.col("source") == source, 1)).alias(name) for name, source in kinds.items()]
    shown = known.where(F.col("source").isin(list(kinds.values())) & F.col("item_id").isNotNull())
    latest = ads.groupBy("ad_id").agg(
        *(F.max_by(name, "active_from").alias(name) for name in ("account_id", "category_id", "bid", "value"))
    )
    by_ad = shown.groupBy(F.col("item_id").alias("ad_id")).agg(*counts)
    of_ads = pd.DataFrame(latest.join(by_ad, "ad_id", "left").fillna(0, list(kinds)).toPandas()).set_index("ad_id").sort_index()
    of_users = pd.DataFrame(shown.groupBy("user_id").agg(*counts[:2]).toPandas()).set_index("user_id")
    liked = pd.DataFrame(known.where("category_id IS NOT NULL").groupBy("user_id", "category_id").count().toPandas())
    vectors = pd.DataFrame(embeddings.select("user_id", "embedding").toPandas())
    if not len(vectors):
        raise DataError("there are no user embeddings: run jobs/embed_users.py for this as_of")
    clicked = pd.DataFrame(
        known.where(F.col("source") == labels.click_source).select("user_id", F.col("item_id").alias("ad_id")).distinct().toPandas()
    )
    matrix, user_ids = np.stack(vectors["embedding"].to_numpy()).astype(np.float32), pd.Index(vectors["user_id"])
    row, place = user_ids.get_indexer(clicked["user_id"]), of_ads.index.get_indexer(clicked["ad_id"])
    both = (row >= 0) & (place >= 0)
    sums = np.zeros((len(of_ads), matrix.shape[1]), np.float32)
    np.add.at(sums, place[both], matrix[row[both]])
    norm = np.linalg.norm(sums, axis=1, keepdims=True)
    interest = liked.set_index(["user_id", "category_id"])["count"]
    return History(of_ads, of_users, interest, user_ids, matrix, sums / np.where(norm > 1e-9, norm, 1))


def logged_impressions(events: DataFrame, labels: LabelConfig, start_ms: int, end_ms: int) -> pd.DataFrame:
    """user_id, ad_id, clicked, converted of each impression known in [start, end), with the responses known before end.

    Only impressions and responses with an impression_id; a response belongs to the impression that `attribution.matched` says,
    and counts within the window of its label.
    """
    moment, happened = F.unix_millis("known_at"), F.unix_millis("event_time")
    known = (
        events.where(known_before(moment, end_ms)).withColumn("impression_id", given("impression_id")).where("impression_id IS NOT NULL")
    )
    impressions = known.where(F.col("source") == labels.impression_source).select(
        "impression_id", "user_id", F.col("item_id").alias("ad_id"), "event_hash", happened.alias("time_ms"), moment.alias("known_ms")
    )
    responses = known.where(F.col("source").isin(*labels.response_sources)).select(
        "impression_id",
        "user_id",
        F.col("item_id").alias("ad_id"),
        "source",
        happened.alias("response_ms"),
        *map(number, labels.response_numbers),
    )
    skew_ms = labels.clock_skew_ms
    found = matched(impressions, responses, skew_ms).where("event_hash IS NOT NULL")
    names = {"click": "clicked", "conversion": "converted"}
    hits = {names[name]: answers(task, skew_ms) for name, task in labels.declared.items() if name in names}
    answered = found.groupBy("user_id", "event_hash").agg(*(F.max(hit.cast("double")).alias(name) for name, hit in hits.items()))
    rows = impressions.where(~known_before(F.col("known_ms"), start_ms)).join(answered, ["user_id", "event_hash"], "left")
    rows = rows.select("impression_id", "user_id", "ad_id", "clicked", "converted").fillna(0.0, ["clicked", "converted"])
    return pd.DataFrame(rows.orderBy("impression_id", "user_id", "ad_id").toPandas())


def fit_ranker(history: History, logged: pd.DataFrame) -> Ranker:
    """Logged impressions after the history's time, of ads that it knows; clicks and conversions are fitted apart.

    Raises DataError where no impression, or every one, was clicked or converted.
    """
    logged = logged[logged["ad_id"].isin(history.ads.index)]
    x = history.features(logged["user_id"].to_numpy(), logged["ad_id"].to_numpy())
    centre, scale = x.mean(axis=0), x.std(axis=0)
    scale = np.where(scale > 1e-12, scale, 1.0)
    standard = (x - centre) / scale
    models = []
    for name in ("clicked", "converted"):
        if logged[name].nunique() < 2:
            raise DataError(f"of {len(logged)} logged impressions {int(logged[name].sum())} were {name}; a ranker needs both kinds")
        models.append(LogisticRegression(max_iter=1000).fit(standard, logged[name]))
    return Ranker(centre, scale, *models)


def show(pools: Lists, history: History, ranker: Ranker, pre_ranked: int, k: int) -> dict[str, list[str]]:
    """User -> the k ads shown: of the pool the pre_ranked ones of highest affinity, of these the k of highest expected value.

    Ties go to the ad that is earlier in the pool.
    """
    users = np.array([user for user, ads in pools.items() for _ in ads], object)
    ads = np.array([ad for listed in pools.values() for ad in listed], object)
    kept = _best(users, history.affinity(users, ads), pre_ranked)
    users, ads = users[kept], ads[kept]
    kept = _best(users, ranker.expected_value(history, users, ads), k)
    shown: dict[str, list[str]] = {user: [] for user in pools}
    for user, ad in zip(users[kept], ads[kept], strict=True):
        shown[user].append(ad)
    return shown


def _best(users: np.ndarray, scores: np.ndarray, k: int) -> np.ndarray:
    """Rows of each user's k highest scores, best first; rows of a user lie together."""
    group = np.unique(users, return_inverse=True)[1]
    order = np.lexsort((-np.round(scores, 9), group))
    place = np.arange(len(order)) - np.searchsorted(group[order], group[order])
    return order[place < k]
