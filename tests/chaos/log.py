"""A log of a few users with tastes, as Parquet files: the source of the chaos tests, which costs Spark less than the synthetic world."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

USERS, DAYS, TOPICS, ITEMS, ADS = 40, 8, 3, 12, 9
FIRST_DAY = pd.Timestamp("2025-01-06", tz="UTC")
# canonical column -> the log's; events have all of them, each stream what it needs
EVENTS = (
    "event_id", "user_id", "country", "event_time", "arrival_time", "source", "item_id", "account_id", "category_id", "impression_id",
    "dwell_ms", "value", "media_type", "position", "utc_offset_minutes",
)  # fmt: skip
INTEGERS = ("dwell_ms", "position", "utc_offset_minutes")


def write(folder: Path, seed: int = 7) -> dict[str, Any]:
    """Writes events, ads and follows below the folder; returns the options of `source.kind: tables` that read them."""
    folder.mkdir(parents=True)
    draw = np.random.default_rng(seed)
    frames = {"events": _events(draw), "ads": _ads(), "follows": _follows(draw)}
    for name, frame in frames.items():
        frame.to_parquet(folder / f"{name}.parquet", coerce_timestamps="us")
    tables = {
        name: [{"path": f"{name}.parquet", "format": "parquet", "columns": {column: column for column in frame.columns}}]
        for name, frame in frames.items()
    }
    return {"root": str(folder), **tables}


def _events(draw: np.random.Generator) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []

    def add(user: int, at: pd.Timestamp, source: str, **more: Any) -> str:
        late = pd.Timedelta(minutes=int(draw.integers(0, 600))) if draw.random() < 0.2 else pd.Timedelta(0)
        base = {"event_id": f"e{len(rows):06d}", "user_id": f"u{user:03d}", "country": ("NZ", "US")[user % 2], "event_time": at}
        rows.append(base | {"arrival_time": at + late, "source": source, "utc_offset_minutes": 60} | more)
        return f"e{len(rows) - 1:06d}"

    for user in range(USERS):
        for day in range(DAYS):
            for _ in range(int(draw.integers(4, 9))):
                topic = user % TOPICS if draw.random() < 0.8 else int(draw.integers(TOPICS))
                at = FIRST_DAY + pd.Timedelta(days=day, seconds=int(draw.integers(86_400)))
                item, ad = topic + TOPICS * int(draw.integers(ITEMS)), topic + TOPICS * int(draw.integers(ADS // TOPICS))
                dwell = int(1000 * draw.lognormal(1 + (topic == user % TOPICS)))
                kind = draw.choice(["organic_impression", "page_impression", "ad_impression"])
                if kind != "ad_impression":
                    add(user, at, str(kind), item_id=f"i{item}", category_id=f"c{topic}", dwell_ms=dwell)
                    continue
                named = {"item_id": f"a{ad}", "account_id": f"b{ad % 4}", "category_id": f"c{topic}"}
                seen = add(user, at, "ad_impression", dwell_ms=dwell, media_type=("image", "video")[ad % 2], position=ad % 5, **named)
                if draw.random() < 0.3 + 0.4 * (topic == user % TOPICS):
                    add(user, at + pd.Timedelta(seconds=20), "ad_click", impression_id=seen, **named)
                    if draw.random() < 0.4:
                        add(user, at + pd.Timedelta(minutes=9), "conversion", impression_id=seen, value=float(ad), **named)
    frame = pd.DataFrame(rows).reindex(columns=list(EVENTS))
    return frame.astype(dict.fromkeys(INTEGERS, "Int32") | {"dwell_ms": "Int64"})


def _ads() -> pd.DataFrame:
    number = np.arange(ADS)
    return pd.DataFrame(
        {
            "ad_id": [f"a{ad}" for ad in number], "account_id": [f"b{ad % 4}" for ad in number],
            "category_id": [f"c{ad % TOPICS}" for ad in number], "active_from": FIRST_DAY, "bid": 1.0 + number, "value": 2.0 + number,
        }
    )  # fmt: skip


def _follows(draw: np.random.Generator) -> pd.DataFrame:
    pairs = {(user, int(other)) for user in range(USERS) for other in draw.integers(USERS, size=3) if other != user}
    ends = sorted(pairs)
    return pd.DataFrame(
        {"src_user_id": [f"u{a:03d}" for a, _ in ends], "dst_user_id": [f"u{b:03d}" for _, b in ends], "event_time": FIRST_DAY}
    )
