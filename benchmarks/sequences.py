"""User sequences: ours beside plain Spark, DuckDB and Polars, on the same Parquet; and a day beside a rebuild.

    python -m benchmarks.sequences                                  # worlds small and skewed
    python -m benchmarks.sequences --worlds small skewed large

Every method reads the same files (one a day, as `events` has them) and writes one row per user with the last 100 events of three
streams as parallel arrays; the contents are hashed and must be equal. `fused` is ours with the sums of dwell over labelled
impressions in the same pass; the join that labels them is `profile label join`. `profile` rows are ours, cut short: what reading,
the shuffle and the aggregation cost without the rest. `tried` rows, of the first world only, are methods that ours might have taken
(docs/decisions.md). incremental_day_cost is the CPU of the last day over 1.5 x (share of the users that it touches) x (a rebuild)
+ FIXED_SECONDS.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from alure_spark.clock import DAY_MS
from alure_spark.config import LabelConfig, SparkConfig, StreamConfig
from alure_spark.events.dwell import dwell_sums
from alure_spark.events.examples import labelled_impressions
from alure_spark.events.sequences import Grouping, heavy_users, histories, known_events, touched_sequences, user_sequences
from alure_spark.lake import content_hash
from alure_spark.session import get_session
from benchmarks import contract

DAYS, LAST = 30, 100
START_MS = 1_735_689_600_000
AS_OF_MS = START_MS + DAYS * DAY_MS
SHARES = {"organic_impression": 0.7, "ad_impression": 0.25, "ad_click": 0.05}
STREAMS = {name: StreamConfig({"value": "numeric", "dwell_ms": "numeric"}, LAST) for name in SHARES}
FIELDS = ("known_at_ms", "event_time_ms", "item_id", "value", "dwell_ms")
FIXED_SECONDS = 3.0  # CPU seconds that a day may cost whatever its size: planning, opening files, one more shuffle
SEED = 7
WORLDS = {"small": (2_000_000, 20_000, 0.0), "skewed": (2_000_000, 20_000, 0.1), "large": (20_000_000, 200_000, 0.0)}


def write_events(folder: Path, events: int, users: int, heavy_share: float) -> None:
    """`events` rows as ingestion leaves them, one file a day: lognormal activity per user, Zipf items, 5 countries."""
    random = np.random.default_rng(SEED)
    activity = random.lognormal(0, 1, users).cumsum()
    user = np.searchsorted(activity / activity[-1], random.random(events)).clip(max=users - 1)
    user[random.random(events) < heavy_share] = 0
    known = np.sort(START_MS + random.integers(0, DAYS * DAY_MS, events))
    table = pa.table(
        {
            "user_id": _text(user, [f"u{number:08d}" for number in range(users)]),
            "country": _text(user % 5, [f"C{number}" for number in range(5)]),
            "source": _text(random.choice(len(SHARES), events, p=list(SHARES.values())), list(SHARES)),
            "event_time": pa.array(known - random.integers(0, 1000, events), pa.timestamp("ms", "UTC")),
            "known_at": pa.array(known, pa.timestamp("ms", "UTC")),
            "known_date": pa.array((known // DAY_MS).astype(np.int32), pa.int32()).cast(pa.date32()),
            "event_hash": random.permutation(events) * 6_364_136_223_846_793_005,
            "item_hash": random.zipf(1.3, events) % 100_000 * 2_654_435_761,
            "value": random.random(events),
            "dwell_ms": random.integers(250, 60_000, events),
            "event_id": _text(np.arange(events), [f"e{number:09d}" for number in range(events)]),
            "impression_id": pa.nulls(events, pa.string()),
            "account_id": pa.nulls(events, pa.string()),
            "converted": pa.array(random.random(events) < 0.1),
        }
    )
    impression = pc.equal(table["source"], "ad_impression")
    table = table.set_column(table.schema.get_field_index("converted"), "converted", pc.if_else(impression, table["converted"], None))
    borders = np.searchsorted(known, START_MS + DAY_MS * np.arange(DAYS + 1))
    for day, (first, end) in enumerate(itertools.pairwise(borders)):
        pq.write_table(table.slice(first, end - first), folder / f"day-{day:02d}.parquet", coerce_timestamps="us")


def _text(code: np.ndarray, names: Sequence[str]) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(code.astype(np.int32)), pa.array(names)).cast(pa.string())


def plain_spark(events: DataFrame) -> DataFrame:
    """What one would write: collect_list of structs, sort_array, slice."""
    known = events.where(F.unix_millis("known_at") < AS_OF_MS)
    fields = F.struct(
        F.unix_millis("known_at").alias("known_at_ms"), "event_hash", F.unix_millis("event_time").alias("event_time_ms"),
        F.col("item_hash").alias("item_id"), "value", F.col("dwell_ms").cast("double").alias("dwell_ms"),
    )  # fmt: skip
    lists = [F.sort_array(F.collect_list(F.when(F.col("source") == name, fields))).alias(name) for name in STREAMS]
    grouped = known.groupBy("user_id").agg(F.max_by("country", F.struct("known_at", "event_hash")).alias("country"), *lists)
    last = [F.slice(F.col(name), F.greatest(F.size(name) - LAST + 1, F.lit(1)), LAST) for name in STREAMS]
    columns = [part[field].alias(f"{name}__{field}") for name, part in zip(STREAMS, last, strict=True) for field in FIELDS]
    return grouped.select("user_id", "country", F.timestamp_millis(F.lit(AS_OF_MS)).alias("as_of"), *columns)


def duckdb_method(folder: Path, target: Path) -> None:
    """Lists of structs in order, cut, and taken apart."""
    import duckdb

    event = "{'k': k, 'h': h, 't': t, 'i': i, 'v': v, 'd': d}"
    lists = ", ".join(f"(list({event} ORDER BY k, h) FILTER (source = '{name}'))[-{LAST}:] AS {name}" for name in STREAMS)
    parts = zip(FIELDS, "ktivd", ("BIGINT", "BIGINT", "BIGINT", "DOUBLE", "DOUBLE"), strict=True)
    columns = ", ".join(
        f"coalesce(list_transform({name}, lambda x: x.{part}), []::{kind}[]) AS {name}__{field}"
        for field, part, kind in parts
        for name in STREAMS
    )
    connection = duckdb.connect()
    connection.execute("SET threads = 2; SET TimeZone = 'UTC'")
    connection.execute(
        f"""COPY (
            WITH known AS (
                SELECT user_id, country, source, epoch_ms(known_at) AS k, event_hash AS h, epoch_ms(event_time) AS t, item_hash AS i,
                       value AS v, dwell_ms::DOUBLE AS d
                FROM read_parquet('{folder}/*.parquet') WHERE epoch_ms(known_at) < {AS_OF_MS}),
            grouped AS (SELECT user_id, arg_max(country, {{'k': k, 'h': h}}) AS country, {lists} FROM known GROUP BY user_id)
            SELECT user_id, country, {columns} FROM grouped) TO '{target}' (FORMAT parquet)"""
    )
    connection.close()


def polars_method(folder: Path, target: Path) -> None:
    """One group per user and source, sorted inside, and the sources side by side."""
    import polars as pl

    known = (
        pl.scan_parquet(f"{folder}/*.parquet")
        .with_columns(pl.col("known_at").dt.epoch("ms").alias("known_at_ms"), pl.col("event_time").dt.epoch("ms").alias("event_time_ms"))
        .filter(pl.col("known_at_ms") < AS_OF_MS)
        .select("user_id", "country", "source", "known_at_ms", "event_hash", "event_time_ms", pl.col("item_hash").alias("item_id"),
                "value", pl.col("dwell_ms").cast(pl.Float64))
        .sort("user_id", "known_at_ms", "event_hash")
        .collect()
    )  # fmt: skip
    found = known.group_by("user_id", maintain_order=True).agg(pl.col("country").last())
    for name in STREAMS:
        part = (
            known.filter(pl.col("source") == name)
            .group_by("user_id", maintain_order=True)
            .agg(*(pl.col(field).tail(LAST).alias(f"{name}__{field}") for field in FIELDS))
        )
        found = found.join(part, on="user_id", how="left").with_columns(*(pl.col(f"{name}__{field}").fill_null([]) for field in FIELDS))
    found.write_parquet(target)


@contextmanager
def setting(spark: SparkSession, key: str, value: str) -> Iterator[None]:
    """A session setting, for the block only."""
    before = spark.conf.get(key)
    spark.conf.set(key, value)
    try:
        yield
    finally:
        spark.conf.set(key, str(before))


def cut_before_shuffle(events: DataFrame) -> DataFrame:
    """Tried: what heavy users get, for everybody: the events of each user and source ranked, and cut before and after the shuffle."""
    newest = Window.partitionBy("user_id", "source").orderBy(F.unix_millis("known_at").desc(), F.col("event_hash").desc())
    ranked = known_events(events, AS_OF_MS).withColumn("_place", F.row_number().over(newest))
    return user_sequences(ranked.where(F.col("_place") <= LAST).drop("_place"), STREAMS, AS_OF_MS)


def by_arrow(events: DataFrame) -> DataFrame:
    """Tried: Spark shuffles and sorts by the hash of the user, and the arrays are made in Arrow and numpy. Ignores shared hashes."""
    number = F.create_map(*(F.lit(part) for place, name in enumerate(STREAMS) for part in (name, place)))
    sources = len(STREAMS)
    flat = known_events(events, AS_OF_MS).select(
        F.xxhash64("user_id").alias("user"), "user_id", "country", number[F.col("source")].cast("tinyint").alias("s"),
        F.unix_millis("known_at").alias("known_at_ms"), "event_hash", F.unix_millis("event_time").alias("event_time_ms"),
        F.col("item_hash").alias("item_id"), "value", F.col("dwell_ms").cast("double").alias("dwell_ms"),
    )  # fmt: skip
    columns = [f"{name}__{field} ARRAY<{'DOUBLE' if field in ('value', 'dwell_ms') else 'BIGINT'}>" for name in STREAMS for field in FIELDS]

    def rows(batch: pa.RecordBatch) -> pa.RecordBatch:
        user, s = batch["user"].to_numpy(), batch["s"].to_numpy()
        order = np.lexsort((batch["event_hash"].to_numpy(), batch["known_at_ms"].to_numpy(), s, user))
        user, s = user[order], s[order]
        first = np.flatnonzero(np.r_[True, user[1:] != user[:-1]])
        key = np.repeat(np.arange(len(first)), np.diff(np.r_[first, len(user)])) * sources + s
        counts = np.bincount(key, minlength=len(first) * sources)
        last = counts.cumsum()[key] - np.arange(len(key)) <= LAST
        in_time = np.lexsort((batch["event_hash"].to_numpy(), batch["known_at_ms"].to_numpy(), batch["user"].to_numpy()))
        end = in_time[np.r_[first[1:], len(user)] - 1]  # the user's last event says the country
        arrays = [batch["user_id"].take(pa.array(end)), batch["country"].take(pa.array(end))]
        kept = np.minimum(counts, LAST).reshape(-1, sources)
        for place in range(sources):
            at, offsets = order[last & (s == place)], pa.array(np.r_[0, kept[:, place].cumsum()].astype(np.int32))
            arrays += [pa.ListArray.from_arrays(offsets, pa.array(batch[field].to_numpy()[at])) for field in FIELDS]
        return pa.RecordBatch.from_arrays(arrays, names=["user_id", "country", *(column.split()[0] for column in columns)])

    def whole_users(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        waiting: list[pa.RecordBatch] = []
        for batch in batches:
            user = batch["user"].to_numpy()
            cut = int(np.searchsorted(user, user[-1])) if len(user) else 0
            if cut:
                yield rows(pa.Table.from_batches([*waiting, batch.slice(0, cut)]).combine_chunks().to_batches()[0])
                waiting = []
            waiting.append(batch.slice(cut))
        if any(batch.num_rows for batch in waiting):
            yield rows(pa.Table.from_batches(waiting).combine_chunks().to_batches()[0])

    shuffled = flat.repartition("user").sortWithinPartitions("user")
    made = shuffled.mapInArrow(whole_users, ", ".join(["user_id STRING", "country STRING", *columns]))  # type: ignore[arg-type]
    return made.withColumn("as_of", F.timestamp_millis(F.lit(AS_OF_MS)))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", nargs="+", choices=list(WORLDS), default=["small", "skewed"])
    parser.add_argument("--scale", type=float, default=1.0, help="share of the worlds' events and users, to try it out")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--results", type=Path, default=contract.RESULTS)
    options = parser.parse_args(arguments)
    os.environ["POLARS_MAX_THREADS"] = "2"
    spark = get_session(SparkConfig(shuffle_partitions=8), "sequences")
    rows: list[contract.Row] = []
    ratios: dict[str, dict[str, float]] = {}
    size: dict[str, object] = {"repetitions": options.repetitions, "last": LAST, "fixed_seconds": FIXED_SECONDS}
    for name in options.worlds:
        events, users = (int(number * options.scale) for number in WORLDS[name][:2])
        with tempfile.TemporaryDirectory(prefix="sequences_") as temporary:
            folder = Path(temporary, "events")
            folder.mkdir()
            write_events(folder, events, users, WORLDS[name][2])
            runs = measure(spark, folder, Path(temporary, "out"), options.repetitions, tried=name == options.worlds[0])
        share = runs["day"][0]["users"] / runs["ours"][0]["users"]
        size[name] = {"events": events, "users": users, "heavy_share": WORLDS[name][2], "touched_share": share}
        rows += [{"world": name, **row} for row in medians(runs, events)]
        prefix = "" if name == options.worlds[0] else f"{name}_"
        ratios |= {f"{prefix}{key}": value for key, value in ratios_of(runs, share).items()}
    contract.publish("sequences", size, rows, ratios, options.results)


def measure(spark: SparkSession, folder: Path, out: Path, repetitions: int, tried: bool) -> dict[str, list[contract.Row]]:
    """Method -> one row per repetition, methods alternating; contents are compared after the first."""

    def events() -> DataFrame:
        return spark.read.parquet(str(folder))

    def saved(build: Callable[[], DataFrame], name: str) -> Callable[[], None]:
        return lambda: build().write.mode("overwrite").parquet(f"{out}/{name}")

    def consumed(build: Callable[[], DataFrame]) -> Callable[[], None]:
        return lambda: build().write.format("noop").mode("overwrite").save()

    since = AS_OF_MS - DAY_MS
    user_sequences(events(), STREAMS, since).write.parquet(f"{out}/yesterday")
    yesterday = spark.read.parquet(f"{out}/yesterday")
    everything = known_events(events(), AS_OF_MS)

    def ours(also: Sequence[Column] = ()) -> DataFrame:
        return user_sequences(events(), STREAMS, AS_OF_MS, Grouping(heavy=heavy_users(events(), AS_OF_MS)), also)

    def day() -> DataFrame:
        heavy = heavy_users(events(), AS_OF_MS, since)
        return touched_sequences(events(), yesterday, STREAMS, since, AS_OF_MS, Grouping(heavy=heavy))

    def under(key: str, value: str) -> Callable[[], None]:
        def run() -> None:
            with setting(spark, key, value):
                saved(ours, "tried")()

        return run

    labels = LabelConfig(conversion_source="ad_click")
    methods: dict[str, Callable[[], object]] = {
        "ours": saved(ours, "ours"),
        "fused": saved(lambda: ours(dwell_sums(F.col("converted"))), "fused"),
        "spark_sort_array": saved(lambda: plain_spark(events()), "spark_sort_array"),
        "duckdb": lambda: duckdb_method(folder, out / "duckdb.parquet"),
        "polars": lambda: polars_method(folder, out / "polars.parquet"),
        "day": saved(day, "day"),
        "profile label join": consumed(lambda: labelled_impressions(events(), labels, AS_OF_MS)),
        "profile heavy users": lambda: heavy_users(events(), AS_OF_MS),
        "profile read": consumed(lambda: everything),
        "profile read, shuffle": consumed(lambda: everything.drop("event_id", "converted").repartition("user_id")),
        "profile read, shuffle, aggregate": consumed(lambda: histories(events(), STREAMS, AS_OF_MS)),
        "profile all but writing": consumed(ours),
    }
    if tried:
        methods |= {
            "tried: group by user_id": saved(lambda: user_sequences(events(), STREAMS, AS_OF_MS, Grouping(by_hash=False)), "tried"),
            "tried: sort-based aggregation": under("spark.sql.execution.useObjectHashAggregateExec", "false"),
            "tried: sort-based fallback at 100,000 keys": under("spark.sql.objectHashAggregate.sortBased.fallbackThreshold", "100000"),
            "tried: AQE off": under("spark.sql.adaptive.enabled", "false"),
            "tried: 2 partitions": under("spark.sql.shuffle.partitions", "2"),
            "tried: 64 partitions": under("spark.sql.shuffle.partitions", "64"),
            "tried: cut to the last N before the shuffle": saved(lambda: cut_before_shuffle(events()), "tried"),
            "tried: arrays made in Arrow": saved(lambda: by_arrow(events()), "arrow"),
        }
    runs: dict[str, list[contract.Row]] = {name: [] for name in methods}
    users = 0
    for repetition in range(repetitions + 1):  # the first is not counted: it compiles, and shows that outputs are equal
        for name, method in methods.items():
            row: contract.Row = {"road": name}
            with contract.measured(row):
                method()
            runs[name] += [row] if repetition else []
        if not repetition:
            users = require_equal(spark, out, ["arrow", "tried"] if tried else [])
    touched = spark.read.parquet(f"{out}/day").count()
    for of_method in runs.values():
        for row in of_method:
            row |= {"users": touched if row["road"] == "day" else users}
    return runs


def require_equal(spark: SparkSession, out: Path, more: Sequence[str] = ()) -> int:
    """The rows of every method are those of ours, and a day's those of a rebuild; returns the number of users."""
    ours = spark.read.parquet(f"{out}/ours").drop("as_of")
    wanted = content_hash(ours)
    for name in ("fused", "spark_sort_array", "duckdb.parquet", "polars.parquet", *more):
        theirs = spark.read.parquet(f"{out}/{name}").select(*(F.col(column).cast(ours.schema[column].dataType) for column in ours.columns))
        if content_hash(theirs) != wanted:
            raise AssertionError(f"{name} has other rows than ours")
    day = spark.read.parquet(f"{out}/day").drop("as_of")
    if content_hash(day) != content_hash(ours.join(day.select("user_id"), "user_id", "left_semi").select(day.columns)):
        raise AssertionError("the day has other rows than a rebuild")
    print("outputs are equal", file=sys.stderr)
    return ours.count()


def medians(runs: dict[str, list[contract.Row]], events: int) -> list[contract.Row]:
    """One row per method: its median run by CPU seconds."""
    rows = [contract.middle(of_method) for of_method in runs.values()]
    return [row | {"events_per_core_second": events / row["seconds_cpu"]} for row in rows]


def ratios_of(runs: dict[str, list[contract.Row]], touched_share: float) -> dict[str, dict[str, float]]:
    """Ratios of the runs of one repetition."""

    def cpu(name: str) -> np.ndarray:
        return np.array([row["seconds_cpu"] for row in runs[name]])

    ratios = {f"vs_{name}": cpu(name) / cpu("ours") for name in ("spark_sort_array", "duckdb", "polars")}
    ratios["fused_dwell_cost"] = cpu("fused") / cpu("ours")
    ratios["incremental_day_cost"] = cpu("day") / (1.5 * touched_share * cpu("ours") + FIXED_SECONDS)
    return {name: contract.spread(list(map(float, part))) for name, part in ratios.items()}


if __name__ == "__main__":
    main()
