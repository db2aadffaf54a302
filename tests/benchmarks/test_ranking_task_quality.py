"""Two tasks of real rows at once: each model predicts the tasks that it serves, in the order of the rows, at one size."""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np
import pytest

from alure_spark.clock import DAY_MS
from alure_spark.config import RankingConfig
from alure_spark.metrics import auc
from benchmarks import ranking_task_quality as quality
from benchmarks.ranking_methods import Shape
from benchmarks.ranking_parts import parameters
from benchmarks.ranking_sets import RankingRows
from benchmarks.ranking_tasks_page import ranking_task_quality_text
from tests.conftest import ROOT

FOLDER = ROOT.parent / "shared" / "data"
SHAPE = Shape(["color", "shop"], (), ["price"], spec={"linear": True}, config=RankingConfig(epochs=8, batch_users=64, learning_rate=1e-2))


def planted(count=1000):
    """Reds are bought, cheap things are liked; rows are in no order of users."""
    random = np.random.default_rng(0)
    color, price = random.choice(["red", "blue", "green"], count), random.gamma(2, 2, count)
    shop = random.choice([f"shop {number}" for number in range(30)], count)
    labels = {"bought": (color == "red") ^ (random.random(count) < 0.1), "liked": (price < 3) ^ (random.random(count) < 0.1)}
    time, user = np.full(count, DAY_MS), random.permutation(count)
    categories = {"color": color.astype(object), "shop": shop.astype(object)}
    train = random.random(count) < 0.7
    whole = {task: label.astype(float) for task, label in labels.items()}
    return {task: RankingRows("planted", user, time, categories, {"price": price}, its, its, train) for task, its in whole.items()}


@pytest.fixture(scope="module")
def rows():
    options = argparse.Namespace(seeds=[7], resamples=20, lightgbm="")
    return quality.measured("planted", planted(), SHAPE, options)


def test_every_scheme_has_a_row_for_each_task_and_is_of_one_size(rows):
    names = {(row["model"], row["task"]) for row in rows}
    assert names == {(model, task) for model in (*quality.SCHEMES, quality.SINGLE, "stem_al") for task in ("bought", "liked")}
    sizes = [row["parameters"] for row in rows]
    assert max(sizes) <= 1.02 * min(sizes)


def test_each_task_is_learnt_and_predictions_are_in_the_order_of_the_rows(rows):
    assert all(row["auc"] > 0.8 for row in rows), "a mixed-up order would give about 0.5"


def test_what_is_evaluated_changes_no_prediction():
    rows = planted(600)
    other = {task: replace(one, label=np.where(one.is_train, one.label, 1 - one.label)) for task, one in rows.items()}
    found = []
    for its in (rows, other):
        its = {task: quality._with_standardized(one, SHAPE) for task, one in its.items()}
        ids = quality.Ids.of_training(its["bought"])
        spec = quality.fitted_specs(its, SHAPE, ids, 7)["stem"]
        found.append(quality.predicted(spec, its, SHAPE, ids, 7))
    for task, p in found[0].items():
        np.testing.assert_array_equal(p, found[1][task])
        tested = ~rows[task].is_train
        assert auc(rows[task].label[tested], p) > 0.7


def test_a_model_of_one_task_or_with_a_main_one_predicts_that_alone():
    its = {task: quality._with_standardized(one, SHAPE) for task, one in planted(400).items()}
    ids = quality.Ids.of_training(its["bought"])
    specs = quality.fitted_specs(its, SHAPE, ids, 7)
    assert {name: spec.served().tasks for name, spec in specs.items() if name.startswith(("single", "stem_al"))} == {
        "single task bought": ("bought",), "single task liked": ("liked",), "stem_al bought": ("bought",), "stem_al liked": ("liked",),
    }  # fmt: skip
    assert len({spec.hidden for spec in specs.values()}) > 1, "widths are chosen so that sizes are alike"
    assert parameters(specs["stem"]) == pytest.approx(parameters(specs["single task bought"]), rel=0.02)


def test_the_page_has_a_table_for_each_task(rows):
    text = ranking_task_quality_text({"rows": rows})
    assert text.count("| single task |") == 2
    assert "**planted, liked**" in text
    assert text.count(" to ") == 2 * 2 * (len(rows) // 2 - 1), "all but the single task have both intervals"


@pytest.mark.skipif(not FOLDER.is_dir(), reason="../shared/data, which is not part of the tree, is absent")
def test_census_has_two_labels_and_neither_is_a_field():
    rows = quality.census(FOLDER)
    income, married = rows["income"], rows["never_married"]
    assert income.label.mean() == pytest.approx(0.062, abs=0.001)
    assert married.label.mean() == pytest.approx(0.43, abs=0.01)
    np.testing.assert_array_equal(income.is_train, married.is_train)
    fields = {*income.categories, *income.numbers}
    assert not fields & {"marital_status", "instance_weight", "income"}
