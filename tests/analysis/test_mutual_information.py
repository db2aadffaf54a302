from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from sklearn.metrics import mutual_info_score

from alure_spark.analysis.mutual_information import information_of_counts, mutual_information
from alure_spark.errors import DataError

RANDOM = np.random.default_rng(2)


def test_bits_are_those_of_scikit_learn_less_the_bias_of_two_by_two():
    response = RANDOM.integers(0, 2, 300)
    facts = np.stack([response, RANDOM.integers(0, 2, 300), (response + (RANDOM.random(300) < 0.2)) % 2], axis=1)
    found = mutual_information(facts, response)
    plain = [mutual_info_score(fact, response) / np.log(2) for fact in facts.T]
    bias = 1 / (2 * 300 * np.log(2))
    # Two cells of the first table are empty, so its correction goes the other way: 2 + 2 - 2 - 1.
    np.testing.assert_allclose(found.bits, [plain[0] + bias, plain[1] - bias, plain[2] - bias])
    assert found.bits[0] > found.high[0]
    assert found.bits[2] > found.high[2]


def test_without_a_relation_the_mean_is_zero_and_the_interval_holds_19_of_20():
    facts = RANDOM.integers(0, 2, (400, 400)).astype(bool)
    response = RANDOM.integers(0, 2, 400)
    found = mutual_information(facts, response)
    error = found.bits.std() / np.sqrt(400)
    assert abs(found.bits.mean()) < 4 * error
    inside = ((found.bits >= found.low) & (found.bits <= found.high)).mean()
    assert abs(inside - 0.95) < 4 * np.sqrt(0.05 * 0.95 / 400)
    plain = np.mean([mutual_info_score(fact, response) / np.log(2) for fact in facts.T])
    assert plain > 4 * error, "uncorrected it is above 0"


def test_a_fact_or_response_that_never_differs_says_nothing():
    response = np.array([0, 1, 0, 1])
    found = mutual_information(np.array([[0, 1]] * 4), response)
    np.testing.assert_allclose(found.bits, 0, atol=1e-12)
    np.testing.assert_allclose(mutual_information(response[:, None], np.zeros(4)).bits, 0, atol=1e-12)


def test_equal_seeds_give_equal_intervals_and_none_are_nan():
    facts, response = RANDOM.integers(0, 2, (50, 3)), RANDOM.integers(0, 2, 50)
    one, again = mutual_information(facts, response), mutual_information(facts, response)
    np.testing.assert_array_equal(one.low, again.low)
    assert np.isnan(mutual_information(facts, response, permutations=0).low).all()


@pytest.mark.parametrize(
    ("facts", "response", "says"),
    [
        (np.zeros((3, 2)), np.zeros(4), r"facts are \(3, 2\) and responses \(4,\)"),
        (np.zeros((0, 2)), np.zeros(0), "n at least 1"),
        (np.full((3, 2), 2), np.zeros(3), "neither 0 nor 1"),
        (np.full((3, 2), np.nan), np.zeros(3), "neither 0 nor 1"),
    ],
)
def test_what_is_no_table_of_facts_is_a_sentence(facts, response, says):
    with pytest.raises(DataError, match=says):
        mutual_information(facts, response)


def by_enumeration(with_fact, positive, rows, level):
    """(low, high) from every way in which the responses can be given to the rows."""
    fact = np.arange(rows) < with_fact
    bits = []
    for who in combinations(range(rows), positive):
        response = np.zeros(rows)
        response[list(who)] = 1
        bits.append(mutual_information(fact[:, None], response, permutations=0).bits[0].round(9))
    bits = np.sort(bits)
    high = next(value for value in np.unique(bits) if (bits > value).mean() <= level / 2)
    low = next(value for value in np.unique(bits) if (bits <= value).mean() >= level / 2)
    return low, high


@pytest.mark.parametrize(("with_fact", "positive", "rows"), [(4, 3, 9), (5, 5, 10), (1, 6, 9), (0, 3, 8), (8, 3, 8), (3, 0, 7)])
@pytest.mark.parametrize("level", [0.05, 0.4])
def test_the_interval_of_counts_is_that_of_all_permutations(with_fact, positive, rows, level):
    least = max(0, with_fact + positive - rows)
    _, low, high = information_of_counts(np.array([least]), np.array([with_fact]), positive, rows, level)
    assert (low[0], high[0]) == pytest.approx(by_enumeration(with_fact, positive, rows, level), abs=1e-9)


def test_counts_say_what_the_rows_say():
    facts, response = RANDOM.random((3000, 6)) < np.linspace(0.02, 0.9, 6), RANDOM.random(3000) < 0.2
    of_rows = mutual_information(facts, response, permutations=4000)
    of_counts = information_of_counts((facts & response[:, None]).sum(axis=0), facts.sum(axis=0), int(response.sum()), 3000)
    np.testing.assert_allclose(of_counts.bits, of_rows.bits, atol=1e-11)
    np.testing.assert_allclose(of_counts.high, of_rows.high, rtol=0.12)
    np.testing.assert_allclose(of_counts.low, of_rows.low, atol=2e-5)


def test_the_interval_of_many_rows_is_quick_and_narrow():
    rows = 200_000_000
    _, low, high = information_of_counts(np.array([2_000_000]), np.array([20_000_000]), 20_000_000, rows)
    assert low[0] == pytest.approx(-1 / (2 * rows * np.log(2)), abs=1e-11)
    assert high[0] == pytest.approx(4.02 / (2 * rows * np.log(2)), rel=0.01), "chi square of one degree at 97.5 % is 5.02"


def test_counts_that_no_rows_can_have_are_a_sentence():
    for both, with_fact, positive, rows in ((4, 3, 5, 9), (0, 6, 6, 9), (0, 0, 0, 0)):
        with pytest.raises(DataError, match="cannot have the response"):
            information_of_counts(np.array([both]), np.array([with_fact]), positive, rows)


def test_tables_that_mirror_each_other_are_on_the_same_side_of_chance():
    """Half of the rows respond, so that `both` and with_fact - both say the same: rounding must not part them."""
    for with_fact in range(1, 60):
        both = np.arange(with_fact + 1)
        bits, _, high = information_of_counts(both, np.full(with_fact + 1, with_fact), 60, 120, 0.2)
        np.testing.assert_array_equal(bits, bits[::-1])
        np.testing.assert_array_equal(bits > high, (bits > high)[::-1])
