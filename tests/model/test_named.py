"""What a conf calls its streams and attributes does not matter, whatever torch calls its own methods."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from alure_spark.model.user_model import UserModel
from tests.model.worlds import random_batch, shaken, spec_of


@pytest.mark.parametrize(
    ("stream", "kind", "title"), [("items", "type", "float"), ("values", "keys", "training"), ("training", "pop", "update")]
)
def test_streams_and_attributes_may_be_called_as_torchs_own_methods(stream, kind, title):
    sources = {stream: {kind: "categorical", title: "text", "value": "numeric"}, "click": {kind: "categorical"}}
    spec = spec_of(sources, (stream,), ad_attention=2)
    spaces = {name: rows for name, rows in spec.spaces.items() if name != "category_id"} | {kind: 30}
    spec = replace(spec, spaces=spaces, impression_attributes={kind: "categorical"}, widths={title: 3})
    model = shaken(UserModel(spec))
    assert {f"encoder.tokens.{stream}.tables.{kind}.weight", f"encoder.nothing.{stream}"} <= set(dict(model.named_parameters()))
    batch = random_batch(spec, 4, 9, impressions=3)
    predicted = model.probabilities(batch)
    assert torch.isfinite(predicted).all()
    again = UserModel(spec).double().eval()
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.probabilities(batch), predicted)
