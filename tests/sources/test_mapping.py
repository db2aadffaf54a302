"""Mapped tables: what a condition may hold, and what is counted of every table."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest

from alure_spark.clock import parse_time
from alure_spark.config import SourceConfig, build
from alure_spark.errors import ConfigError, DataError
from alure_spark.events.preflight import count_tables
from alure_spark.sources import failures_named
from alure_spark.sources.batch_where import filled
from alure_spark.sources.mapping import canonical
from alure_spark.sources.table_options import Options, TableMapping

BATCH = (parse_time("2025-05-04"), parse_time("2025-05-05T12:00"))
DAY = timedelta(days=1)
COLUMNS = {"user_id": "user", "event_time": "at", "item_id": "item"}
DAYS = "dt >= '{from_date}' AND dt <= '{to_date}'"


def test_the_placeholders_of_batch_where_are_the_times_of_the_batch():
    assert filled("a >= '{from}' AND a < '{to}'", "t", BATCH) == "a >= '2025-05-04 00:00:00.000' AND a < '2025-05-05 12:00:00.000'"
    assert filled(DAYS, "t", BATCH) == "dt >= '2025-05-04' AND dt <= '2025-05-05'"
    assert filled("ms BETWEEN {from_ms} AND {to_ms}", "t", BATCH) == "ms BETWEEN 1746316800000 AND 1746446400000"
    assert filled("a RLIKE 'x{{2}}' AND b = '{{from}}'", "t", BATCH) == "a RLIKE 'x{2}' AND b = '{from}'"


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("dt >= '{form}'", "{form} in it stands for nothing; allowed: {from}, {to}, {from_date}"),
        ("dt >= '{From}'", "{From} in it stands for nothing"),
        ("dt >= '{ from }'", "{ from } in it stands for nothing"),
        ("dt >= '{}'", "{} in it stands for nothing"),
        ("dt >= '{from'", "{ in it stands for nothing"),
        ("dt >= 'from}'", "} in it stands for nothing"),
        ("a RLIKE 'x{2}'", "a brace that is meant as one is doubled"),
    ],
)
def test_other_braces_in_batch_where_are_refused_where_the_conf_is_read(condition, message):
    with pytest.raises(ConfigError, match="batch_where") as refused:
        build(TableMapping, {"path": "views", "columns": {}, "batch_where": condition}, "source.options.events[0]")
    assert message in str(refused.value)


def test_the_time_of_a_batch_in_where_is_refused():
    with pytest.raises(ConfigError, match=r"table views: where is .*\{from_date\} is a time of a batch: it belongs in batch_where"):
        TableMapping({}, path="views", where="dt >= '{from_date}'")


@pytest.mark.parametrize("of", ["ads", "follows", "users"])
def test_a_batch_of_ads_follows_or_users_is_refused_because_a_load_replaces_them_whole(of):
    event = {"path": "views", "columns": {}, "source": "view"}
    limited = {"path": "some", "columns": {}, "batch_where": DAYS}
    with pytest.raises(ConfigError, match=rf"source.options.{of}: some has batch_where .*, but every load replaces {of} whole"):
        build(Options, {"events": [event], of: [limited]}, "source.options")


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("arival_time", "arrival_time"),  # a letter is missing
        ("dwell_sm", "dwell_ms"),  # two are swapped
        ("impresion_ids", "impression_id"),  # one is missing, one too many
        ("brand_nmae", "brand_name"),  # of a declared attribute
    ],
)
def test_a_mapped_column_that_is_nearly_called_as_one_that_is_read_is_refused(written, meant):
    event = {"path": "views", "columns": COLUMNS | {written: "x"}, "source": "view"}
    with pytest.raises(ConfigError, match=rf"source.options: views maps the column '{written}'; did you mean '{meant}'\?"):
        canonical(None, build(Options, {"events": [event]}, "source.options"), attributes={"brand_name": "categorical"})


def test_a_mapped_column_with_a_name_of_its_own_is_nobodys_misspelling(spark, folder):
    (one,) = counted(spark, folder, columns=COLUMNS | {"kind": "kind", "price": "1", "user": "user"})
    assert one.taken == 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four days of views, two a day, with the day as text; one view without a kind; an empty table of ads."""
    root = tmp_path_factory.mktemp("mapped")
    first = datetime(2025, 5, 2, 9, tzinfo=UTC)
    rows = [(f"u{n % 2}", first + n // 2 * DAY, f"i{n}", None if n == 5 else "view" if n % 3 else "test") for n in range(8)]
    views = pd.DataFrame(rows, columns=["user", "at", "item", "kind"]).astype({"at": "datetime64[us, UTC]"})
    views["dt"] = views["at"].dt.strftime("%Y-%m-%d")
    views.to_parquet(root / "views.parquet", index=False)
    views.assign(at=views["at"].astype(str)).to_csv(root / "views.csv", index=False)
    pd.DataFrame({"ad": pd.Series([], dtype=str), "at": pd.Series([], dtype="datetime64[us, UTC]")}).to_parquet(root / "ads.parquet")
    return root


def counted(spark, folder, batch=None, ads=False, **more):
    values = {"path": "views.parquet", "format": "parquet", "source": "organic", "columns": COLUMNS} | more
    options = {"root": str(folder), "events": [values]}
    if ads:
        options["ads"] = [{"path": "ads.parquet", "format": "parquet", "columns": {"ad_id": "ad", "active_from": "at"}}]
    return count_tables(canonical(spark, build(Options, options, "source.options"), batch)[3])


def test_rows_that_a_condition_leaves_out_because_it_is_null_are_counted_and_told(spark, folder):
    (one,) = counted(spark, folder, where="kind <> 'test'")
    assert (one.read, one.taken, one.unknown, one.known, one.empty) == (8, 4, 1, None, "")
    assert one.remarks == [f"table {folder}/views.parquet: where \"kind <> 'test'\" is null for 1 of 8 rows, which are left out"]
    (one,) = counted(spark, folder)
    assert (one.read, one.taken, one.unknown, one.remarks) == (8, 8, 0, [])


def test_a_table_of_which_nothing_is_left_says_which_condition_did_it(spark, folder):
    _, ads = counted(spark, folder, ads=True)
    assert ads.empty == f"table {folder}/ads.parquet: it has no row"
    (one,) = counted(spark, folder, where="kind = 'View'")
    assert one.empty.endswith("where \"kind = 'View'\" left none of 8 rows")
    day = (parse_time("2025-05-04"), parse_time("2025-05-05"))
    text = "dt >= '{from}' AND dt < '{to}'"  # '2025-05-04' is less than '2025-05-04 00:00:00.000', '2025-05-05' is not
    (one,) = counted(spark, folder, day, batch_where=text)
    assert (one.read, one.known) == (2, 0)
    assert "none of the 2 rows that batch_where" in one.empty
    assert "is of the batch (a day column of type text is compared as text, for which {from_date}" in one.empty
    (one,) = counted(spark, folder, day, batch_where="dt > '{to_date}'")
    assert one.empty.endswith("batch_where \"dt > '2025-05-05'\" left no row")
    for table in ({}, {"path": "views.csv", "format": "csv", "read_options": {"header": "true"}}):
        (one,) = counted(spark, folder, day, batch_where=DAYS, **table)
        assert (one.read, one.known, one.empty, one.remarks) == (4, 2, "", []), "the day after is read, too, and is of another batch"
    (quiet,) = counted(spark, folder, (0, 1))
    assert (quiet.empty, len(quiet.remarks)) == ("", 1), "a table that was read as a whole may have a day without events"


def test_a_condition_that_fails_on_a_row_ends_in_one_sentence(spark, folder):
    values = {"path": "views.parquet", "format": "parquet", "source": "organic", "columns": COLUMNS, "where": "CAST(kind AS INT) = 1"}
    config = SourceConfig("tables", {"root": str(folder), "events": [values]})
    with pytest.raises(DataError, match=r"views.parquet: where '.*' fails on a row: CAST_INVALID_INPUT"), failures_named(spark, config):
        counted(spark, folder, where=values["where"])
