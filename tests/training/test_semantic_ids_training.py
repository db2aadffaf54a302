"""Training of semantic ids: planted clusters are found, it is repeatable, unused codes are revived, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from alure_spark.config import SemanticIdConfig
from alure_spark.errors import DataError
from alure_spark.model.semantic_ids import reconstruction_error, usage
from alure_spark.training.semantic_ids import revive, train_semantic_ids

SMALL = SemanticIdConfig(levels=2, codes=8, hidden=16, epochs=3, batch=128, kmeans_iterations=5)


def clusters(rows=2_000, seed=0):
    """16 clusters in 6 dimensions that are sums of one of 4 coarse and one of 4 fine centres: two codes can say which."""
    draw = np.random.default_rng(0)
    coarse, fine = draw.normal(0, 3, (4, 6)), draw.normal(0, 1, (4, 6))
    draw = np.random.default_rng([seed, 1])
    which = draw.integers(0, 4, (rows, 2))
    return torch.from_numpy((coarse[which[:, 0]] + fine[which[:, 1]] + draw.normal(0, 0.05, (rows, 6))).astype(np.float32))


def test_training_finds_planted_clusters_and_is_repeatable():
    embeddings, later = clusters(), clusters(seed=1)
    model = train_semantic_ids(embeddings, SMALL)
    codes = model.encode(later)
    assert reconstruction_error(later, model.decode(codes)) < 0.01
    assert torch.equal(train_semantic_ids(embeddings, SMALL).codebooks, model.codebooks)
    assert not torch.equal(train_semantic_ids(embeddings, replace(SMALL, seed=8)).codebooks, model.codebooks)


def test_more_levels_and_more_codes_remake_embeddings_better():
    x = torch.randn(3_000, 8, generator=torch.Generator().manual_seed(5))
    found = {}
    for levels, codes in ((1, 8), (2, 8), (3, 8), (2, 32)):
        model = train_semantic_ids(x, replace(SMALL, levels=levels, codes=codes))
        found[levels, codes] = reconstruction_error(x, model.decode(model.encode(x)))
    assert found[1, 8] > found[2, 8] > found[3, 8]
    assert found[2, 8] > found[2, 32]


def test_codes_that_nobody_takes_are_revived():
    embeddings = clusters()
    model = train_semantic_ids(embeddings, SMALL)
    model.codebooks[0, 3:] = 1e3  # a collapsed codebook
    before = usage(model.encode(embeddings), 8)[0]
    assert before.used <= 3 / 8
    assert revive(model, embeddings, torch.Generator().manual_seed(1)) >= 5
    after = usage(model.encode(embeddings), 8)[0]
    assert after.used > before.used
    assert after.perplexity > before.perplexity


def test_too_few_embeddings_are_refused():
    with pytest.raises(DataError, match=r"7 embeddings are too few for 8 codes"):
        train_semantic_ids(clusters(7), SMALL)


def test_where_nothing_can_validate_the_start_stays():
    """One embedding is held out, which says nothing about the spread: the codes are those of K-means, a row each."""
    x = torch.randn(12, 6, generator=torch.Generator().manual_seed(5))
    model = train_semantic_ids(x, replace(SMALL, levels=1, codes=12))
    torch.testing.assert_close(model.decode(model.encode(x)), x)
    assert not any(parameter.any() for parameter in model.encoder.inner[2].parameters()), "the encoder is the identity still"
