"""A month of events built day by day through the jobs: what a day costs in time, memory and disk.

    python -m benchmarks.scale --folder /big/disk/scale                  # 10^6 users, 10^8 events, 30 days: hours
    python -m benchmarks.scale --folder /tmp/scale --events 1000000 --users 10000 --days 5

Each day's raw file (Parquet, written before the clock starts) holds what arrived on that day: 2 % of it happened up to two days
earlier, 0.5 % was delivered the day before already, and one crawler makes 1 % of it. Then ingest_events takes the day's batch and
build_sequences its as_of, with training examples of the day's impressions; every third day apply_retention leaves the last three
as_ofs (and each user's latest row before). One process, 4 GB for the driver, 2 cores. A run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from alure_spark.clock import DAY_MS, HOUR_MS, format_time
from alure_spark.config import load
from alure_spark.running import Job, open_context, run_jobs
from benchmarks import contract
from jobs import apply_retention, build_sequences, ingest_events

START_MS = 1_735_689_600_000
SHARES = {"organic_impression": 0.69, "ad_impression": 0.25, "ad_click": 0.05, "conversion": 0.01}
LATE, AGAIN, CRAWLED = 0.02, 0.005, 0.01
COUNTRIES, ITEMS, ACCOUNTS = 5, 200_000, 2_000
CONF = """
name: scale
source:
  kind: tables
  options:
    root: {folder}/raw
    events:
      - path: .
        format: parquet
        batch_where: "day >= date'{{from}}' AND day < date'{{to}}'"
        columns: {{event_id: event_id, user_id: user_id, country: country, source: source, event_time: event_time,
                   arrival_time: arrival_time, item_id: item_id, account_id: account_id, impression_id: impression_id,
                   value: value, dwell_ms: dwell_ms}}
time: {{as_of: "2025-01-02T00:00:00Z"}}
ingest: {{batch_days: 1, late_days: 2.5}}
streams:
  organic_impression: {{attributes: {{dwell_ms: numeric}}, max_events: 64}}
  ad_impression: {{attributes: {{account_id: categorical, dwell_ms: numeric}}, max_events: 64}}
  ad_click: {{attributes: {{account_id: categorical}}, max_events: 64}}
  conversion: {{attributes: {{account_id: categorical, value: numeric}}, max_events: 64}}
