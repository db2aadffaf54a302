"""The worth of an embedding in worlds where it is known: one that carries the signal, and noise."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.special import expit

from alure_spark.analysis.ranking_gain import ranking_gain
from alure_spark.errors import DataError

USERS, DIMENSION = 400, 64


def world(kind, seed=0):
    """(base, embeddings, labels, users, is_train): 3,000 impressions, an eighth of them positive, half by what only the user knows."""
    random = np.random.default_rng(seed)
    user = random.integers(0, USERS, 3000)
    taste = random.normal(size=(USERS, 2))
    base = random.normal(size=(3000, 6))
    labels = (random.random(3000) < expit(-2.8 + base[:, 0] + taste[user, 0] - taste[user, 1])).astype(float)
    embeddings = random.normal(size=(USERS, DIMENSION)) * 0.1
    if kind == "signal":
        embeddings[:, :2] += taste * 0.3
    if kind == "constant":
        embeddings[:] = 0.5
    return base, embeddings[user], labels, user, np.arange(3000) < 2000


@pytest.fixture(scope="module")
def gains():
    return {kind: {one.ranker: one for one in ranking_gain(*world(kind), seeds=(7, 8), resamples=200)} for kind in ("signal", "random")}


@pytest.mark.parametrize("ranker", ["logistic_regression", "network"])
def test_an_embedding_that_carries_the_signal_lowers_the_entropy(gains, ranker):
    given = gains["signal"][ranker]
    assert given.low > 0.05
    assert given.low < given.mean_gain < given.high
    assert min(given.factor) > 0
    np.testing.assert_allclose(given.gain, 1 - np.array(given.ne_with) / given.ne_without)
    assert given.mean_gain == pytest.approx(np.mean(given.gain))


@pytest.mark.parametrize("ranker", ["logistic_regression", "network"])
def test_noise_does_no_more_harm_than_noise(gains, ranker):
    given = gains["random"][ranker]
    assert given.low <= 0 <= given.high
    assert abs(given.mean_gain) < 0.01
    assert given.ne_without == gains["signal"][ranker].ne_without, "without an embedding its content cannot matter"


def test_only_the_training_part_decides_and_the_same_seed_gives_the_same_answer():
    base, embeddings, labels, users, is_train = world("signal")
    once = ranking_gain(base, embeddings, labels, users, is_train, seeds=(7,), resamples=50)
    order = np.argsort(~is_train, kind="stable")
    again = ranking_gain(*(array[order] for array in (base, embeddings, labels, users, is_train)), seeds=(7,), resamples=50)
    assert once == again
    flipped = ranking_gain(base, embeddings, np.where(is_train, labels, 1 - labels), users, is_train, seeds=(7,), resamples=50)
    assert [one.factor for one in flipped] == [one.factor for one in once]
    assert all(one.mean_gain < 0 for one in flipped), "what foretells the labels is wrong about their opposite"


def test_an_embedding_that_says_nothing_changes_nothing():
    for one in ranking_gain(*world("constant"), seeds=(7,), resamples=20):
        assert one.mean_gain == pytest.approx(0, abs=1e-7), one.ranker  # float32 sums in another order
    assert all(isinstance(value, float) for value in (dataclasses.asdict(one)["low"], one.gain[0], one.factor[0]))


def test_what_cannot_be_evaluated_is_refused_with_a_sentence():
    base, embeddings, labels, users, is_train = world("random")
    with pytest.raises(DataError, match="zeros where"):
        ranking_gain(base, np.where(embeddings > 0.2, np.nan, embeddings), labels, users, is_train)
    with pytest.raises(DataError, match="first dimensions"):
        ranking_gain(base, embeddings[:-1], labels, users, is_train)
