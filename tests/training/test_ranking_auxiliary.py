"""A ranking model with a main task (STEM-AL): what its training keeps, and beside what a new one is compared."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from alure_spark.batches.epochs import MemoryLoader
from alure_spark.config import Config, RankingConfig, build
from alure_spark.ranking.artifact import RankingArtifact
from alure_spark.training import ranking_challenger, ranking_model
from tests.ranking.planted_ranking import DRAFT, VOCABULARY, users

SHORT = RankingConfig(epochs=6, patience=9, batch_users=32, learning_rate=0.01)
CONFIG = build(Config, {"streams": {"purchase": {}}, "time": {"as_of": "2025-06-01T00:00:00Z"}})


def with_likes(noise: float) -> MemoryLoader:
    """The planted clicks, and likes that are the same but for a share of them, which is drawn at random."""
    given = users(200)
    shown = given.impressions
    random = np.random.default_rng(4)
    drawn = torch.from_numpy(random.random(len(shown.time_ms)) < noise)
    other = torch.from_numpy(random.random(len(shown.time_ms)) < 0.5).float()
    labels = dict(shown.labels) | {"like": torch.where(drawn, other, shown.labels["click"])}
    return MemoryLoader(replace(given, impressions=replace(shown, labels=labels)), 32, seed=1)


def trained(loader: MemoryLoader, config: RankingConfig = SHORT, **more) -> ranking_model.TrainedRanking:
    draft = replace(DRAFT, tables={"one": 4}, experts={"gwpfm": replace(DRAFT.experts["gwpfm"], table="one")}, **more)
    spec = ranking_model.fitted_spec(draft, loader, VOCABULARY)
    return ranking_model.train(ranking_model.new_network(spec, loader, 3), loader, config)


AUXILIARY = {"scheme": "stem_al", "main_task": "click", "tasks": ("like", "click")}


class Packed:
    """Rows that are there already."""

    def __init__(self, loader: MemoryLoader) -> None:
        self.loader = loader

    def decoding(self, spec, vocabulary):
        return self.loader


def test_the_best_epoch_is_that_of_the_main_task():
    done = trained(with_likes(1.0), **AUXILIARY)
    losses = [row["validation.click"] for row in done.curves]
    assert not any("validation.like" in row for row in done.curves)
    assert done.best_epoch == int(np.argmin(losses))
    assert {"loss.like", "loss.click", "like.auc"} <= set(done.metrics()), "it is still said how good the others are"


def test_without_weight_the_auxiliary_labels_change_nothing_of_the_main_task():
    def logits(weight: float, noise: float) -> torch.Tensor:
        config = replace(SHORT, epochs=2, auxiliary_weight=weight)
        done = trained(with_likes(noise), config, **AUXILIARY)
        return torch.from_numpy(done.validation.logits[:, AUXILIARY["tasks"].index("click")])

    torch.testing.assert_close(logits(0.0, 1.0), logits(0.0, 0.1), rtol=0, atol=0)
    given = [logits(weight, 0.1) for weight in (0.0, 0.5, 1.0)]
    assert all(float((one - other).abs().max()) > 1e-4 for one, other in pairwise(given))


def test_a_champion_is_compared_by_the_main_task_alone():
    loader = with_likes(1.0)
    good, bad = trained(loader, **AUXILIARY), trained(loader, **AUXILIARY)
    champion = RankingArtifact.of(good.network, VOCABULARY, {"as_of_ms": CONFIG.time.as_of_ms})
    assert champion.spec.tasks == ("click",)
    verdict = ranking_challenger.decide(champion, good, Packed(loader), CONFIG)
    assert verdict.passed, verdict.reason
    assert f"validation loss {good.validation.losses['click']:.4f}, {champion.model_id} has {good.validation.losses['click']:.4f}" in (
        verdict.reason
    )
    bad.validation.losses["like"] = 0.0  # a good auxiliary task does not outweigh a bad main one
    bad.validation.losses["click"] *= 1.1
    assert not ranking_challenger.decide(champion, bad, Packed(loader), CONFIG).passed


def test_the_rows_before_training_are_drawn_again_from_the_exported_spec():
    loader = with_likes(0.1)
    draft = replace(DRAFT, tables={"one": 4, "two": 2}, **AUXILIARY)
    network = ranking_model.new_network(ranking_model.fitted_spec(draft, loader, VOCABULARY), loader, 3)
    again = ranking_model.drawn_network(RankingArtifact.of(network, VOCABULARY, {}).spec, 3)
    assert list(again.tables) == list(network.tables) == ["one-click", "two-click", "one-like", "two-like"]
    for name, table in network.tables.items():
        torch.testing.assert_close(again.tables[name].weight, table.weight, rtol=0, atol=0)


@pytest.mark.parametrize("scheme", ["stem", "shared_bottom"])
def test_without_a_main_task_all_tasks_choose_the_epoch(scheme):
    done = trained(with_likes(0.1), scheme=scheme, tasks=("like", "click"))
    assert all({"validation.like", "validation.click"} <= set(row) for row in done.curves)
