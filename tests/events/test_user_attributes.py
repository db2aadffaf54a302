"""What is declared of users as fields of the ranking model, point in time: against a plain walk over the rows of `users`."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest
from pyspark.sql import Row
from pyspark.sql import functions as F

from alure_spark.clock import DAY_MS
from alure_spark.config import Config, RankingConfig, build
from alure_spark.errors import ConfigError, DataError
from alure_spark.events.candidate_rows import candidate_rows
from alure_spark.events.ranking_fields import FieldTables, ranking_rows
from alure_spark.tables import AD_CANDIDATES, TRAINING_EXAMPLES

START_MS = 1_735_689_600_000
SCHEMA = "user_id STRING, known_at TIMESTAMP, band STRING, income DOUBLE, about STRING, vector ARRAY<FLOAT>"
KINDS = {"band": "categorical", "income": "numeric", "about": "text", "vector": "embedding"}
FIELDS = {
    "age": {"reads": "user.band", "encoding": "id"},
    "money": {"reads": "user.income", "encoding": "standardized"},
    "words": {"reads": "user.about", "encoding": "words"},
    "look": {"reads": "user.vector", "encoding": "numbers"},
}


def moment(time_ms):
    return datetime.fromtimestamp(time_ms / 1000, UTC).replace(tzinfo=None)


def declared(user, time_ms, number):
    band = None if number % 4 == 0 else f"band{number % 3}"
    return Row(
        user_id=user, known_at=moment(time_ms), band=band, income=float(number), about=f"about {number}", vector=[float(number), 0.5]
    )


def example(user, times):
    n, as_of = len(times), START_MS + 9 * DAY_MS
    return Row(
        user_id=user, country="SE", as_of=moment(as_of), segment="all", impression_id=[str(i) for i in range(n)],
        time_ms=[int(t) for t in times], ad_id=[1] * n, account_id=[None] * n, label_age_ms=[int(as_of - t) for t in times],
        weight=[1.0] * n, split=["train"] * n,
    )  # fmt: skip


def config():
    return build(RankingConfig, {"fields": FIELDS})


def read(spark, examples, users):
    rows = spark.createDataFrame(examples, TRAINING_EXAMPLES.ddl())
    return {row.user_id: row for row in ranking_rows(rows, config(), FieldTables(users=users), 0).collect()}


@pytest.fixture(scope="module")
def world(spark):
    """Impressions, and rows of `users` of which many become known exactly at one; users without a row, and rows of nobody shown."""
    random = np.random.default_rng(7)
    examples, rows = [], []
    for number in range(30):
        times = np.sort(START_MS + random.integers(0, 9 * DAY_MS, random.integers(0, 6)))
        examples.append(example(f"u{number}", times))
        known = [*(START_MS + random.integers(-DAY_MS, 9 * DAY_MS, random.integers(0, 4))), *times[random.random(len(times)) < 0.4]]
        rows += [declared(f"u{number}", int(t), len(rows) + place) for place, t in enumerate(sorted(set(known))) if number % 5]
    rows.append(declared("nobody", START_MS, 1))
    return examples, rows, spark.createDataFrame(rows, SCHEMA)


def test_an_attribute_is_what_was_known_last_before_the_impression(spark, world):
    examples, rows, users = world
    made = read(spark, examples, users)
    hashes = {f"band{n}": spark.range(1).select(F.xxhash64(F.lit(f"band{n}"))).first()[0] for n in range(3)} | {None: None}
    seen = []
    for given in examples:
        row = made[given.user_id]
        for place, time in enumerate(given.time_ms):
            before = [one for one in rows if one.user_id == given.user_id and one.known_at < moment(time)]
            last = max(before, key=lambda one: one.known_at) if before else None
            assert row.impression__age[place] == (hashes[last.band] if last else None), "a row that says nothing of an age takes it back"
            assert row.impression__money[place] == (last.income if last else None)
            assert row.impression__words[place] == (last.about if last else None)
            assert row.impression__look[place] == (last.vector if last else None)
            seen.append((last is None, bool(last) and last.band is None, any(one.known_at == moment(time) for one in rows)))
    assert all(sum(kind) > 5 for kind in zip(*seen, strict=True)), "the world has all kinds of impressions"


def test_a_later_row_and_the_order_of_rows_change_nothing(spark, world):
    examples, _, users = world
    later = spark.createDataFrame([declared(f"u{number}", START_MS + 9 * DAY_MS, 99) for number in range(30)], SCHEMA)
    assert read(spark, examples, users) == read(spark, examples, users.union(later).repartition(3, F.rand(1)))


def test_a_candidate_has_what_was_known_before_as_of(spark):
    as_of = START_MS + 9 * DAY_MS
    conf = build(
        Config,
        {"time": {"as_of": moment(as_of).isoformat()}, "streams": {"ad_impression": {}}, "users": {"attributes": KINDS}}
        | {"ranking": {"fields": FIELDS}},
    )  # fmt: skip
    rows = [declared("u", as_of - 2, 1), declared("u", as_of - 1, 2), declared("u", as_of, 3), declared("v", as_of, 4)]
    shown = [
        Row(user_id=user, country="SE", as_of=moment(as_of), ad_id=["a", "b"], account_id=["x", "x"], score=[1.0, 0.5], graphs=[1, 1],
            neighbours=[1, 1], reason=["ad", "ad"])
        for user in ("u", "v", "w")
    ]  # fmt: skip
    sequences = spark.createDataFrame([("u", "SE", moment(as_of), [1])], "user_id string, country string, as_of timestamp, s__x array<int>")
    tables = FieldTables(users=spark.createDataFrame(rows, SCHEMA))
    candidates = spark.createDataFrame(shown, AD_CANDIDATES.ddl())
    found = {row.user_id: row.impression__money for row in candidate_rows(candidates, sequences, tables, conf).collect()}
    assert found == {"u": [2.0, 2.0], "v": [None, None], "w": [None, None]}


def test_a_table_or_a_column_that_is_not_there_is_named(spark, world):
    rows = spark.createDataFrame(world[0], TRAINING_EXAMPLES.ddl())
    with pytest.raises(DataError, match="ranking.fields.age reads the table 'users', which is not published yet"):
        ranking_rows(rows, config(), FieldTables(), 0)
    with pytest.raises(DataError, match="ranking.fields.money reads user.income, which the table 'users' does not have: users.attributes"):
        ranking_rows(rows, config(), FieldTables(users=world[2].drop("income")), 0)


def conf(fields, **attributes):
    return build(Config, {"streams": {"ad_impression": {}}, "users": {"attributes": attributes}, "ranking": {"fields": fields}})


@pytest.mark.parametrize(
    ("reads", "encoding", "says"),
    [
        ("user.incom", "standardized", "names the attribute of users.attributes 'incom'; did you mean 'income'"),
        ("user.embeding", "numbers", "names the attribute of users.attributes 'embeding'; did you mean 'embedding'"),
        ("user.income", "id", "ranking.fields.x.encoding is 'id'; allowed: numeral_systems or standardized"),
        ("user.similarity", "id", "encoding is 'id'; allowed: for user.similarity, numeral_systems or standardized"),
        ("user.", "id", "allowed: ORIGIN.NAME"),
    ],
)
def test_an_attribute_that_is_not_declared_or_of_another_kind_is_one_sentence(reads, encoding, says):
    with pytest.raises(ConfigError) as raised:
        conf({"x": {"reads": reads, "encoding": encoding}}, income="numeric")
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["known_at", "user_id", "embedding", "similarity", "a.b", "User_id", "known_AT"])
def test_an_attribute_of_users_needs_a_name_of_its_own(name):
    with pytest.raises(ConfigError, match="users.attributes names"):
        conf({}, **{name: "categorical"})


def test_a_conf_without_users_keeps_its_digest():
    plain = build(Config, {"streams": {"ad_impression": {}}})
    assert conf({}).digest() == plain.digest()
    assert conf({}, age="categorical").digest() != plain.digest()
