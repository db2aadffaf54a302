"""Users with candidates, as score_impressions hands them to a worker."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa

from tests.ranking.planted_ranking import ADS, CATEGORIES, VOCABULARY

AS_OF = datetime(2025, 1, 6, tzinfo=UTC)


def hashes(space, rows):
    """The ids that have these rows of the space; a row of 0 is an id that nobody knows."""
    known, of = VOCABULARY.entries[space]
    return [int(known[np.flatnonzero(of == row)[0]]) if row else 10**12 for row in rows]


def candidates(seed=0, count=8):
    """Users with 0 to 6 candidates as score_impressions hands them to a worker."""
    random = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        shown, clicks = random.integers(0, 7), random.integers(0, 5)
        ad = random.integers(0, ADS + 1, shown)
        rows.append(
            {
                "user_id": f"u{number}",
                "country": "SE",
                "as_of": AS_OF,
                "ads": [f"ad{one}" for one in ad],
                "accounts": [f"account{one % 2}" for one in ad],
                "_bid": [float(one % 3) if one % 5 else None for one in ad],
                "time_ms": [500 * 3_600_000] * shown,
                "impression__ad": hashes("ad", ad),
                "impression__category": hashes("category", ad % CATEGORIES + 1),
                "impression__price": [float(one) if one % 4 else None for one in ad],
                "click__known_at_ms": sorted(random.integers(0, 600 * 3_600_000, clicks).tolist()),
                "click__event_time_ms": [0] * clicks,
                "click__item_id": [None] * clicks,
                "click__category": hashes("category", random.integers(1, CATEGORIES + 1, clicks)),
            }
        )
    numbers = {"_bid": pa.list_(pa.float64()), "impression__price": pa.list_(pa.float64())}
    texts = dict.fromkeys(("ads", "accounts"), pa.list_(pa.string()))
    plain = {"user_id": pa.string(), "country": pa.string(), "as_of": pa.timestamp("us", "UTC")}
    schema = pa.schema([(name, (plain | texts | numbers).get(name, pa.list_(pa.int64()))) for name in rows[0]])
    return pa.RecordBatch.from_pylist(rows, schema)


def with_columns(rows, changed):
    """The rows with some columns changed."""
    columns = {name: rows.column(name) for name in rows.schema.names} | changed
    return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))
