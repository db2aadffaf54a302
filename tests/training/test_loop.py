"""The general loop on models whose truth is known: where it ends, when it stops, and that a kill changes no bit."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from alure_spark.errors import DataError, TrainingError
from alure_spark.model.parallel import Alone
from alure_spark.model.trainable import ParameterGroup
from alure_spark.training.loop import fit
from alure_spark.training.optimizers import Optimizers
from alure_spark.training.plan import Plan, warmup_cosine
from alure_spark.training.tensor_batches import TensorBatches


class Line(nn.Module):
    """y = x w + bias: squared error, least where the closed form says."""

    def __init__(self, columns=3, dropout=0.0, optimizer=torch.optim.AdamW):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.zeros(columns)), nn.Parameter(torch.zeros(()))
        self.dropout, self.optimizer = nn.Dropout(dropout), optimizer

    def losses(self, x, y):
        return {"squared": (self.dropout(x) @ self.weight + self.bias - y).square().mean()} if len(x) else {}

    def parameter_groups(self):
        return [
            ParameterGroup("weight", [self.weight], optimizer=self.optimizer),
            ParameterGroup("bias", [self.bias], decays=False, optimizer=torch.optim.SGD),
        ]


class Slope(nn.Module):
    """Losses whose gradient is known: 1 for each of `used`, 2 in the second loss; `unused` has none."""

    def __init__(self, optimizer=torch.optim.SGD):
        super().__init__()
        self.used, self.unused = nn.Parameter(torch.zeros(4)), nn.Parameter(torch.ones(2))
        self.groups = [
            ParameterGroup("used", [self.used], optimizer=optimizer),
            ParameterGroup("unused", [self.unused], optimizer=optimizer),
        ]

    def losses(self, factor):
        return {"once": factor.sum() * self.used.sum(), "twice": 2 * factor.sum() * self.used.sum()}

    def parameter_groups(self):
        return self.groups


ONCE = {"twice": 0.0}


def rows(n=200, columns=3):
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(n, columns, generator=draw)
    return x, x @ torch.arange(1.0, columns + 1) - 2 + torch.randn(n, generator=draw)


def shuffled(tensors, size):
    return TensorBatches(tensors, size, lambda epoch: torch.from_numpy(np.random.default_rng([5, epoch]).permutation(len(tensors[0]))))


def ones(steps):
    """So many batches that hold the number 1."""
    return TensorBatches([torch.ones(steps)], 1, lambda epoch: torch.arange(steps))


def test_least_squares_ends_in_the_closed_form():
    x, y = rows()
    truth = np.linalg.lstsq(np.column_stack([x.numpy(), np.ones(len(x))]), y.numpy(), rcond=None)[0]
    model, epochs = Line(), 400
    plan = Plan(epochs, learning_rate=0.1, seed=1, schedule=lambda step: 1 - step / epochs)
    fitted = fit(model, shuffled((x, y), len(x)), plan)
    np.testing.assert_allclose([*model.weight.tolist(), model.bias.item()], truth, atol=1e-3)
    assert [set(row) for row in fitted.curves] == [{"train.squared", "steps"}] * epochs
    assert fitted.curves[-1]["train.squared"] == pytest.approx(
        float((y - torch.from_numpy(truth[:3]).float() @ x.T - truth[3]).square().mean())
    )
    assert (fitted.best_epoch, fitted.best_loss, fitted.steps) == (-1, math.inf, epochs)


class Killed(Exception):
    pass


@pytest.mark.parametrize("at", [(0, 1), (0, 3), (1, 7), (2, 1), (3, 7)])
def test_a_killed_training_ends_in_the_bits_of_an_undisturbed_one(tmp_path, at):
    """Dropout, two kinds of optimizers, a best epoch, and clipping; the last epoch's last step is a place to be killed at, too."""
    x, y = rows()
    plan = Plan(4, 0.05, seed=3, weight_decay=0.1, schedule=warmup_cosine(28), clip_norm=0.5, checkpoint_steps=2)

    def trained(checkpoint=None, observe=None):
        model = Line(dropout=0.3)
        validated, measured = (lambda: {"error": abs(model.weight[0].item() - 0.3)}), (lambda: {"bias": model.bias.detach().clone()})
        fitted = fit(model, shuffled((x, y), 30), plan, validated, checkpoint, observe, measure=measured)
        return model.state_dict(), fitted

    def kill(epoch, step, losses):
        if (epoch, step) == at:
            raise Killed

    weights, whole = trained()
    with pytest.raises(Killed):
        trained(tmp_path / "checkpoint", kill)
    seen = []
    again, resumed = trained(tmp_path / "checkpoint", lambda epoch, step, losses: seen.append((epoch, step)))
    assert len(seen) < 28 or at == (0, 1), "it went on, and did not begin anew"
    assert resumed == whole
    assert all(row["bias"] != 0 for row in whole.curves)
    assert all(torch.equal(again[name], value) for name, value in weights.items())
    done, finished = trained(tmp_path / "checkpoint", lambda *step: pytest.fail("a finished training makes no step"))
    assert finished == whole
    assert all(torch.equal(done[name], value) for name, value in weights.items())


