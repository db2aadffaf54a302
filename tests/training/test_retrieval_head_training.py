"""How a head of standalone retrieval learns, where the truth is planted. No Spark."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from alure_spark.config import StandaloneConfig
from alure_spark.errors import DataError
from alure_spark.model.retrieval_head import HeadArtifact
from alure_spark.training.retrieval_head import Catalogue, Engagements, SampledSoftmax, hit_rate, split, train_head

ADS, INPUTS, OUTPUTS = 200, 6, 5
CONFIG = StandaloneConfig(head="linear", epochs=15, learning_rate=0.03, negatives=64)
ALWAYS = torch.full((ADS,), 2**62)


def planted(count, curved=False, seed=5):
    """Users engage with the ad that a softmax over a planted map of their vector draws; the map, (n, INPUTS) -> (n, OUTPUTS)."""
    random = np.random.default_rng(seed)
    truth, turned = random.normal(size=(INPUTS, OUTPUTS)) * 1.2, random.normal(size=(INPUTS, OUTPUTS)) * 2.5
    ads, users = random.normal(size=(ADS, OUTPUTS)), random.normal(size=(count, INPUTS))
    wanted = np.abs(users) @ turned if curved else users @ truth
    odds = wanted @ ads.T
    chances = np.exp(odds - odds.max(1, keepdims=True))
    chosen = np.array([random.choice(ADS, p=one / one.sum()) for one in chances])
    vectors = torch.from_numpy(ads).float() * 4
    catalogue = Catalogue(vectors, torch.arange(ADS), torch.zeros(ADS, dtype=torch.int64), ALWAYS)
    rows = Engagements(torch.from_numpy(users).float() * 0.2 + 3, vectors[chosen], torch.from_numpy(chosen), torch.arange(count))
    return rows, catalogue, truth


def test_a_linear_head_learns_a_planted_linear_map():
    rows, catalogue, truth = planted(4000)
    head, fitted = train_head(rows, catalogue, CONFIG)
    # users are 0.2 x + 3 and ads 4 a: the map of x to what meets a
    step = 0.2 * torch.eye(INPUTS, dtype=torch.float64)
    learned = 4 * (head.double()(step + 3) - head(torch.full((1, INPUTS), 3.0, dtype=torch.float64))).detach().numpy()
    assert np.corrcoef(learned.ravel(), truth.ravel())[0, 1] > 0.98
    assert np.abs(learned - truth).mean() < 0.25 * np.abs(truth).mean(), "its products are log-odds, not only in their order"
    chance = 20 / ADS
    assert hit_rate(head, split(rows, CONFIG)[1], catalogue, 20) > 5 * chance
    assert fitted.best_epoch >= 0


def test_two_layers_learn_what_one_cannot():
    rows, catalogue, _ = planted(4000, curved=True)
    newest = split(rows, CONFIG)[1]
    one, two = (
        hit_rate(train_head(rows, catalogue, replace(CONFIG, head=kind))[0], newest, catalogue, 20) for kind in ("linear", "two_layers")
    )
    assert two > one + 0.1


def test_users_dealt_out_at_random_teach_nothing_but_what_is_popular():
    rows, catalogue, _ = planted(4000)
    strangers = rows._replace(users=rows.users[torch.from_numpy(np.random.default_rng(1).permutation(4000))])
    learned, newest = split(rows, CONFIG)
    popular = torch.isin(newest.ad, torch.bincount(learned.ad, minlength=ADS).topk(20).indices).double().mean()
    theirs, mine = (hit_rate(train_head(one, catalogue, CONFIG)[0], split(one, CONFIG)[1], catalogue, 20) for one in (strangers, rows))
    assert theirs < popular + 0.05
    assert mine > popular + 0.2


def test_the_sample_expects_the_loss_among_all_ads():
    rows, catalogue, _ = planted(500)
    head = train_head(rows, catalogue, replace(CONFIG, epochs=2))[0].float()
    whole = float(SampledSoftmax(head, catalogue, ADS).losses(*rows)["softmax"].detach())
    torch.manual_seed(0)
    drawn = [float(SampledSoftmax(head, catalogue, 100).losses(*rows)["softmax"].detach()) for _ in range(30)]
    assert np.mean(drawn) == pytest.approx(whole, rel=0.03)


def test_an_ad_that_could_not_be_shown_is_no_alternative():
    rows, catalogue, _ = planted(300)
    head = train_head(rows, catalogue, replace(CONFIG, epochs=1))[0].float()
    later = catalogue._replace(from_ms=torch.full((ADS,), 10**6))
    over = catalogue._replace(to_ms=torch.zeros(ADS, dtype=torch.int64))
    for none_could in (later, over):
        assert float(SampledSoftmax(head, none_could, ADS).losses(*rows)["softmax"].detach()) == pytest.approx(0, abs=1e-6)
        assert hit_rate(head, rows, none_could, 1) == 1
    assert float(SampledSoftmax(head, catalogue, ADS).losses(*rows)["softmax"].detach()) > 1


def test_a_training_twice_gives_the_same_head_and_another_seed_another():
    rows, catalogue, _ = planted(600)
    digests = [
        HeadArtifact.of(train_head(rows, catalogue, replace(CONFIG, head="two_layers", epochs=2, seed=seed))[0], "", "", {}).digest
        for seed in (7, 7, 8)
    ]
    assert digests[0] == digests[1] != digests[2]


def test_the_newest_engagements_choose_the_epoch_and_are_not_learned_from():
    rows, catalogue, _ = planted(600)
    learned, newest = split(rows, CONFIG)
    assert (len(learned.ad), len(newest.ad)) == (540, 60)
    assert int(learned.time_ms.max()) < int(newest.time_ms.min())
    other = rows._replace(ad=torch.cat([learned.ad, torch.zeros(60, dtype=torch.int64)]), users=rows.users.clone())
    other.users[540:] = 0
    last = replace(CONFIG, epochs=1)
    heads = [train_head(one, catalogue, last)[0].state_dict() for one in (rows, other)]
    assert all(torch.equal(heads[0][name], heads[1][name]) for name in heads[0])


def test_too_little_to_learn_from_is_one_sentence():
    rows, catalogue, _ = planted(1)
    with pytest.raises(DataError, match=r"takes 2 engagements and 2 ads; there are 1 and 200"):
        train_head(rows, catalogue, CONFIG)
