"""What standalone retrieval reads: vectors of which day, model and layer, against lists by hand."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from types import SimpleNamespace

import pytest

from alure_spark.clock import NEVER_MS, format_time, parse_time
from alure_spark.config import FieldConfig, StandaloneConfig, TransferConfig, load
from alure_spark.errors import DataError
from alure_spark.events.ranking_tables import embedding_model
from alure_spark.events.standalone_rows import ads_of_day, engaged_rows, upstream_model, vectors_of_day
from tests.conftest import ROOT

START, DAY_MS, HOUR_MS = parse_time("2025-01-01T00:00:00Z"), 86_400_000, 3_600_000
AS_OF, LAG_HOURS = 3, 2  # of the conf: the third day


def at(day):
    return datetime(2025, 1, 1) + timedelta(days=day)


def ms(day, hours=0.0):
    return round(START + day * DAY_MS + hours * HOUR_MS)


CROSSES = [
    (kind, name if kind == "user" else None, None if kind == "user" else 10, at(day), "m", layer, [float(day), float(layer == "hidden")])
    for day in (1, 3, 4)
    for kind, name, layer in (("user", "u0", "hidden"), ("user", "u1", "hidden"), ("ad", None, "hidden"))
] + [("user", "u0", None, at(2), "m", "ad", [2.0, 0.0])]
TABLES = {
    "item_representations": (
        "ad_hash bigint, as_of timestamp, model_id string, representation array<float>",
        [(ad, at(day), "m", [float(ad), float(day)]) for day in (1, 2, 3, 4) for ad in (10, 11, 12) if (ad, day) != (11, 1)],
    ),
    "user_embeddings": (
        "user_id string, country string, as_of timestamp, model_id string, embedding array<float>",
        [
            ("u0", "SE", at(1), "m", [1.0]),
            ("u0", "FI", at(3), "m", [3.0]),
            ("u0", "DE", at(4), "m", [4.0]),
            ("u1", "SE", at(1), "m", [1.5]),
            ("u2", "SE", at(1), "m", [1.7]),
            ("u2", "SE", at(2), "old", [2.7]),
        ],
    ),
    "cross_representations": (
        "kind string, user_id string, ad_hash bigint, as_of timestamp, model_id string, layer string, representation array<float>",
        CROSSES,
    ),
    "user_sequences": (
        "user_id string, country string, as_of timestamp",
        [("u0", "SE", at(1)), ("u0", "FI", at(3)), ("u0", "DE", at(4)), ("u1", "SE", at(2))],
    ),
    "ads": (
        "ad_id string, ad_hash bigint, account_id string, active_from timestamp, active_to timestamp",
        [("a", 10, "b", at(2), at(5)), ("a", 10, "b", at(0), at(1)), ("later", 12, "b", at(3.5), None), ("now", 11, "b", at(3), None)],
    ),
    "training_examples": (
        "user_id string, as_of timestamp, segment string, time_ms array<bigint>, ad_id array<bigint>, click array<int>",
        [
            ("u0", at(3), "all", [ms(1, 2), ms(1, 2) + 1, ms(2), ms(2, 5), ms(2, 6)], [10, 10, 11, 11, 10], [1, 1, 1, 1, 0]),
            ("u1", at(3), "all", [ms(1, 9), ms(2, 9), ms(2, 9)], [11, 12, 99], [1, 1, 1]),
            ("u9", at(3), "all", [ms(2, 9)], [10], [1]),
            ("u0", at(2), "all", [ms(1, 3)], [12], [1]),
        ],
    ),
}


@pytest.fixture(scope="module")
def run(spark):
    tables = {name: spark.createDataFrame(rows, schema) for name, (schema, rows) in TABLES.items()}
    return SimpleNamespace(read=tables.__getitem__, read_if_published=tables.get)


def config(day=AS_OF, layer="hidden", **settings):
    plain = load(ROOT / "conf" / "test.yml")
    time = replace(plain.time, as_of=format_time(ms(day)))
    retrieval = StandaloneConfig(**({"head": "linear", "reads": "user.embedding"} | settings))
    embedding = replace(plain.embedding, publish_lag_hours=LAG_HOURS)
    return replace(plain, time=time, embedding=embedding, transfer=TransferConfig(layer, retrieval=retrieval))


def engaged(run, upstream="m", **settings):
    rows = engaged_rows(run, config(**settings), upstream).collect()
    return sorted((row["user_id"], row["time_ms"], row["ad_id"], row["user"], row["ad"]) for row in rows)


def test_engagements_have_the_vectors_that_were_published_before_them(run):
    """Those of a day from LAG_HOURS on, exclusive; without both there is no engagement."""
    assert engaged(run) == [
        ("u0", ms(1, 2) + 1, 10, [1.0], [10.0, 1.0]),
        ("u0", ms(2, 5), 11, [1.0], [11.0, 2.0]),
        ("u1", ms(2, 9), 12, [1.5], [12.0, 2.0]),
    ]
    assert [row[1] for row in engaged(run, max_examples=2)] == [ms(2, 5), ms(2, 9)], "the newest"
    assert engaged(run, "m/hidden", reads="user.cross") == [
        ("u0", ms(1, 2) + 1, 10, [1.0, 1.0], [10.0, 1.0]),
        ("u0", ms(2, 5), 11, [1.0, 1.0], [11.0, 2.0]),
        ("u1", ms(2, 9), 12, [1.0, 1.0], [12.0, 2.0]),
    ], "of the layer: u0 has a row of another one as of day 2"
    assert engaged(run, "other") == []


def test_what_is_searched_is_of_the_day_and_of_one_model(run):
    users, ads = vectors_of_day(run, config(), "m")
    assert sorted(map(tuple, users.collect())) == [("u0", "FI", [3.0]), ("u1", "SE", [1.5])], "the newest of u2 is of another model"
    assert dict(map(tuple, ads.collect())) == {"a": [10.0, 3.0], "now": [11.0, 3.0]}, "each once; 'later' has not begun"
    users, _ = vectors_of_day(run, config(reads="user.cross"), "m/hidden")
    assert sorted(map(tuple, users.collect())) == [("u0", "FI", [3.0, 1.0]), ("u1", "SE", [3.0, 1.0])], "as of the day alone"
    assert vectors_of_day(run, config(reads="user.cross"), "m/ad")[0].isEmpty()


def test_ads_could_be_shown_from_their_first_flight_to_the_end_of_their_last(run):
    rows = {row["ad_id"]: (row["ad"], row["from_ms"], row["to_ms"]) for row in ads_of_day(run, config()).collect()}
    assert rows[10] == ([10.0, 3.0], ms(0), ms(5))
    assert rows[11] == ([11.0, 3.0], ms(3), NEVER_MS)
    assert len(rows) == 3


def test_vectors_of_another_layer_or_day_are_none_and_the_sentence_says_which(run):
    assert upstream_model(run, config()) == "m"
    assert upstream_model(run, config(reads="user.cross")) == "m/hidden"
    with pytest.raises(DataError, match=r"cross_representations has no rows of transfer.layer crosses up to 2025-01-04"):
        upstream_model(run, config(layer="crosses", reads="user.cross"))
    with pytest.raises(DataError, match="item_representations has no rows of 2025-01-06"):
        upstream_model(run, config(day=5))


def test_a_ranking_model_is_not_trained_on_a_layer_that_nobody_has_extracted(run):
    """All its cross fields would be missing."""

    def reading(layer):
        given = config(layer=layer)
        return replace(given, ranking=replace(given.ranking, fields={"of_user": FieldConfig("user.cross", "numbers")}, sequences={}))

    assert embedding_model(run, reading("hidden")) == "m/hidden"
    with pytest.raises(DataError, match=r"no rows of transfer.layer crosses up to 2025-01-04.*, but of another layer: run jobs/"):
        embedding_model(run, reading("crosses"))
