"""Fields of the ranking model with and without: a planted taste is found, that of another user is not, and all sides are alike."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from alure_spark.batches.batch import Impressions, JaggedBatch, offsets_of
from alure_spark.batches.epochs import MemoryLoader
from alure_spark.batches.vocabulary import Vocabulary
from alure_spark.clock import DAY_MS, parse_time
from alure_spark.config import RankingConfig
from alure_spark.ranking.spec import FieldSpec
from alure_spark.training.ranking_model import fitted_spec
from benchmarks.ranking_fields import EMBEDDING, OTHERS, RAW, SETS, SIMILARITY, Logged, as_given, measured, of_another, spec_of
from benchmarks.ranking_parts import spec_of as ranking_spec

USERS, EACH, NUMBERS = 200, 6, 4
DRAFT = ranking_spec({
    "ad": FieldSpec("id", {"size": 3}, group="ad", part="ad"),
    "clicks": FieldSpec("numeral_systems", history="click.count"),
    "taste": FieldSpec("numbers", {"numbers": NUMBERS}),
    "near": FieldSpec("numeral_systems", interacts=False),
})  # fmt: skip


def batch(users, validation, null=False, seed=0):
    """Whether a user clicks depends on what the taste says of the ad; validation: share of the impressions."""
    random = np.random.default_rng([len(users), seed])
    taste = np.stack([np.random.default_rng(int(user[1:])).normal(size=NUMBERS) for user in users])
    owner, ad = np.repeat(np.arange(len(users)), EACH), random.integers(1, 3, len(users) * EACH)
    odds = 3 * taste[owner, ad - 1] * (not null)
    clicks = random.random(len(owner)) < 1 / (1 + np.exp(-odds))
    shown = Impressions(
        offsets=offsets_of(torch.full((len(users),), EACH)),
        time_ms=torch.arange(len(owner)) * 1000,
        rows={"ad": torch.from_numpy(ad)},
        numbers={"near": torch.from_numpy(random.normal(size=len(owner)).astype(np.float32))},
        labels={"click": torch.from_numpy(clicks.astype(np.float32))},
        weight=torch.ones(len(owner)),
        label_age_ms=torch.zeros(len(owner), dtype=torch.int64),
        validation=torch.from_numpy(random.random(len(owner)) < validation),
        vectors={"taste": torch.from_numpy(taste[owner].astype(np.float32))},
    )
    nobody = torch.zeros(len(users), dtype=torch.int64)
    return JaggedBatch("", tuple(users), nobody, nobody, {}, shown)


def logged(null=False):
    names = [f"u{number}" for number in range(USERS)]
    known = Vocabulary({"ad": (np.arange(1, 3), np.arange(1, 3))})
    config = RankingConfig(epochs=6, batch_users=32)
    return Logged(DRAFT, known, batch(names, 0.2, null), batch(names, 1.0, null, 1), {"taste": 1.0, "near": 1.0}, config)


@pytest.mark.parametrize("null", [False, True])
def test_a_planted_taste_is_found_and_that_of_another_user_and_of_a_world_without_are_not(null):
    draft = spec_of(DRAFT, "no histories", SIMILARITY)
    assert list(draft.fields) == ["ad", "near"]
    chain = replace(SETS["null"], compared=(EMBEDDING, RAW, OTHERS, SIMILARITY), bases=("no histories",))
    rows = {row["field"]: row for row in measured("planted", chain, logged(null), (7,), 200)}
    assert (rows[EMBEDDING]["low"] > 0.1) == (not null)
    for row in rows.values():
        assert row["low"] < row["gain"] < row["high"]
        assert row["rows"] == USERS * EACH
        assert abs(row["parameters_with"] / row["parameters_without"] - 1) <= 0.02
    assert rows[OTHERS]["gain"] < 0.02
    assert rows[SIMILARITY]["low"] < 0


def test_another_users_embedding_is_the_same_in_all_batches_and_nobodys_own():
    names = [f"u{number}" for number in range(30)]
    given = [batch(names[:20], 0.2), batch(names[10:], 1.0)]
    given[0].impressions.vectors["taste"][:EACH] = float("nan")  # nobody knows the taste of u0
    own = {user: np.random.default_rng(int(user[1:])).normal(size=NUMBERS).astype(np.float32) for user in names[1:]}
    found: dict[str, set] = {}
    for one in of_another(given, "taste", 1):
        users = np.array(one.user_ids)[one.impressions.users().numpy()]
        for user, values in zip(users, one.impressions.vectors["taste"].numpy(), strict=True):
            donors = {other for other, its in own.items() if np.array_equal(its, values)} or {"u0"}
            found.setdefault(user, set()).update(donors)
    assert all(len(donors) == 1 and user not in donors for user, donors in found.items())
    assert len({donor for donors in found.values() for donor in donors}) == len(names)


def test_an_embedding_as_it_is_given_has_no_mean_and_all_else_is_alike():
    given = logged()
    fitted = fitted_spec(spec_of(DRAFT, "no histories", EMBEDDING), MemoryLoader(given.learnt, 32, 0), given.vocabulary)
    raw = as_given(fitted, "taste")
    assert len(fitted.fields["taste"].settings["center"]) == NUMBERS
    assert raw.fields["taste"].settings == {"numbers": NUMBERS}
    assert {**raw.fields, "taste": fitted.fields["taste"]} == fitted.fields


def test_a_base_has_the_fields_of_the_conf_and_what_is_compared_only():
    assert list(spec_of(DRAFT, "histories", "").fields) == ["ad", "clicks"]
    assert list(spec_of(DRAFT, "histories", EMBEDDING).fields) == ["ad", "clicks", "taste"]
    assert list(spec_of(DRAFT, "no histories", OTHERS).fields) == ["ad", "taste"]


@pytest.mark.parametrize("name", SETS)
def test_every_impression_that_is_read_may_have_an_embedding_of_a_model_that_did_not_know_it(name):
    chain = SETS[name]
    first, cut, end, known = map(parse_time, (chain.first, chain.cut, chain.end, chain.known))
    assert first < cut < end < known
    published = chain.publications()
    assert published[0] == first
    assert max(np.diff([*published, end])) <= chain.every_days * DAY_MS
