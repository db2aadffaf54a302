"""What an experiment gains and saves, on evaluations and times that are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from alure_spark.analysis import policies
from alure_spark.analysis.policies import Cell, Predictions
from alure_spark.config import FeaturePolicy
from alure_spark.metrics import normalized_entropy
from tests.training import small_world as small

SPEC = replace(small.SPEC, sources={"view": {"taste": "categorical", "price": "numeric"}, "shown": {}})
WEAK = {"passive": FeaturePolicy(drop_attributes={"view": ("price",)})}


def evaluated(noise, seed, users=200):
    random = np.random.default_rng(seed)
    n = users * 8
    truth = np.random.default_rng(0).uniform(0.05, 0.95, n)
    labels = np.stack([np.random.default_rng(1).random(n) < truth, np.zeros(n)], axis=1).astype(float)
    probability = np.clip(truth + noise * random.normal(size=n), 0.01, 0.99)
    segments = np.where(np.arange(n) % 3 == 0, "passive", "active").astype(object)
    return Predictions(
        ("click", "conversion"), labels, np.stack([probability, probability], axis=1), np.ones(n), np.repeat(np.arange(users), 8), segments
    )


def test_gains_are_means_over_seeds_in_total_and_per_segment_and_their_intervals_are_paired():
    models = {
        "base": [evaluated(0.3, 1), evaluated(0.3, 2)],
        "better": [evaluated(0.1, 3), evaluated(0.1, 4)],
        "same": [evaluated(0.3, 1), evaluated(0.3, 2)],
    }
    found = policies.ne_gains(models, {"better": "base", "same": "base"})
    assert {(one.experiment, one.segment, one.task) for one in found} == {
        (name, segment, "click") for name in ("better", "same") for segment in ("total", "active", "passive")
    }, "conversion has one class"
    for one in found:
        mine, theirs = (
            [m.of_rows(m.segments == one.segment) if one.segment != "total" else m for m in models[n]] for n in (one.experiment, "base")
        )
        ne = [[normalized_entropy(m.labels[:, 0], m.probabilities[:, 0]) for m in part] for part in (mine, theirs)]
        assert one.gain == pytest.approx(np.mean(1 - np.array(ne[0]) / ne[1]))
        assert one.ne == pytest.approx(np.mean(ne[0]))
        if one.experiment == "same":
            assert (one.gain, one.low, one.high) == (0, 0, 0)
        else:
            assert 0 < one.low < one.gain < one.high
            assert one.least <= one.gain <= one.most


def test_experiments_that_leave_the_same_of_a_segment_share_its_cell():
    experiments = {
        "all": {},
        "weak": WEAK,
        "twin": {"passive": FeaturePolicy(drop_attributes={"view": ("price",)}), "active": FeaturePolicy()},
    }
    cells = policies.cells_of(SPEC, experiments, ["passive", "active"])
    assert {name: cells[name, "active"] for name in experiments} == dict.fromkeys(experiments, Cell("active", "all"))
    assert cells["twin", "passive"] == cells["weak", "passive"] == Cell("passive", "weak") != cells["all", "passive"]
    assert policies.reads_alike(SPEC, WEAK, experiments["twin"], ["passive", "active"])
    assert not policies.reads_alike(SPEC, WEAK, {}, ["passive", "active"])
    assert policies.reads_alike(SPEC, WEAK, {}, ["active"])


def test_throughput_is_the_ratio_of_times_round_by_round():
    cells = {(name, segment): Cell(segment, name) for name in ("base", "lean") for segment in ("passive", "active")}
    seconds = {
        Cell("passive", "base"): np.array([2.0, 4.0]), Cell("active", "base"): np.array([8.0, 6.0]),
        Cell("passive", "lean"): np.array([1.0, 2.0]), Cell("active", "lean"): np.array([7.0, 6.0]),
    }  # fmt: skip
    users = {cell: 10 if cell.segment == "passive" else 30 for cell in seconds}
    found = {one.segment: one for one in policies.speeds("training", seconds, users, cells, {"lean": "base"})}
    assert found["passive"].gain == 1.0
    assert found["active"].gain == pytest.approx((8 / 7 - 1) / 2)
    assert found["total"].gain == pytest.approx((10 / 8 + 10 / 8) / 2 - 1)
    assert found["total"].users_per_second == 40 / 8
    assert found["active"].low < found["active"].gain < found["active"].high
    assert (found["passive"].low, found["passive"].high) == (1.0, 1.0)


def test_every_round_runs_each_work_once_and_the_first_does_not_count():
    ran = []

    def work(name):
        def run():
            ran.append(name)
            sum(range(20_000))
            return 5

        return run

    works = {Cell("active", name): work(name) for name in ("a", "b", "c")}
    seconds, users = policies.timed_rounds(works, 4, seed=1)
    assert all(len(one) == 4 for one in seconds.values())
    assert users == dict.fromkeys(works, 5)
    rounds = [ran[at : at + 3] for at in range(0, 15, 3)]
    assert all(sorted(one) == ["a", "b", "c"] for one in rounds)
    assert len({tuple(one) for one in rounds}) > 1


def test_convergence_compares_epochs_that_both_reached():
    curves = {"base": [[{"validation.click": 0.5}, {"validation.click": 0.4}]], "one": [[{"validation.click": 0.4}]]}
    found = policies.convergence(curves, {"one": "base"}, "click")
    assert found.to_dict("records") == [{"experiment": "one", "epoch": 1, "gain": pytest.approx(0.2)}]
