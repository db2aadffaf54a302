"""Experts: the contract of all of them, and each against the sums of its paper, term by term."""

from __future__ import annotations

import itertools

import pytest
import torch

from alure_spark.errors import ConfigError
from alure_spark.ranking.experts import EXPERTS, Fields

FIELDS = Fields(tuple("abcdefg"), ("u", "u", "v", "w", "w", "w", "ad"), ("user",) * 6 + ("ad",))
ONE_PART = Fields(tuple("abc"), ("g", "g", "h"), ("p",) * 3)
DIMENSION = 8


def made(kind, fields=FIELDS, **options):
    torch.manual_seed(5)
    expert = EXPERTS[kind](fields, DIMENSION, **options).double()
    with torch.no_grad():
        for parameter in expert.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return expert


def vectors(rows=6, fields=FIELDS):
    return torch.randn(rows, len(fields), DIMENSION, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


CASES = [*((kind, {}) for kind in EXPERTS), ("gwpfm", {"scalar": True}), ("ipnn", {"with_vectors": False}), ("flat_dnn", {"hidden": ()})]


@pytest.mark.parametrize(("kind", "options"), CASES, ids=str)
@pytest.mark.parametrize("fields", [FIELDS, ONE_PART], ids=["two parts", "one part"])
def test_the_contract_of_an_expert(kind, options, fields):
    expert, given = made(kind, fields, **options), vectors(fields=fields).requires_grad_()
    found = expert(given)
    assert found.shape == (6, expert.width)
    torch.testing.assert_close(expert(given[2:3]), found[2:3], rtol=0, atol=1e-12)
    assert expert(given[:0]).shape == (0, expert.width)
    found.sum().backward()
    assert (given.grad != 0).any(dim=(0, 2)).all(), "every field is heard"
    assert all(parameter.grad is not None for parameter in expert.parameters())


@pytest.mark.parametrize("fields", [FIELDS, ONE_PART], ids=["two parts", "one part"])
@pytest.mark.parametrize("scalar", [False, True])
def test_gwpfm_is_the_double_sum_of_equation_4(fields, scalar):
    expert, given = made("gwpfm", fields, scalar=scalar), vectors(fields=fields)
    parts, groups = fields.part_names, fields.group_names
    size = DIMENSION // len(parts)
    expected = torch.zeros(len(given), size, dtype=torch.float64)
    for i, j in itertools.combinations(range(len(fields)), 2):
        of_i, of_j = (parts.index(fields.parts[field]) for field in (i, j))
        weights = expert.strengths[groups.index(fields.groups[i]), groups.index(fields.groups[j])]
        back = expert.strengths[groups.index(fields.groups[j]), groups.index(fields.groups[i])]
        met = given[:, i, of_j * size : (of_j + 1) * size] * given[:, j, of_i * size : (of_i + 1) * size]
        expected += met * (weights + back) / 2
    expected = expected.sum(dim=1, keepdim=True) if scalar else expected
    torch.testing.assert_close(expert(given), expected)


def test_products_are_those_of_plain_loops():
    given = vectors()
    both = list(itertools.combinations(range(len(FIELDS)), 2))
    inner = torch.stack([(given[:, i] * given[:, j]).sum(dim=1) for i, j in both], dim=1)
    torch.testing.assert_close(made("ipnn", with_vectors=False)(given), inner)
    torch.testing.assert_close(made("ipnn")(given), torch.cat([inner, given.flatten(1)], dim=1))
    torch.testing.assert_close(made("fm")(given), sum(given[:, i] * given[:, j] for i, j in both))
    weighted = made("fwfm")
    expected = sum(weighted.strengths[i, j] * given[:, i] * given[:, j] for i, j in both)
    torch.testing.assert_close(weighted(given), expected)


def test_the_cross_network_is_its_recursion():
    expert, given = made("dcn_v2", depth=3), vectors()
    for row, found in zip(given.flatten(1), expert(given), strict=True):
        x = row
        for cross in expert.crosses:
            x = torch.stack([row[k] * (cross.weight[k] @ x + cross.bias[k]) + x[k] for k in range(len(row))])
        torch.testing.assert_close(found, x)


def test_a_table_that_parts_cannot_share_and_a_group_in_two_parts_are_sentences():
    with pytest.raises(ConfigError, match="has 7 numbers a row; allowed: a multiple of its 2 parts"):
        EXPERTS["gwpfm"](FIELDS, 7)
    with pytest.raises(ConfigError, match="the group 'u' of ranking fields is in the parts ad, user; allowed: one"):
        EXPERTS["gwpfm"](Fields(("a", "b"), ("u", "u"), ("user", "ad")), 8)
