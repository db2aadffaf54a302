"""Tables that differ in their types, expressions that fail on a row, files that cannot be read, times in nanoseconds."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from decimal import Decimal

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from alure_spark.clock import parse_time
from alure_spark.config import SourceConfig
from alure_spark.errors import DataError
from alure_spark.events import batches
from alure_spark.events.clean import accepted, refused, validate_events
from alure_spark.session import PARTITION_TEXTS, session_settings
from alure_spark.sources import failures_named, parquet_times, read

NOW = parse_time("2020-01-01")
MOMENT = dt.datetime(2019, 5, 1, 10, tzinfo=dt.UTC)
COLUMNS = {"user_id": "u", "item_id": "i", "event_time": "t"}


def config(folder, *tables):
    """Each table: (file, further columns, stream); or a dict that is a mapping already."""
    return SourceConfig("tables", {"root": str(folder), "events": [dict(table) for table in tables]})


def table(path, columns=None, source="view", **more):
    return {"path": path, "format": path.rsplit(".", 1)[1], "source": source, "columns": COLUMNS | (columns or {}), **more}


def write(path, **columns):
    pq.write_table(pa.table(columns), path)


def test_tables_that_give_a_column_in_different_types_keep_what_each_says(spark, tmp_path):
    write(
        tmp_path / "a.parquet",
        u=["0003", "A0017"],
        i=["00017", "x"],
        t=[MOMENT] * 2,
        d=pa.array([7, 8], pa.int32()),
        f=[True, False],
        b=["x", "y"],
    )
    write(
        tmp_path / "b.parquet", u=pa.array([3, 4], pa.uint64()), i=pa.array([2**60, 1]), t=["2019-05-01T10:00:00Z", "when?"],
        d=[float("nan"), 1e30], f=pa.array([3, None], pa.int8()), b=pa.array([5, 6]),
    )  # fmt: skip
    write(
        tmp_path / "c.parquet", u=pa.array([Decimal(5)], pa.decimal128(38, 0)), i=[b"bytes"], t=[dt.date(2019, 5, 1)],
        d=pa.array([Decimal("9.0")], pa.decimal128(20, 2)), f=[1.5], b=[True],
    )  # fmt: skip
    pd.DataFrame(columns=["u", "i", "t", "d", "f", "b"]).to_parquet(tmp_path / "none.parquet", index=False)
    (tmp_path / "e.json").write_text('{"u": "007", "i": "j", "t": "2019-05-01", "d": 4, "f": true, "b": "z"}\n')
    more = {"dwell_ms": "d", "flag": "f", "brand": "b"}
    given = config(tmp_path, *(table(name, more) for name in ("none.parquet", "a.parquet", "b.parquet", "c.parquet", "e.json")))
    kinds = {"flag": "numeric", "brand": "categorical"}
    result = validate_events(read(spark, given, attributes=kinds).events, ["view"], kinds, 0, NOW)
    found = {row["user_id"]: row for row in accepted(result).collect()}
    names = ("item_id", "dwell_ms", "flag", "brand")
    assert {user: tuple(row[name] for name in names) for user, row in found.items()} == {
        "0003": ("00017", 7, 1.0, "x"), "A0017": ("x", 8, 0.0, "y"), "3": (str(2**60), None, 3.0, "5"), "5": ("bytes", 9, 1.5, "true"),
        "007": ("j", 4, 1.0, "z"),
    }  # fmt: skip
    assert {row["event_time"] for user, row in found.items() if user in ("0003", "3")} == {dt.datetime(2019, 5, 1, 10)}
    assert found["5"]["event_time"] == dt.datetime(2019, 5, 1)
    (row,) = refused(result).collect()
    assert (row["reason"], '"event_time":"when?"' in row["row"]) == ("event_time is missing or unparsable", True)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"user_id": "17850.0D"}, r"a\.parquet: column 'user_id' has type double; allowed: string or an integer type"),
        ({"event_time": "1556704800"}, r"a\.parquet: column 'event_time' has type int; allowed: timestamp"),
        ({"dwell_ms": "'10'"}, r"a\.parquet: column 'dwell_ms' has type string; allowed: a numeric type"),
        ({"item_id": "array('a')"}, r"a\.parquet: column 'item_id' has type array<string>"),
        ({"user_id": "true"}, r"a\.parquet: column 'user_id' has type boolean"),
    ],
)
def test_a_type_that_is_not_allowed_names_the_table(spark, tmp_path, columns, message):
    write(tmp_path / "a.parquet", u=["u"], i=["i"], t=[MOMENT])
    with pytest.raises(DataError, match=message):
        read(spark, config(tmp_path, table("a.parquet"), table("a.parquet", columns, "click")))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"columns": {"dwell_ms": "CAST(s AS INT)"}}, r"log\.csv: column dwell_ms = 'CAST\(s AS INT\)' fails on a row: CAST_INVALID_INPUT"),
        ({"columns": {"value": "1 / n"}}, r"column value = '1 / n' fails on a row: DIVIDE_BY_ZERO"),
        ({"columns": {"text": "split(s, ',')[3]"}}, r"column text = .* fails on a row: INVALID_ARRAY_INDEX"),
        ({"columns": {"event_time": "to_timestamp(s)"}}, r"column event_time = 'to_timestamp\(s\)' fails on a row: CA"),
        ({"where": "CAST(s AS INT) > 0"}, r"log\.csv: where 'CAST\(s AS INT\) > 0' fails on a row: CAST_INVALID_INPUT"),
    ],
)  # fmt: skip
def test_an_expression_that_fails_on_a_row_is_one_sentence(spark, tmp_path, change, message):
    (tmp_path / "log.csv").write_text("u,i,t,s,n\nu1,a,2019-01-01,n/a,0\nu2,b,2019-01-01,5\n")
    options = {"header": "true", "inferSchema": "true"}
    given = table("log.csv", change.get("columns"), read_options=options, where=change.get("where", ""))
    given = config(tmp_path, given)
    with pytest.raises(DataError, match=message) as caught, failures_named(spark, given):
        validate_events(read(spark, given).events, ["view"], {}, 0, NOW).collect()
    assert "n/a" not in str(caught.value), "Spark's text quotes the row"
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", ["page", "footer", "no parquet"])
def test_a_file_that_is_damaged_is_one_sentence_with_its_name(spark, tmp_path, damage):
    path = tmp_path / "a.parquet"
    write(path, u=["user"] * 1000, i=["item"] * 1000, t=[MOMENT] * 1000)
    content = bytearray(path.read_bytes())
    if damage == "page":
        content[10:60] = b"x" * 50
    path.write_bytes({"page": content, "footer": content[:-100] + b"x" * 100, "no parquet": b"u,i,t\n"}[damage])
    given = config(tmp_path, table("a.parquet"))
    with pytest.raises(DataError, match=r"table \S*a\.parquet \(parquet\) cannot be read") as caught, failures_named(spark, given):
        read(spark, given).events.collect()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"value": "max(n)"}, r"log\.csv: column value = 'max\(n\)' is one value of many rows; allowed: one value for each row"),
        ({"value": "count(*)"}, "column value = .* is one value of many rows"),
        ({"user_id": "max(s)", "item_id": "max(s)", "event_time": "max(t)"}, "column user_id = .* is one value of many rows"),
        ({"value": "*"}, r"column value = '\*' has 3 columns; allowed: one value"),
        ({"text": "posexplode(split(s, ','))"}, "column text = .* has 2 columns"),
    ],
)
def test_an_expression_that_is_not_one_value_for_each_row_is_one_sentence(spark, tmp_path, columns, message):
    (tmp_path / "log.csv").write_text("s,n,t\nu,1,2019-05-01\nv,2,2019-05-01\n")
    given = table("log.csv", {"user_id": "s", "item_id": "s", "event_time": "t"} | columns, read_options={"header": "true"})
    with pytest.raises(DataError, match=message):
        read(spark, config(tmp_path, given))


def test_a_window_a_subquery_and_an_explosion_are_values_of_rows(spark, tmp_path):
    (tmp_path / "log.csv").write_text("u,n,t\nu,1,2019-05-01\nv,2,2019-05-01\n")
    columns = {"value": "max(n) OVER ()", "position": "(SELECT 3)", "item_id": "explode(array('a', 'b'))"}
    rows = read(spark, config(tmp_path, table("log.csv", columns, read_options={"header": "true", "inferSchema": "true"}))).events.collect()
    assert sorted((row["user_id"], row["item_id"], row["value"], row["position"]) for row in rows) == [
        (user, item, 2, 3) for user in "uv" for item in "ab"
    ]


def test_quotes_within_quotes_are_read_as_pandas_and_spreadsheets_write_them(spark, tmp_path):
    text = 'say "hi", ok'
    pd.DataFrame({"u": ["u"], "x": [text], "i": ["item"], "t": ["2019-05-01 10:00:00"]}).to_csv(tmp_path / "log.csv", index=False)
    (row,) = read(spark, config(tmp_path, table("log.csv", {"text": "x"}, read_options={"header": "true"}))).events.collect()
    assert (row["text"], row["item_id"]) == (text, "item")
    (tmp_path / "log.csv").write_text('u,x,i,t\nu,"say \\"hi\\", ok",item,2019-05-01\n')
    own = {"header": "true", "escape": "\\"}
    (row,) = read(spark, config(tmp_path, table("log.csv", {"text": "x"}, read_options=own))).events.collect()
    assert (row["text"], row["item_id"]) == (text, "item")


def test_ids_whose_encoding_nobody_said_are_refused_and_not_one_user(spark, tmp_path):
    (tmp_path / "log.csv").write_bytes("u,i,t\nMüller,a,2019-05-01\nMöller,a,2019-05-01\n".encode("latin-1") + b"a\0b,a,2019-05-01\n")
    for encoding, users in (("", []), ("ISO-8859-1", ["Möller", "Müller"])):
        options = {"header": "true"} | ({"encoding": encoding} if encoding else {})
        result = validate_events(read(spark, config(tmp_path, table("log.csv", read_options=options))).events, ["view"], {}, 0, NOW)
        assert [row["user_id"] for row in accepted(result).orderBy("user_id").collect()] == users
        assert {row["reason"] for row in refused(result).collect()} == {"user_id is not valid UTF-8"}


@pytest.mark.parametrize("pretty", [False, True])
def test_several_objects_of_which_spark_would_read_the_first_are_refused(spark, tmp_path, pretty):
    rows = [{"u": f"u{n}", "i": {"in": {}}, "t": "2019-05-01", "x": "} {"} for n in range(3)]
    texts = [json.dumps(row, indent=1 if pretty else None) for row in rows]
    path = tmp_path / "log.json"
    options = {"read_options": {"multiLine": "true"}} if pretty else {}
    given = config(tmp_path, table("log.json", {"item_id": "x"}, **options))
    for glued in ("".join(texts[:2]) + "\n" + texts[2], texts[0] + "\n" + texts[1] + "  " + texts[2]):
        path.write_text(glued)
        with pytest.raises(DataError, match=r"in log\.json .* several objects one after the other"):
            read(spark, given)
    path.write_text("[" + ",\n".join(texts) + "]" if pretty else "\n".join(texts))
    assert read(spark, given).events.count() == 3


def test_an_error_that_no_table_makes_stays_what_it_is(spark, tmp_path):
    write(tmp_path / "a.parquet", u=["u"], i=["i"], t=[MOMENT])
    given = config(tmp_path, table("a.parquet"))
    with pytest.raises(ValueError, match="ours"), failures_named(spark, given):
        raise ValueError("ours")
    with pytest.raises(Exception, match="DIVIDE_BY_ZERO") as caught, failures_named(spark, given):
        spark.sql("SELECT 1 / 0").collect()
    assert not isinstance(caught.value, DataError)


def test_times_in_nanoseconds_are_read_as_pandas_writes_them(spark, tmp_path):
    times = pd.to_datetime(["2019-05-01 10:00:00.123456789", "1969-12-31 23:59:59.5", None], format="ISO8601")
    frame = pd.DataFrame({"u": ["a", "b", "c"], "i": "i", "t": times.tz_localize("UTC"), "n t": times, "big": [1, 2, 3]})
    (tmp_path / "log").mkdir()
    for part in range(2):
        frame.assign(i=f"i{part}").to_parquet(tmp_path / "log" / f"{part} ä%.parquet", index=False)
    pd.DataFrame(columns=list(frame)).astype(frame.dtypes).to_parquet(tmp_path / "log" / "empty.parquet", index=False)
    before = spark.conf.get(parquet_times.NANOS_AS_LONG, None)
    mapped = table("x.parquet", {"arrival_time": "`n t`", "value": "big"}) | {"path": "log", "where": "t > '1970-01-01' OR t IS NULL"}
    rows = read(spark, config(tmp_path, mapped)).events.orderBy("item_id", "user_id").collect()
    assert [(row["user_id"], row["event_time"], row["arrival_time"], row["value"]) for row in rows] == [
        ("a", dt.datetime(2019, 5, 1, 10, 0, 0, 123456), dt.datetime(2019, 5, 1, 10, 0, 0, 123456), 1), ("c", None, None, 3)
    ] * 2  # fmt: skip
    assert spark.conf.get(parquet_times.NANOS_AS_LONG, None) in (before, "false")


@pytest.mark.parametrize("smaller", [0, 1])
@pytest.mark.parametrize("units", [("ns", "us"), ("us", "ns")])
def test_files_of_which_only_some_have_nanoseconds_are_refused_and_not_read_as_of_1970(spark, tmp_path, units, smaller):
    """Whichever file Spark and we look at for the types."""
    (tmp_path / "log.parquet").mkdir()
    for number, unit in enumerate(units):
        users, times = ["a" * (1 if number == smaller else 99)], pa.array([MOMENT], pa.timestamp(unit, "UTC"))
        columns = {"t": times, "u": users, "i": ["item"], "s": [{"u": 1, "t": MOMENT}], "t t": times}
        names = list(columns) if number else list(reversed(columns))
        write(tmp_path / "log.parquet" / f"{number}.parquet", **{name: columns[name] for name in names})
    ours = r"has files with times in nanoseconds \(t, t t\) and others: write them in microseconds"
    with pytest.raises(DataError, match=rf"log\.parquet \(parquet\) ({ours}|cannot be read: .*TYPE_MISMATCH)") as caught:
        read_users(spark, config(tmp_path, table("log.parquet")))
    assert "\n" not in str(caught.value)


def csv(folder, *files):
    """A CSV table of these files, whose first one Spark takes the columns from."""
    (folder / "log.csv").mkdir()
    for number, text in enumerate(files):
        (folder / "log.csv" / f"{number}.csv").write_text(text)


def read_users(spark, given):
    with failures_named(spark, given):
        return sorted((row["user_id"], row["item_id"]) for row in read(spark, given).events.collect())


@pytest.mark.parametrize("time", [pa.timestamp("us", "UTC"), pa.timestamp("ns", "UTC")], ids=["microseconds", "nanoseconds"])
def test_folders_of_partitions_are_texts_whatever_the_session_says(spark, tmp_path, time):
    for user in ("0042", "42", "007"):
        (tmp_path / "log.parquet" / f"u={user}").mkdir(parents=True)
        write(tmp_path / "log.parquet" / f"u={user}" / "part.parquet", i=["item"], t=pa.array([MOMENT], time))
    with session_settings(spark, dict.fromkeys(PARTITION_TEXTS, "true")):  # as a session that we did not start
        assert [user for user, _ in read_users(spark, config(tmp_path, table("log.parquet")))] == ["0042", "007", "42"]


@pytest.mark.parametrize("name", ["x" * 5000, "x" * 5000 + "*", "[x]" * 1000])
def test_a_path_that_cannot_be_looked_at_is_one_sentence(spark, tmp_path, name):
    with pytest.raises(DataError, match=r"table .*x.* \(parquet\) cannot be read") as caught:
        read(spark, config(tmp_path, table("log.parquet") | {"path": name}))
    assert "\n" not in str(caught.value)


HEADERS = {"header": "true"}


def test_csv_files_whose_columns_stand_in_another_order_are_not_read_by_their_place(spark, tmp_path):
    """Else users would be items and items users, without a word."""
    csv(tmp_path, "u,i,t,n\nu1,i1,2019-01-01,1\n", "i,u,t,n\ni2,u2,2019-01-01,2\n")
    with pytest.raises(DataError, match=r"log\.csv \(csv\) has files whose headers differ, .*/[01]\.csv; ") as caught:
        read_users(spark, config(tmp_path, table("log.csv", read_options=HEADERS)))
    assert "\n" not in str(caught.value)
    # Who knows better may say so; and what nobody reads may differ.
    given = config(tmp_path, table("log.csv", read_options=HEADERS | {"enforceSchema": "true"}))
    assert len(read_users(spark, given)) == 2
    (tmp_path / "log.csv" / "1.csv").write_text("u,i,t,m,further\nu2,i2,2019-01-01,2,3\n")
    given = config(tmp_path, table("log.csv", read_options=HEADERS))
    assert read_users(spark, given) == [("u1", "i1"), ("u2", "i2")]
    (tmp_path / "log.csv" / "1.csv").write_text("u,i,t,m\nu2,i2,2019-01-01,two\n")
    with pytest.raises(DataError, match=r"column value = 'CAST\(i AS INT\)' fails on a row: CAST_INVALID_INPUT"):
        read_users(spark, config(tmp_path, table("log.csv", {"value": "CAST(i AS INT)"}, read_options=HEADERS)))


def test_csv_files_with_the_unnamed_index_of_pandas_are_read(spark, tmp_path):
    rows = [pd.DataFrame({"u": [f"u{part}"], "i": ["i"], "t": ["2019-01-01"]}).to_csv() for part in range(2)]
    assert rows[0].startswith(",u,i,t\n")
    csv(tmp_path, *rows)
    for more in ({}, {"columns": {"value": "CAST(_c0 AS INT)"}}, {"columns": {"text": "to_json(struct(*))"}}, {"multiLine": "true"}):
        options = HEADERS | {key: value for key, value in more.items() if key == "multiLine"}
        given = config(tmp_path, table("log.csv", more.get("columns"), read_options=options, where="u IS NOT NULL"))
        assert read_users(spark, given) == [("u0", "i"), ("u1", "i")], more
    with pytest.raises(DataError, match=r"column value = 'CAST\(u AS INT\)' fails on a row: CAST_INVALID_INPUT"):
        read_users(spark, config(tmp_path, table("log.csv", {"value": "CAST(u AS INT)"}, read_options=HEADERS)))


def test_csv_files_with_a_name_twice_are_read(spark, tmp_path):
    csv(tmp_path, *[f"u,i,t,n,n\nu{part},i,2019-01-01,1,2\n" for part in range(2)])
    given = config(tmp_path, table("log.csv", {"value": "CAST(n4 AS INT)"}, read_options=HEADERS))
    assert read_users(spark, given) == [("u0", "i"), ("u1", "i")]


@pytest.mark.parametrize("where", ["", "f", "u IN (SELECT 'u1' UNION SELECT 'u2')", "u IS NOT NULL"])
def test_lines_that_are_no_json_are_refused_one_by_one_and_name_no_user(spark, tmp_path, where):
    good = '{{"u": "{}", "i": "i", "t": "2019-05-01", "f": {}}}\n'
    cut = ['{"u": "secret-1", "i": "i", "t": "20', '{"u": "secret-2", "i": "i", "t": "20', "no JSON at all"]
    (tmp_path / "log.json").write_text(good.format("u1", "true") + "\n".join(cut) + "\n" + good.format("u2", "false"))
    given = config(tmp_path, table("log.json", where=where))
    with failures_named(spark, given):
        evaluated = validate_events(read(spark, given).events, ["view"], {}, 0, NOW).persist()
        assert [row["user_id"] for row in accepted(evaluated).orderBy("user_id").collect()] == (["u1"] if where == "f" else ["u1", "u2"])
        held = refused(evaluated).collect()
    assert [(row["source"], row["reason"]) for row in held] == [("events/view", "the line is no JSON")] * 3
    found = [json.loads(row["row"]) for row in held]
    assert sorted((one["file"], one["characters"], one["sha256"]) for one in found) == sorted(
        ("log.json", len(line), hashlib.sha256(line.encode()).hexdigest()) for line in cut
    )
    assert refused(evaluated).where(batches.is_broken()).count() == 3, "a replay leaves them"
    (counts,) = read(spark, given).tables.collect()
    assert (counts["read"], counts["unknown"]) == (2, 0)
    # Who says how Spark is to read them has it so.
    dropped = config(tmp_path, table("log.json", where=where, read_options={"mode": "DROPMALFORMED"}))
    assert refused(validate_events(read(spark, dropped).events, ["view"], {}, 0, NOW)).isEmpty()
    own = config(tmp_path, table("log.json", where="_corrupt_record IS NULL"))
    assert read(spark, own).tables.collect()[0]["taken"] == 2
    assert read(spark, own).events.count() == 2


def test_lines_that_are_no_json_leave_expressions_counts_and_partitions_as_they_were(spark, tmp_path):
    for day in ("2019-05-01", "2019-05-02"):
        (tmp_path / "log.json" / f"dt={day}").mkdir(parents=True)
        line = f'{{"u": "u", "items": ["i", "j"], "t": "{day}", "_metadata": 1, "kind": null}}\n'
        (tmp_path / "log.json" / f"dt={day}" / "part.json").write_text(line + "cut\n")
    mapped = table("log.json", {"item_id": "explode(items)"}, batch_where="dt >= '{from_date}'", where="kind IS NULL")
    batch = (parse_time("2019-05-02"), parse_time("2019-05-03"))
    found = read(spark, config(tmp_path, mapped), batch).events.collect()
    assert sorted((row["item_id"] or "", bool(row["_malformed"])) for row in found) == [("", True), ("i", False), ("j", False)]
    (counts,) = read(spark, config(tmp_path, mapped | {"where": "kind = 'veiw'"})).tables.collect()
    assert (counts["taken"], counts["unknown"]) == (0, 2)
