"""The worlds hold what they say, and the part that sees it gains where it is planted and not where it is not."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from benchmarks import parts


@pytest.mark.parametrize("name", parts.WORLDS)
def test_a_world_is_made_as_the_model_reads_it(name):
    world = parts.WORLDS[name]
    made = [parts.batch_of(world, 50, np.random.default_rng(1), null, evaluated=False) for null in (False, False, True)]
    spec = parts.spec_of(world, True, 7)
    for batch in made:
        for source, tokens in batch.sources.items():
            assert (tokens.known_at_ms < batch.impressions.time_ms.min()).all()
            assert set(tokens.rows) == {"item_id", *spec.of_kind(source, "categorical")}
            assert set(tokens.words) | set(tokens.vectors) == set(world.widths)
            falls = tokens.known_at_ms.diff() < 0
            assert not (falls & (tokens.users().diff() == 0)).any()
    same, null = (made[at].sources["view"].known_at_ms.tolist() == made[0].sources["view"].known_at_ms.tolist() for at in (1, 2))
    assert same
    assert null, "the null world has the same histories"
    assert not (made[2].impressions.labels["click"] == made[0].impressions.labels["click"]).all()
    assert 0.3 < made[0].impressions.labels["click"].mean() < 0.7


def test_the_part_gains_where_it_must_and_nowhere_else(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "TRAINING", replace(parts.TRAINING, epochs=5, threads=1))
    arguments = ["--worlds", "daily_cycle", "--seeds", "7", "--users", "800", "600", "--resamples", "100", "--results", str(tmp_path)]
    parts.main(arguments)
    planted, null = json.loads((tmp_path / "parts.json").read_text())["rows"]
    assert planted["low"] > 0.05
    assert planted["ne_without"] > 0.97
    assert null["world"] == "daily_cycle (null)"
    assert null["gain"] < 0.02
