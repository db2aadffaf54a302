"""What is searched for whom on a day, and what a run says of the candidates that it wrote."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import numpy as np
import pytest

from alure_spark.config import RetrievalConfig, StandaloneConfig, TransferConfig, load
from alure_spark.retrieval.candidate_table import searched, write_candidates
from tests.conftest import ROOT

AS_OF = datetime(2025, 1, 4)
SCHEMA = "user_id string, source string, known_at timestamp, item_id string, account_id string, country string"


class Run:
    """The reads and writes of a JobRun, of tables in memory."""

    def __init__(self, **tables):
        self.tables = tables

    def read(self, name):
        return self.tables[name]

    def write(self, name, frame, scope="true"):
        self.tables[name] = frame.localCheckpoint()
        return self.tables[name].where(scope).count()

    def written(self, name):
        return self.tables[name]


@pytest.fixture
def run(spark):
    rows = [("u0", "ad_impression", 1, "a0", "X"), ("u1", "conversion", 1, "a1", "Y"), ("u0", "search", 1, "a2", "X")]
    rows += [("u1", "ad_click", 0, "a2", "Y"), ("u1", "ad_impression", 1, None, "Y"), ("v", "ad_click", 1, "a0", "X")]
    events = [(user, source, AS_OF - timedelta(days=age), ad, "b", country) for user, source, age, ad, country in rows]
    ads = [(f"a{number}", "b", AS_OF - timedelta(days=9), None) for number in range(3)]
    schema = "ad_id string, account_id string, active_from timestamp, active_to timestamp"
    return Run(events=spark.createDataFrame(events, SCHEMA), ads=spark.createDataFrame(ads, schema))


def config():
    plain = load(ROOT / "conf" / "test.yml")
    transfer = TransferConfig("hidden", retrieval=StandaloneConfig(head="linear"))
    retrieval = RetrievalConfig(event_weights={"conversion": 1.0, "ad_click": 1.0}, account_weights={})
    return replace(plain, time=replace(plain.time, as_of="2025-01-04T00:00:00Z"), transfer=transfer, retrieval=retrieval)


def test_an_ad_was_shown_where_it_was_shown_or_engaged_with_before_the_day(run):
    shown = searched(run, config(), None, None, None).shown.collect()
    assert {tuple(row) for row in shown} == {("X", "a0"), ("Y", "a1")}, "no search, no ad known at the day, no event without an ad"


def test_a_run_counts_what_the_head_has_led_to(run, spark):
    edges = [("u1", "v", 0.5, "Y", 3)]
    edges = spark.createDataFrame(edges, "src_user_id string, dst_user_id string, weight double, country string, origins int")
    users = spark.createDataFrame([("u0", "X", [1.0]), ("u1", "Y", [1.0])], "user_id string, country string, vector array<float>")
    vectors = spark.createDataFrame([(f"a{number}", [2.0 - number]) for number in range(3)], "ad_id string, vector array<float>")
    standalone = searched(run, config(), users, vectors, lambda numbers: np.asarray(numbers))
    metrics, _ = write_candidates(run, config(), edges, standalone)
    rows = {row["user_id"]: row for row in run.tables["ad_candidates"].collect()}
    assert (rows["u0"]["ad_id"], rows["u0"]["graphs"]) == (["a0", "a2"], [8, 8]), "a1 was engaged with in Y only"
    assert (rows["u1"]["ad_id"], rows["u1"]["graphs"]) == (["a2", "a0"], [8, 3]), "a0 is of X, but of a neighbor"
    assert metrics["candidates"] == 4
    assert metrics["standalone.candidates"] == 3
