"""A user model that has learnt from the impressions of a downstream task, where the conf says that it must not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from alure_spark.config import DownstreamConfig, TransferConfig, load
from alure_spark.errors import ConfigError
from alure_spark.training import challenger
from alure_spark.training.left_out import left_out, require_left_out
from tests.conftest import ROOT

DOWNSTREAM = {"b": DownstreamConfig("country = 'FI'"), "a": DownstreamConfig()}


def conf(upstream):
    return replace(load(ROOT / "conf" / "test.yml"), transfer=TransferConfig(downstream=DOWNSTREAM, upstream=upstream))


@pytest.mark.parametrize(
    ("facts", "told"),
    [({}, "all impressions"), ({"left_out": ""}, "all impressions"), ({"left_out": "(x)"}, r"all but those of '\(x\)'")],
)
def test_a_model_that_has_learnt_from_a_downstream_task_is_refused_where_it_should_not_have(facts, told):
    assert left_out(conf("others")) == "(country = 'FI') OR (true)"
    require_left_out("alure-1", {"left_out": left_out(conf("others"))}, conf("others"), "")
    require_left_out("alure-1", facts, conf("all"), "")
    with pytest.raises(ConfigError, match=f"^transfer.upstream is others, but user model alure-1 has learnt from {told}: do that"):
        require_left_out("alure-1", facts, conf("others"), "do that")


def test_a_warm_start_does_not_go_on_from_a_model_that_has_seen_them():
    class Origin:
        model_id, facts = "alure-1", {"left_out": ""}

    with pytest.raises(ConfigError, match="user model alure-1 has learnt from all impressions: train once with training.warm_start: false"):
        challenger.train(conf("others"), None, None, None, None, Origin, "")
