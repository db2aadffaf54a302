"""Scores of a model with a value task: its expected value by whatever way, beside the probabilities, and in the score."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest

from alure_spark.batches.epochs import MemoryLoader
from alure_spark.config import ExplorationConfig, RankingConfig
from alure_spark.inference import candidate_scores, example_scores
from alure_spark.inference.ranking_pyfunc import RankingFunction, outputs
from alure_spark.inference.ranking_rows import ImpressionScorer
from alure_spark.ranking.artifact import RankingArtifact
from alure_spark.training import ranking_exploration, ranking_model
from tests.inference.small_candidates import candidates
from tests.ranking.planted_ranking import VOCABULARY
from tests.ranking.planted_values import VALUED, spending

EXPLORATION = ExplorationConfig(features=64, prior_variance=4.0)


def scorer_of(draft):
    loader = MemoryLoader(spending(300)[0], 64, seed=1)
    spec = ranking_model.fitted_spec(draft, loader, VOCABULARY)
    trained = ranking_model.train(ranking_model.new_network(spec, loader, 3), loader, RankingConfig(epochs=3, learning_rate=0.01))
    posteriors = ranking_exploration.fitted_posteriors(trained.network, loader, EXPLORATION)
    return ImpressionScorer(RankingArtifact.of(trained.network, VOCABULARY, {}, {task: one.posterior for task, one in posteriors.items()}))


@pytest.fixture(scope="module", params=[("click", "spent"), ("spent", "click")], ids="then".join)
def scorer(request):
    return scorer_of(replace(VALUED, tasks=request.param))


def scored(rows, scorer, **config):
    return candidate_scores.scored(rows, scorer, RankingConfig(**config), "m").to_pylist()


def in_order(rows, values):
    """Value of each candidate, by user, in the order of the rows."""
    ends = np.cumsum([len(one) for one in rows.column("ads").to_pylist()])
    return np.split(values, ends[:-1])


def test_candidates_have_the_expected_value_beside_the_probability_and_it_is_worth_its_number(scorer):
    rows = candidates(seed=2, count=20)
    found = dict(zip(scorer.spec.tasks, scorer.predictions(rows).T, strict=True))
    assert found["spent"].min() > 0
    result = scored(rows, scorer, score={"click": "bid", "spent": "0.25"}, cap=3)
    spent, clicked = (in_order(rows, found[task]) for task in ("spent", "click"))
    for given, row, values, chances in zip(rows.to_pylist(), result, spent, clicked, strict=True):
        worth = np.array([bid or 0.0 for bid in given["_bid"]]) * chances + 0.25 * values
        best = sorted(range(len(worth)), key=lambda place: (-round(worth[place], 9), place))[:3]
        assert row["ad_id"] == [given["ads"][place] for place in best]
        assert row["score"] == pytest.approx(worth[best])
        assert row["expected_spent"] == pytest.approx(values[best])
        assert row["p_click"] == pytest.approx(chances[best])
        assert "p_spent" not in row
    first = "p_click" if scorer.spec.tasks[0] == "click" else "expected_spent"
    for row in scored(rows, scorer):
        assert row["score"] == row[first], "without a score the first task decides"


def test_a_draw_replaces_probabilities_and_leaves_expected_values(scorer):
    rows = candidates(seed=4, count=20)
    plain = scored(rows, scorer, score={"click": "2", "spent": "1"})
    result = scored(rows, scorer, score={"click": "2", "spent": "1"}, exploration=EXPLORATION)
    assert {"explored_click", "logit_mean_click"} <= set(result[0])
    assert not [name for name in result[0] if name.endswith("_spent") and name != "expected_spent"]
    changed = 0
    for row, before in zip(result, plain, strict=True):
        assert row["score"] == before["score"]
        assert row["expected_spent"] == before["expected_spent"]
        explored, drawn, values = (np.array(row[name]) for name in ("explored", "explored_click", "expected_spent"))
        assert explored == pytest.approx(2 * drawn + values)
        changed += int((drawn != row["p_click"]).sum())
    assert changed > 20


def test_the_pyfunc_says_what_the_table_says(scorer):
    rows = candidates(seed=6)
    predicted = RankingFunction(scorer).predict(rows.to_pandas())
    for column, task in enumerate(scorer.spec.tasks):
        name = "expected_spent" if task == "spent" else "p_click"
        assert np.concatenate(predicted[name].to_list()).tolist() == scorer.predictions(rows)[:, column].tolist()
    assert outputs(scorer.spec) == {"user_id": "string", "expected_spent": "double[]", "p_click": "double[]"}


def test_rows_of_a_table_of_impressions_have_label_and_expected_value():
    fields = {name: one for name, one in VALUED.fields.items() if not one.history}
    scorer = scorer_of(replace(VALUED, fields=fields, sequences={}))
    given = candidates(seed=3, count=4)
    listed = {name: given.column(name).flatten() for name in ("impression__ad", "impression__category", "impression__price")}
    count = len(listed["impression__ad"])
    now = pa.array([datetime(2025, 1, 5, tzinfo=UTC)] * count, pa.timestamp("us", "UTC"))
    fixed = {"user_id": pa.array(["u"] * count), "event_time": now, "ad_id": pa.array(["a"] * count), "split": pa.array([None] * count)}
    labels = {"click": pa.array([1] * count, pa.int32()), "spent": pa.array(np.linspace(0, 9.5, count))}
    columns = fixed | {"as_of": now} | labels | listed
    rows = pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))
    expected = scorer.predictions(given)
    for exploration in (ExplorationConfig(), EXPLORATION):
        result = example_scores.scored(rows, scorer, exploration, "m").to_pydict()
        assert result["spent"] == labels["spent"].to_pylist()
        for column, task in enumerate(scorer.spec.tasks):
            np.testing.assert_allclose(result["expected_spent" if task == "spent" else "p_click"], expected[:, column], atol=2e-6)
        assert ("explored_click" in result) == exploration.on
        assert "explored_spent" not in result
