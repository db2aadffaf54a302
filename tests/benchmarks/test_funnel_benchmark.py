"""ALURE's Table 2 in small: what the similarity graph adds is worth something where behaviour tells, and nothing where nothing does."""

from __future__ import annotations

import pytest

from benchmarks import funnel


@pytest.mark.slow
@pytest.mark.parametrize("world", ["synthetic", "null"])
def test_alure_adds_value_where_behaviour_tells_and_only_there(spark, tmp_path, monkeypatch, world):
    smaller = [setting for setting in funnel.WORLD if not setting.startswith("source.options.users")]
    monkeypatch.setattr(funnel, "WORLD", [*smaller, "source.options.users=500"])
    rows = funnel.of_world(world, str(tmp_path), 300)
    of_all = {row["policy"]: row for row in rows if row["group"] == "all"}
    assert of_all.keys() == funnel.POLICIES.keys()
    added = of_all["bff, ppr, alure"]
    assert added["against"] == "bff, ppr"
    assert (added["low"] > 0) is (world == "synthetic")
    assert of_all["bff, ppr, random"]["high"] < added["gain"] or world == "null", "random neighbours do not do it"
    purity = {row["policy"]: row["purity"] for row in rows if row["group"] == "edges"}
    for graph in ("alure", "bff", "ppr", "blend"):
        assert (purity[graph] > 3 * purity["random"]) is (world == "synthetic"), graph