def test_the_seed_decides_what_is_drawn_and_torchs_own_generator_is_left_alone():
    def weights(seed):
        model = Line(dropout=0.5)
        fit(model, shuffled(rows(), 50), Plan(2, 0.1, seed))
        return model.weight.tolist()

    torch.manual_seed(1)
    first, state = weights(3), torch.get_rng_state()
    torch.manual_seed(2)
    assert weights(3) == first
    assert weights(4) != first
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)


def test_training_stops_after_patience_and_ends_with_the_first_best_weights():
    validation = [3.0, 2.0, 4.0, 2.0, 1.9, 1.0]
    model, after = Slope(), []

    def end_epoch():
        after.append(model.used.tolist())
        return {"error": validation[len(after) - 1], "once": 100 * validation[len(after) - 1]}

    fitted = fit(model, ones(3), Plan(6, 0.1, seed=1, patience=2, loss_weights={"once": 0.0}), end_epoch)
    assert len(after) == 4
    assert (fitted.best_epoch, fitted.best_loss, fitted.steps) == (1, 2.0, 12)
    assert model.used.tolist() == after[1] != after[3]
    assert fitted.curves[2] == {"train.once": fitted.curves[2]["train.once"], "train.twice": 2 * fitted.curves[2]["train.once"]} | {
        "validation.error": 4.0, "validation.once": 400.0, "validation.total": 4.0, "steps": 3,
    }  # fmt: skip


@pytest.mark.parametrize(("clip_norm", "length"), [(0.5, 0.5), (2.0, 2.0), (9.0, 6.0), (math.inf, 6.0)])
def test_clipping_bounds_the_length_of_a_step(clip_norm, length):
    """The gradient is 3 for each of four numbers: its norm is 6."""
    model = Slope()
    fit(model, ones(1), Plan(1, learning_rate=1.0, seed=1, clip_norm=clip_norm))
    assert model.used.norm().item() == pytest.approx(length, rel=1e-5)


class Table(nn.Module):
    """A row per item and a slope: predicts slope * row."""

    def __init__(self, sparse, optimizer):
        super().__init__()
        self.rows, self.slope, self.optimizer = nn.Embedding(50, 2, sparse=sparse), nn.Parameter(torch.ones(2)), optimizer
        nn.init.constant_(self.rows.weight, 0.5)

    def losses(self, items, labels):
        return {"squared": (self.rows(items) @ self.slope - labels).square().mean()}

    def parameter_groups(self):
        return [ParameterGroup("rows", [self.rows.weight], decays=False, optimizer=self.optimizer), ParameterGroup("slope", [self.slope])]


def test_sparse_gradients_are_clipped_as_dense_ones_and_leave_other_rows_alone():
    items, labels = torch.tensor([3, 7, 3, 3, 9, 7]), torch.arange(6.0) * 5
    tables = {}
    for sparse, optimizer in ((False, torch.optim.SGD), (True, torch.optim.SGD), (True, torch.optim.SparseAdam)):
        model = Table(sparse, optimizer)
        fit(model, TensorBatches([items, labels], 4, lambda epoch: torch.arange(6)), Plan(3, 0.1, 1, clip_norm=0.7))
        tables[sparse, optimizer] = model.rows.weight.detach()
        others = [row for row in range(50) if row not in (3, 7, 9)]
        assert (tables[sparse, optimizer][others] == 0.5).all()
        assert (tables[sparse, optimizer][[3, 7, 9]] > 0.5).all()
    torch.testing.assert_close(tables[True, torch.optim.SGD], tables[False, torch.optim.SGD])
    assert (tables[True, torch.optim.SparseAdam] - tables[True, torch.optim.SGD]).abs().max() > 0.01, "each kind of optimizer is its own"


def test_a_step_goes_at_the_groups_share_of_the_scheduled_rate_along_the_weighted_gradient():
    model = Slope()
    plan = Plan(2, 0.1, 1, learning_rate_shares={"used": 0.5}, loss_weights={"twice": 3.0}, schedule=lambda step: 1 / (step + 1))
    fit(model, ones(2), plan)
    expected = -0.1 * 0.5 * (1 + 2 * 3) * (1 + 1 / 2 + 1 / 3 + 1 / 4)
    torch.testing.assert_close(model.used.detach(), torch.full((4,), expected))


def test_a_group_without_a_share_stays_and_has_no_gradient():
    model = Slope()
    fit(model, ones(2), Plan(2, 0.1, 1, weight_decay=0.5, learning_rate_shares={"used": 0}))
    assert model.used.tolist() == [0] * 4
    assert model.used.grad is None
    with pytest.raises(ValueError, match="no group of parameters others"):
        Optimizers(model.parameter_groups(), Plan(2, 0.1, 1, learning_rate_shares={"others": 2.0}))


