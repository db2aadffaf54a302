"""Losses of the ranking model: one suite for all, against plain loops, finite differences and the formulas of their gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from alure_spark.config import LossConfig
from alure_spark.errors import ConfigError
from alure_spark.ranking.losses import LOSSES

ALPHA = 0.6
COMPARING = [name for name in LOSSES if name != "bce"]


def loss_of(name, pairs=10_000, alpha=ALPHA):
    return LOSSES[name](alpha, pairs)


def rows(count=13, seed=0, tasks=2):
    """Logits, labels, weights of several tasks, in float64; the weights differ by task."""
    random = np.random.default_rng(seed)
    labels = random.random((count, tasks)) < 0.3
    labels[0], labels[1] = True, False
    given = random.normal(0, 2, (count, tasks)), labels.astype(float), random.uniform(0.2, 3, (count, tasks))
    return tuple(torch.from_numpy(its) for its in given)


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def by_loops(name, z, y, w):
    """What the loss of one task is for, impression by impression."""
    whole = range(len(z))
    entropy = sum(w[i] * -math.log(sigmoid(z[i]) if y[i] else 1 - sigmoid(z[i])) for i in whole) / sum(w)
    if name == "bce":
        return entropy
    positive, negative = [i for i in whole if y[i]], [j for j in whole if not y[j]]
    if name == "pairwise":
        total = weights = 0.0
        for i in positive:
            for j in negative:
                total += w[i] * w[j] * -math.log(sigmoid(z[i] - z[j]))
                weights += w[i] * w[j]
        compared = total / weights
    elif name == "listwise":
        everybody = sum(w[j] * math.exp(z[j]) for j in whole)
        compared = sum(w[i] * -math.log(math.exp(z[i]) / everybody) for i in positive) / sum(w[i] for i in positive)
    else:
        two = [(-z[i] / 2, z[i] / 2) for i in whole]
        everybody = [sum(w[j] * math.exp(two[j][label]) for j in whole) for label in (0, 1)]
        each = [-math.log(math.exp(two[i][int(y[i])]) / everybody[int(y[i])]) for i in whole]
        compared = sum(w[i] * each[i] for i in whole) / sum(w)
    return ALPHA * entropy + (1 - ALPHA) * compared


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_and_its_gradient_are_those_of_plain_loops(name, seed):
    logits, labels, weight = rows(seed=seed)
    logits.requires_grad_(True)
    found = loss_of(name)(logits, labels, weight)
    assert found.shape == (2,)
    (gradient,) = torch.autograd.grad(found.sum(), logits)
    for task in range(2):
        z, y, w = (its[:, task].detach().tolist() for its in (logits, labels, weight))
        assert found[task].item() == pytest.approx(by_loops(name, z, y, w), abs=1e-12)
        for place in range(len(z)):
            above, below = ([*z[:place], z[place] + step, *z[place + 1 :]] for step in (1e-5, -1e-5))
            difference = (by_loops(name, above, y, w) - by_loops(name, below, y, w)) / 2e-5
            assert gradient[place, task].item() == pytest.approx(difference, abs=1e-8)


@pytest.mark.parametrize("name", LOSSES)
def test_a_weight_of_two_is_the_impression_twice(name):
    logits, labels, _ = rows()
    times = torch.from_numpy(np.random.default_rng(3).integers(0, 4, len(logits)))
    times[:2] = 2
    again = torch.repeat_interleave(torch.arange(len(logits)), times)
    twice = loss_of(name)(logits[again], labels[again], torch.ones(len(again), 1, dtype=torch.float64))
    torch.testing.assert_close(loss_of(name)(logits, labels, times.double()[:, None]), twice, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", LOSSES)
def test_tasks_and_the_order_of_rows_are_apart(name):
    logits, labels, weight = rows()
    found = loss_of(name)(logits, labels, weight)
    order = torch.randperm(len(logits), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(loss_of(name)(logits[order], labels[order], weight[order]), found)
    for task in range(2):
        alone = loss_of(name)(*(its[:, task : task + 1] for its in (logits, labels, weight)))
        torch.testing.assert_close(alone[0], found[task])


@pytest.mark.parametrize("only", [0.0, 1.0])
@pytest.mark.parametrize("name", COMPARING)
def test_a_batch_of_one_class_adds_exactly_nothing(name, only):
    logits, labels, weight = rows()
    alone = torch.full_like(labels, only)
    ghost = weight.clone()  # the other class is there, but weighs nothing
    ghost[2] = 0
    with_ghost = alone.clone()
    with_ghost[2] = 1 - only
    logits.requires_grad_(True)
    for given, its in ((alone, weight), (with_ghost, ghost)):
        found, plain = (loss_of(which)(logits, given, its) for which in (name, "bce"))
        assert (found == ALPHA * plain).all()
        ours, theirs = (torch.autograd.grad(which.sum(), logits, retain_graph=True)[0] for which in (found, plain))
        torch.testing.assert_close(ours, ALPHA * theirs)
    one = loss_of(name)(logits[:1], labels[:1], weight[:1])
    assert one.isfinite().all(), "a batch of a single impression"


@pytest.mark.parametrize("name", COMPARING)
def test_where_one_task_lacks_a_class_the_other_is_compared_all_the_same(name):
    logits, labels, weight = rows()
    whole = loss_of(name)(logits, labels, weight)
    labels[:, 1] = 0
    found = loss_of(name)(logits, labels, weight)
    assert found[0] == whole[0]
    assert found[1] == ALPHA * loss_of("bce")(logits, labels, weight)[1]


@pytest.mark.parametrize("name", LOSSES)
def test_logits_of_any_size_have_a_finite_loss_and_gradient(name):
    logits = torch.tensor([[1e4], [-1e4], [3e3], [0.0]], requires_grad=True)
    found = loss_of(name)(logits, torch.tensor([[0.0], [1.0], [1.0], [0.0]]), torch.tensor([[1.0], [1e-3], [1e3], [1.0]]))
    assert found.isfinite().all()
    assert torch.autograd.grad(found.sum(), logits)[0].isfinite().all()


@pytest.mark.parametrize("name", COMPARING)
def test_comparing_moves_no_level_and_with_all_of_alpha_it_is_cross_entropy(name):
    logits, labels, weight = rows()
    torch.testing.assert_close(loss_of(name, alpha=1.0)(logits, labels, weight), loss_of("bce")(logits, labels, weight))
    alone = loss_of(name, alpha=0.0)
    logits.requires_grad_(True)
    (gradient,) = torch.autograd.grad(alone(logits, labels, weight).sum(), logits)
    torch.testing.assert_close(gradient.sum(dim=0), torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-12)


def test_cross_entropy_is_to_the_bit_what_the_network_has_always_minimized():
    for seed in range(20):
        logits, labels, weight = (its.float() for its in rows(count=50 + 37 * seed, seed=seed, tasks=3))
        each = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
        before = (each * weight[:, :1]).sum(dim=0) / weight[:, 0].sum()
        assert torch.equal(loss_of("bce")(logits, labels, weight[:, :1]), before)


def test_the_gradient_on_a_negative_dies_with_the_base_rate_by_cross_entropy_and_not_by_pairs():
    norms = {}
    for name in ("bce", "pairwise"):
        for positives in (2, 200):
            count = 2000
            labels = torch.zeros(count, 1, dtype=torch.float64)
            labels[:positives] = 1
            logits = torch.full_like(labels, math.log(positives / (count - positives))).requires_grad_(True)
            loss = loss_of(name, alpha=0.0 if name == "pairwise" else 1.0, pairs=count**2)
            (gradient,) = torch.autograd.grad(loss(logits, labels, torch.ones_like(labels)).sum(), logits)
            rate = positives / count
            expected = rate / count if name == "bce" else 0.5 / (count - positives)
            torch.testing.assert_close(gradient[positives:], torch.full_like(gradient[positives:], expected))
            norms[name, positives] = gradient[positives:].norm().item()
    assert norms["bce", 2] < norms["bce", 200] / 90
    assert norms["pairwise", 2] > norms["pairwise", 200] * 0.9


def test_pairs_beyond_the_bound_are_drawn_by_their_weights_and_right_on_average():
    logits, labels, weight = rows(count=60, tasks=1)
    exact = loss_of("pairwise", alpha=0.0)(logits, labels, weight)
    logits.requires_grad_(True)
    (right,) = torch.autograd.grad(loss_of("pairwise", alpha=0.0)(logits, labels, weight).sum(), logits)
    drawn = loss_of("pairwise", alpha=0.0, pairs=200)
    torch.manual_seed(5)
    found = [drawn(logits, labels, weight) for _ in range(2000)]
    values = torch.stack(found).detach()
    assert values.std() > 0, "they are drawn"
    standard_error = float(values.std()) / math.sqrt(len(values))
    assert abs(float(values.mean() - exact)) < 4 * standard_error
    (average,) = torch.autograd.grad(torch.stack(found).mean(), logits)
    torch.testing.assert_close(average, right, rtol=0, atol=4e-3)
    torch.manual_seed(5)
    assert drawn(logits, labels, weight) == found[0], "the same seed draws the same pairs"


def test_what_pairs_keep_in_memory_does_not_grow_with_the_batch():
    largest = {}
    for count in (200, 2000, 20_000):
        labels = torch.zeros(count, 1)
        labels[: count // 2] = 1
        logits = torch.randn(count, 1, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda kept, sizes=sizes: (sizes.append(kept.numel()), kept)[1], lambda kept: kept):
            loss_of("pairwise", pairs=500)(logits, labels, torch.ones(count, 1)).sum()
        largest[count] = max(sizes)
    assert largest == {200: 500, 2000: 2000, 20_000: 20_000}, "no more than the pairs or the batch"


@pytest.mark.parametrize("given", [{"kind": "hinge"}, {"alpha": 1.5}, {"alpha": -0.1}, {"pairs": 0}])
def test_a_loss_that_cannot_be_is_one_sentence(given):
    with pytest.raises(ConfigError, match=r"ranking\.loss\."):
        LossConfig(**given)


def test_every_kind_of_the_conf_is_a_loss():
    for name in LOSSES:
        config = LossConfig(name)
        assert LOSSES[config.kind](config.alpha, config.pairs)
