"""What the report of embedding tables says of tables that are known: random, collapsed, not trained."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch

from alure_spark.analysis.embedding_report import MOST_LINES, embedding_report
from alure_spark.batches.epochs import MemoryLoader
from alure_spark.config import ExpertConfig, RankingConfig
from alure_spark.ranking.spec import FieldSpec, RankingSpec
from alure_spark.training.ranking_model import drawn_network, fitted_spec, new_network, train
from tests.ranking.planted_ranking import DRAFT, VOCABULARY, users

SPEC = RankingSpec(
    fields={"many": FieldSpec("id", {"size": 5000}), "few": FieldSpec("id", {"size": 3})},
    tables={"wide": 16, "narrow": 4},
    experts={"one": ExpertConfig("flat_dnn", "wide"), "two": ExpertConfig("flat_dnn", "narrow")},
    tasks=("click",),
)


def rows_of(network, table, field):
    """A view of the rows, which can be written."""
    return network.field_rows()[table][field]


def test_random_rows_use_nearly_all_dimensions_and_collapsed_ones_a_single_one():
    before, after = drawn_network(SPEC, 7), drawn_network(SPEC, 7)
    rows_of(after, "wide", "many")[:] = torch.outer(torch.arange(1.0, 5001), torch.arange(1.0, 17))
    rows_of(after, "narrow", "many").mul_(torch.arange(1.0, 5001)[:, None])  # longer and longer: rows count as they are
    metrics, _, text = embedding_report(after, before)
    assert 0.9 * 16 < metrics["wide.many.information_abundance_before"] < 16
    assert 0.9 * 4 < metrics["narrow.many.information_abundance"] < 4
    assert 0.6 * 3 < metrics["wide.few.information_abundance"] < 3
    assert metrics["wide.many.information_abundance"] == pytest.approx(1, abs=1e-3)
    for table in SPEC.tables:
        for field in SPEC.fields:
            for network, moment in ((before, "_before"), (after, "")):
                values = np.linalg.svd(rows_of(network, table, field).double().numpy(), compute_uv=False)
                told = metrics[f"{table}.{field}.information_abundance{moment}"]
                assert told == pytest.approx(values.sum() / values[0], rel=1e-6)
    lines = [line.split() for line in text.splitlines()]
    assert lines[0] == ["table", "field", "rows", "moved", "numbers", "before", "after", "most"]
    assert ["wide", "many", "5000", "5000", "16"] in [line[:5] for line in lines]
    assert ["narrow", "few", "3", "0", "4"] in [line[:5] for line in lines]
    assert {line[-1] for line in lines[1:5]} == {"16", "3", "4"}


def test_the_rows_before_training_are_those_that_training_began_with_and_seldom_seen_ones_stay():
    loader = MemoryLoader(users(60), 16, seed=5)
    spec = fitted_spec(replace(DRAFT, fields={**DRAFT.fields, "ad": replace(DRAFT.fields["ad"], space="none")}), loader, VOCABULARY)
    spec = replace(spec, fields={**spec.fields, "ad": replace(spec.fields["ad"], settings={"size": 500})})
    network = new_network(spec, loader, 11)
    began = {name: {field: rows.clone() for field, rows in its.items()} for name, its in network.field_rows().items()}
    for table, fields in drawn_network(spec, 11).field_rows().items():
        for name, rows in fields.items():
            assert torch.equal(rows, began[table][name])
    trained = train(network, loader, RankingConfig(epochs=1)).network
    shown = loader.batch.impressions
    seen = len(torch.unique(shown.rows["ad"][~shown.validation]))
    text = embedding_report(trained, drawn_network(spec, 11))[2]
    assert ["one", "ad", "500", str(seen), "8"] in [line.split()[:5] for line in text.splitlines()]
    other = embedding_report(trained, drawn_network(spec, 12))[2]
    assert ["one", "ad", "500", "500", "8"] in [line.split()[:5] for line in other.splitlines()], "another seed is another start"


def test_pictures_show_values_relative_to_the_largest_and_bars_before_and_after():
    before, after = drawn_network(SPEC, 7), drawn_network(SPEC, 7)
    rows_of(after, "narrow", "few")[:] = 0
    _, figures, _ = embedding_report(after, before)
    assert set(figures) == {"analyse_embeddings/singular_values.png", "analyse_embeddings/information_abundance.png"}
    spectra = figures["analyse_embeddings/singular_values.png"]
    assert [axes.get_title() for axes in spectra.axes] == ["wide", "narrow"]
    for axes in spectra.axes:
        assert axes.get_yscale() == "log"
    first = spectra.axes[0].lines[0].get_ydata()
    values = np.linalg.svd(rows_of(before, "wide", "many").double().numpy(), compute_uv=False)
    np.testing.assert_allclose(first, values / values[0], rtol=1e-6)
    bars = figures["analyse_embeddings/information_abundance.png"].axes[1]
    assert [label.get_text() for label in bars.get_yticklabels()] == ["many", "few"]
    assert [bar.get_width() for bar in bars.containers[1]][1] == 0, "rows of zeros"
    for figure in figures.values():
        figure.savefig(io.BytesIO())


def test_of_many_fields_the_most_collapsed_are_drawn_and_all_are_told():
    fields = {f"f{number}": FieldSpec("id", {"size": 40}) for number in range(MOST_LINES + 3)}
    spec = replace(SPEC, fields=fields)
    before, after = drawn_network(spec, 7), drawn_network(spec, 7)
    rows_of(after, "wide", "f21")[:] = 1.0
    metrics, figures, _ = embedding_report(after, before)
    axes = figures["analyse_embeddings/singular_values.png"].axes[0]
    assert axes.get_title() == f"wide: the {MOST_LINES} most collapsed of {MOST_LINES + 3} fields"
    drawn = [line.get_label() for line in axes.lines if line.get_label().startswith("f")]
    assert len(drawn) == MOST_LINES
    assert "f21" in drawn
    assert len(metrics) == 2 * 2 * len(fields)