def test_only_what_has_a_gradient_and_is_of_a_group_that_decays_decays():
    class Both(Slope):
        def losses(self, factor):
            return {"zero": 0 * (self.used.sum() + self.unused.sum())}

    for decays, expected in ((True, 0.9), (False, 1.0)):
        model = Both()
        model.groups[1] = replace(model.groups[1], decays=decays, optimizer=torch.optim.AdamW)
        fit(model, ones(1), Plan(1, 0.1, 1, weight_decay=1.0))
        assert model.unused.tolist() == pytest.approx([expected] * 2)
    model = Slope()
    fit(model, ones(1), Plan(1, 0.1, 1, weight_decay=1.0))
    assert model.unused.tolist() == [1, 1]


class Twins(Alone):
    """Two processes with the same rows, seen from one of them: every sum over both is twice its own part."""

    size = 2

    def total(self, value):
        return 2 * value.detach()


def test_gradients_are_summed_over_processes_and_what_no_process_moves_stays():
    model, seen = Slope(), []
    plan = Plan(1, 0.1, 1, weight_decay=1.0, loss_weights=ONCE)
    fit(model, ones(1), plan, observe=lambda epoch, step, losses: seen.append(losses), processes=Twins())
    torch.testing.assert_close(model.used.detach(), torch.full((4,), -0.2))
    assert model.unused.tolist() == [1, 1]
    assert seen == [{"once": 0.0, "twice": 0.0}]


def test_a_batch_without_a_loss_moves_nothing_and_an_epoch_of_them_is_an_error():
    class Sometimes(Slope):
        def losses(self, factor):
            return super().losses(factor) if factor.sum() > 1 else {}

    model = Sometimes()
    batches = TensorBatches([torch.tensor([1.0, 2.0, 1.0])], 1, lambda epoch: torch.arange(3))
    fitted = fit(model, batches, Plan(1, 0.1, 1, loss_weights=ONCE))
    torch.testing.assert_close(model.used.detach(), torch.full((4,), -0.2))
    assert fitted.steps == 3
    with pytest.raises(DataError, match="training split is empty"):
        fit(model, ones(3), Plan(1, 0.1, 1))


def test_what_is_not_finite_stops_training_with_a_sentence(tmp_path):
    plan = Plan(2, 0.1, 1)
    with pytest.raises(TrainingError, match="the loss of once, twice is not finite at epoch 1, step 2"):
        fit(Slope(), TensorBatches([torch.tensor([1.0, torch.inf])], 1, lambda epoch: torch.arange(2)), plan)
    with pytest.raises(TrainingError, match="the validation loss is not finite after epoch 1"):
        fit(Slope(), ones(1), plan, lambda: {"error": math.nan})

    class Steep(Slope):
        def losses(self, factor):
            return {"root": self.used.sum().abs().sqrt()}

    with pytest.raises(TrainingError, match="the gradient is not finite at epoch 1, step 1"):
        fit(Steep(), ones(1), plan)
    (tmp_path / "checkpoint").write_bytes(b"PK broken")
    with pytest.raises(TrainingError, match="cannot be gone on from"):
        fit(Slope(), ones(1), plan, checkpoint=tmp_path / "checkpoint")


def test_the_rate_warms_up_over_a_twentieth_and_ends_at_a_tenth():
    share = warmup_cosine(100)
    assert [share(step) for step in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    assert share(52) == pytest.approx(0.1 + 0.45 * (1 + math.cos(math.pi * 47 / 95)))
    assert share(100) == pytest.approx(0.1)


def test_rows_in_memory_come_once_per_epoch_in_its_order():
    x, y = torch.arange(7), torch.arange(7) * 10
    batches = shuffled((x, y), 3)
    assert batches.steps == len(list(batches.batches(0))) == 3
    for epoch in (0, 1):
        found = [torch.cat(parts) for parts in zip(*batches.batches(epoch), strict=True)]
        assert sorted(found[0].tolist()) == list(range(7))
        assert torch.equal(found[1], 10 * found[0])
        later = next(iter(batches.batches(epoch, start=2)))
        assert torch.equal(later[0], found[0][6:])
    assert not torch.equal(next(iter(batches.batches(0)))[0], next(iter(batches.batches(1)))[0])


def test_what_is_measured_is_a_mean_over_the_steps_of_its_own_epoch():
    turns = iter(range(100))
    batches = ones(3)
    fitted = fit(Slope(), batches, Plan(3, 0.01, seed=1), measure=lambda: {"turn": torch.tensor(float(next(turns)))})
    steps = batches.steps
    assert [row["turn"] for row in fitted.curves] == [epoch * steps + (steps - 1) / 2 for epoch in range(3)]
