"""What looks at tables that a model has learnt itself says so where all of them are another model's."""

from __future__ import annotations

from dataclasses import replace

import pytest

from alure_spark.analysis.embedding_report import embedding_report
from alure_spark.analysis.feature_information import feature_information
from alure_spark.analysis.ranking_batches import RankingBatches
from alure_spark.analysis.single_task_models import registered_entanglement, single_task_spec
from alure_spark.batches.vocabulary import Vocabulary
from alure_spark.config import RankingConfig
from alure_spark.errors import DataError
from alure_spark.ranking.network import RankingNetwork
from alure_spark.ranking.spec import UpstreamSpec
from tests.ranking.small_ranking import SPEC


def test_without_tables_of_its_own_there_is_nothing_to_look_at():
    network = RankingNetwork(replace(SPEC, tables={}, experts={}, upstream=UpstreamSpec("ranking-1", SPEC)))
    looks = (
        lambda: embedding_report(network, network),
        lambda: feature_information(network, None, "clicked"),
        lambda: registered_entanglement(RankingBatches(network, Vocabulary({}), None), RankingConfig()),
    )
    for look in looks:
        with pytest.raises(DataError, match="the ranking model has no tables of its own, only those of ranking-1: look at that one"):
            look()


def test_a_model_of_one_task_alone_has_no_other_model_in_it():
    assert single_task_spec(replace(SPEC, upstream=UpstreamSpec("ranking-1", SPEC)), "click").upstream is None
