"""Multi-task schemes: the contract of all of them, what each plans, and what a spec cannot mean."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from alure_spark.batches.batch import select_users
from alure_spark.batches.epochs import MemoryLoader
from alure_spark.config import ExpertConfig, build
from alure_spark.config.towers import SCHEMES as NAMES
from alure_spark.errors import ConfigError
from alure_spark.ranking.artifact import RankingArtifact
from alure_spark.ranking.network import RankingNetwork
from alure_spark.ranking.schemes import SCHEMES, TowerPlan, copy_of
from alure_spark.ranking.spec import RankingSpec
from alure_spark.training.loop import fit
from alure_spark.training.plan import Plan
from tests.conftest import ROOT
from tests.ranking.planted_ranking import VOCABULARY, users
from tests.ranking.small_ranking import SPEC, batch

TASKS = ("click", "like", "conversion")
ONE_TABLE = {"tables": {"one": 8}, "experts": {"gwpfm": ExpertConfig("gwpfm", "one"), "cross": ExpertConfig("dcn_v2", "one")}}
TWO_TABLES = {"tables": SPEC.tables, "experts": SPEC.experts}
GROUPED = {"buying": ("conversion", "click")}  # not in the order of the tasks
CASES = [
    pytest.param(scheme, tables, towers, id=f"{scheme}, {len(tables['tables'])} tables, {'towers' if towers else 'no towers'}")
    for scheme in SCHEMES
    for tables in (ONE_TABLE, TWO_TABLES)
    for towers in ({}, GROUPED)
    if scheme != "mmoe" or tables is ONE_TABLE
]


def spec_of(scheme, tables=ONE_TABLE, towers=(), tasks=TASKS, **more):
    main = "like" if scheme == "stem_al" else ""
    return replace(SPEC, tasks=tasks, scheme=scheme, main_task=main, towers=dict(towers), **tables, **more)


def network(spec, seed=3):
    torch.manual_seed(seed)
    return RankingNetwork(spec)


def labelled(count, seed=0, tasks=TASKS):
    """Users with the labels of three tasks, which one ad after the other decides."""
    given = batch(count, seed)
    shown = given.impressions
    labels = {task: (shown.rows["ad"] % (place + 2) == 0).float() for place, task in enumerate(tasks)}
    return replace(given, impressions=replace(shown, labels=labels))


@pytest.mark.parametrize(("scheme", "tables", "towers"), CASES)
class TestEveryScheme:
    def test_plans_what_a_network_can_be_built_of(self, scheme, tables, towers):
        spec = spec_of(scheme, tables, towers)
        plan = spec.plan()
        assert set(plan.towers) == ({"buying", "like"} if towers else set(TASKS))
        assert {one.table for one in plan.experts.values()} == set(plan.tables), "every table is read"
        assert {name for tower in plan.towers.values() for name in tower.reads} == set(plan.experts), "and every expert"
        for tower in plan.towers.values():
            assert len(set(tower.reads)) == len(tower.reads)
            assert tower.detached <= set(tower.reads)
            assert set(tower.reads) - tower.detached, "a tower teaches something"
            for part in tower.gate:
                assert len({plan.tables[table] for table in part}) == 1, "what is added is of one width"
        kinds = {(one.kind, json.dumps(dict(one.options))) for one in plan.experts.values()}
        assert kinds == {(one.kind, json.dumps(dict(one.options))) for one in spec.experts.values()}

    def test_a_row_has_the_same_logits_alone_and_in_any_batch(self, scheme, tables, towers):
        model, given = network(spec_of(scheme, tables, towers)), labelled(8)
        together = model(given)
        assert together.shape == (len(given.impressions.time_ms), len(TASKS))
        for user in range(8):
            alone = model(select_users(given, torch.tensor([user])))
            torch.testing.assert_close(alone, together[given.impressions.users() == user], rtol=0, atol=1e-6)
        nobody = given.impressions.select(torch.zeros(len(together), dtype=torch.bool))
        assert model(replace(given, impressions=nobody)).shape == (0, len(TASKS))

    def test_every_parameter_is_taught_by_the_losses_together(self, scheme, tables, towers):
        model = network(spec_of(scheme, tables, towers, deviation=0.5))
        sum(model.losses(labelled(30)).values()).backward()
        assert [name for name, one in model.named_parameters() if one.grad is None] == []

    def test_begins_at_the_base_rate_of_each_task_and_learns_each(self, scheme, tables, towers):
        model, given = network(spec_of(scheme, tables, towers)), labelled(80)
        model.start_at(dict(zip(TASKS, (0.2, 0.01, 0.5), strict=True)))
        expected = torch.tensor([0.2, 0.01, 0.5]).expand(len(given.impressions.time_ms), 3)
        torch.testing.assert_close(torch.sigmoid(model(given)), expected, rtol=0.25, atol=0)
        model = network(spec_of(scheme, tables, towers))

        class Once:
            steps = 1

            def batches(self, epoch, start=0):
                yield (given,)

        curves = fit(model, Once(), Plan(40, 0.03, seed=1)).curves
        for task in TASKS:
            assert curves[-1][f"train.{task}"] < 0.5 * curves[0][f"train.{task}"], task

    def test_travels_as_an_artifact_and_still_says_the_same_of_the_tasks_it_serves(self, scheme, tables, towers, tmp_path):
        spec = spec_of(scheme, tables, towers, linear=True)
        model, given = network(spec), labelled(9)
        with torch.no_grad():
            model.linear.rows.weight.normal_()
            model.calibration.copy_(torch.tensor([[1.0, 0.1], [2.0, 0.2], [3.0, 0.3]]))
        again = RankingArtifact.read(RankingArtifact.of(model.eval(), VOCABULARY, {}).write(tmp_path))
        loaded, _ = again.network()
        served = ("like",) if scheme == "stem_al" else TASKS
        assert loaded.spec.tasks == served
        columns = [TASKS.index(task) for task in served]
        torch.testing.assert_close(loaded(given), model(given)[:, columns], rtol=0, atol=0)
        before = model.probabilities(model(given))[:, columns]
        torch.testing.assert_close(loaded.probabilities(loaded(given)), before, rtol=1e-6, atol=1e-9)

    def test_the_spec_is_the_same_from_json(self, scheme, tables, towers):
        spec = spec_of(scheme, tables, towers)
        assert build(RankingSpec, json.loads(json.dumps(spec.saved()))).saved() == spec.saved()


def test_the_conf_knows_the_schemes_that_there_are():
    assert sorted(NAMES) == sorted(SCHEMES)


def one_expert(scheme):
    return spec_of(scheme, {"tables": {"one": 8}, "experts": {"fm": ExpertConfig("fm", "one")}}, tasks=("click", "like")).plan()


def test_shared_bottom_has_no_gate_and_one_of_everything():
    plan = one_expert("shared_bottom")
    assert plan.tables == {"one": 8}
    assert plan.towers == {"click": TowerPlan(("fm",)), "like": TowerPlan(("fm",))}


def test_mmoe_and_ame_read_all_experts_through_a_gate_of_each_tower_and_mmoe_has_one_table():
    assert one_expert("mmoe").towers == {"click": TowerPlan(("fm",), (("one",),)), "like": TowerPlan(("fm",), (("one",),))}
    plan = spec_of("ame", TWO_TABLES).plan()
    assert plan.tables == SPEC.tables
    assert all(tower == TowerPlan(tuple(SPEC.experts), (("first",), ("second",))) for tower in plan.towers.values())
    with pytest.raises(ConfigError, match="ranking.scheme is 'mmoe', which has one table, but ranking.tables has first, second; with"):
        spec_of("mmoe", TWO_TABLES)


def test_ple_shares_its_table_and_has_experts_of_its_own_for_each_tower():
    plan = one_expert("ple")
    assert plan.tables == {"one": 8}
    assert {name: one.table for name, one in plan.experts.items()} == {"fm-click": "one", "fm-like": "one", "fm": "one"}
    assert plan.towers["like"] == TowerPlan(("fm-like", "fm"), (("one",),))


def test_stem_has_a_table_for_each_tower_and_a_shared_one_and_reads_other_towers_without_a_gradient():
    plan = one_expert("stem")
    assert plan.tables == {"one-click": 8, "one-like": 8, "one": 8}
    assert {name: one.table for name, one in plan.experts.items()} == {"fm-click": "one-click", "fm-like": "one-like", "fm": "one"}
    assert plan.towers["click"] == TowerPlan(("fm-click", "fm-like", "fm"), (("one-click", "one"),), frozenset({"fm-like"}))


def test_stem_al_has_no_shared_table_and_an_auxiliary_tower_reads_its_own():
    plan = one_expert("stem_al")
    assert list(plan.tables) == ["one-like", "one-click"], "the main one is first"
    assert plan.towers["like"] == TowerPlan(("fm-like", "fm-click"), (("one-like",), ("one-click",)), gate_teaches=False)
    assert plan.towers["click"] == TowerPlan(("fm-click",), gate_teaches=False)
    assert spec_of("stem_al", TWO_TABLES).plan().towers["click"].gate == ((copy_of("first", "click"),), (copy_of("second", "click"),))


def test_tasks_of_a_tower_share_its_gate_and_hidden_layers_and_columns_stay_those_of_the_tasks():
    model = network(spec_of("ame", towers=GROUPED))
    assert set(model.gates) == set(model.towers) == {"buying", "like"}
    assert model.towers["buying"][-1].weight.shape == (2, SPEC.tower[-1])
    given = labelled(10)
    before = model(given)
    with torch.no_grad():
        model.towers["buying"][-1].bias[1] += 5  # the tower's second task is conversion, as in the order of the tasks
    torch.testing.assert_close(model(given) - before, torch.tensor([0.0, 0.0, 5.0]).expand_as(before), rtol=0, atol=1e-5)
    with torch.no_grad():
        model.towers["like"][-1].bias += 2
    torch.testing.assert_close(model(given) - before, torch.tensor([0.0, 2.0, 5.0]).expand_as(before), rtol=0, atol=1e-5)


def test_the_default_scheme_is_the_model_of_before_schemes():
    """Logits by the lines that forward had then, draws in the order that it had, and a model that was saved then."""
    model, given = network(SPEC), batch(12)
    names = [name.split(".")[0] for name, _ in model.named_parameters()]
    assert list(dict.fromkeys(names)) == ["tables", "given", "histories", "experts", "gates", "towers"]
    codes, numbers = model.codes(given), model._numbers(given)
    vectors = {name: model._vectors(name, codes, numbers) for name in SPEC.tables}
    branches = []
    for name, expert in SPEC.experts.items():
        met, beside = model._split(vectors[expert.table])
        branches.append(model.experts[name](met, [*model._histories(expert.table, given, vectors[expert.table]), *beside]))
    outputs, overview = torch.stack(branches, dim=1), torch.cat([its.mean(dim=1) for its in vectors.values()], dim=1)
    for column, task in enumerate(SPEC.tasks):
        weights = model.gates[task](overview).softmax(dim=1)
        assert torch.equal(model.towers[task]((weights[:, :, None] * outputs).sum(dim=1))[:, 0], model(given)[:, column])
    saved = RankingArtifact.read(ROOT / "tests" / "golden" / "ranking_model_1")
    assert saved.spec.scheme == "ame"
    assert saved.model_id == "ranking-6c26e2ff68ae", "the id of before"
    loaded, _ = saved.network()
    assert len([loaded(part) for part in MemoryLoader(users(5), 5, 0).in_order()]) == 1


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"scheme": "stme"}, "ranking.scheme names the scheme 'stme'; did you mean 'stem'"),
        ({"main_task": "click"}, "ranking.main_task is 'click'; allowed: none, as the scheme 'ame' treats all tasks alike"),
        ({"scheme": "stem_al"}, "ranking.main_task is empty; allowed with the scheme 'stem_al': one of click, conversion"),
        ({"scheme": "stem_al", "main_task": "clik"}, "ranking.main_task names the task 'clik'; did you mean 'click'"),
        (
            {"scheme": "stem_al", "main_task": "click", "towers": {"all": ("click", "conversion")}},
            "ranking.scheme is 'stem_al', but there is no task in another tower than the main one",
        ),
        (
            {"towers": {"one": ("click",), "two": ("click",)}},
            "has the task 'click' in the towers 'one' and 'two'; allowed: one",
        ),
        ({"towers": {"one": ("click", "click")}}, "has the task 'click' in the tower 'one' twice"),
        ({"towers": {"one": ("clicks",)}}, "ranking.towers.one names the task 'clicks'; did you mean 'click'"),
        ({"towers": {"one": ()}}, "ranking.towers.one is empty; allowed: at least one task"),
        ({"towers": {"click": ("conversion",)}}, "ranking.towers has a tower 'click' without the task of that name"),
    ],
)
def test_what_a_scheme_cannot_mean_is_one_sentence(change, says):
    with pytest.raises(ConfigError) as raised:
        replace(SPEC, **change)
    assert says in str(raised.value)
