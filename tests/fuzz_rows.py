"""Random tables of every column and type through mapping and ingestion: rows in = accepted + exact copies + refused, whatever is in them.

    python -m tests.fuzz_rows --rows 1000000 --seed 1

A round makes one to three tables (Parquet, CSV, JSON) of random schemas, reads them as one source and ingests them, twice: in another
order the answer is the same. A schema that breaks a contract as a whole must be a DataError of one line. Prints what it counted.
"""

from __future__ import annotations

import argparse
import csv
import datetime as dt
import json
import tempfile
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from alure_spark.clock import parse_time
from alure_spark.config import IngestConfig, SourceConfig
from alure_spark.errors import DataError
from alure_spark.events import batches, reasons
from alure_spark.events.clean import accepted, refused, validate_events
from alure_spark.events.preflight import profile
from alure_spark.sources import failures_named, read

STREAMS = ("view", "click")
KINDS = {"size": "numeric", "topic": "categorical", "note": "text", "vector": "embedding", "dwell_ms": "numeric"}
TEXTS = (
    "event_id",
    "user_id",
    "country",
    "item_id",
    "account_id",
    "category_id",
    "surface",
    "impression_id",
    "media_type",
    "text",
    "topic",
    "note",
)
NUMBERS = ("dwell_ms", "value", "position", "utc_offset_minutes", "size")
LISTS = ("media_embedding", "vector")
REQUIRED = ("user_id", "item_id", "event_time", "size", "topic", "note", "vector")
EARLY, NOW = parse_time("2000-01-01"), parse_time("2020-01-01")
GOOD_TIME = dt.datetime(2019, 5, 1, 10)
ODD_TEXTS = (
    "", " ", "\t", "\u00a0", "\u2028", "\u0000", "a\u0000b", "e\u0301", "\U0001f600", "\u202eabc", "\ufeffx", "\ufffd", "'; --", '"',
    "\\", "`", "a.b", "two\nlines", "NaN", "null", "None", "-0", "0003", "1e400", "x" * 3000, "ZZ", "\ud7ff", "NO",
    "${x}", "%s", "{}", "[1]",
)  # fmt: skip
ODD_TIMES = (
    "", "soon", "10:00", "T10:00", "2025-02-30", "2019-05-01T10:00:00+99:00", "+294247-01-10 04:00:54", "+999999-01-01", "-4713-11-24",
    "1556704800", "2019", "2019-05", "2019-05-01 24:00:00", "2019-05-01T10:00:60Z", "2019-05-01 10:00:00 Europe/Berlin", "0000-00-00",
    "9999-12-31", "0001-01-01", "epoch", "now", "  2019-05-01  ", "2019-5-1", "20190501", "2019-05-01 10:00:00.123456789",
    "\u0662\u0660\u0661\u0669-05-01",
)  # fmt: skip
ODD_BYTES = (b"\xff", b"\xc3\x28", b"\xed\xa0\x80", b"\xf8\x88", b"a\xfe", b"", b"fine")
ODD_FLOATS = (
    float("nan"),
    float("inf"),
    float("-inf"),
    1.7976931348623157e308,
    -1e30,
    5e-324,
    3.5e38,
    -0.0,
    -1.0,
    2.0**63,
    1e12,
    1e13,
    0.5,
)
ODD_INTS = (-1, 0, 1, 840, 841, -99999, 2**31 - 1, -(2**31), 2**31, 2**63 - 1, -(2**63), 2**64 - 1)
WIDTHS = {pa.int8(): (-128, 127), pa.int16(): (-(2**15), 2**15 - 1), pa.int32(): (-(2**31), 2**31 - 1), pa.int64(): (-(2**63), 2**63 - 1)}
WIDTHS |= {pa.uint8(): (0, 255), pa.uint16(): (0, 2**16 - 1), pa.uint32(): (0, 2**32 - 1), pa.uint64(): (0, 2**64 - 1)}
Maker = Callable[[np.random.Generator, int, str], pa.Array]


def mixed(rng: np.random.Generator, n: int, odd: tuple[object, ...], good: list[object]) -> list[object]:
    """n values: mostly good ones, some odd, some missing."""
    kind = rng.choice(3, n, p=(0.9, 0.07, 0.03))
    pools: tuple[list[object], ...] = (good, list(odd), [None])
    return [pools[k][int(i) % len(pools[k])] for k, i in zip(kind, rng.integers(0, 1 << 30, n), strict=True)]


