"""The invoices of a made-up shop, which tests of several benchmarks read."""

from __future__ import annotations

import numpy as np
import pandas as pd

from benchmarks.transfer_real_sets import CUT, HOME, OPENS

PRODUCTS, SUMMER, LATE = 30, "10027", ("10028", "10029")  # those nobody abroad has before July, and before the cut
COUNTRIES = {number: HOME if number <= 40 else ("France", "Norway")[number % 2] for number in range(1, 61)}
WORDS = ("BAG", "BOX", "MUG", "SIGN")


def invoices(seed=1, lines=3000):
    """Of 40 customers at home and 20 abroad, over a year."""
    draw = np.random.default_rng(seed)
    customer = draw.integers(1, 61, lines)
    product = draw.integers(0, PRODUCTS, lines)
    begin, end = np.datetime64("2010-12-01T08:00"), np.datetime64("2011-12-09T18:00")
    times = begin + draw.integers(0, int((end - begin) / np.timedelta64(1, "m")), lines) * np.timedelta64(1, "m")
    order = draw.integers(0, 400, lines)  # lines of one order are at one moment
    times = times[order]
    customer = customer[order]
    abroad = np.array([COUNTRIES[one] != HOME for one in customer])
    late = product >= PRODUCTS - len(LATE)
    kept = ~(abroad & late & (times < CUT + np.timedelta64(10, "D")))
    kept &= ~(abroad & (product == int(SUMMER) - 10000) & (times < OPENS + np.timedelta64(30, "D")))
    table = pd.DataFrame({
        "InvoiceNo": np.char.add("5", order.astype(str)).astype(object), "StockCode": (10000 + product).astype(str).astype(object),
        "Description": [f"NICE {WORDS[one % 4]}" for one in product], "Quantity": 1, "InvoiceDate": times.astype("datetime64[us]"),
        "UnitPrice": 1.5, "CustomerID": customer.astype(float), "Country": [COUNTRIES[one] for one in customer],
    })  # fmt: skip
    return table[kept].reset_index(drop=True)
