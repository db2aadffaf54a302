"""The other model learns from one side of the shop only, and from nothing that the small one is validated or tested on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks import interaction_transfer_real
from benchmarks.interaction_transfer import COMPARED, NOTHING, facts_of, other_model_of
from benchmarks.interaction_transfer_real import BORDER_MS, NAMES, results_of, upstream_rows
from benchmarks.transfer import Task, rows_of
from benchmarks.transfer_real_sets import HOME, online_retail
from tests.benchmarks.invoices import COUNTRIES, invoices


@pytest.fixture(scope="module", autouse=True)
def short():
    """Trainings of one epoch at one rate."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("CONFIG", "UPSTREAM"):
            patch.setattr(interaction_transfer_real, name, replace(getattr(interaction_transfer_real, name), epochs=1))
        patch.setattr(interaction_transfer_real, "RATES", (5e-3,))
        yield


@pytest.fixture(scope="module")
def shop():
    return online_retail(invoices(), 3)


def test_the_other_model_learns_from_home_and_nothing_from_the_border_on(shop):
    rows = upstream_rows(shop)
    assert not set(rows.user) & set(shop.rows.user)
    at_home = {number for number, country in COUNTRIES.items() if country == HOME}
    assert len(set(rows.user)) <= len(at_home)
    assert rows.time_ms.min() < BORDER_MS < rows.time_ms.max()
    np.testing.assert_array_equal(rows.is_train, rows.time_ms < BORDER_MS)
    config = replace(interaction_transfer_real.UPSTREAM, seed=1)
    later = replace(rows, training_label=np.where(rows.time_ms < BORDER_MS, rows.label, 1 - rows.label))
    one, again = (other_model_of(its, BORDER_MS - 10**9, config).network.state_dict() for its in (rows, later))
    assert all(torch.equal(one[name], again[name]) for name in one)


def test_both_sides_are_told_by_the_same_fields_each_counted_on_its_own(shop):
    rows = upstream_rows(shop)
    assert set(rows.numbers) == set(shop.rows.numbers)
    assert set(shop.rows.categories) - set(rows.categories) == {"country"}
    assert rows.numbers["sold_here"].mean() > shop.rows.numbers["sold_here"].mean(), "two thirds of the customers are at home"


def test_variants_with_the_other_model_are_of_one_shape_and_each_has_its_row(shop):
    results = results_of(shop, 1)
    assert len({one.weights for one in results.values()}) == 1
    assert results["frozen"].learning < results[NOTHING].learning
    rows = rows_of([Task(shop.rows, shop.cold, None)], [results], 20, facts_of, NOTHING, COMPARED, same_users=True)
    assert [row["variant"] for row in rows if row["kind"] == "variant" and row["rows"] == "all"] == list(NAMES)
    assert {row["rows"] for row in rows} == {"all", "cold"}
