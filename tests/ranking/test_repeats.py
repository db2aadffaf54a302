"""Weights of repeated exposures: by hand, never below 1, and with the base rate as it was."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch

from alure_spark.config import RankingConfig, RepeatConfig
from alure_spark.config.ranking import FieldConfig
from alure_spark.errors import ConfigError
from alure_spark.ranking.repeats import factors, mean_of_negatives, repeat_weight

NAN = float("nan")
FIELDS = {"count": "seen", "days_since": "gap"}


def weights(counts, gaps, **settings):
    return repeat_weight(torch.tensor(counts), torch.tensor(gaps), RepeatConfig(**FIELDS, **settings)).tolist()


def test_a_weight_mixes_the_number_of_the_exposure_and_how_recent_the_last_one_is():
    # The third exposure, the last one a day ago: 0.5 * 3 + 0.5 * 1/2.
    assert weights([2.0], [1.0]) == [1.75]
    assert weights([2.0], [0.0]) == [2.0]
    assert weights([2.0], [2.0], half_life_days=4.0, alpha=0.25) == pytest.approx([0.25 * 3 + 0.75 * 0.5**0.5])
    assert weights([2.0], [4.0], literal=True) == [0.5 * 3 + 0.5 * 4]


def test_a_recent_repeat_weighs_more_and_by_the_letter_of_the_paper_less():
    ours, literal = (weights([1.0] * 3, [0.1, 1.0, 9.0], literal=literal) for literal in (False, True))
    assert ours == sorted(ours, reverse=True)
    assert len(set(ours)) == 3
    assert literal == sorted(literal)


def test_first_exposures_weigh_one_and_no_repeat_less():
    assert weights([0.0, NAN, 0.0], [NAN, NAN, 5.0]) == [1.0] * 3
    assert weights([0.0], [50.0], literal=True) == [1.0], "whatever else is known of it"
    assert weights([0.1, 0.1], [30.0, NAN]) == [1.0] * 2, "the mix is 0.55"


@pytest.mark.parametrize("seed", range(5))
def test_the_weighted_base_rate_is_kept_exactly(seed):
    random = np.random.default_rng(seed)
    count = random.integers(0, 5, 400).astype(float)
    gap = np.where(count > 0, 2.0 ** random.integers(-2, 3, 400), np.nan)
    labels, sample = torch.from_numpy((random.random(400) < 0.1).astype(float)), torch.from_numpy(2.0 ** random.integers(-1, 3, 400))
    weight = repeat_weight(torch.from_numpy(count), torch.from_numpy(gap), RepeatConfig(**FIELDS))
    assert weight.max() > 1
    weighed, whole = mean_of_negatives(labels, weight, sample)
    found = factors(labels, weight, weighed / whole)
    # The same in whole numbers, by the words of the paper.
    w, s, y = ([Fraction(one) for one in its.tolist()] for its in (weight, sample, labels))
    ratio = sum((1 - a) * b * c for a, b, c in zip(y, w, s, strict=True)) / sum((1 - a) * c for a, c in zip(y, s, strict=True))
    parts = [(c * (ratio if a else b), a) for a, b, c in zip(y, w, s, strict=True)]
    assert sum(part * a for part, a in parts) / sum(part for part, _ in parts) == sum(c * a for c, a in zip(s, y, strict=True)) / sum(s)
    assert found.tolist() == pytest.approx([float(ratio if a else b) for a, b in zip(y, w, strict=True)], rel=1e-15)
    rates = [float((its * labels).sum() / its.sum()) for its in (sample * found, sample)]
    assert rates[0] == pytest.approx(rates[1], rel=1e-14)
    assert float((sample * weight * labels).sum() / (sample * weight).sum()) != pytest.approx(rates[1], rel=1e-3), "not so by themselves"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"count": "seen"}, "ranking.repeats.days_since is ''"),
        ({"days_since": "gap"}, "ranking.repeats.days_since is 'gap'"),
        ({**FIELDS, "alpha": 1.1}, "ranking.repeats.alpha is 1.1"),
        ({**FIELDS, "half_life_days": 0.0}, "ranking.repeats.half_life_days is 0"),
    ],
)
def test_weights_that_cannot_be_are_one_sentence(given, says):
    with pytest.raises(ConfigError, match=says):
        RepeatConfig(**given)


def field(reads, encoding="numeral_systems", **more):
    return FieldConfig(reads, encoding, **more)


def test_repeats_read_numbers_that_are_fields():
    fields = {"ad": field("impression.ad_id", "id"), "seen": field("history.ad_impression.decayed_same.ad", days=7.0)}
    fields["gap"] = field("history.ad_impression.days_since_same.ad")
    assert RankingConfig(fields=fields, repeats=RepeatConfig(**FIELDS)).repeats.count == "seen"
    with pytest.raises(ConfigError, match="ranking.repeats.days_since names the field 'gpa'; did you mean 'gap'"):
        RankingConfig(fields=fields, repeats=RepeatConfig("seen", "gpa"))
    with pytest.raises(ConfigError, match="ranking.repeats.count is 'ad'; allowed: a field that is a number"):
        RankingConfig(fields=fields, repeats=RepeatConfig("ad", "gap"))
    with pytest.raises(ConfigError, match=r"ranking.fields days is 0\.?0?; allowed: above 0 for history.STREAM.decayed_same.FIELD"):
        field("history.ad_impression.decayed_same.ad")
    with pytest.raises(ConfigError, match="or of FIELD .same, .days_since_same or .decayed_same, each with .FIELD"):
        field("history.ad_impression.decayed_same")
    with pytest.raises(ConfigError, match="ranking.fields.seen.reads names the field 'da'"):
        RankingConfig(fields=fields | {"seen": field("history.ad_impression.decayed_same.da", days=7.0)})


def test_an_impression_of_any_value_is_one_with_a_response():
    weight, sample = torch.tensor([2.0, 3.0, 1.0, 5.0]), torch.tensor([1.0, 0.5, 2.0, 1.0])
    for labels in (torch.tensor([0.0, 1.0, 0.0, 1.0]), torch.tensor([0.0, 250.0, 0.0, 0.3])):
        assert mean_of_negatives(labels, weight, sample) == (1 * 2 + 2 * 1, 3)
        assert factors(labels, weight, 7.0).tolist() == [2, 7, 1, 7]
