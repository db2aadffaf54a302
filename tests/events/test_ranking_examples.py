"""ranking_examples: the embedding of each impression against a plain walk through what had been published."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest
from pyspark.sql import Row

from alure_spark.clock import DAY_MS, HOUR_MS
from alure_spark.events.ranking_examples import ranking_examples
from alure_spark.tables import TRAINING_EXAMPLES, USER_EMBEDDINGS

START_MS = 1_735_689_600_000
LAG_MS = 6 * HOUR_MS
SCHEMA = f"{TRAINING_EXAMPLES.ddl()}, click ARRAY<INT>, conversion ARRAY<INT>, `impression__position` ARRAY<DOUBLE>"


def moment(time_ms):
    return datetime.fromtimestamp(time_ms / 1000, UTC).replace(tzinfo=None)


def example(user, times):
    n = len(times)
    return Row(
        user_id=user, country="SE", as_of=moment(START_MS + 9 * DAY_MS), segment="all",
        impression_id=[f"{user}-{i}" for i in range(n)], time_ms=[int(t) for t in times], ad_id=list(range(n)),
        account_id=[None if i % 3 == 0 else i for i in range(n)],
        label_age_ms=[int(START_MS + 9 * DAY_MS - t) for t in times], weight=[1.0] * n, split=["train"] * n,
        click=[i % 2 for i in range(n)], conversion=[0] * n,
        impression__position=[float(i) for i in range(n)],
    )  # fmt: skip


def published(user, day, model="a"):
    number = float(100 * day + ord(model[0]))
    return Row(user_id=user, country="SE", as_of=moment(START_MS + day * DAY_MS), model_id=model, embedding=[number, -number])


@pytest.fixture
def frames(spark):
    def build(examples, embeddings):
        return spark.createDataFrame(examples, SCHEMA), spark.createDataFrame(embeddings, USER_EMBEDDINGS.ddl())

    return build


def test_each_impression_has_the_newest_embedding_that_served_before_it(frames):
    random = np.random.default_rng(7)
    examples, embeddings, expected = [], [], {}
    for number in range(40):
        user, days = f"u{number}", np.flatnonzero(random.random(9) < 0.4)
        times = np.sort(START_MS + random.integers(0, 9 * DAY_MS, random.integers(0, 6)))
        examples.append(example(user, times))
        embeddings += [published(user, int(day), "a" if day < 5 else "b") for day in days]
        for i, time in enumerate(times):
            served = [day for day in days if START_MS + day * DAY_MS + LAG_MS < time]
            expected[f"{user}-{i}"] = (max(served) if served else None, int(time))
    found = ranking_examples(*frames(examples, embeddings), LAG_MS, ["position"]).collect()
    assert {row.impression_id: row.time_ms for row in found} == {name: time for name, (_, time) in expected.items()}
    assert len(found) == len(expected)
    days = [day for day, _ in expected.values()]
    assert None in days
    assert len(set(days)) > 5
    for row in found:
        day = expected[row.impression_id][0]
        if day is None:
            assert (row.embedding, row.embedding_as_of, row.model_id) == (None, None, None)
        else:
            assert row.embedding == published("", int(day), row.model_id).embedding
            assert (row.embedding_as_of, row.model_id) == (moment(START_MS + day * DAY_MS), "a" if day < 5 else "b")
        at = int(row.impression_id.split("-")[1])
        assert (row.impression__position, row.ad_id, row.click, row.account_id) == (at, at, at % 2, None if at % 3 == 0 else at)


@pytest.mark.parametrize(("later_ms", "served"), [(-1, False), (0, False), (1, True)])
def test_an_embedding_published_at_the_impression_has_not_served_it(frames, later_ms, served):
    given = frames([example("u", [START_MS + DAY_MS + LAG_MS + later_ms])], [published("u", 1)])
    assert (ranking_examples(*given, LAG_MS).collect()[0].embedding is not None) == served


def test_an_embedding_of_another_user_serves_nobody_else(frames):
    found = ranking_examples(*frames([example("u", [START_MS + 5 * DAY_MS])], [published("v", 1)]), 0).collect()
    assert [(row.user_id, row.embedding) for row in found] == [("u", None)]
