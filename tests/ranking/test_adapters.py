"""How a given embedding enters the network: each adapter hears it, bears that it is missing, and travels with the model."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from alure_spark.batches.batch import select_users
from alure_spark.config import build
from alure_spark.errors import ConfigError, DataError
from alure_spark.ranking.adapters import PROJECTIONS
from alure_spark.ranking.encodings.given import ADAPTERS, Given, Moments
from alure_spark.ranking.network import RankingNetwork
from alure_spark.ranking.spec import FieldSpec, RankingSpec
from tests.ranking.small_ranking import SPEC, batch


def spec_with(adapter: str, **changes) -> RankingSpec:
    media = FieldSpec("numbers", {"numbers": 5, "adapter": adapter}, group="ad", part="ad", **changes)
    return replace(SPEC, fields=dict(SPEC.fields) | {"media": media})


def network(spec, seed=3):
    torch.manual_seed(seed)
    return RankingNetwork(spec)


def with_media(users, media):
    return replace(users, impressions=replace(users.impressions, vectors=users.impressions.vectors | {"media": media}))


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_each_adapter_hears_the_embedding_and_its_absence(adapter):
    model, users = network(spec_with(adapter)), batch(12)
    media = users.impressions.vectors["media"]
    logits = model(users)
    assert torch.isfinite(logits).all()
    assert media.isnan().any()
    assert not torch.allclose(model(with_media(users, media.roll(1, dims=0))), logits, atol=1e-6)
    none = model(with_media(users, torch.full_like(media, torch.nan)))
    zero = model(with_media(users, torch.zeros_like(media)))
    assert not torch.allclose(none, zero, atol=1e-6), "that it is missing is told from an embedding of zeros"


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_each_adapter_learns_and_a_row_is_the_same_alone(adapter):
    model, users = network(spec_with(adapter)), batch(12)
    sum(model.losses(users).values()).backward()
    mine = [parameter for name, parameter in model.named_parameters() if "media" in name or (adapter == "raw" and ".layer.weight" in name)]
    assert mine
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in mine)
    together = model(users)
    for user in (0, 5):
        rows = users.impressions.users() == user
        torch.testing.assert_close(model(select_users(users, torch.tensor([user]))), together[rows], rtol=0, atol=1e-6)


def test_a_gate_begins_as_a_matrix_and_then_weighs_the_other_fields():
    users, plain, gated = batch(12), network(spec_with("linear")), network(spec_with("gate"))
    state = plain.state_dict()
    missing, unexpected = gated.load_state_dict(state, strict=False)
    assert not unexpected
    assert {name.split(".")[0] for name in missing} == {"gating"}
    torch.testing.assert_close(gated(users), plain(users), rtol=0, atol=0)
    with torch.no_grad():
        gated.gating["first"].of["media"].bias.fill_(-30.0)
    vectors = gated.table_vectors(users)["first"]
    silent = vectors * gated.gating["first"](gated._numbers(users))
    assert silent.abs().max() < 1e-9
    assert not torch.allclose(gated(users), plain(users), atol=1e-6)


def test_nonlinear_begins_near_a_matrix_and_can_learn_what_no_matrix_can():
    torch.manual_seed(1)
    adapter, x = PROJECTIONS["nonlinear"](3, 2), torch.randn(500, 3)
    assert (adapter(x) - adapter.matrix(x)).abs().max() < 0.05 * adapter(x).abs().max()
    wanted = torch.stack([x[:, 0].abs(), x[:, 1]], dim=1)  # no matrix says how large a number is without its sign
    optimizer = torch.optim.Adam(adapter.parameters(), 0.02)
    for _ in range(400):
        optimizer.zero_grad()
        loss = (adapter(x) - wanted).square().mean(dim=0)
        loss.sum().backward()
        optimizer.step()
    with_one = torch.cat([x, torch.ones(500, 1)], dim=1)
    best_matrix = with_one @ torch.linalg.lstsq(with_one, wanted).solution
    assert loss[0] < 0.1 * (best_matrix - wanted)[:, 0].square().mean()


def test_a_nonlinear_adapter_that_was_saved_without_its_matrix_says_what_it_said():
    layers = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    adapter, x = PROJECTIONS["nonlinear"](3, 2), torch.randn(50, 3)
    around = torch.nn.ModuleDict({"of": adapter})
    around.load_state_dict({f"of.{name}": its for name, its in layers.state_dict().items()})
    assert torch.equal(adapter(x), layers(x))


def test_raw_numbers_reach_the_layers_of_all_experts_and_no_table():
    spec = spec_with("raw")
    model = network(spec)
    assert "media" not in spec.order
    assert spec.raw_width == 6
    for name in SPEC.experts:
        assert model.experts[name].layer.in_features == network(SPEC).experts[name].layer.in_features + _less(name) + 6
    assert not any("media" in name for name, _ in model.named_parameters())


def _less(name):
    """The expert's own width without the field."""
    return network(spec_with("raw")).experts[name].expert.width - network(SPEC).experts[name].expert.width


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_the_adapter_travels_with_the_spec_and_after_fitting(adapter):
    moments = Moments()
    moments.add(torch.randn(50, 5))
    fitted = Given.fitted(moments, 5, adapter)
    assert fitted.adapter == adapter
    assert ("adapter" in fitted.settings()) is (adapter != "linear"), "models of before keep their digests"
    spec = replace(spec_with(adapter), fields=dict(SPEC.fields) | {"media": FieldSpec("numbers", fitted.settings(), group="ad", part="ad")})
    again = build(RankingSpec, json.loads(json.dumps(spec.saved())))
    assert again.fields["media"].adapter == adapter
    users, model = batch(12), network(spec)
    other = network(again, seed=9)
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(other(users), model(users), rtol=0, atol=0)


def test_what_cannot_be_is_one_sentence():
    with pytest.raises(ConfigError, match="adapter is 'wide'; allowed: linear, nonlinear, gate, raw"):
        _ = FieldSpec("numbers", {"numbers": 5, "adapter": "wide"}).standard
    for adapter in ADAPTERS:
        with pytest.raises(DataError, match="the field 'media' has 4 numbers, but the model was trained on 5"):
            network(spec_with(adapter))(with_media(batch(12), torch.randn(len(batch(12).impressions.time_ms), 4)))
