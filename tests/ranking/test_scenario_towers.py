"""Towers of single scenarios: what each impression is read by, in every scheme, and those whose scenario nobody knows."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from alure_spark.batches.batch import select_users
from alure_spark.config import ExpertConfig, build
from alure_spark.errors import ConfigError
from alure_spark.ranking.artifact import RankingArtifact
from alure_spark.ranking.network import RankingNetwork
from alure_spark.ranking.scenario_towers import SHARED
from alure_spark.ranking.schemes import SCHEMES
from alure_spark.ranking.spec import RankingSpec
from tests.ranking.planted_ranking import VOCABULARY
from tests.ranking.small_ranking import SPEC, batch

TABLES = {"tables": {"one": 8}, "experts": {"gwpfm": ExpertConfig("gwpfm", "one"), "cross": ExpertConfig("dcn_v2", "one")}}
CASES = [(scheme, towers) for scheme in SCHEMES for towers in ({}, {"both": ("conversion", "click")})
         if scheme != "stem_al" or not towers]  # fmt: skip


def spec_of(scheme="ame", towers=None, **more):
    main = "click" if scheme == "stem_al" else ""
    return replace(SPEC, scheme=scheme, main_task=main, towers=dict(towers or {}), scenario="country", **TABLES, **more)


def network(spec, seed=3):
    torch.manual_seed(seed)
    return RankingNetwork(spec).eval()


@pytest.mark.parametrize(("scheme", "towers"), CASES)
class TestEveryScheme:
    def test_an_impression_is_read_by_the_towers_of_its_scenario_and_by_no_others(self, scheme, towers):
        model, given = network(spec_of(scheme, towers)), batch(12)
        before, row = model(given), given.impressions.rows["country"]
        assert set(row.tolist()) == {0, 1, 2, 3}
        for which in (1, 2, 3):
            with torch.no_grad():
                for tower in model.scenarios.towers[str(which)].values():
                    tower[-1].bias += 2.0
            after = model(given)
            torch.testing.assert_close(after[row != which], before[row != which], rtol=0, atol=0)
            torch.testing.assert_close(after[row == which], before[row == which] + 2.0)
            before = after
        with torch.no_grad():
            for tower in model.towers.values():
                tower[-1].bias -= 1.0
        torch.testing.assert_close(model(given)[row == 0], before[row == 0] - 1.0)
        torch.testing.assert_close(model(given)[row != 0], before[row != 0], rtol=0, atol=0)

    def test_a_gate_of_a_scenario_weighs_the_experts_of_its_impressions_alone(self, scheme, towers):
        model, given = network(spec_of(scheme, towers)), batch(12)
        gates = model.scenarios.gates["2"]
        assert set(gates) == set(model.gates)
        before, row = model(given), given.impressions.rows["country"]
        with torch.no_grad():
            for gate in gates.values():
                gate.bias += torch.linspace(-3, 3, len(gate.bias))
        changed = (model(given) - before).abs().amax(dim=1) > 1e-7
        assert not changed[row != 2].any()
        assert changed[row == 2].any() == bool(gates)

    def test_a_row_has_the_same_outputs_alone_and_in_any_batch_and_columns_are_those_of_the_tasks(self, scheme, towers):
        model, given = network(spec_of(scheme, towers)), batch(8)
        model.start_at({"click": 0.9, "conversion": 0.01})
        together = model(given)
        for user in range(8):
            alone = model(select_users(given, torch.tensor([user])))
            torch.testing.assert_close(alone, together[given.impressions.users() == user], rtol=0, atol=1e-6)
        p = torch.sigmoid(together)
        assert (p[:, 0] > 0.6).all()
        assert (p[:, 1] < 0.2).all()

    def test_travels_as_an_artifact_and_says_the_same(self, scheme, towers, tmp_path):
        model, given = network(spec_of(scheme, towers)), batch(9)
        again = RankingArtifact.read(RankingArtifact.of(model, VOCABULARY, {}).write(tmp_path))
        loaded, _ = again.network()
        columns = [SPEC.tasks.index(task) for task in loaded.spec.tasks]
        torch.testing.assert_close(loaded(given), model(given)[:, columns], rtol=1e-6, atol=1e-6)
        assert build(RankingSpec, json.loads(json.dumps(again.spec.saved()))) == again.spec


def test_a_step_teaches_all_towers_and_sends_a_share_to_those_of_all():
    model, given = network(spec_of()).train(), batch(300)
    torch.manual_seed(0)
    sum(model.losses(given).values()).backward()
    assert [name for name, one in model.named_parameters() if one.grad is None] == []
    rows = torch.ones(5000, dtype=torch.int64)
    seen = {"gwpfm": torch.zeros(5000, 16), "cross": torch.zeros(5000, 16)}
    with torch.no_grad():
        for tower in model.scenarios.towers["1"].values():
            tower[-1].weight.zero_()
            tower[-1].bias.fill_(9.0)
        found = model.scenarios(rows, seen, {"one": torch.zeros(5000, 8, 8)}, torch.zeros(5000, 2))
    share = float((found[:, 0] == 0).double().mean())
    assert share == pytest.approx(SHARED, abs=0.02)
    assert ((found == 0) | (found == 9)).all()


def test_models_without_scenarios_are_as_they_were():
    assert "scenario" not in SPEC.saved()
    assert not [name for name in network(SPEC).state_dict() if name.startswith("scenarios")]
    with_, without = network(spec_of()).state_dict(), network(replace(spec_of(), scenario="")).state_dict()
    for name, value in without.items():
        torch.testing.assert_close(with_[name], value, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("field", "says"),
    [
        ("countri", "ranking.scenario names the field 'countri'; did you mean 'country'"),
        ("age", "ranking.scenario is 'age', whose encoding is numeral_systems; allowed: a field with the encoding id"),
    ],
)
def test_a_scenario_that_cannot_be_is_one_sentence(field, says):
    with pytest.raises(ConfigError) as raised:
        replace(SPEC, scenario=field)
    assert says in str(raised.value)
