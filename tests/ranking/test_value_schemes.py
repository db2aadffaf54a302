"""Every multi-task scheme with tasks whose label is 0 or 1 and tasks whose label is a number, mixed."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch

from alure_spark.batches.batch import select_users
from alure_spark.config import ExpertConfig, build
from alure_spark.errors import ConfigError
from alure_spark.ranking.artifact import RankingArtifact
from alure_spark.ranking.losses import LOSSES, value_loss
from alure_spark.ranking.network import RankingNetwork
from alure_spark.ranking.schemes import SCHEMES
from alure_spark.ranking.spec import RankingSpec
from alure_spark.training.loop import fit
from alure_spark.training.plan import Plan
from tests.ranking.planted_ranking import VOCABULARY
from tests.ranking.small_ranking import SPEC, batch

TASKS, VALUES = ("spent", "click", "watched"), ("spent", "watched")  # a value task comes first, and last
ONE_TABLE = {"tables": {"one": 8}, "experts": {"gwpfm": ExpertConfig("gwpfm", "one"), "cross": ExpertConfig("dcn_v2", "one")}}
PAYING = {"paying": ("watched", "spent")}  # not in the order of the tasks
CASES = [(scheme, "spent", towers) for scheme in SCHEMES for towers in ({}, PAYING)]
CASES += [("stem_al", main, {}) for main in ("click", "watched")]


def spec_of(scheme, main="spent", towers=None, **more):
    of_main = main if scheme == "stem_al" else ""
    return replace(SPEC, tasks=TASKS, values=VALUES, scheme=scheme, main_task=of_main, towers=dict(towers or {}), **ONE_TABLE, **more)


def network(spec, seed=3):
    torch.manual_seed(seed)
    return RankingNetwork(spec)


def labelled(count, seed=0):
    """Users whose ads decide who clicks, who spends how much, and how long is watched."""
    given = batch(count, seed)
    shown, ad = given.impressions, given.impressions.rows["ad"]
    spent = torch.where(ad % 2 == 0, torch.exp(1 + ad / 10), 0.0)
    labels = {"spent": spent.float(), "click": (ad % 3 == 0).float(), "watched": torch.where(ad % 4 > 0, 30.0 + ad, 0.0)}
    return replace(given, impressions=replace(shown, labels=labels))


@pytest.mark.parametrize(("scheme", "main", "towers"), CASES)
class TestEveryScheme:
    def test_a_value_task_has_three_outputs_and_a_row_the_same_ones_in_any_batch(self, scheme, main, towers):
        model, given = network(spec_of(scheme, main, towers)), labelled(8)
        together = model(given)
        assert together.shape == (len(given.impressions.time_ms), 7)
        assert model.outputs == {"spent": slice(0, 3), "click": slice(3, 4), "watched": slice(4, 7)}
        for user in range(8):
            alone = model(select_users(given, torch.tensor([user])))
            torch.testing.assert_close(alone, together[given.impressions.users() == user], rtol=0, atol=1e-6)

    def test_outputs_stand_where_the_spec_says_whatever_the_towers(self, scheme, main, towers):
        model, given = network(spec_of(scheme, main, towers)), labelled(8)
        model.start_at({"spent": 0.2, "click": 0.01, "watched": 0.5}, {"spent": (2.0, 0.7), "watched": (3.0, 1.5)})
        with torch.no_grad():
            for tower in model.towers.values():
                tower[-1].weight.zero_()
        outputs = model(given)
        p = torch.sigmoid(model.logits(outputs))
        torch.testing.assert_close(p, torch.tensor([0.2, 0.01, 0.5]).expand_as(p))
        for task, rate, mean, sigma in (("spent", 0.2, 2.0, 0.7), ("watched", 0.5, 3.0, 1.5)):
            its = rate * math.exp(mean + sigma**2 / 2)
            torch.testing.assert_close(model.expected(outputs, task), torch.full((len(outputs),), its), rtol=1e-5, atol=0)

    def test_every_task_is_taught_and_learns(self, scheme, main, towers):
        model, given = network(spec_of(scheme, main, towers, deviation=0.5)), labelled(80)
        sum(model.losses(labelled(30)).values()).backward()
        assert [name for name, one in model.named_parameters() if one.grad is None] == []
        model = network(spec_of(scheme, main, towers))
        model.start_at({"spent": 0.5, "click": 0.3, "watched": 0.7}, {"spent": (2.0, 0.6), "watched": (3.6, 0.2)})

        class Once:
            steps = 1

            def batches(self, epoch, start=0):
                yield (given,)

        measured = fit(model, Once(), Plan(100, 0.03, seed=1), measure=lambda: model.gradients).curves
        for task, gain in (("spent", 0.5), ("click", 0.4), ("watched", 0.4)):
            assert measured[-1][f"train.{task}"] < measured[0][f"train.{task}"] - gain, task
            assert measured[0][f"gradient.{task}.negatives"] > 0
        model.eval()
        shown = given.impressions
        found = model.predictions(model(given))
        for column, task in enumerate(TASKS):
            truth = shown.labels[task]
            assert torch.corrcoef(torch.stack([found[:, column], truth]))[0, 1] > 0.5, task

    def test_travels_as_an_artifact_and_predicts_the_same(self, scheme, main, towers, tmp_path):
        model, given = network(spec_of(scheme, main, towers, linear=True)), labelled(9)
        with torch.no_grad():
            model.linear.rows.weight.normal_()
            model.calibration.copy_(torch.tensor([[1.5, 0.0], [2.0, 0.2], [0.5, 0.0]]))
            model.bound({"spent": 3.0, "watched": 1e4}, {"spent": 0.5, "watched": 2.0})
        loaded, _ = RankingArtifact.read(RankingArtifact.of(model.eval(), VOCABULARY, {}).write(tmp_path)).network()
        served = spec_of(scheme, main, towers).served().tasks
        assert loaded.spec.tasks == served
        assert set(loaded.spec.values) == set(served) & set(VALUES)
        columns = [TASKS.index(task) for task in served]
        before, after = model.predictions(model(given)), loaded.predictions(loaded(given))
        torch.testing.assert_close(after, before[:, columns], rtol=1e-5, atol=1e-7)
        assert before[:, 0].max() == 1.5 * 3, "at most what was seen, times the factor"
        assert build(RankingSpec, json.loads(json.dumps(loaded.spec.saved()))) == loaded.spec


def test_binary_tasks_beside_a_value_task_have_the_losses_that_they_have_alone():
    given = labelled(30)
    mixed = network(spec_of("shared_bottom"))
    outputs = mixed(given)
    for kind, loss in LOSSES.items():
        mixed.loss, mixed.value_loss = loss(0.6, 100_000), value_loss(kind, 0.6, 100_000)
        found = mixed.losses(given)
        assert list(found) == list(TASKS)
        label, weight = given.impressions.labels["click"][:, None], given.impressions.weight[:, None]
        torch.testing.assert_close(found["click"], loss(0.6, 100_000)(outputs[:, 3:4], label, weight)[0])
        its = value_loss(kind, 0.6, 100_000)(outputs[:, 4:], given.impressions.labels["watched"], given.impressions.weight)
        torch.testing.assert_close(found["watched"], its)


def test_a_model_of_values_alone_is_a_model():
    spec = replace(SPEC, tasks=("spent",), values=("spent",))
    model, given = network(spec), labelled(10)
    assert list(model.losses(given)) == ["spent"]
    assert model.predictions(model(given)).shape == (len(given.impressions.time_ms), 1)


def test_the_spec_of_a_model_without_values_is_saved_as_before():
    assert "values" not in SPEC.saved()
    assert "largest" not in network(SPEC).state_dict()
    assert spec_of("ame").saved()["values"] == list(VALUES)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"values": ("clik",)}, "ranking.values names the task 'clik'; did you mean 'click'"),
        ({"values": ("click", "click")}, "ranking.values names the task 'click' twice"),
        (
            {"tasks": ("expected_spent", "spent"), "values": ("spent",)},
            "ranking.values names 'spent', whose score is the column 'expected_spent', as another task is called",
        ),
    ],
)
def test_what_a_value_task_cannot_be_is_one_sentence(change, says):
    with pytest.raises(ConfigError) as raised:
        replace(SPEC, **change)
    assert says in str(raised.value)
