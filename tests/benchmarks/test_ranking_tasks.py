"""The worlds hold what they say, schemes are of one size, and a scheme gains where that is planted; the page shows the rows."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from alure_spark.batches.epochs import MemoryLoader
from alure_spark.metrics import normalized_entropy
from alure_spark.training import ranking_model
from benchmarks import ranking_task_worlds as worlds
from benchmarks import ranking_tasks, ranking_worlds
from benchmarks.ranking_parts import equalized, parameters, vocabulary
from benchmarks.ranking_tasks_page import entanglement_picture, ranking_tasks_text

WORLDS = ranking_tasks.WORLDS
TASKS = (worlds.FIRST, worlds.SECOND)


def drawn(name, null=False, impressions=6000, seed=1):
    return WORLDS[name].make(np.random.default_rng(seed), impressions, null)


def logits(one):
    return np.log(one.truth / (1 - one.truth))[:, 0]


@pytest.mark.parametrize("name", WORLDS)
def test_tasks_and_null_twins_have_the_same_impressions_and_a_law_of_their_own(name):
    one, again, null = drawn(name), drawn(name), drawn(name, null=True)
    for task in TASKS:
        for field, values in one[task].rows.items():
            np.testing.assert_array_equal(values, again[task].rows[field])
            np.testing.assert_array_equal(values, null[task].rows[field])
            np.testing.assert_array_equal(values, one[TASKS[0]].rows[field])
        labels, truth, _ = ranking_worlds.tested(one[task])
        entropy = -(truth * np.log(truth) + (1 - truth) * np.log1p(-truth)).mean()
        assert -np.log(np.where(labels == 1, truth, 1 - truth)).mean() == pytest.approx(entropy, abs=0.05), "labels are drawn from it"
        assert normalized_entropy(labels, truth) < 0.75
    assert not np.allclose(one[TASKS[1]].truth, null[TASKS[1]].truth)
    np.testing.assert_allclose(one[TASKS[0]].truth, null[TASKS[0]].truth)


def test_who_is_near_in_one_task_is_far_in_the_other_only_where_that_is_planted():
    def contradictory(one):
        first, second = (logits(one[task]) for task in TASKS)
        near, far = (lambda its: its > np.percentile(its, 60)), (lambda its: its < np.percentile(its, 40))
        return float((near(first) & far(second)).mean()), float(np.corrcoef(first, second)[0, 1])

    for name in ("contradictory", "large and small", "harmful"):
        share, correlation = contradictory(drawn(name))
        assert share > 0.12
        assert abs(correlation) < 0.35, "half of the directions agree, half do not"
    for name, null in (("contradictory", True), ("large and small", True), ("helpful", False)):
        share, correlation = contradictory(drawn(name, null))
        assert share == 0
        assert correlation > 0.999
    for name in ("helpful", "harmful"):
        assert np.ptp(drawn(name, null=True)[TASKS[1]].truth) == 0, "a coin toss"


def test_the_small_task_and_the_main_task_have_few_positives():
    for name, small in (("large and small", TASKS[1]), ("helpful", TASKS[0]), ("harmful", TASKS[0])):
        one = drawn(name)
        rates = {task: one[task].truth.mean() for task in TASKS}
        assert rates[small] < 0.15 < 0.4 < max(rates.values())


@pytest.mark.parametrize("name", WORLDS)
def test_schemes_that_are_compared_have_as_many_parameters(name):
    world, one = WORLDS[name], drawn(name)
    loader = MemoryLoader(worlds.batch(one, test=False), 500, 7)
    fitted = {model: ranking_model.fitted_spec(spec, loader, vocabulary(one[TASKS[0]])) for model, spec in world.specs().items()}
    counts = {model: parameters(spec) for model, spec in equalized(fitted).items()}
    assert max(counts.values()) <= 1.02 * min(counts.values()), counts
    numbers = {model: sum(spec.plan().tables.values()) for model, spec in fitted.items()}
    assert set(numbers.values()) == {ranking_tasks.NUMBERS}, numbers


def test_models_that_are_compared_have_as_many_candidates_and_only_stem_al_weighs_its_auxiliary_task():
    for world in WORLDS.values():
        candidates = {name: world.candidates(name) for name in world.specs()}
        assert len({len(its) for its in candidates.values()}) == 1
        assert all(len(set(its)) == len(its) for its in candidates.values())
        for name, its in candidates.items():
            assert {one.auxiliary_weight for one in its} == ({0.1, 1.0} if name == "stem_al" else {1.0})


def test_the_parts_share_no_impression_and_have_the_labels_of_both_tasks():
    one = drawn("large and small")
    learnt, test = worlds.batch(one, test=False), worlds.batch(one, test=True)
    assert len(learnt) + len(test) == 6000
    assert test.impressions.validation.all()
    for task in TASKS:
        whole = np.concatenate([its.impressions.labels[task].numpy() for its in (learnt, test)])
        np.testing.assert_array_equal(whole, one[task].clicks[:, 0])


def test_the_difference_of_two_gains_is_what_it_says():
    random = np.random.default_rng(3)
    losses = [[random.uniform(0.1, 1, 300) for _ in range(2)] for _ in range(4)]
    groups = [np.arange(300) // 3] * 2
    row = ranking_tasks.difference(losses[:2], losses[2:], groups, 50)
    gains = [np.mean([1 - a.sum() / b.sum() for a, b in zip(*pair, strict=True)]) for pair in (losses[:2], losses[2:])]
    assert row["gain"] == pytest.approx(gains[0] - gains[1])
    assert row["low"] < row["gain"] < row["high"]
    none = ranking_tasks.difference(losses[:2], losses[:2], groups, 20)
    assert none["gain"] == none["low"] == none["high"] == 0


def test_stem_and_ame_gain_on_both_tasks_of_contradictory_taste_and_not_where_the_taste_is_one(monkeypatch):
    monkeypatch.setattr(ranking_tasks, "RATES", (8e-3,))
    world = replace(WORLDS["contradictory"], pairs=[("stem", "shared_bottom"), ("ame", "shared_bottom")])
    planted, null = (ranking_tasks.measured(world, null, [7], 24_000, 100) for null in (False, True))
    for row, twin in zip(planted, null, strict=True):
        if row["task"] in TASKS:
            assert row["low"] > 0, row
            assert twin["gain"] < row["gain"] / 2, twin


@pytest.mark.slow
def test_the_run_leaves_rows_that_the_page_shows(tmp_path):
    arguments = ["--worlds", "contradictory", "helpful", "--seeds", "7", "--share", "0.3", "--resamples", "20", "--results", str(tmp_path)]
    ranking_tasks.main(arguments)
    result = json.loads((tmp_path / "ranking_tasks.json").read_text())
    text = ranking_tasks_text(result)
    assert text.count("| stem | ple |") == 3
    assert len(re.findall(r"\| stem_al, weight (?:1|0[.]1) \| single task \|", text)) == 1
    assert "| STEM | shared |" in text
    assert len(entanglement_picture(result).axes) == 3
