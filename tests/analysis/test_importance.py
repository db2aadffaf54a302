"""Permutation importance on a planted world: the attribute that tells is found, the one that does not is not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from alure_spark.analysis.importance import attribute_importance, exchanged
from alure_spark.batches.epochs import MemoryLoader
from alure_spark.errors import DataError
from alure_spark.metrics import normalized_entropy
from alure_spark.model.user_model import Moments, UserModel
from alure_spark.training import user_evaluation, user_training
from tests.training import small_world as small

SPEC = replace(
    small.SPEC, sources={"view": {"taste": "categorical", "noise": "categorical", "price": "numeric"}, "shown": {}},
    spaces=small.SPEC.spaces | {"taste": 3, "noise": 3},
)  # fmt: skip


def world():
    """small.world, whose views name their user's community by `taste` instead of by their items."""
    batch, random = small.world(), np.random.default_rng(4)
    view, count = batch.sources["view"], len(batch.sources["view"].known_at_ms)
    taste = 1 + view.users() % 2
    anything = {name: torch.from_numpy(random.integers(1, rows, count)) for name, rows in (("item_id", small.ITEMS), ("noise", 3))}
    price = torch.from_numpy(random.normal(size=count)).float()
    view = replace(view, rows={**anything, "taste": taste}, numbers={"price": price})
    shown = replace(batch.sources["shown"], rows={"item_id": batch.sources["shown"].rows["item_id"]})
    return replace(batch, sources={"view": view, "shown": shown})


@pytest.fixture(scope="module")
def learnt():
    batch = world()
    loader = MemoryLoader(batch, 32, 3)
    when = user_training.calendar(loader, ["view"], small.BORDER, small.END)
    return user_training.train(UserModel(SPEC), loader, when, small.LONG).model, loader, when.validation()


def test_the_attribute_that_tells_is_worth_most_and_the_others_nothing(learnt):
    found = {one.attribute: one for one in attribute_importance(*learnt, seeds=(7, 8), resamples=100)}
    assert list(found) == ["taste", *sorted(set(found) - {"taste"}, key=lambda name: -found[name].ne_loss)]
    assert {one.task for one in found.values()} == {"click"}, "there is no conversion"
    assert found["taste"].ne < 0.95
    assert found["taste"].ne_loss > 0.03
    assert found["taste"].low > 0
    for name in ("noise", "price"):
        assert abs(found[name].ne_loss) < 0.3 * found["taste"].ne_loss


def test_only_the_attribute_is_exchanged_and_only_among_its_events(learnt):
    _, loader, _ = learnt
    plain = next(loader.in_order())
    mixed = exchanged(plain, "view", "taste", 7)
    before, after = plain.sources["view"], mixed.sources["view"]
    assert not torch.equal(before.rows["taste"], after.rows["taste"])
    assert torch.equal(before.rows["taste"].sort().values, after.rows["taste"].sort().values)
    for name in ("item_id", "noise"):
        assert torch.equal(before.rows[name], after.rows[name])
    assert torch.equal(before.numbers["price"], after.numbers["price"])
    assert torch.equal(before.known_at_ms, after.known_at_ms)
    again = exchanged(plain, "view", "taste", 7).sources["view"]
    assert torch.equal(after.rows["taste"], again.rows["taste"])
    other = exchanged(plain, "view", "taste", 8).sources["view"]
    assert not torch.equal(after.rows["taste"], other.rows["taste"])


@pytest.mark.parametrize("exchange", [False, True])
def test_what_is_lost_is_that_of_a_model_run_on_the_exchanged_batches(exchange):
    """Only the attribute's source is encoded again, unless sources read each other: the same as running the whole model each time."""
    spec = replace(SPEC, config=replace(SPEC.config, exchange=exchange))
    model, loader = UserModel(spec), MemoryLoader(world(), 32, 3)
    with torch.no_grad():
        for weights in model.parameters():
            weights.add_(0.3 * torch.randn(weights.shape, generator=torch.Generator().manual_seed(weights.numel())))
    moments = Moments(small.BORDER, small.END, small.BORDER, validation=True)
    (found,) = (one for one in attribute_importance(model, loader, moments, seeds=(7, 8), resamples=2) if one.attribute == "taste")
    whole = user_evaluation.evaluate(model, loader, moments, small.LONG.objectives)

    def ne(batches):
        logits = torch.cat(
            [model.readout(batch, model.encoder.states(batch), model.encoder)[batch.impressions.validation] for batch in batches]
        )
        return normalized_entropy(whole.labels[:, 0], model.readout.probabilities(logits.double())[:, 0].detach().numpy(), whole.weights)

    model.eval()
    seeds = [ne([exchanged(batch, "view", "taste", seed) for batch in loader.in_order()]) for seed in (7, 8)]
    assert found.ne_loss == pytest.approx(np.mean(seeds) - ne(loader.in_order()), abs=1e-6)
    assert abs(found.ne_loss) > 1e-4
    if exchange:
        with pytest.raises(ValueError, match="states of view take those of all sources"):
            model.encoder.states(next(loader.in_order()), ["view"])


def test_without_a_validation_split_there_is_nothing_to_evaluate_by(learnt):
    model, loader, _ = learnt
    batch = next(iter(loader.in_order()))
    nothing = replace(batch, impressions=replace(batch.impressions, validation=torch.zeros_like(batch.impressions.validation)))
    with pytest.raises(DataError, match="validation split is empty"):
        attribute_importance(model, MemoryLoader(nothing, 32, 3), Moments(small.BORDER, small.END, small.BORDER, validation=True))
