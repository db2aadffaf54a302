"""Fields of the ranking model, point in time: against a plain walk, with ads and embeddings of before, of then and of later."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest
from pyspark.sql import Row
from pyspark.sql import functions as F

from alure_spark.clock import DAY_MS, HOUR_MS
from alure_spark.config import RankingConfig, build
from alure_spark.errors import DataError
from alure_spark.events.ranking_fields import FieldTables, ranking_rows
from alure_spark.tables import ADS, SIMILARITY_EMBEDDINGS, TRAINING_EXAMPLES, USER_EMBEDDINGS
from alure_spark.training.ranking_start import known_ids

START_MS = 1_735_689_600_000  # a Wednesday, midnight
LAG_MS = 6 * HOUR_MS
SCHEMA = f"{TRAINING_EXAMPLES.ddl()}, impression__position ARRAY<DOUBLE>, click__known_at_ms ARRAY<BIGINT>, click__item_id ARRAY<BIGINT>"
FIELDS = {
    "ad": {"reads": "impression.ad_id", "encoding": "id", "space": "item_id"},
    "slot": {"reads": "impression.position", "encoding": "numeral_systems"},
    "bid": {"reads": "ad.bid", "encoding": "numeral_systems"},
    "topic": {"reads": "ad.category_id", "encoding": "id"},
    "title": {"reads": "ad.title", "encoding": "words"},
    "where": {"reads": "context.country", "encoding": "id"},
    "hour": {"reads": "context.hour", "encoding": "numeral_systems"},
    "weekday": {"reads": "context.weekday", "encoding": "numeral_systems"},
    "taste": {"reads": "user.embedding", "encoding": "numbers"},
}


def config(**more):
    return build(RankingConfig, {"fields": FIELDS} | more)


def moment(time_ms):
    return datetime.fromtimestamp(time_ms / 1000, UTC).replace(tzinfo=None)


def example(user, times, ads, clicks=()):
    n, as_of = len(times), START_MS + 9 * DAY_MS
    return Row(
        user_id=user, country="SE", as_of=moment(as_of), segment="all", impression_id=[f"{user}-{i}" for i in range(n)],
        time_ms=[int(t) for t in times], ad_id=[int(ad) for ad in ads], account_id=[None] * n,
        label_age_ms=[int(as_of - t) for t in times], weight=[1.0] * n,
        split=["train" if t < START_MS + 6 * DAY_MS else "validation" for t in times],
        impression__position=[float(i) for i in range(n)],
        click__known_at_ms=[int(t) for t in clicks], click__item_id=list(range(100, 100 + len(clicks))),
    )  # fmt: skip


def flight(ad, day, bid, topic="t", title="a title"):
    return Row(
        ad_id=f"ad{ad}", account_id="x", category_id=topic, active_from=moment(START_MS + day * DAY_MS), active_to=None, bid=bid,
        value=None, title=title, media_embedding=None, ad_hash=ad,
    )  # fmt: skip


def published(user, day):
    return Row(user_id=user, country="SE", as_of=moment(START_MS + day * DAY_MS), model_id="a", embedding=[float(day), 1.0])


@pytest.fixture
def world(spark):
    """Users, flights of ads and published embeddings, drawn; and the frames."""
    random = np.random.default_rng(7)
    examples, embeddings = [], []
    for number in range(30):
        times = np.sort(START_MS + random.integers(0, 9 * DAY_MS, random.integers(0, 6)))
        examples.append(example(f"u{number}", times, random.integers(0, 5, len(times))))
        embeddings += [published(f"u{number}", int(day)) for day in np.flatnonzero(random.random(9) < 0.4)]
    flights = [flight(ad, int(day), float(10 * ad + day), f"t{ad % 2}") for ad in range(4) for day in range(0, 9, ad + 2)]
    frames = spark.createDataFrame(examples, SCHEMA), spark.createDataFrame(flights, ADS.ddl())
    return examples, flights, embeddings, (*frames, spark.createDataFrame(embeddings, USER_EMBEDDINGS.ddl()))


def test_every_field_says_what_was_known_at_the_impression(world):
    examples, flights, embeddings, (rows, ads, served) = world
    made = {row.user_id: row for row in ranking_rows(rows, config(), FieldTables(ads, served), LAG_MS).collect()}
    assert len(made) == len(examples)
    sweden = rows.select(F.xxhash64(F.lit("SE"))).first()[0]
    for given in examples:
        row = made[given.user_id]
        assert row.time_ms == given.time_ms
        assert row.impression__ad == given.ad_id
        assert row.impression__slot == given.impression__position
        for place, (time, ad) in enumerate(zip(given.time_ms, given.ad_id, strict=True)):
            begun = [one for one in flights if one.ad_hash == ad and one.active_from <= moment(time)]
            latest = max(begun, key=lambda one: one.active_from) if begun else None
            assert row.impression__bid[place] == (latest.bid if latest else None)
            assert row.impression__title[place] == ("a title" if latest else None)
            assert (row.impression__topic[place] is None) == (latest is None)
            days = [one.embedding for one in embeddings if one.user_id == given.user_id and one.as_of < moment(time - LAG_MS)]
            assert row.impression__taste[place] == (max(days) if days else None)
            assert row.impression__hour[place] == moment(time).hour
            assert row.impression__weekday[place] == moment(time).weekday()
        assert row.impression__where == [sweden] * len(given.time_ms)


def test_what_begins_at_the_impression_is_known_and_what_is_published_at_it_is_not(spark):
    at = START_MS + 2 * DAY_MS
    rows = spark.createDataFrame([example("u", [at], [1])], SCHEMA)
    ads = spark.createDataFrame([flight(1, 2, 5.0)], ADS.ddl())
    served = spark.createDataFrame([published("u", 2)], USER_EMBEDDINGS.ddl())
    row = ranking_rows(rows, config(), FieldTables(ads, served), 0).collect()[0]
    assert row.impression__bid == [5.0]
    assert row.impression__taste == [None]


def test_later_flights_and_embeddings_change_nothing(world, spark):
    rows, ads, served = world[3]
    before = sorted(ranking_rows(rows, config(), FieldTables(ads, served), LAG_MS).collect())
    late = spark.createDataFrame([flight(ad, 20, -1.0, "other") for ad in range(5)], ADS.ddl())
    later = spark.createDataFrame([published(f"u{number}", 9) for number in range(30)], USER_EMBEDDINGS.ddl())
    after = sorted(ranking_rows(rows, config(), FieldTables(ads.union(late), served.union(later)), LAG_MS).repartition(3).collect())
    assert before == after


def test_ids_of_the_training_split_have_a_row_and_those_of_validation_or_later_tokens_do_not(spark):
    rows = spark.createDataFrame(
        [
            example("u", [START_MS + DAY_MS, START_MS + 7 * DAY_MS], [1, 2], clicks=[START_MS + DAY_MS, START_MS + 8 * DAY_MS]),
            example("v", [START_MS + 2 * DAY_MS], [3], clicks=[START_MS + DAY_MS]),
        ],
        SCHEMA,
    )
    only = {"ad": FIELDS["ad"]}
    chosen = build(RankingConfig, {"fields": only, "sequences": {"clicked": {"source": "click", "category": "item_id", "target": "ad"}}})
    with_fields = ranking_rows(rows, chosen, FieldTables(), 0)
    border = START_MS + 6 * DAY_MS
    assert {tuple(row) for row in known_ids(with_fields, chosen, border).collect()} == {("item_id", one) for one in (1, 3, 100)}
    twice = build(RankingConfig, {"fields": only, "min_count": 2, "sequences": chosen_sequences()})
    assert {tuple(row) for row in known_ids(with_fields, twice, border).collect()} == {("item_id", 100)}


def chosen_sequences():
    return {"clicked": {"source": "click", "category": "item_id", "target": "ad"}}


def test_a_cosine_is_of_vectors_of_one_model_that_had_been_published(spark):
    random = np.random.default_rng(3)
    cosine = build(RankingConfig, {"fields": {"near": {"reads": "user.similarity", "encoding": "numeral_systems"}}})
    names = [f"ad{ad}" for ad in range(4)]
    hashes = dict(
        zip(
            names, spark.createDataFrame([(name,) for name in names], "n string").select(F.xxhash64("n")).toPandas().iloc[:, 0], strict=True
        )
    )
    vectors, unit = {}, random.normal(size=(3, 12, 4))
    unit /= np.linalg.norm(unit, axis=2, keepdims=True)
    for day in (1, 3, 5):
        nodes = [("user", f"u{number}") for number in range(8) if number != day] + [("item", name) for name in names[: 4 - day // 3]]
        vectors |= {(kind, node, day): unit[day // 2, place].astype(np.float32) for place, (kind, node) in enumerate(nodes)}
    table = spark.createDataFrame(
        [Row(kind=kind, node_id=node, as_of=moment(START_MS + day * DAY_MS), model_id=f"m{day}", embedding=[float(x) for x in vector])
         for (kind, node, day), vector in vectors.items()],
        SIMILARITY_EMBEDDINGS.ddl(),
    )  # fmt: skip
    examples, shown = [], {}
    for number in range(8):
        times = np.sort(START_MS + random.integers(0, 9 * DAY_MS, 5))
        shown[f"u{number}"] = ads = random.choice(names, 5)
        examples.append(example(f"u{number}", times, [hashes[ad] for ad in ads]))
    made = ranking_rows(spark.createDataFrame(examples, SCHEMA), cosine, FieldTables(similarity_embeddings=table), LAG_MS).collect()
    known = 0
    for row in made:
        for time, ad, value in zip(row.time_ms, shown[row.user_id], row.impression__near, strict=True):
            days = [day for kind, node, day in vectors if (kind, node) == ("user", row.user_id) and START_MS + day * DAY_MS + LAG_MS < time]
            theirs = vectors.get(("item", ad, max(days))) if days else None
            if theirs is None:
                assert value is None
                continue
            assert value == pytest.approx(float(vectors["user", row.user_id, max(days)].astype(float) @ theirs), abs=1e-6)
            known += 1
    assert known > 10


@pytest.mark.parametrize(("field", "table"), [("bid", "ads"), ("taste", "user_embeddings"), ("near", "similarity_embeddings")])
def test_a_table_that_is_not_there_is_named(world, field, table):
    rows = world[3][0]
    near = {"near": {"reads": "user.similarity", "encoding": "numeral_systems"}}
    one = build(RankingConfig, {"fields": {field: (FIELDS | near)[field]}})
    with pytest.raises(DataError, match=f"ranking.fields.{field} reads the table '{table}', which is not published yet"):
        ranking_rows(rows, one, FieldTables(), 0)
