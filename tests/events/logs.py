"""Small event logs in which every tie and every border occurs, and the events that ingestion makes of them."""

from __future__ import annotations

from datetime import datetime, timedelta

from hypothesis import strategies as st

from alure_spark.config import LabelConfig, StreamConfig
from alure_spark.events.clean import accepted, validate_events

DAY = 86_400_000
START = 1_500_000_000_000
AS_OF = START + 40  # times are START .. START + 60 ms: ties and borders everywhere
STREAMS = {
    "organic": StreamConfig({"category_id": "categorical", "value": "numeric"}, max_events=3, max_days=15 / DAY),
    "ad_impression": StreamConfig({}, max_events=4),
    "ad_click": StreamConfig({}, max_events=2, max_days=12 / DAY),
    "conversion": StreamConfig({}, max_events=2),
}
HOUR = 3_600_000
LABELS = LabelConfig(click_window_hours=10 / HOUR, conversion_window_hours=25 / HOUR, validation_days=15 / DAY, max_impressions=5)
WINDOWS = {"ad_click": 10, "conversion": 25}
SCHEMA = (
    "event_id string, user_id string, country string, event_time timestamp, arrival_time timestamp, source string, item_id string, "
    "account_id string, category_id string, value double, impression_id string"
)

event = st.fixed_dictionaries({
    "source": st.sampled_from(sorted(STREAMS)),
    "event_time": st.integers(0, 60).map(lambda t: START + t),
    "delay": st.sampled_from([None, None, 0, 1, 5, 30]),
    "item_id": st.sampled_from(["a", "b"]),
    "country": st.sampled_from(["X", "Y"]),
    "category_id": st.sampled_from([None, "c"]),
    "by_id": st.booleans(),
})  # fmt: skip
log = st.lists(event, max_size=14)


def moment(epoch_ms):
    return None if epoch_ms is None else datetime(1970, 1, 1) + timedelta(milliseconds=epoch_ms)


def world(logs):
    """Events of many users, one hypothesis-made log each; responses may name an impression of their own user."""
    events = []
    for number, rows in enumerate(logs):
        user = f"u{number}"
        shown = [f"{user}/{place}" for place, row in enumerate(rows) if row["source"] == "ad_impression"]
        for place, row in enumerate(rows):
            is_response = row["source"] in WINDOWS
            named = shown[place % len(shown)] if is_response and row["by_id"] and shown else None
            events.append({
                "event_id": f"{user}/{place}", "user_id": user, "country": row["country"], "event_time": row["event_time"],
                "arrival_time": None if row["delay"] is None else row["event_time"] + row["delay"], "source": row["source"],
                "item_id": row["item_id"], "account_id": None, "category_id": row["category_id"], "value": float(place),
                "impression_id": f"{user}/{place}" if row["source"] == "ad_impression" and row["by_id"] else named,
            })  # fmt: skip
    return events


def frame(spark, events):
    """The events as ingestion accepts them; fills in the hashes that the oracle orders by."""
    names = [part.split()[0] for part in SCHEMA.split(", ")]
    rows = [tuple(moment(row[name]) if name.endswith("_time") else row[name] for name in names) for row in events]
    clean = accepted(validate_events(spark.createDataFrame(rows, SCHEMA), list(STREAMS), {}, 0, START + 10 * DAY))
    hashes = {row["event_id"]: row for row in clean.select("event_id", "event_hash", "item_hash").collect()}
    for row in events:
        row["hash"], row["item_hash"] = hashes[row["event_id"]]["event_hash"], hashes[row["event_id"]]["item_hash"]
    return clean
