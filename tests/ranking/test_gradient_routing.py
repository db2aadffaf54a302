"""Which tables, experts and gates each task's loss reaches, on the autograd graph itself (Pan et al., sections 5.1 and 5.2)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from alure_spark.batches.batch import Impressions, JaggedBatch, offsets_of
from alure_spark.config import ExpertConfig
from alure_spark.ranking.mixtures import gate_weights
from alure_spark.ranking.network import RankingNetwork
from alure_spark.ranking.spec import FieldSpec, RankingSpec
from alure_spark.training.loop import fit
from alure_spark.training.plan import Plan
from tests.ranking.small_ranking import SPEC, batch

ONE = {"tables": {"one": 8}, "experts": {"cross": ExpertConfig("dcn_v2", "one")}}


def made(scheme, main="", **more):
    torch.manual_seed(3)
    return RankingNetwork(replace(SPEC, scheme=scheme, main_task=main, deviation=0.5, **{**ONE, **more}))


def reached(model, task):
    """Parts of the network that get any gradient from the task's loss: 'tables.one', 'experts.cross', 'gates.click', ..."""
    model.zero_grad(set_to_none=True)
    model.losses(batch(40))[task].backward()
    found = set()
    for name, one in model.named_parameters():
        gradient = one.grad.coalesce().values() if one.grad is not None and one.grad.is_sparse else one.grad
        if gradient is not None and bool((gradient != 0).any()):
            found.add(".".join(name.split(".")[:2]))
    return found


def of_tables(names):
    """A table, and what reads given embeddings and histories as its vectors."""
    return {f"{part}.{name}" for name in names for part in ("tables", "given", "histories")}


def of_experts(names):
    return {f"experts.{name}" for name in names}


def own(task):
    return {f"gates.{task}", f"towers.{task}"}


@pytest.mark.parametrize(("task", "other"), [SPEC.tasks, SPEC.tasks[::-1]])
def test_in_stem_a_loss_reaches_its_own_and_the_shared_part_and_nothing_of_the_other_task(task, other):
    model = made("stem")
    assert reached(model, task) == of_tables([f"one-{task}", "one"]) | of_experts([f"cross-{task}", "cross"]) | own(task)
    assert float(model.tables[f"one-{other}"].weight.grad.coalesce().values().abs().sum()) == 0, "exactly nothing"


def test_in_stem_the_other_tasks_expert_is_heard_although_it_is_not_taught():
    model, given = made("stem"), batch(20)
    before = model(given)
    with torch.no_grad():
        model.experts["cross-conversion"].layer.bias += 3
    assert not torch.allclose(model(given)[:, 0], before[:, 0], atol=1e-3)


def test_in_stem_al_the_auxiliary_loss_gives_the_main_tables_nothing_and_the_main_loss_reaches_all():
    model = made("stem_al", main="click")
    assert reached(model, "conversion") == of_tables(["one-conversion"]) | of_experts(["cross-conversion"]) | {"towers.conversion"}
    assert float(model.tables["one-click"].weight.grad.coalesce().values().abs().sum()) == 0, "exactly nothing"
    every = ["one-click", "one-conversion"]
    assert reached(model, "click") == of_tables(every) | of_experts(["cross-click", "cross-conversion"]) | own("click")


def taught_by_gate(model, task):
    """Tables whose vectors get any gradient from the weights of the task's gate."""
    vectors = {name: its.detach().requires_grad_() for name, its in model.table_vectors(batch(20)).items()}
    gate_weights(model.plan, model.gates, vectors)[task].square().sum().backward()
    assert bool((model.gates[task].weight.grad != 0).any()), "the gate itself learns, by what it reads"
    return {name for name, its in vectors.items() if its.grad is not None and bool((its.grad != 0).any())}


def test_in_stem_al_the_gate_reads_the_tables_and_only_experts_teach_them():
    assert taught_by_gate(made("stem_al", main="click"), "click") == set()
    two = {"tables": SPEC.tables, "experts": SPEC.experts}
    assert taught_by_gate(made("stem_al", main="click", **two), "conversion") == set(), "nor does that of an auxiliary tower"
    assert taught_by_gate(made("ame", **two), "click") == set(SPEC.tables), "as in the other schemes"
    assert taught_by_gate(made("stem"), "click") == {"one-click", "one"}


