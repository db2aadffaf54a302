"""What the user embedding is worth to a ranking model: normalised entropy with it against without it (ALURE, Table 1).

    python -m benchmarks.ranking_gain

Two rankers, a logistic regression and a small network, each fitted with and without the embedding on the same rows, three seeds.
completejourney: the 18 hand-made aggregates of benchmarks/redemption.py at each send; synthetic: what the user model's read-out
counts (engagements, recency, matches) and the ad's account, on impressions after the time that the user model was trained up to;
synthetic, every N days: with embeddings made anew so seldom, beside the users that a day then costs (ALURE, section 2.4:
freshness against compute); null: the same as synthetic on the world in which nothing prefers anything, where a gain would be a fault;
daily: the world with a model that goes on learning every day, and each impression with the embedding that had been published
before it, as jobs/log_embeddings.py joins it. To each embedding its affinity to the ad's account is added: the cosine to the mean
embedding of those who clicked the account's ads in the training part (a row's own user left out).
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from pyspark.sql import functions as F

from alure_spark.analysis.ranking_gain import ranking_gain
from alure_spark.clock import DAY_MS, format_time
from alure_spark.config import DEFAULT_TASKS, load
from alure_spark.lake import timestamp
from alure_spark.running import Context, open_context, run_jobs
from benchmarks import contract, redemption
from benchmarks.impressions import ImpressionReads, read_impressions
from jobs import build_sequences, embed_users, log_embeddings, pipeline

WORLD = [
    "source.options.users=3000",
    "source.options.days=28",
    "time.as_of=2025-01-20T00:00:00Z",
    "training.epochs=6",
    "inference.precision=float32",
]
DAILY = ["training.warm_start=true", "labels.days=7", "labels.validation_days=1"]
WORLDS: dict[str, list[str]] = {"synthetic": [], "null": ["source.options.null=true"], "daily": []}
REFRESH_DAYS = (2, 4, 8)  # of the synthetic world's further rows
SETS = (*WORLDS, "completejourney")
TRAIN_SHARE = 0.6  # of the impressions after as_of, by time, train the synthetic worlds' rankers


def affinity(reads: ImpressionReads, label: np.ndarray, is_train: np.ndarray) -> np.ndarray:
    """(n, 1) float64 cosine of a row's embedding to the mean embedding of the training rows with a click of the same account.

    The rows of its own user are left out; 0 where there is no other clicker.
    """
    _, account = np.unique(reads.account, return_inverse=True)
    _, user = np.unique(reads.user_id, return_inverse=True)
    vectors = np.where(is_train & (label > 0), 1.0, 0.0)[:, None] * reads.embeddings
    totals = np.zeros((account.max() + 1, vectors.shape[1]))
    np.add.at(totals, account, vectors)
    pair, inverse = np.unique(user * (account.max() + 1) + account, return_inverse=True)
    own = np.zeros((len(pair), vectors.shape[1]))
    np.add.at(own, inverse, vectors)
    centre = totals[account] - own[inverse]
    length = np.sqrt((centre**2).sum(axis=1)) * np.sqrt((reads.embeddings**2).sum(axis=1))
    return ((centre * reads.embeddings).sum(axis=1) / np.where(length > 1e-9, length, 1))[:, None]


def gains(
    name: str, label: str, base: np.ndarray, reads: ImpressionReads, labels: np.ndarray, is_train: np.ndarray, options: Any
) -> list[contract.Row]:
    """One row per ranker."""
    block = np.hstack([reads.embeddings, affinity(reads, labels, is_train)])
    rows = []
    for found in ranking_gain(base, block, labels, reads.user_id, is_train, options.seeds, options.resamples):
        row = {"set": name, "label": label, "road": found.ranker, "rows": int((~is_train).sum()), "positives": int(labels[~is_train].sum())}
        row |= {"ne_without": float(np.mean(found.ne_without)), "ne_with": float(np.mean(found.ne_with))}
        row |= {"gain": found.mean_gain, "low": found.low, "high": found.high}
        row |= {"gain_min": min(found.gain), "gain_max": max(found.gain), "factors": " ".join(map(str, found.factor))}
        rows.append(row)
    return rows


def of_completejourney(options: Any) -> list[contract.Row]:
    """The redemption protocol: the user model is trained up to the cut, the rankers on the sends before it."""
    data = redemption.tables()
    given = redemption.sends(data)
    base = np.log1p(redemption.aggregates(given, data))
    with tempfile.TemporaryDirectory(prefix="ranking_gain_") as folder:
        reads = redemption.model_reads(given, options.seeds[0], "ingest_events", folder)
    labels = np.where(given.is_train, given.training_label, given.label)
    return gains("completejourney", "redemption", base, reads, labels, given.is_train, options)


def of_world(name: str, options: Any) -> list[contract.Row]:
    """The rankers see impressions after the time that the user model was trained up to; the last ones evaluate."""
    with tempfile.TemporaryDirectory(prefix="ranking_gain_") as folder:
        context = _world(folder, WORLDS[name])
        run_jobs(context, pipeline.stages("ingest_events", "train_model"), "benchmark_ranking_gain")
        last = context.lake.read("events").selectExpr("unix_millis(max(known_at))").collect()[0][0]
        first = context.config.time.as_of_ms
        if name == "daily":
            logged = day_by_day(folder, WORLDS[name], first, last)
            reads = read_impressions(_world(folder, [f"time.as_of={format_time(last + 1)}"]), last + 1)  # by the last day's model
            nothing = np.zeros(reads.embeddings.shape[1], np.float32)
            logs = {1: replace(reads, embeddings=np.stack([logged.get(impression, nothing) for impression in reads.impression_id]))}
        else:
            periods = (1, *REFRESH_DAYS) if name == "synthetic" else (1,)
            logs = {days: read_impressions(context, last + 1, days) for days in periods}
        embedded = {days: _embedded_a_day(context, first, last, days) for days in logs}
    rows = []
    for days, reads in logs.items():
        mature = reads.time_ms.max() - int(2 * DAY_MS)  # later impressions may still be answered
        kept = reads.select((reads.time_ms >= first) & (reads.time_ms < mature))
        is_train = kept.time_ms < np.quantile(kept.time_ms, TRAIN_SHARE)
        accounts = np.unique(kept.account, return_inverse=True)[1]
        base = np.hstack([kept.facts, np.eye(accounts.max() + 1)[accounts]])
        named = name if days == 1 else f"{name}, every {days} days"
        for column, label in enumerate(DEFAULT_TASKS):
            found = gains(named, label, base, kept, kept.labels[:, column], is_train, options)
            rows += [row | {"embedded_a_day": embedded[days]} for row in found]
    return rows


def _embedded_a_day(context: Context, first_ms: int, last_ms: int, days: int) -> float:
    """Users with new events at a refresh every so many days, per day between the two times."""
    events = context.lake.read("events").where(F.col("known_at") >= timestamp(first_ms))
    period = F.floor(F.unix_millis("known_at") / (days * DAY_MS)).alias("period")
    return events.select("user_id", period).distinct().count() * DAY_MS / (last_ms - first_ms)


def _world(folder: str, settings: Sequence[str]) -> Context:
    return open_context(load("conf/test.yml", [*WORLD, *settings, *contract.places(folder)]))


def day_by_day(folder: str, settings: Sequence[str], first_ms: int, last_ms: int) -> dict[str, np.ndarray]:
    """Impression id -> (D,) float32: the embedding that served it, of a model that has learnt every day since first_ms."""
    run_jobs(_world(folder, settings), [embed_users.JOB], "benchmark_ranking_gain")
    for as_of in range(first_ms + DAY_MS, last_ms, DAY_MS):
        context = _world(folder, [*settings, *DAILY, f"time.as_of={format_time(as_of)}"])
        run_jobs(context, pipeline.stages("build_sequences", "embed_users"), "benchmark_ranking_gain")
    context = _world(folder, [*settings, f"time.as_of={format_time(last_ms + 1)}"])
    run_jobs(context, [build_sequences.JOB, log_embeddings.JOB], "benchmark_ranking_gain")
    rows = context.lake.read("ranking_examples").where("embedding IS NOT NULL").select("impression_id", "embedding").collect()
    return {row["impression_id"]: np.array(row["embedding"], np.float32) for row in rows}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", choices=sorted(SETS), default=SETS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[7, 8, 9])
    parser.add_argument("--resamples", type=int, default=1000)
    options = parser.parse_args(arguments)
    rows = contract.earlier("ranking_gain", lambda row: row["set"].split(",")[0] not in options.sets)
    for name in options.sets:  # an hour in all: what a set found is published before the next one starts
        rows += of_completejourney(options) if name == "completejourney" else of_world(name, options)
        contract.publish("ranking_gain", {"seeds": options.seeds, "resamples": options.resamples, "world": WORLD}, rows, {})


if __name__ == "__main__":
    main()