def texts(rng: np.random.Generator, n: int, name: str) -> list[object]:
    many = n // 2 if name == "event_id" else 30
    return mixed(rng, n, ODD_TEXTS, [f"{name}{number}" for number in range(many)])


def strings(rng: np.random.Generator, n: int, name: str) -> pa.Array:
    return pa.array(texts(rng, n, name), pa.string())


def broken_strings(rng: np.random.Generator, n: int, name: str) -> pa.Array:
    given = mixed(rng, n, ODD_BYTES, [f"{name}{number}".encode() for number in range(30)])
    found = pa.array(given, pa.binary())
    return found.view(pa.string()) if rng.random() < 0.5 else found


def integers(rng: np.random.Generator, n: int, name: str) -> pa.Array:
    kind = list(WIDTHS)[int(rng.integers(len(WIDTHS)))]
    low, high = WIDTHS[kind]
    return pa.array(mixed(rng, n, tuple(min(max(x, low), high) for x in ODD_INTS), [int(x) for x in rng.integers(0, 100, 50)]), kind)


def decimals(rng: np.random.Generator, n: int, name: str) -> pa.Array:
    scale = 0 if name in TEXTS else int(rng.choice((0, 2, 10)))
    most, least = (Decimal((sign, (9,) * 38, -scale)) for sign in (0, 1))
    return pa.array(mixed(rng, n, (most, least, Decimal(-1), Decimal(0)), [Decimal(x) for x in range(60)]), pa.decimal128(38, scale))


def floats(rng: np.random.Generator, n: int, name: str) -> pa.Array:
    kind = pa.float32() if rng.random() < 0.3 else pa.float64()
    with np.errstate(over="ignore"):
        odd = tuple(float(np.float32(x)) if kind == pa.float32() else x for x in ODD_FLOATS)
    return pa.array(mixed(rng, n, odd, [float(x) for x in rng.random(50) * 100]), kind)


def flags(rng: np.random.Generator, n: int, name: str) -> pa.Array:
    return pa.array(mixed(rng, n, (True,), [True, False]), pa.bool_())


def nothing(rng: np.random.Generator, n: int, name: str) -> pa.Array:
    return pa.nulls(n)


