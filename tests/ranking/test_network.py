"""The network over tables and experts: rows by themselves, gradients where they belong, and what a conf cannot mean."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import replace

import pytest
import torch

from alure_spark.batches.batch import select_users
from alure_spark.config import ExpertConfig, build
from alure_spark.config.section import as_dict
from alure_spark.errors import ConfigError, DataError
from alure_spark.ranking.losses import LOSSES
from alure_spark.ranking.network import RankingNetwork
from alure_spark.ranking.spec import FieldSpec, RankingSpec
from alure_spark.ranking.tables import Lookup, grown
from alure_spark.training.loop import fit
from alure_spark.training.plan import Plan
from tests.ranking.small_ranking import SPEC, batch


def network(spec=SPEC, seed=3):
    torch.manual_seed(seed)
    return RankingNetwork(spec)


def test_a_row_has_the_same_logits_alone_and_in_any_batch():
    model, users = network(), batch(12)
    together = model(users)
    assert together.shape == (len(users.impressions.time_ms), 2)
    order = torch.tensor([5, 0, 11, 3])
    some = select_users(users, order)
    place = torch.cat([torch.nonzero(users.impressions.users() == user).squeeze(1) for user in order])
    torch.testing.assert_close(model(some), together[place], rtol=0, atol=1e-6)
    for user in range(12):
        rows = users.impressions.users() == user
        torch.testing.assert_close(model(select_users(users, torch.tensor([user]))), together[rows], rtol=0, atol=1e-6)


@pytest.mark.parametrize("field", [*SPEC.fields, "history"])
def test_every_field_and_history_is_heard(field):
    model, users = network(), batch(12)
    shown = users.impressions
    if field == "history":
        tokens = users.sources["click"]
        changed = replace(users, sources={"click": replace(tokens, rows={"category": (tokens.rows["category"] + 1) % 6})})
    else:
        part = next(name for name in ("rows", "numbers", "vectors", "words") if field in getattr(shown, name))
        values = getattr(shown, part)[field]
        turned = values.roll(1, dims=0)
        changed = replace(users, impressions=replace(shown, **{part: getattr(shown, part) | {field: turned}}))
    assert not torch.allclose(model(users), model(changed), atol=1e-5)


def test_what_becomes_known_at_the_impression_or_later_changes_nothing():
    model, users = network(), batch(12)
    tokens, shown = users.sources["click"], users.impressions
    latest = shown.time_ms.new_zeros(len(users)).scatter_reduce(0, shown.users(), shown.time_ms, "amax")
    later = tokens.known_at_ms >= latest[tokens.users()]
    assert later.any()
    rows = torch.where(later, (tokens.rows["category"] + 3) % 6, tokens.rows["category"])
    changed = replace(users, sources={"click": replace(tokens, rows={"category": rows})})
    torch.testing.assert_close(model(changed), model(users), rtol=0, atol=0)


def test_the_gradient_of_a_table_has_the_rows_of_the_batch_alone():
    model, users = network(), batch(4)
    sum(model.losses(users).values()).backward()
    for table in model.tables.values():
        gradient = table.weight.grad.coalesce()
        assert gradient.is_sparse
        touched = set(gradient.indices()[0].tolist())
        place = model.spec.coded.index("category")
        history = set((users.sources["click"].rows["category"] + model.lookup.begins[place]).tolist())
        assert touched == set(model.codes(users).rows.tolist()) | history
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_losses_are_weighted_means_by_task():
    model, users = network(), batch(6)
    shown, logits = users.impressions, model(users)
    for place, task in enumerate(SPEC.tasks):
        chance = torch.sigmoid(logits[:, place].double())
        each = -torch.where(shown.labels[task] > 0, chance, 1 - chance).log()
        torch.testing.assert_close(model.losses(users)[task].double(), (each * shown.weight).sum() / shown.weight.sum())
    nothing = replace(users, impressions=shown.select(torch.zeros(len(shown.time_ms), dtype=torch.bool)))
    assert model.losses(nothing) == {}
    assert model(nothing).shape == (0, 2)


def test_a_factor_multiplies_the_weight_in_the_loss_of_its_task_alone():
    model, users = network(), batch(6)
    shown = users.impressions
    factor = torch.linspace(0.5, 3, len(shown.time_ms))
    weighed = replace(users, impressions=replace(shown, factors={"conversion": factor}))
    found, before = model.losses(weighed), model.losses(users)
    torch.testing.assert_close(found["click"], before["click"])
    by_weight = model.losses(replace(users, impressions=replace(shown, weight=shown.weight * factor)))
    torch.testing.assert_close(found["conversion"], by_weight["conversion"])
    assert not torch.allclose(found["conversion"], before["conversion"])
    kept = weighed.impressions.select(shown.labels["click"] > 0)
    torch.testing.assert_close(kept.factors["conversion"], factor[shown.labels["click"] > 0])


@pytest.mark.parametrize("kind", LOSSES)
def test_the_gradient_on_the_logits_of_negatives_is_noted_at_each_step(kind):
    model, users = network(), batch(12)
    shown = users.impressions
    model.loss = LOSSES[kind](0.6, 10_000)
    logits = model(users).detach().requires_grad_(True)
    labels = shown.labels_of(SPEC.tasks)
    (gradient,) = torch.autograd.grad(model.loss(logits, labels, shown.weight[:, None]).sum(), logits)
    sum(model.losses(users).values()).backward()
    assert list(model.gradients) == ["gradient.click.negatives", "gradient.conversion.negatives"]
    for place, norm in enumerate(model.gradients.values()):
        torch.testing.assert_close(norm, gradient[labels[:, place] == 0, place].norm())
    with torch.no_grad():
        model.losses(users)
    assert model.gradients == {}, "where nothing is learned there is none"


def test_training_learns_and_begins_at_the_base_rate():
    users = batch(200)
    shown = users.impressions
    planted = (shown.rows["ad"] % 2 == 0).float()
    users = replace(users, impressions=replace(shown, labels={"click": planted, "conversion": 1 - planted}))
    model = network()
    model.start_at({"click": 0.25, "conversion": 0.5})

    class Once:
        steps = 1

        def batches(self, epoch, start=0):
            yield (users,)

    with torch.no_grad():
        for branch in model.towers.values():
            branch[0].weight.zero_()
            branch[0].bias.zero_()
    torch.testing.assert_close(model(users)[:, 0], torch.full((len(planted),), math.log(0.25 / 0.75)))
    model = network()
    done = fit(model, Once(), Plan(40, 0.02, seed=1))
    assert done.curves[0]["train.click"] > 0.65
    assert done.curves[-1]["train.click"] < 0.1


def test_the_spec_travels_as_json():
    plain = json.loads(json.dumps(as_dict(SPEC)))
    again = build(RankingSpec, plain)
    assert as_dict(again) == as_dict(SPEC)
    one, other = network(), network(again)
    assert one.parameter_counts() == other.parameter_counts()
    other.load_state_dict(one.state_dict())
    torch.testing.assert_close(other(batch(5)), one(batch(5)), rtol=0, atol=0)


def test_a_table_grows_by_the_rows_of_new_ids_and_keeps_what_was_learnt():
    larger = replace(SPEC, fields={**SPEC.fields, "ad": replace(SPEC.fields["ad"], settings={"size": 50})})
    before, after = network(), network(larger, seed=9)
    weights = {name: value for name, value in before.state_dict().items() if not name.startswith("tables.")}
    weights |= {
        f"tables.{name}.weight": grown(table.weight.detach(), before.lookup, after.tables[name].weight.detach(), after.lookup)
        for name, table in before.tables.items()
    }
    after.load_state_dict(weights)
    users = batch(9)
    torch.testing.assert_close(after(users), before(users), rtol=0, atol=1e-6)
    learnt, fresh = torch.ones(before.lookup.total, 2), torch.zeros(after.lookup.total, 2)
    assert grown(learnt, before.lookup, fresh, after.lookup).sum() == 2 * before.lookup.total
    assert not fresh.any(), "what is given stays as it is"
    with pytest.raises(ValueError, match="only grow"):
        grown(after.tables["first"].weight, after.lookup, before.tables["first"].weight, before.lookup)


def test_a_lookup_gives_each_field_rows_of_its_own():
    codes = Lookup([3, 5]).codes([torch.tensor([[2, -1], [0, 1]]), torch.tensor([[4], [-1]])])
    assert codes.rows.tolist() == [2, 7, 0, 1]
    assert codes.begins.tolist() == [0, 1, 2, 4]
    assert (codes.fields, len(codes)) == (2, 2)
    whole = Lookup([3, 5]).codes([torch.tensor([[2, 1], [0, 1]]), torch.tensor([[4], [0]])])
    assert whole.rows.tolist() == [2, 1, 7, 0, 1, 3], "no row is left out"
    assert whole.begins.tolist() == [0, 2, 3, 5]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"experts": {"a": ExpertConfig("gwpmf", "first")}}, "ranking.experts.a.kind names the expert 'gwpmf'; did you mean 'gwpfm'"),
        ({"experts": {"a": ExpertConfig("fm", "frist")}}, "ranking.experts.a.table names the table 'frist'; did you mean 'first'"),
        ({"experts": {}}, "ranking.experts is empty"),
        ({"experts": {"a": ExpertConfig("fm", "first")}}, "ranking.tables has 'second', which no expert reads"),
        ({"tasks": ()}, "ranking.tasks is empty"),
        ({"fields": SPEC.fields | {"x": FieldSpec("idd")}}, "ranking.fields.x.encoding names the encoding 'idd'; did you mean 'id'"),
    ],
)
def test_a_spec_that_cannot_be_is_one_sentence(change, says):
    with pytest.raises(ConfigError) as raised:
        dataclasses.replace(SPEC, **change)
    assert says in str(raised.value)


def test_a_batch_that_lacks_what_the_model_reads_is_one_sentence():
    model, users = network(), batch(4)
    shown = users.impressions
    without = replace(users, impressions=replace(shown, rows={name: rows for name, rows in shown.rows.items() if name != "country"}))
    with pytest.raises(DataError, match="the impressions lack the field 'country'"):
        model(without)
    with pytest.raises(DataError, match="ranking.sequences.clicked reads 'category' of the stream 'click', which the rows lack"):
        model(replace(users, sources={}))
    beyond = replace(users, impressions=replace(shown, rows=shown.rows | {"ad": shown.rows["ad"] + 20}))
    with pytest.raises(DataError, match="a row is 2., but the model has the rows 0 to 19"):
        model(beyond)
    with pytest.raises(DataError, match="the field 'media' has 4 numbers, but the model was trained on 5"):
        model(replace(users, impressions=replace(shown, vectors=shown.vectors | {"media": shown.vectors["media"][:, :4]})))
    with pytest.raises(DataError, match="no impressions"):
        model(replace(users, impressions=None))


def test_a_new_model_says_about_the_base_rate_of_each_task_and_a_linear_part_changes_nothing_yet():
    plain, linear = network(SPEC), network(replace(SPEC, linear=True))
    said = []
    for its in (plain, linear):
        its.start_at({"click": 0.2, "conversion": 0.01})
        weights = {name: value for name, value in plain.state_dict().items() if name in its.state_dict()}
        its.load_state_dict(weights, strict=False)
        said.append(torch.sigmoid(its(batch(6))))
    torch.testing.assert_close(said[0], torch.tensor([[0.2, 0.01]]).expand_as(said[0]), rtol=0.2, atol=0)
    torch.testing.assert_close(said[1], said[0], rtol=0, atol=0)


def test_a_linear_part_adds_the_weights_of_a_rows_codes_and_numbers():
    spec = replace(SPEC, linear=True, fields=dict(SPEC.fields) | {"smooth": FieldSpec("standardized", {"center": 1.0, "spread": 2.0})})
    given = batch(6)
    shown = given.impressions
    given = replace(given, impressions=replace(shown, numbers=dict(shown.numbers) | {"smooth": shown.numbers["similarity"]}))
    its = network(spec)
    before = its(given)
    place, task = spec.coded.index("ad"), 1
    with torch.no_grad():
        its.linear.rows.weight[its.lookup.begins[place] :, task] += 0.5
        its.linear.given.of["smooth"].weight[task, 0] = 3.0
    value = shown.numbers["similarity"].double()
    rows = torch.stack([(one >= 0).sum(1) for one in (e.codes(its.value(given, n)) for n, e in its.encodings.items())], 1)[:, place:].sum(1)
    added = 0.5 * rows + 3 * (value.sign() * value.abs().log1p() - 1) / 2
    torch.testing.assert_close(its(given) - before, torch.stack([torch.zeros_like(added), added], 1).float(), rtol=1e-4, atol=1e-4)
    assert any(parameter is its.linear.rows.weight for parameter in its.parameter_groups()[0].parameters)


def test_dropout_is_of_training_alone():
    its = network(replace(SPEC, dropout=0.5))
    given = batch(6)
    its.train()
    assert not torch.equal(its(given), its(given))
    its.eval()
    assert torch.equal(its(given), its(given))
