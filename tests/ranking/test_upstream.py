"""The interactions of another ranking model inside one: the same outputs in the beginning, frozen to the bit, or learning."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from alure_spark.batches.vocabulary import Vocabulary
from alure_spark.config import ExpertConfig, UpstreamConfig, build
from alure_spark.errors import ConfigError
from alure_spark.ranking.artifact import RankingArtifact
from alure_spark.ranking.network import RankingNetwork
from alure_spark.ranking.schemes import SCHEMES
from alure_spark.ranking.serving import served
from alure_spark.ranking.spec import RankingSpec, of_upstream
from alure_spark.ranking.upstream import copy_interactions, upstream_spec, with_rows
from tests.ranking.small_ranking import ADS, CATEGORIES, SPEC, batch

MODES = ("frozen", "fine_tuned", "alternating")
COUNTRIES = 4
SIZES = {"country": COUNTRIES, "ad": ADS, "category": CATEGORIES}
NEW_ADS = np.array([7001, 7002, 7003])


def vocabulary(buckets=0):
    """Every id of SPEC is known, by its row plus 100 as its hash."""
    ids = {space: np.arange(buckets + 1, size) + 100 for space, size in SIZES.items()}
    return Vocabulary({}, buckets).grown(ids)


def other_model(seed=3, spec=SPEC):
    """A model with every weight away from where it starts."""
    torch.manual_seed(seed)
    made = RankingNetwork(spec)
    with torch.no_grad():
        for value in made.state_dict().values():
            value += 0.1 * torch.randn_like(value)
    return made.eval()


def own_spec(train="frozen", rows="copied", known=None, given=SPEC, **changes):
    """A model with one small expert of its own beside those of SPEC, and rows for three more ads."""
    upstream = upstream_spec("ranking-1", given, UpstreamConfig("other", "", train, rows), dropout=0.2)
    known = known or vocabulary().grown({"ad": NEW_ADS})
    fields = {name: replace(one, settings={"size": known.size(name)}) if one.encoding == "id" else one for name, one in SPEC.fields.items()}
    plain = {"fields": fields, "tables": {"small": 4}, "experts": {"fm": ExpertConfig("fm", "small")}, "upstream": upstream}
    return with_rows(replace(SPEC, **(plain | changes)), known)


def downstream(spec, other, known=None, before=None):
    torch.manual_seed(9)
    network = RankingNetwork(spec)
    copy_interactions(network, other, before or vocabulary(), known or vocabulary().grown({"ad": NEW_ADS}))
    return network


def made_by(network, users):
    return {name: its.detach() for name, its in network.meet(users).branches.items()}


def same(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


@pytest.mark.parametrize("train", MODES)
def test_its_experts_begin_with_what_they_say_in_the_other_model_and_the_own_ones_stand_beside(train):
    other, users = other_model(), batch(12)
    network = downstream(own_spec(train), other).eval()
    same(made_by(network.upstream, users), made_by(other, users))
    assert list(network.meet(users).branches) == ["fm"]
    assert network.plan.towers["click"].reads == ("fm", *(of_upstream(name) for name in SPEC.experts))


def test_without_experts_of_its_own_the_towers_read_those_of_the_other_model_alone():
    """With its gates and towers too, the model is the other one to the bit."""
    other, users = other_model(), batch(12)
    network = downstream(own_spec(tables={}, experts={}, scheme="ame"), other).eval()
    assert not network.field_rows()
    for part in ("gates", "towers"):
        getattr(network, part).load_state_dict(getattr(other, part).state_dict())
    assert torch.equal(network(users), other(users))


def test_an_id_that_the_other_model_does_not_know_is_read_as_it_reads_unknown_ones():
    other, users = other_model(), batch(12)
    network = downstream(own_spec(), other).eval()
    shown = users.impressions

    def of_ad(row):
        return replace(users, impressions=replace(shown, rows=shown.rows | {"ad": torch.full_like(shown.rows["ad"], row)}))

    same(made_by(network.upstream, of_ad(ADS + 1)), made_by(other, of_ad(0)))
    assert not torch.equal(made_by(network, of_ad(ADS + 1))["fm"], made_by(network, of_ad(0))["fm"]), "the own tables have a row for it"


def test_with_hash_buckets_an_id_that_is_new_to_the_other_model_is_read_by_its_bucket():
    other, users, buckets = other_model(), batch(12), 3
    before = vocabulary(buckets)
    known = before.grown({"ad": NEW_ADS})
    network = downstream(own_spec(known=known), other, known, before).eval()
    shown = users.impressions

    def of_rows(rows):
        return replace(users, impressions=replace(shown, rows=shown.rows | {"ad": torch.from_numpy(np.resize(rows, len(shown.time_ms)))}))

    assert known.rows("ad", NEW_ADS).min() >= ADS
    buckets_of_them = before.rows("ad", NEW_ADS)
    assert set(buckets_of_them) <= {1, 2, 3}
    same(made_by(network.upstream, of_rows(known.rows("ad", NEW_ADS))), made_by(other, of_rows(buckets_of_them)))


def step(network, users, rate=0.1):
    """One step of every optimizer, with weight decay."""
    groups = network.parameter_groups()
    optimizers = [
        group.optimizer([{"params": list(group.parameters), "lr": rate, **({"weight_decay": 0.1} if group.decays else {})}])
        for group in groups
        if group.parameters
    ]
    sum(network.train().losses(users).values()).backward()
    for optimizer in optimizers:
        optimizer.step()


@pytest.mark.parametrize("tables", ["copied", "own"])
@pytest.mark.parametrize("train", MODES)
def test_frozen_weights_stay_to_the_bit_without_a_gradient_and_others_learn(train, tables):
    users = batch(40)
    network = downstream(own_spec(train, tables), other_model())
    before = {name: value.clone() for name, value in network.state_dict().items()}
    step(network, users)
    moved = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    of_tables = {name for name in before if name.startswith("upstream.tables.")}
    of_experts = {name for name in before if name.startswith("upstream.")} - of_tables
    assert {"tables.small.weight", "gates.click.weight", "towers.conversion.0.weight"} <= moved
    assert of_tables <= moved if tables == "own" or train != "frozen" else not of_tables & moved
    if train == "frozen":
        assert not of_experts & moved
        assert all(one.grad is None for one in network.frozen())
    else:
        assert {"upstream.experts.flat.layer.weight", "upstream.histories.first.of.clicked.places"} <= moved


def test_own_tables_are_drawn_anew_and_all_else_is_copied():
    other = other_model()
    network = downstream(own_spec(rows="own"), other)
    given = other.state_dict()
    for name, value in network.upstream.state_dict().items():
        if name.startswith("tables."):
            assert value.std() < 0.12 < given[name].std(), name
        else:
            assert torch.equal(value, given[name]), name


def test_what_is_frozen_leaves_nothing_out_of_what_it_makes_and_what_learns_does_as_the_conf_says():
    assert own_spec("frozen").upstream.model.dropout == 0
    assert own_spec("fine_tuned").upstream.model.dropout == 0.2


def narrow(scheme, **changes):
    given = replace(SPEC, tables={"first": 8}, experts={"fm": ExpertConfig("fm", "first")})
    main = {"main_task": "click"} if scheme == "stem_al" else {}
    return own_spec("fine_tuned", given=given, scheme=scheme, **main, **changes), other_model(spec=given)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_in_every_scheme_every_tower_reads_it_and_after_training_too(scheme):
    users = batch(12)
    spec, other = narrow(scheme)
    network = downstream(spec, other).eval()
    for tower in network.plan.towers.values():
        assert of_upstream("fm") in tower.reads
        assert ((of_upstream("first"),) in tower.gate) == (scheme != "shared_bottom")
    kept = [network.spec.tasks.index(task) for task in spec.served().tasks]
    assert torch.equal(served(network)(users), network(users)[:, kept])
    with torch.no_grad():
        before = network(users)
        network.upstream.tables["first"].weight.add_(1.0)
    assert (network(users) - before).abs().amax(dim=0).min() > 1e-3


def test_no_auxiliary_loss_reaches_it():
    spec, other = narrow("stem_al")
    network, users = downstream(spec, other), batch(30)
    network.losses(users)["conversion"].backward()
    assert all(one.grad is None or not one.grad.to_dense().any() for one in network.upstream.parameters())
    network.losses(users)["click"].backward()
    assert network.upstream.tables["first"].weight.grad.to_dense().any()


def test_what_is_saved_needs_no_other_model(tmp_path):
    network, known, users = downstream(own_spec(), other_model()).eval(), vocabulary().grown({"ad": NEW_ADS}), batch(12)
    written = RankingArtifact.of(network, known, {"as_of_ms": 1}).write(tmp_path / "it")
    artifact = RankingArtifact.read(written)
    again, _ = artifact.network()
    assert artifact.spec.saved() == network.spec.saved()
    assert torch.equal(again(users), network(users))
    assert artifact.spec.upstream.model_id == "ranking-1"
    assert [one.requires_grad for one in again.copied()] == [False] * len(again.copied())


def test_a_spec_without_it_is_saved_as_before_and_needs_an_expert():
    assert "upstream" not in SPEC.saved()
    assert build(RankingSpec, own_spec().saved(), "spec").saved() == own_spec().saved()
    with pytest.raises(ConfigError, match="ranking.experts is empty"):
        replace(SPEC, tables={}, experts={})
