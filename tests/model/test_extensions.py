"""A new encoding or objective is a file and a line in a table: what a line in the table alone brings about."""

from __future__ import annotations

from dataclasses import replace

import torch

from alure_spark.config import ObjectiveConfig
from alure_spark.model import encodings, objectives
from alure_spark.model.encodings.encoding import Encoding
from alure_spark.model.objectives.objective import Objective
from alure_spark.model.tokens import TokenEmbedding
from alure_spark.model.user_model import UserModel
from tests.training import small_world as small


def age(tokens, lookback, dtype):
    return (tokens.event_time_ms[:, None] - small.START).to(dtype) / small.DAY


def length(model, batch, states, moments, processes):
    return model.encoder.embed(batch).sum(dim=1).square().mean() / processes.total(torch.tensor(1.0))


def test_an_encoding_in_the_table_is_in_the_tokens_and_learnt_from(monkeypatch):
    plain = TokenEmbedding(small.SPEC, "view")
    monkeypatch.setattr(encodings, "ENCODINGS", (*encodings.ENCODINGS, Encoding("item_vectors", 1, age)))
    more = TokenEmbedding(small.SPEC, "view")
    assert more.project.in_features == plain.project.in_features + 1
    batch = small.world()
    result, _, _ = small.trained(batch, replace(small.TRAINING, epochs=1))
    untrained = UserModel(small.SPEC)
    column = result.model.encoder.tokens["view"].project.weight[:, -1]
    assert not torch.equal(column, untrained.encoder.tokens["view"].project.weight[:, -1])


def test_an_objective_in_the_table_is_trained_for_weighed_and_in_the_curves(monkeypatch):
    monkeypatch.setitem(objectives.OBJECTIVES, "length", Objective(length, reads_states=False))
    result, _, _ = small.trained(small.world(), replace(small.TRAINING, epochs=2))
    assert {"train.length", "validation.length"} <= result.curves[0].keys()
    assert result.curves[1]["train.length"] < result.curves[0]["train.length"]
    assert set(result.validation.losses) == {"click", "conversion", "neighbour", "next_item", "length"}
    assert ObjectiveConfig().weight("length") == 1
