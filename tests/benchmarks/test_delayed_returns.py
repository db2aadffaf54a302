"""Returns in a shop's invoices as delayed feedback: which purchase a cancellation belongs to, and the null twin."""

from __future__ import annotations

import numpy as np
import pandas as pd

from alure_spark.clock import DAY_MS, HOUR_MS, NEVER_MS
from benchmarks import delayed_returns as benchmark
from benchmarks.delayed_feedback import ACCOUNTS, FEATURES

BEGIN = pd.Timestamp("2011-01-03 10:00")


def line(invoice, hours, customer=1.0, article="84406B", quantity=1, price=2.0):
    return {
        "InvoiceNo": invoice, "StockCode": article, "Quantity": quantity, "InvoiceDate": BEGIN + pd.Timedelta(hours=hours),
        "UnitPrice": price, "CustomerID": customer,
    }  # fmt: skip


def table(*lines):
    frame = pd.DataFrame(list(lines))
    return frame.astype({"InvoiceDate": "datetime64[us]", "StockCode": object, "InvoiceNo": object})


def test_a_cancellation_belongs_to_the_last_open_purchase_of_its_customer_and_article():
    one = benchmark.purchases(
        table(
            line("C0", -1, quantity=-1), line("1", 0), line("2", 5), line("C3", 7, quantity=-1), line("C4", 9, quantity=-1),
            line("C5", 11, quantity=-1), line("6", 12), line("7", 6, customer=2.0), line("8", 6, article="22138"),
            line("9", 6, customer=np.nan), line("C10", 20, article="22138", quantity=-1), line("11", 21, quantity=-5),
        )
    )  # fmt: skip
    time_ms = (np.array([0, 5, 6, 6, 12]) + 10) * HOUR_MS
    np.testing.assert_array_equal(one.shown.time_ms, time_ms)
    np.testing.assert_array_equal(one.truth, [1, 1, 0, 1, 0])
    known = np.array([9, 7, 0, 20, 0]) + 10
    np.testing.assert_array_equal(one.shown.known_ms, np.where(one.truth == 1, known * HOUR_MS, NEVER_MS))


def shop(days=260, a_day=40, seed=3):
    """Every fifth purchase is returned, after some days; group 84 reports on every tenth day only."""
    random = np.random.default_rng(seed)
    lines = []
    for number in range(days * a_day):
        hours, group = 24 * random.uniform(0, days), random.choice(["84", "22"])
        lines.append(line(str(number), hours, number, f"{group}{number % 7}", price=random.gamma(2), quantity=random.integers(1, 9)))
        if random.random() < 0.2:
            day = (hours / 24 + random.exponential(2)) // 10 * 10 + 10 if group == "84" else hours / 24 + random.exponential(0.5)
            lines.append(line(f"C{number}", 24 * day + 1, number, f"{group}{number % 7}", quantity=-1))
    return benchmark.purchases(table(*lines))


def test_groups_that_report_in_bursts_are_waited_for_and_in_the_null_twin_all_are_alike():
    one = shop()
    assert set(one.shown.account) == {0, 1}
    assert one.feature.max() == FEATURES - 1
    bursts = int(np.median([one.shown.account[place] for place in np.flatnonzero(one.truth) if late(one)[place] > 4 * DAY_MS]))
    wait_ms, later = benchmark.by_variance(one).wait_ms, one.shown.time_ms > 100 * DAY_MS
    waited = [wait_ms[later & (one.shown.account == number)].mean() for number in (bursts, 1 - bursts)]
    assert waited[0] > 6 * DAY_MS
    assert waited[1] < DAY_MS
    twin = benchmark.null_twin(one, np.random.default_rng(0))
    assert sorted(late(twin)[twin.truth == 1]) == sorted(late(one)[one.truth == 1])
    means = [late(twin)[(twin.truth == 1) & (one.shown.account == number)].mean() for number in (0, 1)]
    assert abs(means[0] / means[1] - 1) < 0.15
    early = one.shown.time_ms < benchmark.START_DAY * DAY_MS
    assert all((feed.wait_ms[early] == benchmark.MATURE_MS).all() for feed in benchmark.feeds(one).values())
    assert ACCOUNTS > 2


def late(one):
    return one.shown.known_ms - one.shown.time_ms


def test_rows_say_how_well_each_way_of_feeding_predicted(monkeypatch):
    """With predictions at hand: the truth's own rate has a normalized entropy of about 1, and ours is compared with."""
    one = shop(days=250, a_day=20)
    rate = one.truth.mean()
    monkeypatch.setattr(benchmark, "learnt", lambda one, feed, learning_rate, seed, window: np.full(len(one.truth), rate))
    rows = {row["feed"]: row for row in benchmark.measured(one, (7, 8), 50)}
    assert set(rows) == {benchmark.OURS, *benchmark.FIXED}
    for name, row in rows.items():
        assert abs(row["ne"] - 1) < 0.01
        assert abs(row["calibration"] - 1) < 0.1
        assert ("ne_more" in row) == (name != benchmark.OURS)
        assert abs(row.get("ne_more", 0)) < 1e-12

    def worse_for_a_fixed_wait(one, feed, learning_rate, seed, window):
        return np.full(len(one.truth), rate) if feed.wait_ms.std() else np.where(one.truth == 1, rate / 2, rate)

    monkeypatch.setattr(benchmark, "learnt", worse_for_a_fixed_wait)
    found = {row["feed"]: row for row in benchmark.measured(one, (7,), 50)}
    assert found["30 days for all"]["ne_low"] > 0, "it waits for all as before START_DAY, and predicts worse here"