@pytest.mark.parametrize(("task", "other"), [SPEC.tasks, SPEC.tasks[::-1]])
def test_in_ple_the_table_is_shared_and_the_other_tasks_expert_is_not_reached(task, other):
    model = made("ple")
    assert reached(model, task) == of_tables(["one"]) | of_experts([f"cross-{task}", "cross"]) | own(task)
    assert all(float(one.grad.abs().sum()) == 0 for one in model.experts[f"cross-{other}"].parameters())


@pytest.mark.parametrize("scheme", ["mmoe", "ame"])
def test_with_gates_over_all_experts_each_loss_reaches_all_but_the_other_gate_and_tower(scheme):
    for task in SPEC.tasks:
        assert reached(made(scheme), task) == of_tables(["one"]) | of_experts(["cross"]) | own(task) - {"gates." + task}, (
            "a gate over one expert has nothing to weigh"
        )
    if scheme == "ame":
        for task in SPEC.tasks:
            model = made(scheme, tables=SPEC.tables, experts=SPEC.experts)
            assert reached(model, task) == of_tables(SPEC.tables) | of_experts(SPEC.experts) | own(task)


def test_a_shared_bottom_has_no_gate_and_shares_all():
    for task in SPEC.tasks:
        assert reached(made("shared_bottom"), task) == of_tables(["one"]) | of_experts(["cross"]) | {f"towers.{task}"}


def test_tasks_of_one_tower_share_all_but_their_last_layer():
    model = made("stem", towers={"both": ("click", "conversion")})
    reached(model, "click")
    last = model.towers["both"][-1].weight.grad
    assert bool((last[0] != 0).any())
    assert not bool((last[1] != 0).any())
    assert set(model.tables) == {"one-both", "one"}


def two_bits(rows=400):
    """Impressions of two fields that are 0 or 1; the task `left` responds to the first field, `right` to the second."""
    random = np.random.default_rng(0)
    bits = {name: torch.from_numpy(random.integers(0, 2, rows)) for name in ("one", "other")}
    zeros = torch.zeros(rows, dtype=torch.int64)
    labels = {"left": bits["one"].float(), "right": bits["other"].float()}
    shown = Impressions(offsets_of(torch.ones(rows, dtype=torch.int64)), zeros + 1, bits, {}, labels, torch.ones(rows), zeros, zeros.bool())
    return JaggedBatch("", tuple(map(str, range(rows))), zeros, zeros + 2, {}, shown)


def test_the_gates_of_ame_route_each_task_to_the_table_that_knows_of_it():
    """Two tables whose rows stay as they are planted: the large one tells the fields `one` apart, the small one the fields `other`."""
    fields = {name: FieldSpec("id", {"size": 2}) for name in ("one", "other")}
    flat = {name: ExpertConfig("flat_dnn", name, {"hidden": ()}) for name in ("large", "small")}
    torch.manual_seed(1)
    model = RankingNetwork(RankingSpec(fields, {"large": 8, "small": 4}, flat, ("left", "right"), hidden=8, tower=()))
    with torch.no_grad():
        for table, place in (("large", 0), ("small", 1)):
            weight = model.tables[table].weight
            weight.zero_()
            weight[2 * place], weight[2 * place + 1] = -1, 1
            weight.requires_grad_(False)
    given = two_bits()

    class Once:
        steps = 1

        def batches(self, epoch, start=0):
            yield (given,)

    groups = [group for group in model.parameter_groups() if group.name == "network"]
    model.parameter_groups = lambda: [replace(groups[0], parameters=[one for one in groups[0].parameters if one.requires_grad])]
    fit(model, Once(), Plan(150, 0.02, seed=1))
    vectors = {name: model._vectors(name, model.codes(given), {}) for name in model.plan.tables}
    weights = {task: its.mean(dim=0) for task, its in gate_weights(model.plan, model.gates, vectors).items()}
    large, small = (list(flat).index(name) for name in ("large", "small"))
    assert weights["left"][large] > 0.6 > 0.4 > weights["right"][large], weights
    assert weights["right"][small] > 0.6, weights
