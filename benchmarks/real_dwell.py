"""Does dwell go with conversion in real logs? DynamiX's statistic on sessions of a shop, and its job on reads of a newspaper.

    python -m benchmarks.real_dwell --online-shoppers PATH.csv --ebnerd FOLDER

online_shoppers (UCI): 12,330 sessions, dwell = time on product pages, converted = bought. A session is an impression; all visitors of one
kind are one user, since sessions do not say whose they are. ebnerd (Ekstra Bladet, sample): 44 users, an impression = an article that was
read, dwell = read time, a conversion = an article that was scrolled to its end within the window; ingested and correlated by the jobs.
synthetic: a world whose slopes are planted: the rank correlation of corr with the true slope, by how many impressions users have.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from alure_spark.config import build, load
from alure_spark.dynamix.correlation import Sums, correlate
from alure_spark.running import open_context, run_jobs
from alure_spark.sources.synthetic.options import WorldOptions
from alure_spark.sources.synthetic.truth import truth_users
from benchmarks import contract
from jobs import correlate_dwell, ingest_events

SECONDS, VISITOR, BOUGHT = 5, 15, 17  # columns of the file, which has no header
# Conversions come within seconds, so that the window holds them and little else: the planted slope is what is measured.
WORLD = (
    "source.options.users=600", "source.options.events_per_user=600", "source.options.ads_per_organic=1", "source.options.days=14",
    "time.as_of=2025-01-19T00:00:00Z", "source.options.conversion_delay=false", "dynamix.conversion_sources=[conversion]",
)  # fmt: skip
CONF = """
name: ebnerd
source:
  kind: tables
  options:
    root: {folder}
    events:
      - {{path: reads.parquet, format: parquet, source: ad_impression,
         columns: {{user_id: user, event_time: moment, item_id: article, dwell_ms: CAST(seconds * 1000 AS BIGINT)}}}}
      - {{path: reads.parquet, format: parquet, source: conversion, where: scrolled >= 100,
         columns: {{user_id: user, event_time: moment, item_id: article}}}}
streams: {{ad_impression: {{}}, conversion: {{}}}}
time: {{as_of: "{as_of}"}}
dynamix: {{conversion_sources: [conversion]}}
"""


def of_shop(path: Path) -> list[contract.Row]:
    """One row per kind of visitor: corr with its standard error, and the share of buyers by quintile of dwell."""
    sessions = pd.read_csv(path, header=None)
    sessions = sessions[sessions[SECONDS] > 0]
    rows = []
    kinds = {"all": sessions} | {str(kind): some for kind, some in sessions.groupby(VISITOR) if len(some) > 500}
    for kind, some in kinds.items():
        dwell, bought = some[SECONDS].to_numpy() * 1000, some[BOUGHT].to_numpy().astype(str) == "TRUE"
        bought |= some[BOUGHT].to_numpy() == True  # noqa: E712, read as bool where all cells are
        none = np.zeros(1, np.int64)
        found = correlate(Sums(none, none, none, none, none, none).add(np.zeros(len(dwell), int), dwell, bought))
        fifth = pd.Series(bought).groupby(pd.qcut(pd.Series(dwell).rank(method="first"), 5, labels=False)).mean()
        row: contract.Row = {"set": "online_shoppers", "users": kind, "impressions": len(some), "converted": int(bought.sum())}
        row |= {"corr": found.corr[0], "std_error": found.std_error[0], "w": found.w[0], "b": found.b[0]}
        rows.append(row | {"by_quintile": " ".join(f"{share:.3f}" for share in fifth)})
    return rows


def of_newspaper(source: Path, folder: Path) -> list[contract.Row]:
    """One row: the users' correlations as the job finds them, and how sure it is of them."""
    history = pd.read_parquet(source / "history.parquet")
    lists = ["impression_time_fixed", "read_time_fixed", "scroll_percentage_fixed", "article_id_fixed"]
    reads = history.explode(lists)[["user_id", *lists]].set_axis(["user", "moment", "seconds", "scrolled", "article"], axis=1)
    texts, numbers = ["user", "article"], ["seconds", "scrolled"]
    reads = reads.astype(dict.fromkeys(texts, str) | dict.fromkeys(numbers, float))
    reads["moment"] = pd.to_datetime(reads["moment"]).astype("datetime64[us]")
    reads.to_parquet(folder / "reads.parquet", index=False)
    conf = folder / "ebnerd.yml"
    conf.write_text(CONF.format(folder=folder, as_of=(reads["moment"].max() + pd.Timedelta(hours=1)).isoformat()))
    rows: list[contract.Row] = []
    for shrinkage in (False, True):
        context = open_context(load(str(conf), [*contract.places(str(folder)), f"dynamix.shrinkage={str(shrinkage).lower()}"]))
        run_jobs(context, [correlate_dwell.JOB] if rows else [ingest_events.JOB, correlate_dwell.JOB], "benchmark_real_dwell")
        found = pd.DataFrame(context.lake.read("dwell_correlations").where("surface = 'ALL'").toPandas())
        known = found[found["corr"].notna()]
        sure = known[known["corr"].abs() > 1.96 * known["std_error"]]
        row: contract.Row = {"set": "ebnerd" + (", drawn" if shrinkage else ""), "users": str(len(found))}
        row |= {"impressions": int((found["n_1"] + found["n_0"]).sum()), "converted": int(found["n_1"].sum())}
        row |= {"corr": float(known["corr"].median()), "std_error": float(known["std_error"].median())}
        rows.append(row | {"with_corr": len(known), "beyond_two_errors": len(sure), "of_these_positive": int((sure["corr"] > 0).sum())})
    return rows


def of_world(folder: Path) -> list[contract.Row]:
    """One row per third of the users by impressions: how well their correlations order them by the slope that was planted."""
    context = open_context(load("conf/test.yml", [*WORLD, *contract.places(str(folder))]))
    run_jobs(context, [ingest_events.JOB, correlate_dwell.JOB], "benchmark_real_dwell")
    slopes = truth_users(context.spark, build(WorldOptions, context.config.source.options, "source.options")).select(
        "user_id", "dwell_slope"
    )
    found = context.lake.read("dwell_correlations").where("surface = 'ALL' AND corr IS NOT NULL")
    known = pd.DataFrame(found.join(slopes, "user_id").toPandas())
    known["impressions"] = known["n_1"] + known["n_0"]
    third = pd.qcut(known["impressions"].rank(method="first"), 3, labels=["fewest", "middle", "most"])
    rows: list[contract.Row] = []
    for name, some in [("all", known), *known.groupby(third, observed=True)]:
        row: contract.Row = {
            "set": "synthetic",
            "users": f"{name} impressions" if len(rows) else "all",
            "impressions": int(some["impressions"].sum()),
        }
        row |= {"converted": int(some["n_1"].sum()), "corr": float(some["corr"].median()), "std_error": float(some["std_error"].median())}
        rows.append(row | {"rank_correlation": float(spearmanr(some["corr"], some["dwell_slope"]).statistic), "with_truth": len(some)})
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--online-shoppers", type=Path, required=True)
    parser.add_argument("--ebnerd", type=Path, required=True)
    options = parser.parse_args(arguments)
    rows = of_shop(options.online_shoppers)
    with tempfile.TemporaryDirectory(prefix="real_dwell_") as folder:
        rows += of_newspaper(options.ebnerd.absolute(), Path(folder))
    with tempfile.TemporaryDirectory(prefix="real_dwell_") as folder:
        rows += of_world(Path(folder))
    contract.publish("real_dwell", {}, rows, {})


if __name__ == "__main__":
    main()