def times(rng: np.random.Generator, n: int, name: str) -> pa.Array:
    unit = str(rng.choice(("ms", "us", "ns")))
    per_second = {"ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    good = [int((GOOD_TIME.timestamp() + int(x)) * per_second) for x in rng.integers(0, 10**6, 60)]
    odd = (
        0,
        -1,
        -62135596800 * 10**3 if unit == "ms" else 0,
        2**62 if unit != "ms" else 9 * 10**15,
        253402300800 * per_second if unit != "ns" else 1,
    )
    return pa.array(mixed(rng, n, odd, good), pa.timestamp(unit, tz="UTC" if rng.random() < 0.6 else None))


def dates(rng: np.random.Generator, n: int, name: str) -> pa.Array:
    return pa.array(mixed(rng, n, (0, -(2**31), 2**31 - 1, -719162), [18000 + int(x) for x in rng.integers(0, 30, 9)]), pa.int32()).cast(
        pa.date32()
    )


def time_texts(rng: np.random.Generator, n: int, name: str) -> pa.Array:
    good = [(GOOD_TIME + dt.timedelta(seconds=int(x))).isoformat(" " if x % 2 else "T") for x in rng.integers(0, 10**6, 60)]
    return pa.array(mixed(rng, n, ODD_TIMES, good), pa.string())


def vectors(rng: np.random.Generator, n: int, name: str) -> pa.Array:
    kind = (pa.float32(), pa.float64(), pa.int32())[int(rng.integers(3))]
    good = [[int(x) for x in row] for row in rng.integers(0, 9, (20, 2))]
    odd: tuple[object, ...] = ([], [1], [1, 2, 3], [None, 1])
    if kind != pa.int32():
        odd += ([float("nan"), 1.0], [float("inf"), 0.0], [1e30, 1.0])
    return pa.array(mixed(rng, n, odd, good), pa.list_(kind))


MAKERS: dict[str, tuple[Maker, ...]] = {
    "text": (strings, strings, broken_strings, integers, decimals, nothing),
    "number": (floats, floats, integers, decimals, flags, nothing),
    "time": (times, times, dates, time_texts, time_texts),
    "list": (vectors, vectors, vectors, nothing),
}
WRONG: dict[str, tuple[Maker, ...]] = {
    "text": (floats, dates, vectors),
    "number": (strings, dates),
    "time": (integers, flags),
    "list": (strings, floats),
}


def kind_of(name: str) -> str:
    return "text" if name in TEXTS else "number" if name in NUMBERS else "list" if name in LISTS else "time"


def make_table(rng: np.random.Generator, rows: int, wrong: bool, first: bool) -> pa.Table:
    """A table of canonical columns in random types; with `wrong`, one of a type that no contract takes; `first`: with all of KINDS."""
    always = {*REQUIRED, *(KINDS if first else ())}
    names = [name for name in (*TEXTS, *NUMBERS, *LISTS, "event_time", "arrival_time") if name in always or rng.random() < 0.7]
    bad = str(rng.choice([name for name in names if name in (*REQUIRED, *NUMBERS)])) if wrong else ""
    columns = {}
    for name in names:
        makers = (WRONG if name == bad else MAKERS)[kind_of(name)]
        if name == "event_time":
            makers = tuple(maker for maker in makers if maker is not nothing)
        columns[name] = makers[int(rng.integers(len(makers)))](rng, rows, name)
    some = pa.table(columns)
    again = some.take(pa.array(rng.integers(0, rows, rows // 20)))  # a log that delivers at least once
    return pa.concat_tables([some, again])


def plain_text(value: object) -> str:
    return "" if value is None else value.decode("latin-1") if isinstance(value, bytes) else str(value)


def plain_values(column: pa.ChunkedArray) -> list[object]:
    """The values as Python has them; times as texts, which Python's do not reach, and texts with U+FFFD for broken bytes."""
    if pa.types.is_temporal(column.type):
        column = column.cast(pa.string())
    if not pa.types.is_string(column.type):
        return list(column.to_pylist())
    return [value if value is None else value.decode("utf-8", "replace") for value in column.cast(pa.binary()).to_pylist()]


def save(table: pa.Table, folder: Path, number: int, how: str) -> dict[str, object]:
    """Write it; the mapping that reads it."""
    stream = STREAMS[number % len(STREAMS)]
    mapping: dict[str, object] = {"path": f"{number}.{how}", "format": how, "source": stream}
    path = folder / f"{number}.{how}"
    columns = {name: name for name in table.column_names}
    if how == "parquet":
        pq.write_table(table, path, coerce_timestamps=None)
    else:
        table = table.select([name for name in table.column_names if name not in LISTS])
        columns = {name: name for name in table.column_names} | {"vector": "CAST(NULL AS ARRAY<FLOAT>)"}
        values = [plain_values(column) for column in table.columns]
        if how == "csv":
            with path.open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file, quoting=csv.QUOTE_ALL)
                writer.writerow(table.column_names)
                writer.writerows([plain_text(value) for value in row] for row in zip(*values, strict=True))
            mapping["read_options"] = {"header": "true", "multiLine": "true", "escape": '"'}
            columns |= {name: f"try_cast({name} AS DOUBLE)" for name in NUMBERS if name in columns}
        else:
            with path.open("w", encoding="utf-8") as file:
                for row in zip(*values, strict=True):
                    file.write(json.dumps({name: _json(value) for name, value in zip(table.column_names, row, strict=True)}) + "\n")
            # A column of JSON is a number only if all of it is.
            columns |= {name: f"try_cast(CAST({name} AS STRING) AS DOUBLE)" for name in NUMBERS if name in columns}
            columns |= {name: f"CAST({name} AS STRING)" for name in TEXTS if name in columns}
    return mapping | {"columns": columns}


def _json(value: object) -> object:
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return str(value) if isinstance(value, Decimal) else value.decode("latin-1") if isinstance(value, bytes) else value


def check(evaluated: DataFrame, rows: int) -> Counter[str]:
    """What became of the rows. Raises AssertionError where one was lost, doubled, or refused without a reason of the table."""
    evaluated = evaluated.persist()
    stays, copy = F.expr("reason IS NULL AND _n = 1"), F.expr("reason IS NULL AND _n > 1 AND _content = _kept")
    counts = evaluated.agg(F.count("*"), F.count_if(stays), F.count_if(copy), F.count("reason")).collect()[0]
    assert counts[0] == rows == sum(counts[1:]), f"{rows} rows in, {counts[0]} evaluated: {tuple(counts[1:])} accepted, copies, refused"
    why = {row["reason"]: row["count"] for row in refused(evaluated).groupBy("reason").count().collect()}
    assert all(reasons.reason_of(text) for text in why), f"a reason outside the table: {sorted(why)}"
    for row in refused(evaluated).select("row").limit(50).collect():
        json.loads(row["row"])
    profile(evaluated)
    found = accepted(evaluated)
    assert found.count() == found.select("event_id").distinct().count() == counts[1], "an event_id twice"
    found.limit(100).toPandas()  # by Arrow, which takes no broken text
    again = batches.merge(found, found, IngestConfig())
    assert again.added.isEmpty(), "a batch that comes again adds nothing"
    assert again.refused.isEmpty(), "a batch that comes again is refused nowhere"
    evaluated.unpersist()
    return Counter(rows=rows, accepted=counts[1], copies=counts[2], refused=counts[3]) + Counter(
        {f"reason: {text}": n for text, n in why.items()}
    )


def contents(evaluated: DataFrame) -> list[object]:
    """A digest of the accepted rows that does not depend on their order."""
    found = accepted(evaluated)
    columns = [name for name in found.columns if name not in ("arrival_time", "known_at")]
    return list(found.agg(F.count("*"), F.bit_xor(F.xxhash64(*columns))).collect()[0])


def one_round(spark: SparkSession, seed: int, rows: int) -> Counter[str]:
    """One source of random tables, about `rows` rows together."""
    rng = np.random.default_rng(seed)
    tables, wrong = int(rng.integers(1, 4)), rng.random() < 0.1
    ingest = IngestConfig(late_days=float(rng.choice((0, 3))), dwell_min_ms=int(rng.choice((0, 5))), utc_offset_minutes={"country1": 60})
    with tempfile.TemporaryDirectory() as name:
        folder, mapped, count = Path(name), [], 0
        for number in range(tables):
            table = make_table(rng, rows // tables, wrong and number == 0, number == 0)
            count += len(table)
            how = "parquet" if wrong and number == 0 else str(rng.choice(("parquet", "parquet", "csv", "json")))
            mapped.append(save(table, folder, number, how))
        source = SourceConfig("tables", {"root": name, "events": mapped})
        try:
            with failures_named(spark, source):
                events = read(spark, source, attributes=KINDS).events
                evaluated = validate_events(events, list(STREAMS), KINDS, EARLY, NOW, ingest, {"vector": 2})
                found = check(evaluated, count)
                once = contents(evaluated)
                assert once == contents(
                    validate_events(events.repartition(3, F.rand(1)), list(STREAMS), KINDS, EARLY, NOW, ingest, {"vector": 2})
                )
        except DataError as error:
            if not wrong or "\n" in str(error):
                raise AssertionError(f"seed {seed}: a source within its contract is refused, or not in one line") from error
            return Counter({"rows": count, "in sources refused whole": count, "sources": 1, "sources refused whole": 1})
    return found + Counter(sources=1)


def fuzz(spark: SparkSession, rows: int, seed: int, per_round: int = 20_000) -> Counter[str]:
    """Rounds until `rows` rows were read; what was counted."""
    total: Counter[str] = Counter()
    while total["rows"] < rows:
        total += one_round(spark, seed, min(per_round, rows))
        seed += 1
    assert total["rows"] == total["accepted"] + total["copies"] + total["refused"] + total["in sources refused whole"]
    return total


def main() -> None:
    from alure_spark.config import SparkConfig
    from alure_spark.session import get_session

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    spark = get_session(SparkConfig(master="local[2]", shuffle_partitions=2))
    for name, count in sorted(fuzz(spark, options.rows, options.seed).items()):
        print(f"{count:>12,} {name}")


if __name__ == "__main__":
    main()
