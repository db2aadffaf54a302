from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alure_spark.analysis import evaluation
from tests import oracle

ads = st.lists(st.sampled_from("abcdefgh"), unique=True, max_size=8)


@given(ads, ads.filter(bool), st.integers(1, 6))
def test_lists_are_evaluated_as_the_oracle_does(ranked, wanted, k):
    (row,) = evaluation.evaluate_lists({"u": ranked}, {"u": wanted}, k).itertuples()
    assert row.recall == pytest.approx(len(set(ranked[:k]) & set(wanted)) / len(wanted))
    assert row.ndcg == pytest.approx(oracle.ndcg(ranked, set(wanted), k))


def test_a_user_without_a_list_scores_zero():
    assert evaluation.evaluate_lists({}, {"u": ["a"]}, 3)["recall"].tolist() == [0.0]


def rows(recall, policy="pipeline", **more):
    users = [f"u{number}" for number in range(len(recall))]
    return pd.DataFrame(
        {"user_id": users, "task": "ads", "policy": policy, "recall": recall, "ndcg": recall, "country": "A", "new_user": False, **more}
    )


def test_two_runs_are_paired_by_user_in_total_by_country_and_for_new_users():
    random = np.random.default_rng(1)
    theirs = random.random(200)
    country = ["A"] * 150 + ["B"] * 50
    ours = rows(theirs + 0.1, country=country, new_user=[number % 4 == 0 for number in range(200)])
    table = evaluation.compare(ours, rows(theirs, country=country), 200, 7).set_index("group")
    assert set(table.index) == {"all users", "new users", "country A", "country B"}
    assert table.loc["all users", ["difference", "low", "high"]].tolist() == pytest.approx([0.1] * 3), "paired: no spread is left"
    assert table["users"].to_dict() == {"all users": 200, "new users": 50, "country A": 150, "country B": 50}
    shuffled = rows(random.permutation(theirs), country=country)
    wide = evaluation.compare(ours, shuffled, 200, 7).set_index("group").loc["all users"]
    assert wide["high"] - wide["low"] > 0.05, "unequal pairs have an interval"


def test_the_summary_compares_the_pipeline_with_every_policy():
    table = evaluation.summary(pd.concat([rows([1.0, 0.5]), rows([0.5, 0.5], "popularity")]), 100, 7).set_index("policy")
    assert table.loc["popularity", "pipeline_minus"] == pytest.approx(0.25)
    assert table.loc["pipeline", ["recall", "users"]].tolist() == [0.75, 2]


def test_hits_are_credited_to_every_graph_that_led_to_them(spark):
    candidates = spark.createDataFrame(
        [("u", ["a", "b", "c"], [1, 3, 4]), ("v", ["a"], [2]), ("unevaluated", ["a"], [1])],
        "user_id string, ad_id array<string>, graphs array<int>",
    )
    wanted = spark.createDataFrame([("u", ["b", "c"]), ("v", ["z"]), ("w", ["a"])], "user_id string, ads array<string>")
    assert evaluation.hits_by_graph(candidates, wanted, 2) == {"alure": (2 / 3, 1.0), "bff": (2 / 3, 1.0)}
    assert evaluation.hits_by_graph(candidates, wanted, 3) == {"alure": (0.5, 0.5), "bff": (0.5, 0.5), "ppr": (0.25, 0.5)}
    assert evaluation.hits_by_graph(candidates.where("user_id = 'v'"), wanted, 3) == {"bff": (1.0, 0.0)}
    assert evaluation.hits_by_graph(candidates.where("false"), wanted, 3) == {}
