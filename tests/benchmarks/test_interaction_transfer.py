"""The other model has seen nothing that the small one is validated or tested on; variants are of one shape; rows become tables."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from alure_spark.batches.epochs import MemoryLoader
from alure_spark.ranking.upstream import copy_interactions
from alure_spark.training import ranking_model
from benchmarks import interaction_transfer, interaction_transfer_page, transfer_worlds
from benchmarks.interaction_transfer import (
    BORDER_MS,
    NOTHING,
    VARIANTS,
    Ids,
    draft_of,
    joined,
    other_model,
    poor_rows,
    results_of,
    rich_rows,
)
from benchmarks.ranking_sets import batch_of


@pytest.fixture(scope="module", autouse=True)
def short():
    """Trainings of one epoch at one rate."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interaction_transfer, "CONFIG", replace(interaction_transfer.CONFIG, epochs=1))
        patch.setattr(interaction_transfer, "RATES", (5e-3,))
        yield


@pytest.fixture(scope="module")
def world():
    return transfer_worlds.two_surfaces(np.random.default_rng(1), 30, False)


@pytest.fixture(scope="module")
def other(world):
    return other_model(world.upstream, 1)


def test_the_other_model_has_seen_nothing_after_the_border(world, other):
    rows = rich_rows(world.upstream)
    assert (rows.is_train == (rows.time_ms < BORDER_MS)).all()
    assert rows.time_ms.max() > BORDER_MS
    shown = world.upstream.impressions
    changed = torch.where(shown.time_ms < BORDER_MS, shown.labels["click"], 1 - shown.labels["click"])
    again = other_model(replace(world.upstream, impressions=replace(shown, labels={"click": changed})), 1)
    for name, value in other.network.state_dict().items():
        assert torch.equal(again.network.state_dict()[name], value), name


def test_ids_that_are_known_keep_their_rows_and_others_come_behind():
    known, new = Ids({"user": pd.Index(["5", "7"])}), Ids({"user": pd.Index(["1", "7", "9"]), "place": pd.Index(["0"])})
    both = joined(known, new)
    assert {name: list(its) for name, its in both.of.items()} == {"user": ["5", "7", "1", "9"], "place": ["0"]}


def test_a_variant_begins_with_the_weights_of_the_other_model_unless_they_are_drawn(world, other):
    frozen = VARIANTS["frozen"]
    results = results_of(world, {"copied": frozen, "drawn": replace(frozen, copies=False), "again": frozen}, other, 1)
    np.testing.assert_array_equal(results["copied"].probabilities, results["again"].probabilities)
    assert np.abs(results["copied"].probabilities - results["drawn"].probabilities).max() > 1e-6


def test_variants_with_experts_of_both_have_one_shape_and_what_is_copied_says_what_it_said(world, other):
    rows = poor_rows(world)
    ids = joined(other.ids, Ids.of_training(rows))
    batch, _ = batch_of(rows, ids, ~rows.is_train)
    loader, sizes = MemoryLoader(batch, 32, 1), {}
    for name, variant in VARIANTS.items():
        if variant.train:
            spec = ranking_model.fitted_spec(draft_of(rows, variant, other), loader, ids.vocabulary())
            network = ranking_model.drawn_network(spec, 1)
            sizes[name] = sum(one.numel() for one in network.parameters())
            if variant.copies and variant.tables == "copied":
                copy_interactions(network, other.network, other.ids.vocabulary(), ids.vocabulary())
                ours, theirs = network.eval().upstream.meet(batch).branches, other.network.eval()
                shown = batch.impressions.rows
                known = torch.stack([shown[one] < theirs.spec.fields[one].settings["size"] for one in theirs.spec.fields]).all(dim=0)
                few = replace(batch, impressions=batch.impressions.select(known))
                for expert, value in theirs.meet(few).branches.items():
                    torch.testing.assert_close(ours[expert][known], value)
    assert len({size for name, size in sizes.items() if VARIANTS[name].own}) == 1


def test_every_variant_and_comparison_has_its_row(tmp_path):
    interaction_transfer.main(["--seeds", "7", "--users", "40", "--resamples", "20", "--results", str(tmp_path)])
    result = json.loads((tmp_path / "interaction_transfer.json").read_text())
    variants = [row for row in result["rows"] if row["kind"] == "variant"]
    assert len(variants) == 2 * 2 * len(VARIANTS)
    assert all(row["gain"] == 0 for row in variants if row["variant"] == NOTHING)
    assert all(row["learning"][0] < row["weights"][0] for row in variants if row["variant"].startswith("frozen"))
    ne = {(row["rows"], row["null"], row["variant"]): row["ne"] for row in variants}
    for row in result["rows"]:
        without = row.get("without", NOTHING)
        ratio = ne[row["rows"], row["null"], row["variant"]] / ne[row["rows"], row["null"], without]
        assert row["gain"] == pytest.approx(1 - ratio, abs=1e-9)
    lines = interaction_transfer_page.text(result).splitlines()
    for name in VARIANTS:
        assert sum(line.startswith(f"| {name} | ") for line in lines) >= 2
    row = next(row for row in variants if row["variant"] == "frozen" and not row["null"])
    assert f"| frozen | {row['ne']:.4f} | {row['gain']:+.2%} (" in "\n".join(lines)