labels: {{days: 1, validation_days: 0.25, conversion_window_hours: 48}}
embedding: {{sources: [organic_impression, ad_click]}}
"""


def write_day(folder: Path, day: int, events: int, users: int) -> None:
    """What arrived on the day; depends on the day and the sizes only."""
    random = np.random.default_rng([7, day])
    activity = np.random.default_rng(7).lognormal(0, 1, users).cumsum()
    begin = START_MS + day * DAY_MS
    counts = {source: int(share * events) for source, share in SHARES.items()}
    shown = counts["organic_impression"] + counts["ad_impression"]
    user = np.searchsorted(activity / activity[-1], random.random(shown)).clip(max=users - 1)
    user[random.random(shown) < CRAWLED] = 0
    arrived = begin + random.integers(0, DAY_MS, shown)
    late = random.random(shown) < LATE
    happened = np.where(late, arrived - random.integers(0, 2 * DAY_MS, shown), arrived)
    item = random.zipf(1.3, shown) % ITEMS
    number = day * events + np.arange(shown)
    parts = [(number, user, happened, arrived, item, np.full(shown, -1))]
    for response in ("ad_click", "conversion"):  # to impressions of the day, an hour later at most
        cause = counts["organic_impression"] + random.integers(0, counts["ad_impression"], counts[response])
        then = np.minimum(arrived[cause] + random.integers(0, HOUR_MS, len(cause)), begin + DAY_MS - 1)
        first = parts[-1][0][-1] + 1
        parts.append((first + np.arange(len(cause)), user[cause], then, then, item[cause], number[cause]))
    number, user, happened, arrived, item, cause = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    source = np.repeat(np.arange(len(SHARES)), list(counts.values()))
    table = pa.table(
        {
            "event_id": pa.array(number).cast(pa.string()),
            "user_id": pa.array(user).cast(pa.string()),
            "country": pa.array(user % COUNTRIES).cast(pa.string()),
            "event_time": pa.array(happened, pa.timestamp("ms", "UTC")),
            "arrival_time": pa.array(arrived, pa.timestamp("ms", "UTC")),
            "source": pa.DictionaryArray.from_arrays(pa.array(source.astype(np.int32)), pa.array(list(SHARES))).cast(pa.string()),
            "item_id": pa.array(item).cast(pa.string()),
            "account_id": pa.array(item % ACCOUNTS).cast(pa.string()),
            "impression_id": pa.array(np.where(cause < 0, number, cause)).cast(pa.string()),
            "value": random.random(len(number)),
            "dwell_ms": random.integers(250, 60_000, len(number)),
        }
    )
    again = table.take(pa.array(random.integers(0, len(table), int(AGAIN * len(table)))))
    target = folder / f"day={format_time(begin)[:10]}"
    target.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, target / "events.parquet", coerce_timestamps="us")
    following = folder / f"day={format_time(begin + DAY_MS)[:10]}"
    following.mkdir(parents=True, exist_ok=True)
    arrived = random.integers(begin + DAY_MS, begin + 2 * DAY_MS, len(again))
    moved = again.set_column(again.schema.get_field_index("arrival_time"), "arrival_time", pa.array(arrived, pa.timestamp("ms", "UTC")))
    pq.write_table(moved, following / "again.parquet", coerce_timestamps="us")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where the raw files and the lake lie; may hold a run to go on with")
    parser.add_argument("--events", type=int, default=100_000_000)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--stop-after", type=float, default=0, metavar="MINUTES", help="begin no further day then; call again to go on")
    parser.add_argument("--results", type=Path, default=contract.RESULTS)
    options = parser.parse_args(arguments)
    folder, begun = options.folder.absolute(), time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    conf, log = folder / "scale.yml", folder / "days.json"
    conf.write_text(CONF.format(folder=folder))
    rows: list[contract.Row] = json.loads(log.read_text()) if log.exists() else []
    for day in range(len(rows), options.days):
        if options.stop_after and time.monotonic() - begun > 60 * options.stop_after:
            return
        write_day(folder / "raw", day, options.events // options.days, options.users)
        rows.append(run_day(conf, folder, day))
        log.write_text(json.dumps(rows, indent=1))
        print(contract.table(rows[-1:]), flush=True)
    contract.publish("scale", {"events": options.events, "users": options.users, "days": options.days}, rows, {}, options.results)


def run_day(conf: Path, folder: Path, day: int) -> contract.Row:
    """The jobs of one day, each measured."""
    as_of = format_time(START_MS + (day + 1) * DAY_MS)
    keep = "lake.keep_days={user_sequences: 3, training_examples: 3}"
    context = open_context(load(str(conf), [*contract.places(str(folder)), f"time.as_of={as_of}", "lake.vacuum_hours=0", keep]))
    jobs: list[Job] = [ingest_events.JOB, build_sequences.JOB, *([apply_retention.JOB] if day % 3 == 2 else [])]
    row: contract.Row = {"road": f"day {day + 1}"}
    for job in jobs:
        of_job: contract.Row = {}
        with contract.measured(of_job):
            run_jobs(context, [job], "scale")
        row |= {f"{job.name} {key}": of_job[key] for key in ("seconds_wall", "seconds_cpu", "peak_mb")}
    context.lake.refresh()
    shutil.rmtree(folder / "scratch", ignore_errors=True)
    row["lake_gb"] = sum(path.stat().st_size for path in (folder / "lake").rglob("*") if path.is_file()) / 1e9
    for name in ("events", "user_sequences", "training_examples"):
        row[name] = context.lake.read(name).count()
    return row


if __name__ == "__main__":
    main()
