"""Versions of a user model that say the same in turned numbers: what is fitted when, and which rows a reader of one version gets."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import ortho_group

from alure_spark.alignment import Alignment
from alure_spark.clock import DAY_MS, format_time, parse_time
from alure_spark.config import FieldConfig, TransferConfig, load
from alure_spark.errors import DataError
from alure_spark.events.aligned_rows import Turn, turned
from alure_spark.events.alignment_table import write_alignments
from alure_spark.events.ranking_tables import embedding_model, field_tables, representation_ages
from tests.conftest import ROOT, overrides

FIRST, NUMBERS, USERS, ADS = parse_time("2025-01-16T00:00:00Z"), 4, 30, 12
random = np.random.default_rng(7)
TRUTH = {name: random.normal(size=(USERS + ADS, NUMBERS)) + random.normal(0, 3, NUMBERS) for name in ("user", "item", "cross")}
VERSIONS = {version: (ortho_group.rvs(NUMBERS, random_state=place), 5.0 * place) for place, version in enumerate(("m1", "m2"), 1)}
FIELDS = {
    "taste": FieldConfig("user.embedding", "numbers"),
    "of_user": FieldConfig("user.cross", "numbers"),
    "of_ad": FieldConfig("ad.cross", "numbers"),
    "tower": FieldConfig("ad.representation", "numbers"),
}


def said(version, what, places):
    """Vectors of the version: those of m0, which are the truth, turned and shifted."""
    rotation, shift = VERSIONS.get(version, (np.eye(NUMBERS), 0.0))
    return [[float(number) for number in row] for row in TRUTH[what][places] @ rotation + shift]


def rows_of(version, day, users=range(USERS), ads=range(ADS), numbers=NUMBERS):
    """Table -> the rows that a version has of a day, as Arrow."""
    users, ads = list(users), list(ads)
    both, shown = [*users, *(USERS + ad for ad in ads)], [USERS + ad for ad in ads]

    def made(what, places, **columns):
        vectors = pa.array([row[:numbers] for row in said(version, what, places)], pa.list_(pa.float32()))
        at = pa.array([(FIRST + day * DAY_MS) * 1000] * len(places), pa.timestamp("us", "UTC"))
        return pa.table(columns | {"as_of": at, "model_id": pa.array([version] * len(places)), "vectors": vectors})

    names, nobody = [f"u{user}" for user in users], pa.nulls(len(ads), pa.string())
    of_user = made("user", users, user_id=names, country=["SE"] * len(users))
    keys = {
        "kind": ["user"] * len(users) + ["ad"] * len(ads),
        "user_id": pa.concat_arrays([pa.array(names, pa.string()), nobody]),
        "ad_hash": pa.concat_arrays([pa.nulls(len(users), pa.int64()), pa.array(ads, pa.int64())]),
    }
    crossed = made("cross", both, **keys, layer=["hidden"] * len(both))
    return {
        "user_embeddings": of_user.rename_columns([*of_user.column_names[:-1], "embedding"]),
        **{
            name: table.rename_columns([*table.column_names[:-1], "representation"])
            for name, table in (
                ("item_representations", made("item", shown, ad_hash=pa.array(ads, pa.int64()))),
                ("cross_representations", crossed),
            )
        },
    }


class Run:
    """The reads and writes of a JobRun, of tables in memory."""

    def __init__(self, spark, *days):
        self.spark, self.tables, self.outputs, self.lake = spark, {}, {}, SimpleNamespace(spark=spark)
        for day in days:
            self.add(day)

    def add(self, tables):
        for name, rows in tables.items():
            self.tables[name] = pa.concat_tables([self.tables[name], rows]) if name in self.tables else rows

    def read_if_published(self, name):
        return self.spark.createDataFrame(self.tables[name]) if name in self.tables else None

    def write(self, name, frame, scope):
        made = frame.toArrow()
        if (before := self.read_if_published(name)) is not None:
            made = pa.concat_tables([before.where(f"NOT ({scope})").toArrow(), made])
        self.tables[name] = made


def config_at(day, folder="out"):
    config = load(ROOT / "conf" / "test.yml", overrides(folder))
    time = replace(config.time, as_of=format_time(FIRST + day * DAY_MS).replace(" ", "T") + "Z")
    ranking = replace(config.ranking, fields=FIELDS, sequences={})
    return replace(config, time=time, ranking=ranking, transfer=TransferConfig("hidden", align="rotation"))


def placed(row):
    """Where the truth of a row of field_tables lies."""
    of_user = row["user_id"] if "user_id" in row.asDict() else None
    return int(of_user[1:]) if of_user else USERS + row["ad_hash"]


@pytest.fixture(scope="module")
def days(spark):
    """m0 on two days, then m1 on two, of which the second touched three users only, then m2: with the alignments of each day in turn."""
    run = Run(spark, rows_of("m0", 0), rows_of("m0", 1, range(USERS - 1)))
    metrics = [write_alignments(run, config_at(1), "m0")]
    for day, (version, users, ads) in enumerate([("m1", USERS, ADS), ("m1", 3, 3), ("m2", USERS, ADS)], 2):
        run.add(rows_of(version, day, range(users), range(ads)))
        metrics.append(write_alignments(run, config_at(day), version))
    return run, metrics


def test_all_versions_are_read_as_one(days):
    run, metrics = days
    tables = field_tables(run, "m0/hidden")
    for name, column, what in (
        ("user_embeddings", "embedding", "user"),
        ("item_representations", "representation", "item"),
        ("cross_representations", "representation", "cross"),
    ):
        rows = getattr(tables, name).collect()
        assert len(rows) == len(run.tables[name])
        assert {row["model_id"] for row in rows} == {"m0"}
        for row in rows:
            np.testing.assert_allclose(row[column], TRUTH[what][placed(row)], atol=1e-4)
        assert all(day[f"alignment.{name}.residual"] < 1e-6 for day in metrics[1:])
    assert embedding_model(run, config_at(4)) == "m0/hidden"


def test_a_version_is_fitted_on_its_first_day_and_keeps_its_matrix(days):
    run, metrics = days
    assert metrics[0] == {}, "the first version is the space itself"
    rows = [row for row in run.tables["alignments"].sort_by("as_of").to_pylist() if row["of"] == "user_embeddings"]
    assert [row["model_id"] for row in rows] == ["m0", "m1", "m1", "m2"]
    assert {(row["space"], row["rows"]) for row in rows[1:]} == {("m0", USERS)}
    own, first, again, _ = rows
    assert (own["space"], own["matrix"]) == ("m0", [])
    assert again["fitted_as_of"] == first["as_of"] < again["as_of"]
    assert again["matrix"] == first["matrix"]


def test_a_day_that_is_run_again_gives_the_same_and_sees_no_later_day(days, spark):
    """Its own alignment and those of later days are there, all of them broken."""
    run, _ = days
    day = parse_time(config_at(2).time.as_of)
    again, before = Run(spark), run.tables["alignments"].to_pylist()
    broken = [row | {"matrix": [2 * number for number in row["matrix"]]} if epoch_ms(row) >= day else row for row in before]
    again.tables = run.tables | {"alignments": pa.Table.from_pylist(broken, run.tables["alignments"].schema)}
    write_alignments(again, config_at(2), "m1")
    rows = {row["of"]: row for row in again.tables["alignments"].to_pylist() if epoch_ms(row) == day}
    assert rows == {row["of"]: row for row in before if epoch_ms(row) == day}
    assert len(rows) == 3


def epoch_ms(row):
    return round(row["as_of"].timestamp() * 1000)


def test_rows_that_are_older_than_the_alignment_are_not_read(days, spark):
    run, _ = days
    late = Run(spark)
    late.tables = dict(run.tables)
    late.add({"user_embeddings": rows_of("m1", 1, [USERS - 1])["user_embeddings"]})
    assert field_tables(late, "m0/hidden").user_embeddings.count() == len(run.tables["user_embeddings"])


def test_a_ranking_model_reads_its_own_version_for_as_long_as_it_is_kept(spark):
    run, config = Run(spark, rows_of("m0", 0), rows_of("m1", 2)), config_at(2)
    assert embedding_model(run, config) == "m1/hidden", "a new one learns from the newest"
    assert representation_ages(run, config, "m0/hidden") == dict.fromkeys(run.tables, 2.0)
    rows = field_tables(run, "m0/hidden").cross_representations.collect()
    assert len(rows) == USERS + ADS
    assert {row["model_id"] for row in rows} == {"m0"}
    run.tables["item_representations"] = rows_of("m1", 2)["item_representations"]
    with pytest.raises(DataError, match="of m0/hidden, but the newest are of m1/hidden, and item_representations has no row of the former"):
        representation_ages(run, config, "m0/hidden")
    assert field_tables(run, "m0/ad").cross_representations.isEmpty(), "another layer is another space"


def test_another_layer_or_no_alignment_begins_a_space_of_its_own(days, spark):
    run, _ = days
    other = Run(spark)
    other.tables = dict(run.tables)
    crosses = rows_of("m2", 5)["cross_representations"]
    place = crosses.column_names.index("layer")
    other.add({"cross_representations": crosses.set_column(place, "layer", pa.array(["ad"] * len(crosses)))})
    config = config_at(5)
    write_alignments(other, replace(config, transfer=TransferConfig("ad", align="linear")), "m2")
    assert embedding_model(other, replace(config, transfer=TransferConfig("ad"))) == "m2/ad", "of user_embeddings too"
    again = Run(spark)
    again.tables = dict(run.tables)
    write_alignments(again, replace(config_at(4), transfer=TransferConfig("hidden")), "m2")
    assert embedding_model(again, config_at(4)) == "m2/hidden", "what was written of that day is gone"


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"ads": range(3)}, "item_representations of m1 and of the space m0: 3 are common to both models; to turn 4 numbers"),
        ({"users": range(USERS, USERS + ADS)}, "no row is common to user_embeddings of m1 and of the space m0"),
        ({"numbers": 3}, "vectors of 3 and of 4 numbers in user_embeddings of m1"),
    ],
)
def test_what_cannot_be_aligned_stops_the_job_with_what_to_do(spark, change, what):
    run = Run(spark, rows_of("m0", 0), rows_of("m1", 1, **change))
    with pytest.raises(DataError, match=f"transfer.align: {what}") as refused:
        write_alignments(run, config_at(1), "m1")
    assert "leave transfer.align empty for this as_of" in str(refused.value)


def test_a_batch_is_turned_model_by_model():
    rotation, shift = VERSIONS["m1"]
    turn = Turn(FIRST, "rotation", Alignment(rotation.T, -shift * np.ones(NUMBERS) @ rotation.T, 9, 0.0))
    at = pa.array([FIRST * 1000, FIRST * 1000, FIRST * 1000 - 1], pa.timestamp("us", "UTC"))
    vectors = pa.array([said("m1", "user", [0])[0], said("m0", "user", [1])[0], said("m1", "user", [2])[0]], pa.list_(pa.float32()))
    rows = pa.RecordBatch.from_arrays([at, pa.array(["m1", "m0", "m1"]), vectors], names=["as_of", "model_id", "embedding"])
    given = pa.Table.from_batches(turned(rows, "embedding", "m0", {"m1": turn})).to_pylist()
    assert [row["model_id"] for row in given] == ["m0", "m0"], "the row of before the fit is left out"
    np.testing.assert_allclose([row["embedding"] for row in given], TRUTH["user"][:2], atol=1e-5)
    wide = Turn(FIRST, "rotation", Alignment(np.eye(5), np.zeros(5), 9, 0.0))
    with pytest.raises(DataError, match="a row of model m1 has 4 numbers, but its alignment turns 5"):
        list(turned(rows, "embedding", "m0", {"m1": wide}))
