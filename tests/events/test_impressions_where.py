"""Rows cut to the impressions of a downstream task, against a plain loop over impressions."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import datetime

import numpy as np
import pytest

from alure_spark.clock import DAY_MS
from alure_spark.config import DownstreamConfig, TransferConfig, load
from alure_spark.errors import ConfigError
from alure_spark.events.impressions_where import downstream_rows, upstream_rows
from alure_spark.tables import TRAINING_EXAMPLES
from tests.conftest import ROOT

START_MS = 1_735_689_600_000
SCHEMA = (
    f"{TRAINING_EXAMPLES.ddl()}, click ARRAY<INT>, impression__position ARRAY<DOUBLE>, impression__taste ARRAY<ARRAY<FLOAT>>, "
    "shown_known_at_ms ARRAY<BIGINT>, click__item_id ARRAY<BIGINT>"
)
ACCOUNTS = ("brand_1", "brand_2", None)


def impressions(seed=3, users=30):
    """One dictionary per impression, of users of whom one has none."""
    random = np.random.default_rng(seed)
    made = []
    for user in range(users):
        for place in range(int(random.integers(0, 6)) if user else 0):
            time = START_MS + int(random.integers(0, 12 * DAY_MS))
            made.append(
                {
                    "user_id": f"u{user:02d}", "country": "SE" if user % 3 else "FI", "impression_id": f"{user}-{place}", "time_ms": time,
                    "ad_id": int(random.integers(0, 4)), "account": ACCOUNTS[int(random.integers(0, 3))], "label_age_ms": 1, "weight": 1.0,
                    "split": "train", "click": int(random.integers(0, 2)), "impression__taste": None, "shown_known_at_ms": time + 5,
                    "impression__position": None if random.random() < 0.2 else float(random.integers(0, 5)),
                }
            )  # fmt: skip
    return made


@pytest.fixture(scope="module")
def table(spark):
    """(impressions, rows of one user each)."""
    every = impressions()
    hashes = {row["a"]: row["h"] for row in spark.sql("select a, xxhash64(a) h from values ('brand_1'), ('brand_2') as t(a)").collect()}
    arrays = [name for name in every[0] if name not in ("user_id", "country", "account")]
    rows = []
    for user in range(30):
        mine = [one for one in every if one["user_id"] == f"u{user:02d}"]
        row = {"user_id": f"u{user:02d}", "country": "SE" if user % 3 else "FI", "as_of": datetime(2025, 2, 1), "segment": "all"}
        row |= {name: [one[name] for one in mine] for name in arrays} | {"account_id": [hashes.get(one["account"]) for one in mine]}
        rows.append(row | {"click__item_id": [1, 2, 3]})
    names = spark.createDataFrame([], SCHEMA).columns
    frame = spark.createDataFrame([tuple(row[name] for name in names) for row in rows], SCHEMA)
    return every, frame


def kept(rows):
    """impression_id -> what else the rows say of it."""
    names = ("time_ms", "ad_id", "click", "impression__position", "shown_known_at_ms", "split")
    return {
        name: {"user_id": row["user_id"]} | {column: row[column][place] for column in names}
        for row in rows
        for place, name in enumerate(row["impression_id"])
    }


def began(every):
    """account -> its first impression; one group for those without an account, as SQL has it."""
    return {account: min(one["time_ms"] for one in every if one["account"] == account) for account in ACCOUNTS}


CONDITIONS = {
    "country = 'FI'": lambda one, every: one["country"] == "FI",
    "impression__position < 2 -- seen first": lambda one, every: (
        one["impression__position"] is not None and one["impression__position"] < 2
    ),
    "account_id = xxhash64('brand_2') AND ad_id IN (1, 2)": lambda one, every: one["account"] == "brand_2" and one["ad_id"] in (1, 2),
    "time_ms - min(time_ms) OVER (PARTITION BY account_id) < 3 * 86400000": lambda one, every: (
        one["time_ms"] - began(every)[one["account"]] < 3 * DAY_MS
    ),
}


@pytest.mark.parametrize("where", CONDITIONS)
def test_the_impressions_that_a_condition_is_true_of_stay_with_all_that_is_known_of_them(table, where):
    every, frame = table
    made = downstream_rows(frame, "feed", DownstreamConfig(where), ["click"]).collect()
    truth = [one for one in every if CONDITIONS[where](one, every)]
    assert 3 < len(truth) < len(every) - 3
    mine = kept(made)
    assert mine == {one["impression_id"]: {name: one[name] for name in mine[one["impression_id"]]} for one in truth}
    ids = {user: [one["impression_id"] for one in truth if one["user_id"] == user] for user in {one["user_id"] for one in truth}}
    assert {row["user_id"]: row["impression_id"] for row in made} == ids, "in their order, and no row without any"
    assert all(row["click__item_id"] == [1, 2, 3] for row in made), "what a user did before stays whole"


def test_what_is_of_no_downstream_task_is_for_the_user_model_and_no_row_is_lost(table):
    every, frame = table
    first, *_, second = CONDITIONS
    conf = load(ROOT / "conf" / "test.yml")
    downstream = {"finland": DownstreamConfig(first), "cold": DownstreamConfig(second)}
    others = replace(conf, transfer=TransferConfig(downstream=downstream, upstream="others"))
    made = upstream_rows(frame, others)
    truth = {one["impression_id"] for one in every if not CONDITIONS[first](one, every) and not CONDITIONS[second](one, every)}
    rows = made.collect()
    assert kept(rows).keys() == truth
    assert len(rows) == 30
    assert made.columns == frame.columns
    assert upstream_rows(frame, conf) is frame


@pytest.mark.parametrize(
    ("where", "sentence"),
    [
        (
            "surfaces = 'feed'",
            r"cannot be read: .*UNRESOLVED_COLUMN.* Allowed: a condition in SQL over one impression, of user_id",
        ),
        ("click = 1", r"cannot be read: .*of user_id, country, as_of, segment, impression_id, time_ms, ad_id, account_id, impression__pos"),
        ("country = ", r"cannot be read: .*PARSE_SYNTAX_ERROR"),
        ("max(time_ms) > 3", r"cannot be read: .*MISSING_GROUP_BY"),
        ("time_ms", r"whose values are bigint; allowed: a condition, true or false"),
    ],
)
def test_a_bad_condition_is_one_sentence(table, where, sentence):
    with pytest.raises(ConfigError, match=rf"^transfer.downstream.feed.where is ['\"]{re.escape(where[:5])}.*{sentence}") as error:
        downstream_rows(table[1], "feed", DownstreamConfig(where), ["click"])
    assert "\n" not in str(error.value)
