"""The worlds hold what they say, models that are compared are of one size, and a part gains where it is planted and not where it is not."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch

from alure_spark.batches.epochs import MemoryLoader
from alure_spark.clock import DAY_MS, HOUR_MS
from alure_spark.config import ExpertConfig
from alure_spark.metrics import auc, normalized_entropy
from alure_spark.ranking.spec import FieldSpec
from alure_spark.training import ranking_model
from benchmarks import ranking_parts, readme
from benchmarks import ranking_worlds as worlds

WORLDS = ranking_parts.WORLDS


def drawn(name, users=300, null=False, seed=1):
    return WORLDS[name].make(np.random.default_rng(seed), users, null)


def logits(one):
    return np.log(one.truth / (1 - one.truth))


@pytest.mark.parametrize("name", WORLDS)
def test_a_null_twin_has_the_same_users_and_another_law(name):
    one, again, null = drawn(name), drawn(name), drawn(name, null=True)
    for part in ("rows", "numbers", "vectors", "events"):
        for column, values in getattr(one, part).items():
            np.testing.assert_array_equal(values, getattr(again, part)[column])
            np.testing.assert_array_equal(values, getattr(null, part)[column])
    assert (one.clicks == again.clicks).all()
    assert not np.allclose(one.truth, null.truth)


@pytest.mark.parametrize("name", WORLDS)
def test_the_best_prediction_of_a_world_is_known_and_leaves_room(name):
    one = drawn(name, users=4000)
    labels, truth, groups = worlds.tested(one)
    best = normalized_entropy(labels, truth)
    assert best < 0.88
    entropy = -(truth * np.log(truth) + (1 - truth) * np.log1p(-truth)).mean()
    assert -np.log(np.where(labels == 1, truth, 1 - truth)).mean() == pytest.approx(entropy, abs=0.05), "labels are drawn from it"
    assert len(labels) == len(groups)
    assert 0.2 < labels.mean() < 0.8


@pytest.mark.parametrize("name", WORLDS)
def test_the_three_parts_share_no_user_and_no_new_ad(name):
    one = drawn(name)
    learnt, tested = one.batch(test=False), one.batch(test=True)
    assert not set(learnt.user_ids) & set(tested.user_ids)
    assert tested.impressions.validation.all()
    assert 0 < learnt.impressions.validation.sum() < len(learnt.impressions.validation) / 2
    assert len(learnt) + len(tested) == sum(one.parts) == len(one.truth)
    if name == "look_alike":
        shown = [one.groups[begin:][:count] for begin, count in zip(np.cumsum([0, *one.parts[:2]]), one.parts, strict=True)]
        assert not set(shown[0].ravel()) & set(shown[1].ravel()) | set(shown[1].ravel()) & set(shown[2].ravel())
        assert not tested.impressions.rows["creative_id"].any(), "a new creative has no row"
        assert learnt.impressions.rows["creative_id"].any()


@pytest.mark.parametrize("name", ["interval", "category_match", "recent_match"])
def test_histories_are_by_time_and_before_their_impressions(name):
    batch = drawn(name).batch(test=False)
    tokens, shown = batch.sources["click"], batch.impressions
    assert (tokens.known_at_ms.diff()[tokens.users().diff() == 0] >= 0).all()
    assert (tokens.lengths > 1).all()
    assert (shown.time_ms.diff()[shown.users().diff() == 0] >= 0).all()
    first = shown.time_ms[shown.offsets[:-1]]
    assert (tokens.known_at_ms < first[tokens.users()]).all()


def test_a_click_is_as_likely_as_the_newest_event_says():
    one, null = drawn("interval"), drawn("interval", null=True)
    for user, at in enumerate(one.events["at_ms"]):
        for place, time in enumerate(one.time_ms[user]):
            age = time - max(at)
            pays = age < 4 * HOUR_MS or 2 * DAY_MS < age < 14 * DAY_MS
            assert one.truth[user, place] == (0.8 if pays else 0.2)
    assert np.ptp(null.truth) == 0


@pytest.mark.parametrize("name", ["category_match", "recent_match"])
def test_a_click_is_as_likely_as_a_walk_through_the_history_says(name):
    one, null = drawn(name), drawn(name, null=True)
    for user, (at, category) in enumerate(zip(one.events["at_ms"], one.events["category_id"], strict=True)):
        for place, target in enumerate(one.rows["category"][user]):
            ages = [worlds.NOW_MS - time for time, its in zip(at, category, strict=True) if time >= 0 and its == target]
            assert len(ages) <= 1, "how often it was met says nothing"
            pays = bool(ages) if name == "category_match" else bool(ages) and ages[0] < 2 * DAY_MS
            assert one.truth[user, place] == (0.8 if pays else 0.2)
            if name == "recent_match":
                assert null.truth[user, place] == (0.8 if ages else 0.2), "in the null twin it does not matter when"
    if name == "category_match":
        assert np.ptp(null.truth) == 0


def of_one_value(one, number):
    """Mean logit of each value of a number."""
    value = one.numbers[number].ravel().astype(int)
    return np.bincount(value, logits(one).ravel(), worlds.VALUES) / np.bincount(value, minlength=worlds.VALUES)


@pytest.mark.parametrize("name", ["ordinal", "waves"])
def test_neighbouring_numbers_are_alike_only_where_that_is_planted(name):
    for null, low, high in ((False, 0.5, 1), (True, -0.2, 0.2)):
        curve = of_one_value(drawn(name, 60_000, null), "number_a")
        assert low < np.corrcoef(curve[:-1], curve[1:])[0, 1] <= high
        turns = np.abs(np.diff(np.sign(np.diff(curve.reshape(10, 30).mean(axis=1))))).sum() / 2
        assert null or (turns > 2) == (name == "waves"), "a curve that only rises or falls, but for noise"


def test_ads_that_look_alike_are_as_good_only_where_that_is_planted():
    def nearest(one):
        look, ad = one.vectors["look"][:, 0], one.groups[:, 0]
        cosine = look @ look.T / np.outer(*[np.linalg.norm(look, axis=1)] * 2)
        cosine[ad[:, None] == ad] = -1
        return np.corrcoef(logits(one)[:, 0], logits(one)[cosine.argmax(axis=1), 0])[0, 1]

    assert nearest(drawn("look_alike", 3000)) > 0.2
    assert abs(nearest(drawn("look_alike", 3000, null=True))) < 0.15
    null = drawn("look_alike", 3000, null=True).alike
    assert worlds.spread_of(null.truth) < 1e-9 < 0.05 < worlds.spread_of(drawn("look_alike", 3000).alike.truth)


def test_no_change_of_signs_makes_the_groups_meet_alike_and_the_null_twin_is_the_law_of_fm():
    for signs in product((-1, 1), repeat=3):
        assert not (worlds.SIGNS * np.outer(signs, signs) == 1 - np.eye(3)).all()
    effects = {}
    for null in (False, True):
        one = drawn("opposite_groups", 20_000, null)
        z = logits(one)[:, 0]
        value = np.stack([rows[:, 0] for rows in one.rows.values()])
        vectors = np.random.default_rng(0).normal(0, 3**-0.25, (6, worlds.OF_GROUP, 3))[np.arange(6)[:, None], value - 1]
        pairs = {(i, j): (vectors[i] * vectors[j]).sum(axis=1) for i in range(6) for j in range(i + 1, 6)}
        effects[null] = dict(zip(pairs, np.linalg.lstsq(np.stack(list(pairs.values()), 1), z, rcond=None)[0], strict=True))
        np.testing.assert_allclose(z, np.stack(list(pairs.values()), 1) @ list(effects[null].values()), atol=1e-8)
    assert np.allclose(list(effects[True].values()), 0.8)
    for (i, j), effect in effects[False].items():
        assert effect == pytest.approx(0.8 * worlds.SIGNS[i // 2, j // 2], abs=1e-8)


def interaction(one, i, j):
    """Singular values, descending, of how fields i and j meet: the mean logit of each pair of values without what each says alone."""
    value, z = [rows.ravel() - 1 for rows in one.rows.values()], logits(one).ravel()
    shape = value[i].max() + 1, value[j].max() + 1
    pair = value[i] * shape[1] + value[j]
    mean = (np.bincount(pair, z) / np.bincount(pair)).reshape(shape)
    mean -= mean.mean(axis=1, keepdims=True)
    return np.linalg.svd((mean - mean.mean(axis=0)) / mean.size**0.5, compute_uv=False)


def test_fields_of_few_values_pull_as_hard_in_few_directions_as_the_others_in_their_strongest_and_not_in_the_null_twin():
    planted, null = (drawn("collapse", 60_000, which) for which in (False, True))
    for one in (planted, null):
        among = interaction(one, 0, 1)
        assert among[worlds.DIRECTIONS - 1] > 2 * among[worlds.DIRECTIONS], "so many directions, and no more"
        for place, values in enumerate(worlds.FEW):
            met = interaction(one, 0, worlds.MEETING + place)
            assert met[values - 1] < 1e-6
            assert (met[0] > 0.6 * among[0]) == (one is planted)
            assert (met[values - 2] > 2 * among[worlds.DIRECTIONS]) == (one is planted)


@pytest.mark.parametrize("name", WORLDS)
def test_models_that_are_compared_have_as_many_parameters(name):
    world, one = WORLDS[name], drawn(name, 2000)
    loader = MemoryLoader(one.batch(test=False), 500, 7)
    fitted = {model: ranking_model.fitted_spec(spec, loader, ranking_parts.vocabulary(one)) for model, spec in world.specs.items()}
    equal = ranking_parts.equalized(fitted, world.equal)
    for group in world.equal or [list(fitted)]:
        counts = [ranking_parts.parameters(equal[model]) for model in group]
        assert max(counts) <= 1.02 * min(counts)
        assert max(ranking_parts.parameters(fitted[model]) for model in group) <= max(counts), "the smaller ones grow"


def test_a_model_that_cannot_be_made_as_large_is_an_error():
    small = replace(
        WORLDS["look_alike"].specs["ids"],
        fields={"a": FieldSpec("id", {"size": 3}), "b": FieldSpec("id", {"size": 3})},
        tables={"wide": 4096},
        experts={"flat": ExpertConfig("flat_dnn", "wide", {"hidden": ()})},
        hidden=1,
    )
    large = replace(small, fields=small.fields | {"a": FieldSpec("id", {"size": 4})})  # by half of what a wider layer adds
    with pytest.raises(ValueError, match="the largest model it is compared with"):
        ranking_parts.equalized({"small": small, "large": large})


def test_only_bases_that_are_powers_of_two_keep_the_distance():
    kept = {base: worlds.kept_distance(base, 1500) for base in ranking_parts.BASES}
    assert min(kept[2], kept[4], kept[16]) > 0.65
    assert max(kept[3], kept[10]) < 0.4
    assert kept[2] > kept[4] > kept[16]


def test_a_gain_is_one_minus_the_ratio_of_two_normalized_entropies():
    random = np.random.default_rng(3)
    labels = random.random(400) < 0.3
    one, other = random.uniform(0.1, 0.9, (2, 400))
    losses = [ranking_parts.cross_entropies(labels, p) for p in (one, other)]
    row = ranking_parts.gain([losses[0]], [losses[1]], [np.arange(400) // 4], 50)
    assert row["gain"] == pytest.approx(1 - normalized_entropy(labels, one) / normalized_entropy(labels, other))
    assert row["low"] < row["gain"] < row["high"]
    assert row["gain_min"] == row["gain_max"] == row["gain"]
    same = ranking_parts.gain([losses[0]] * 2, [losses[0]] * 2, [np.arange(400)] * 2, 20)
    assert same["gain"] == same["low"] == same["high"] == 0


@functools.cache
def gains(name, users, rates, models=(), seeds=(7,)):
    """(row of the planted world, row of its null twin) of the first pair of models."""
    torch.set_num_threads(1)
    pair = WORLDS[name].pairs[0]
    specs = {model: WORLDS[name].specs[model] for model in models or pair}
    world = replace(WORLDS[name], specs=specs, pairs=[pair], equal=(), rates=rates)
    return [ranking_parts.measured(world, null, seeds, users, 200)[0] for null in (False, True)]


def assert_gain_only_where_planted(rows, least=0.0, most_by_chance=0.01):
    planted, null = rows
    assert planted["low"] > least, planted
    assert null["low"] <= most_by_chance, null
    assert null["gain"] < planted["gain"] / 4


@pytest.mark.parametrize(
    ("name", "users", "least"),
    [("interval", 1500, 0.1), ("recent_match", 3000, 0.02), ("look_alike", 7000, 0.02), ("neighbours", 2000, 0.05)],
)
def test_a_part_gains_where_it_must_and_not_in_the_null_twin(name, users, least):
    assert_gain_only_where_planted(gains(name, users, (8e-3,)), least)


def test_the_clicks_of_others_tell_a_circle_and_no_user_is_shown_what_they_clicked():
    one = drawn("neighbours", users=3000)
    shown, clicked = one.rows["category"], one.events["category_id"]
    assert not (shown[:, :, None] == clicked[:, None]).any()
    own = one.truth == worlds.PAYS
    assert auc(own.ravel().astype(float), one.numbers["similarity"].ravel()) > 0.9


def test_creatives_of_an_ad_score_about_as_alike_as_they_are():
    planted, null = gains("look_alike", 7000, (8e-3,))
    assert 0.5 * planted["spread_best"] < planted["spread_with"] < 1.5 * planted["spread_best"]
    assert null["spread_best"] < 1e-9
    assert null["spread_with"] < planted["spread_with"] / 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["category_match", "ordinal", "waves", "opposite_groups"])
def test_the_other_parts_gain_too(name):
    assert_gain_only_where_planted(gains(name, WORLDS[name].users, (8e-3,)))


@pytest.mark.slow
def test_the_run_leaves_rows_that_the_page_shows(tmp_path):
    arguments = ["--worlds", "look_alike", "interval", "--seeds", "7", "--share", "0.1", "--resamples", "20", "--results", str(tmp_path)]
    ranking_parts.main(arguments)
    result = json.loads((tmp_path / "ranking_parts.json").read_text())
    assert [row["world"] for row in result["rows"] if row["set"] == "parts"] == ["interval"] * 2 + ["look_alike"] * 4
    text = readme.ranking_parts_text(result)
    assert text.count("\n| look_alike |") == 2
    assert "| 16 |" in text
