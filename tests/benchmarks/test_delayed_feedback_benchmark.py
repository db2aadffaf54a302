"""The world of delayed feedback, the ways of feeding a model, and whether waiting by variance does what it is for."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from alure_spark.clock import DAY_MS, HOUR_MS
from alure_spark.training.delayed_feedback import NEVER
from benchmarks import delayed_feedback as benchmark
from benchmarks import readme

LATER = benchmark.START_MS


def drawn(null=False, days=26, a_day=60, seed=1):
    return benchmark.world(np.random.default_rng(seed), null, days, a_day)


def bursty(one):
    return one.shown.account % 2 == 0


def test_accounts_of_the_world_report_as_it_says():
    one, null = drawn(), drawn(null=True)
    np.testing.assert_array_equal(one.truth, null.truth)
    for its, hours in ((one, (24, 4)), (null, (4, 4))):
        answered = its.shown.known_ms != NEVER
        delay = (its.shown.known_ms - its.shown.time_ms) / HOUR_MS
        assert answered.mean() == pytest.approx(its.truth.mean(), abs=0.01)
        for kind, least in zip((bursty(its), ~bursty(its)), hours, strict=True):
            assert least * 0.7 < delay[answered & kind].mean() < least * 2.8
    reports = one.shown.known_ms[(one.shown.account == 2) & (one.shown.known_ms != NEVER)]
    assert len(np.unique(reports)) < 20


@pytest.mark.parametrize("name", benchmark.FEEDS)
def test_all_start_with_mature_samples(name):
    one = drawn()
    feed = benchmark.FEEDS[name](one)
    assert (feed.wait_ms[one.shown.time_ms < LATER] == benchmark.MATURE_MS).all()
    assert (feed.fed.time_ms >= one.shown.time_ms[feed.fed.impression]).all()


def test_waiting_by_variance_waits_for_those_that_report_in_bursts_alone():
    one = drawn(a_day=200)
    wait_ms, later = benchmark.by_variance(one).wait_ms, one.shown.time_ms >= LATER
    assert wait_ms[later & bursty(one)].mean() > 3 * DAY_MS
    assert wait_ms[later & ~bursty(one)].mean() < 0.5 * DAY_MS


def test_fake_negatives_go_out_at_once_and_each_response_once_more():
    one = drawn()
    fed = benchmark.fake_negative_weighting(one).fed
    later = one.shown.time_ms[fed.impression] >= LATER
    negative = later & (fed.label == 0)
    assert (fed.time_ms[negative] == one.shown.time_ms[fed.impression[negative]]).all()
    assert len(np.unique(fed.impression[negative])) == negative.sum() == (one.shown.time_ms >= LATER).sum()
    answered = (one.shown.time_ms >= LATER) & (one.shown.known_ms != NEVER)
    assert (later & (fed.label == 1)).sum() == answered.sum()


def test_the_weights_of_fake_negatives_make_the_true_rate_the_best_answer():
    """In expectation the gradient is that of the true labels: of n impressions, all are negatives and n r of them positives, too."""
    rate, n = 0.2, 1000
    logit = torch.tensor(np.log(rate / (1 - rate)), dtype=torch.float64).repeat(2).requires_grad_()
    loss = benchmark.fake_negatives(logit, torch.tensor([0.0, 1.0]).double(), torch.tensor([n, n * rate]).double())
    (gradient,) = torch.autograd.grad(loss, logit)
    assert gradient.sum().item() == pytest.approx(0, abs=1e-9)


def test_the_weights_of_elapsed_time_sampling_make_the_true_rate_the_best_answer():
    """Per account, over mature days: the weighted share of positives is the share of impressions that were answered."""
    one = drawn(null=True, days=60, a_day=400)
    fed = benchmark.elapsed_time_sampling(one).fed
    shown = one.shown.time_ms[fed.impression]
    kept = (shown >= LATER) & (shown < shown.max() - benchmark.MATURE_MS)
    share = (fed.weight * fed.label)[kept].sum() / fed.weight[kept].sum()
    among = (one.shown.time_ms >= LATER) & (one.shown.time_ms < shown.max() - benchmark.MATURE_MS)
    assert share == pytest.approx((one.shown.known_ms[among] != NEVER).mean(), rel=0.02)
    plain = fed.label[kept].mean()
    assert abs(plain - share) > 0.01 * share


def test_divergence_and_bias_of_the_truth_are_nothing():
    one = drawn()
    found = benchmark.by_account(one, one.truth, 21, 26)
    assert all(np.allclose(its, 0) for its in found.values())
    twice = benchmark.by_account(one, np.minimum(2 * one.truth, 0.99), 21, 26)
    assert twice["bias"].mean() == pytest.approx(1, abs=0.1)
    assert (twice["divergence"] > 0.01).all()


@pytest.mark.slow
def test_the_run_leaves_rows_that_the_page_shows(tmp_path):
    benchmark.main(["--seeds", "7", "--days", "28", "--resamples", "20", "--results", str(tmp_path)])
    result = json.loads((tmp_path / "delayed_feedback.json").read_text())
    assert len(result["rows"]) == 2 * len(benchmark.FEEDS)
    ours, at_once = result["rows"][:2]
    assert at_once["bias_bursts"] > 1.2 * ours["bias_bursts"]
    assert readme.delayed_feedback_text(result).count("| 5 days for all |") == 2
