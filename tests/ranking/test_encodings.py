"""Encodings: the contract of all of them, and each against Python's own arithmetic."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from alure_spark.config import build
from alure_spark.errors import ConfigError, DataError
from alure_spark.ranking.encodings import ENCODINGS, Encoding, HashId, Ids, NumeralSystems, Words
from alure_spark.ranking.encodings.given import Given, Moments
from alure_spark.ranking.encodings.numeral_systems import ABOVE, BELOW, FIRST, MISSING, digits_of
from alure_spark.ranking.encodings.standardized import Standardized

RANDOM = np.random.default_rng(3)
NUMBERS = np.concatenate([RANDOM.normal(0, 100, 500), [math.nan, -1e6, 1e6, 0.0, -0.0]])
KINDS = ["integer", "uniform", "log", "quantile"]
CASES = {
    "id": (Ids(9), torch.from_numpy(RANDOM.integers(0, 9, 50))),
    "words": (Words(3, buckets=7), torch.tensor([[5, 12, 0], [0, 0, 0], [7, 7, 2**62]])),
    "hash_id": (HashId(6, bits=20, bases=(2, 3, 10, 16)), torch.tensor(RANDOM.normal(size=(50, 6))).float()),
    **{kind: (NumeralSystems.fitted(NUMBERS[:400], kind), torch.tensor(NUMBERS).float()) for kind in KINDS},
}


def test_every_encoding_has_a_case():
    assert set(ENCODINGS.values()) == {type(encoding) for encoding, _ in CASES.values()}


@pytest.mark.parametrize("name", CASES)
def test_the_contract_of_an_encoding(name):
    encoding, values = CASES[name]
    assert isinstance(encoding, Encoding)
    codes = encoding.codes(values)
    assert codes.dtype == torch.int64
    assert codes.shape == (len(values), encoding.width)
    assert int(codes.max()) < encoding.rows
    assert int(codes.min()) >= -1
    assert bool((codes >= 0).any(dim=1).all()), "no value leaves no trace"
    for kept in codes.tolist():
        rows = [row for row in kept if row >= 0]
        assert len(set(rows)) == len(rows) or name == "words"
    assert torch.equal(encoding.codes(values.flip(0)), codes.flip(0)), "of each value by itself"
    assert encoding.codes(values[:0]).shape == (0, encoding.width)
    plain = json.loads(json.dumps(dataclasses.asdict(encoding)))
    assert build(type(encoding), plain) == encoding


def numeral(number, base):
    """The digits of a whole number, the lowest first."""
    digits = []
    while number or not digits:
        number, digit = divmod(number, base)
        digits.append(digit)
    return digits


def test_the_paper_s_51_has_the_digits_of_the_paper():
    encoding = NumeralSystems(0, 63, 64, "integer", (2, 3))
    (codes,) = encoding.codes(torch.tensor([51.0])).tolist()
    binary, ternary = codes[1:7], codes[7:]
    assert [row - FIRST - 2 * place for place, row in enumerate(binary)] == [1, 1, 0, 0, 1, 1]
    assert [row - FIRST - 12 - 3 * place for place, row in enumerate(ternary)] == [0, 2, 2, 1]


@pytest.mark.parametrize("bases", [(2, 3, 10), (7,), (16, 2)])
@pytest.mark.parametrize("highest", [1, 2, 9, 10, 63, 64, 999, 1000, 10**6])
def test_digits_are_those_of_plain_division_and_no_two_share_a_row(bases, highest):
    encoding = NumeralSystems(0, highest, highest + 1, "integer", bases)
    assert encoding.lengths == [len(numeral(highest, base)) for base in bases]
    whole = sorted({0, highest, *RANDOM.integers(0, highest + 1, 40).tolist()})
    for number, codes in zip(whole, encoding.codes(torch.tensor(whole).double()).tolist(), strict=True):
        begin, expected = FIRST, [-1]
        for base, length in zip(bases, encoding.lengths, strict=True):
            digits = numeral(number, base)
            digits += [0] * (length - len(digits))
            expected += [begin + base * place + digit for place, digit in enumerate(digits)]
            begin += base * length
        assert codes == expected
        assert begin == encoding.rows


@pytest.mark.parametrize("kind", KINDS)
def test_steps_keep_the_order_of_numbers_and_fill_the_range(kind):
    encoding = NumeralSystems.fitted(NUMBERS[:400], kind, steps=32)
    inside = np.sort(NUMBERS[:400])
    steps = encoding.step(torch.tensor(inside)).numpy()
    assert (np.diff(steps) >= 0).all()
    assert (steps.min(), steps.max()) == (0, encoding.steps - 1)
    if kind == "integer":
        np.testing.assert_array_equal(steps, np.floor(inside) - np.floor(inside[0]))
    else:
        assert encoding.steps == 32
    if kind == "quantile":
        assert np.bincount(steps).min() >= 12, "400 numbers in 32 equal shares"


@pytest.mark.parametrize("kind", KINDS)
def test_missing_numbers_and_those_out_of_range_have_rows_of_their_own(kind):
    encoding = NumeralSystems.fitted(NUMBERS[:400], kind)
    codes = encoding.codes(torch.tensor([math.nan, -1e9, 1e9, -math.inf, math.inf, encoding.low, encoding.high], dtype=torch.float64))
    assert codes[:, 0].tolist() == [MISSING, BELOW, ABOVE, BELOW, ABOVE, -1, -1]
    assert (codes[0, 1:] == -1).all()
    assert torch.equal(codes[1, 1:], codes[5, 1:])
    assert torch.equal(codes[2, 1:], codes[6, 1:])


def test_a_number_that_is_constant_or_never_there_is_one_sentence():
    for values, what in (([3.0, 3.0, math.nan], "is always 3"), ([math.nan], "is always missing"), ([], "is always missing")):
        with pytest.raises(DataError, match=rf"the number {what} in the training split: leave the field out"):
            NumeralSystems.fitted(np.array(values))


def test_quantiles_of_a_number_with_few_values_are_these_values():
    encoding = NumeralSystems.fitted(np.repeat([1.0, 5.0, 7.0], [90, 8, 2]), "quantile", steps=64)
    assert encoding.steps == 3
    assert encoding.step(torch.tensor([1.0, 4.9, 5.0, 6.9, 7.0], dtype=torch.float64)).tolist() == [0, 0, 1, 1, 2]


def test_a_number_that_is_nearly_always_the_same_leaves_its_steps_to_the_others():
    """Plain quantiles would have given 4 of 100 values a step each."""
    rare = RANDOM.permutation(np.arange(1.0, 1001.0))
    encoding = NumeralSystems.fitted(np.concatenate([np.zeros(24_000), rare]), "quantile", steps=64)
    assert 55 <= encoding.steps <= 64
    steps = np.bincount(encoding.step(torch.tensor(rare)).numpy())
    assert steps[0] == 0, "0 has its step to itself"
    assert steps[1:].max() <= 25
    few = NumeralSystems.fitted(np.concatenate([np.zeros(24_000), rare[:50]]), "quantile", steps=64)
    assert few.steps == 51, "so few values have a step each"


def test_a_standardized_number_has_mean_0_and_deviation_1_and_says_what_is_missing():
    for log in (True, False):
        values = NUMBERS[np.isfinite(NUMBERS)]
        encoding = Standardized.fitted(np.append(values, math.nan), log)
        numbers = encoding.standardized(torch.tensor(values))
        assert numbers.shape == (len(values), 1)
        assert abs(float(numbers.mean())) < 1e-5
        assert abs(float(numbers.std()) - 1) < 2e-3
        assert encoding.standardized(torch.tensor([math.nan])).isnan().all()
    with pytest.raises(DataError, match="the number is always 3 in the training split"):
        Standardized.fitted(np.array([3.0, 3.0]))


def test_an_embedding_is_read_as_one_block_around_its_mean():
    values = np.random.default_rng(3).normal([2, -1, 0.5], [0.1, 0.2, 0.3], (500, 3))
    values[::7] = math.nan
    moments = Moments()
    for part in np.array_split(values, 4):
        moments.add(torch.from_numpy(part))
    there = values[~np.isnan(values).any(axis=1)]
    read = Given.fitted(moments, 3).standardized(torch.from_numpy(values)).numpy()
    expected = (values - there.mean(axis=0)) / np.sqrt(there.var(axis=0).mean())
    np.testing.assert_allclose(read, expected)
    same = Moments()
    same.add(torch.ones(4, 3))
    assert (Given.fitted(same, 3).standardized(torch.ones(2, 3)) == 0).all()


def test_models_of_before_take_an_embedding_as_it_is_given():
    given = torch.rand(5, 3)
    assert Given(3).standardized(given) is given


def test_an_id_beyond_the_vocabulary_is_one_sentence():
    for row in (-1, 9, 10**12):
        with pytest.raises(DataError, match=rf"a row is {row}, but the model has the rows 0 to 8"):
            Ids(9).codes(torch.tensor([0, row, 3]))


def test_the_share_of_bits_that_differ_is_the_angle():
    """P(a bit differs) = angle / pi: within five standard errors of 62 bits x 400 pairs each."""
    bits = 62
    for angle in (0.2, 0.8, 1.6, 2.4):
        one = RANDOM.normal(size=(400, 12))
        other = RANDOM.normal(size=(400, 12))
        one /= np.linalg.norm(one, axis=1, keepdims=True)
        other -= (other * one).sum(axis=1, keepdims=True) * one
        other /= np.linalg.norm(other, axis=1, keepdims=True)
        turned = math.cos(angle) * one + math.sin(angle) * other
        encoding = HashId(12, bits=bits)
        differ = encoding.hashes(torch.tensor(one)) ^ encoding.hashes(torch.tensor(turned))
        share = np.mean([bin(value & (2**bits - 1)).count("1") / bits for value in differ.tolist()])
        # Pairs share the projections, so the spread over bits counts, not over bits x pairs.
        assert share == pytest.approx(angle / math.pi, abs=5 * math.sqrt(angle / math.pi * (1 - angle / math.pi) / bits))


@pytest.mark.parametrize("bases", [(2, 4, 16), (2,), (8,)])
def test_one_flipped_bit_changes_one_digit_of_bases_that_are_powers_of_2(bases):
    encoding = HashId(4, bits=12, bases=bases)
    with pytest.MonkeyPatch.context() as patch:
        for bit in range(12):
            for number in (0, 4095, 1365):
                changed = []
                for value in (number, number ^ (1 << bit)):
                    patch.setattr(HashId, "hashes", lambda self, values, value=value: torch.tensor([value]))
                    changed.append(encoding.codes(torch.ones(1, 4)))
                assert int((changed[0] != changed[1]).sum()) == len(bases)


def test_an_embedding_that_is_missing_or_of_another_length():
    encoding = HashId(3, bits=8)
    codes = encoding.codes(torch.tensor([[math.nan, 1, 2], [0.0, 0, 0], [1, 2, 3]]))
    assert codes[:2, 0].tolist() == [0, 0]
    assert (codes[:2, 1:] == -1).all()
    assert codes[2, 0] == -1
    with pytest.raises(DataError, match="an embedding has 2 numbers, but the model was trained on 3"):
        encoding.codes(torch.ones(1, 2))
    with pytest.raises(ConfigError, match="63 bits; allowed: 1 to 62"):
        HashId(3, bits=63)
    assert not torch.equal(HashId(3, seed=1).codes(torch.ones(1, 3)), HashId(3, seed=2).codes(torch.ones(1, 3)))


def test_digits_of_powers_are_exact():
    """A logarithm in floating point says 2 for 1000 in base 10."""
    for base in (2, 3, 7, 10):
        for power in range(1, 18):
            assert (digits_of(base**power - 1, base), digits_of(base**power, base)) == (power, power + 1)
