"""Models of one task each beside a model of both, on planted rows."""

from __future__ import annotations

from dataclasses import replace

import pytest

from alure_spark.analysis.ranking_batches import RankingBatches
from alure_spark.analysis.single_task_models import registered_entanglement, single_task_spec
from alure_spark.batches.epochs import MemoryLoader
from alure_spark.config import RankingConfig
from alure_spark.errors import DataError
from alure_spark.training import ranking_model
from tests.ranking.planted_ranking import DRAFT, VOCABULARY, users

CONFIG = RankingConfig(epochs=4, batch_users=32, learning_rate=0.02)
PARTS = {"ad": "ad", "category": "ad", "price": "ad", "clicks": "user"}
FIELDS = {name: replace(one, part=PARTS[name], group=name) for name, one in DRAFT.fields.items()}
EXPERTS = {name: replace(one, kind="ipnn") for name, one in DRAFT.experts.items()}


class Packed(MemoryLoader):
    """Rows that every model reads in the same way."""

    def decoding(self, spec, vocabulary):
        return self


def opposite() -> Packed:
    """Who clicks does not like, and the other way round."""
    given = users(500)
    shown = given.impressions
    labels = {"click": shown.labels["click"], "like": 1 - shown.labels["click"]}
    return Packed(replace(given, impressions=replace(shown, labels=labels)), 32, 1)


def batches(**more) -> RankingBatches:
    loader = opposite()
    draft = replace(DRAFT, fields=FIELDS, experts=EXPERTS, tasks=("click", "like"), **more)
    spec = ranking_model.fitted_spec(draft, loader, VOCABULARY)
    return RankingBatches(ranking_model.new_network(spec.served(), loader, 3).eval(), VOCABULARY, loader)


def test_tasks_that_contradict_each_other_have_contradictory_pairs_by_models_of_their_own():
    (found,) = registered_entanglement(batches(scheme="stem"), CONFIG)
    assert found.tasks == ("click", "like")
    assert found.contradictory > 20
    assert list(found.distances) == ["single-task", "stem"]
    assert list(found.distances["stem"]) == ["click", "like", "shared"]
    assert found.gap("single-task", "click", "like") > 20


def test_a_single_task_model_has_the_fields_and_tables_of_the_conf_and_no_towers_of_others():
    spec = batches(scheme="stem", towers={"both": ("click", "like")}).network.spec
    alone = single_task_spec(spec, "like")
    assert alone.tasks == ("like",)
    assert alone.plan().tables == DRAFT.tables
    assert alone.fields == spec.fields


def test_a_model_of_one_task_has_nothing_to_compare():
    with pytest.raises(DataError, match="predicts 'click' alone: entanglement is between tasks"):
        registered_entanglement(batches(scheme="stem_al", main_task="click"), CONFIG)
