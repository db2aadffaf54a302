"""Worlds of exploration hold what they say, policies do what their names say, off-policy values are right where they are known."""

from __future__ import annotations

import io
import json
import zipfile

import numpy as np
import pandas as pd
import pytest
import torch

from alure_spark.ranking.exploration import Beliefs, Posterior, RandomFeatures
from benchmarks import exploration, off_policy
from benchmarks import exploration_policies as policies
from benchmarks import exploration_worlds as worlds
from benchmarks.exploration_policies import Contexts


def drawn(kind, seed=1):
    return worlds.drawn(np.random.default_rng(seed), kind)


def test_kinds_of_worlds_differ_in_what_they_say_and_in_nothing_else():
    cold, few, known, equal = map(drawn, worlds.KINDS)
    np.testing.assert_array_equal(few.truth, cold.truth)
    assert few.luck.size == cold.luck.size / 5
    np.testing.assert_array_equal(known.truth, cold.truth[:, : worlds.KNOWN])
    assert (known.arrives < 0).all()
    assert np.ptp(equal.truth) == 0
    assert equal.truth[0, 0] == pytest.approx(cold.truth.mean())
    for one in (cold, few, known, equal):
        assert (one.history.rows["group"] <= worlds.GROUPS).all()
        assert one.history.clicks.mean() == pytest.approx(one.history.truth.mean(), abs=0.01)
        assert len(one.alive(0)) == worlds.KNOWN + (one.arrives == 0).sum()
    assert len(cold.alive(worlds.LAST)) == worlds.KNOWN + worlds.COLD


def test_a_new_ad_may_be_the_best_and_its_content_tells_only_a_part():
    best = [drawn("cold", seed).truth.argmax(axis=1) >= worlds.KNOWN for seed in range(40)]
    assert 0.4 < np.mean(best) < 0.8
    logits = np.concatenate([np.log(one / (1 - one)) for one in (drawn("cold", seed).truth for seed in range(20))], axis=1)
    assert logits.mean() == pytest.approx(worlds.RATE, abs=0.1)
    assert logits.std() == pytest.approx(worlds.STRENGTH, abs=0.1)


class Oracle:
    """Shows the best ad, and keeps what it is told."""

    def __init__(self, world):
        self.world, self.told = world, []

    def choose(self, rows, requests):
        best = self.world.truth.ravel()[rows].argmax()
        return np.full(len(requests), best)

    def learn(self, shown, clicked):
        self.told.append((shown, clicked))


def test_who_knows_the_truth_has_no_regret_and_every_request_is_told():
    world = drawn("cold")
    oracle = Oracle(world)
    value, best = exploration.simulated(world, oracle)
    np.testing.assert_array_equal(value, best)
    shown, clicked = np.sum(oracle.told, axis=0)
    assert len(oracle.told) == worlds.DAYS
    assert shown.sum() == world.luck.size
    assert (clicked <= shown).all()
    assert clicked.sum() == pytest.approx(value.sum(), abs=4 * np.sqrt(value.sum()))


def contexts(count=12, width=3, seed=0):
    random = np.random.default_rng(seed)
    shown = random.integers(0, 30, count).astype(float)
    return Contexts(
        torch.from_numpy(random.normal(size=(count, width))), torch.from_numpy(random.normal(size=count) - 2), shown, (shown // 4)
    )


def fitted(given):
    posterior = Posterior.before_data(RandomFeatures.drawn(given.hidden.shape[1], 32, 1.0, 2.0, 5))
    return posterior.updated(lambda: [given.observed(given.shown, given.clicked)])


def test_thompson_draws_as_the_product_does():
    given, rows, requests = contexts(), np.array([1, 4, 5, 9]), [f"1/{number}" for number in range(50)]
    policy = policies.Thompson(given, fitted(given), seed=3)
    own = Beliefs(policy.beliefs.mean[rows], policy.beliefs.roots[rows])
    expected = [int(own.drawn([request] * 4, seed=3).argmax()) for request in requests]
    assert policy.choose(rows, requests).tolist() == expected
    assert len(set(expected)) > 1


def test_counts_say_the_same_as_single_impressions():
    given = contexts()
    shown, clicked = given.shown.astype(int), given.clicked.astype(int)
    rows = np.repeat(np.arange(12), shown)
    labels = np.concatenate([[1] * yes + [0] * (count - yes) for count, yes in zip(shown, clicked, strict=True)])
    single = policies.Observed(given.hidden[rows], given.logits[rows], torch.from_numpy(labels), torch.ones(len(rows)))
    before = Posterior.before_data(RandomFeatures.drawn(3, 32, 1.0, 2.0, 5))
    torch.testing.assert_close(fitted(given).precision, before.updated(lambda: [single]).precision)
    torch.testing.assert_close(fitted(given).mean, before.updated(lambda: [single]).mean)


def test_policies_on_a_posterior_differ_in_how_they_choose():
    given, rows, requests = contexts(), np.arange(12), ["r"] * 2000
    posterior = fitted(given)
    greedy = policies.OnPosterior(given, posterior, 1)
    best = int(greedy.mean.argmax())
    assert set(greedy.choose(rows, requests)) == {best}
    share = np.mean(policies.EpsilonGreedy(given, posterior, 1, 0.3).choose(rows, requests) != best)
    assert share == pytest.approx(0.3 * 11 / 12, abs=0.04)
    bound = policies.UpperBound(given, posterior, 1, 100.0)
    assert set(bound.choose(rows, requests)) == {int(bound.deviation.argmax())}
    policy = policies.OnPosterior(given, posterior, 1)
    policy.learn(np.where(rows == best, 500.0, 0.0), np.zeros(12))
    assert set(policy.choose(rows, requests)) != {best}


def test_linucb_is_ridge_regression_and_its_bound():
    given = contexts()
    p = torch.sigmoid(given.logits).numpy()
    precision, sums = np.eye(5), np.zeros(5)
    features = [np.r_[given.hidden[row].numpy(), p[row], 1.0] for row in range(12)]
    for _ in range(2):  # what was known before, and the same again as a day
        for row in range(12):
            for number in range(int(given.shown[row])):
                precision += np.outer(features[row], features[row])
                sums += features[row] * (number < given.clicked[row])
    inverse = np.linalg.inv(precision)
    expected = [one @ inverse @ sums + 0.7 * np.sqrt(one @ inverse @ one) for one in features]
    policy = policies.LinUcb(given, 0.7)
    policy.learn(given.shown, given.clicked)
    np.testing.assert_allclose(policy.bound, expected)
    assert policy.choose(np.array([3, 4, 5]), ["a", "b"]).tolist() == [int(np.argmax(expected[3:6]))] * 2


def test_a_short_run_publishes_a_row_per_policy_and_world(tmp_path, monkeypatch):
    monkeypatch.setattr(worlds, "DAYS", 2)
    monkeypatch.setattr(worlds, "REQUESTS", 40)
    monkeypatch.setattr(worlds, "SHOWN", 120)
    monkeypatch.setattr(exploration, "LENGTHS", (1.0,))
    exploration.main(["--seeds", "1", "2", "--tuning-seeds", "101", "--worlds", "cold", "equal", "--results", str(tmp_path)])
    rows = json.loads((tmp_path / "exploration.json").read_text())["rows"]
    assert [(row["world"], row["road"]) for row in rows] == [(kind, name) for kind in ("cold", "equal") for name in exploration.POLICIES]
    for row in rows:
        assert len(row["regret_by_day"]) == 2
        assert row["regret_by_day"][-1] == pytest.approx(row["regret"], abs=1e-3)
        assert ("thompson_minus" in row) == (row["road"] != exploration.THOMPSON)
        if row["world"] == "equal":
            assert row["regret"] == pytest.approx(0)
            assert row.get("thompson_minus", 0.0) == pytest.approx(0)
        else:
            assert row["regret"] > 0


def logged(count, seed=0, arms=5):
    """A log under unequal propensities, and a policy whose value is known."""
    random = np.random.default_rng(seed)
    context = random.integers(0, 2, count)
    truth = np.array([[0.1, 0.3, 0.2, 0.6, 0.4], [0.5, 0.1, 0.3, 0.2, 0.7]])[context]
    logging = np.array([[0.1, 0.2, 0.3, 0.2, 0.2], [0.3, 0.3, 0.2, 0.1, 0.1]])[context]
    item = (random.random(count)[:, None] > logging.cumsum(axis=1)).sum(axis=1)
    clicked = (random.random(count) < truth[np.arange(count), item]).astype(float)
    policy = np.array([[0.7, 0.1, 0.1, 0.1, 0.0], [0.0, 0.0, 0.2, 0.2, 0.6]])[context]
    return policy, item, clicked, logging[np.arange(count), item], truth


def test_off_policy_values_are_those_of_the_truth():
    policy, item, clicked, propensity, truth = logged(40_000)
    known = (policy * truth).sum(axis=1).mean()
    wrong = np.full_like(truth, 0.9)
    for values in (
        off_policy.inverse_propensity(policy, item, clicked, propensity),
        off_policy.doubly_robust(policy, item, clicked, propensity, truth),
        off_policy.doubly_robust(policy, item, clicked, propensity, wrong),
    ):
        assert values.mean() == pytest.approx(known, abs=4 * values.std() / 200)
    ips = off_policy.inverse_propensity(policy, item, clicked, propensity)
    assert off_policy.doubly_robust(policy, item, clicked, propensity, truth).std() < 0.9 * ips.std()


def test_off_policy_values_are_sums_over_items():
    policy, item, clicked, propensity, truth = logged(50)
    for row in range(50):
        weight = policy[row][item[row]] / propensity[row]
        model = sum(policy[row][arm] * truth[row][arm] for arm in range(5))
        given = [one[row : row + 1] for one in (policy, item, clicked, propensity)]
        assert off_policy.inverse_propensity(*given)[0] == pytest.approx(weight * clicked[row])
        expected = model + weight * (clicked[row] - truth[row][item[row]])
        assert off_policy.doubly_robust(*given, truth[row : row + 1])[0] == pytest.approx(expected)


@pytest.fixture
def wheel(tmp_path):
    """A log of 60 impressions of 4 items in the form of the package's files, the newest first."""
    random, path = np.random.default_rng(0), tmp_path / "obp.whl"
    shown = pd.DataFrame(
        {
            "timestamp": [f"2019-11-{24 + number // 30} 00:00:{number % 30:02d}" for number in range(60)],
            "item_id": random.integers(0, 4, 60),
            "position": random.integers(1, 4, 60),
            "click": np.arange(60) % np.repeat([3, 2], 30) == 0,  # the halves differ
            "propensity_score": 0.25,
            **{f"user_feature_{place}": random.choice(["a", "b"], 60) for place in range(4)},
            **{f"user-item_affinity_{item}": random.random(60) for item in range(4)},
        }
    ).astype({"click": int})
    kinds = {f"item_feature_{place}": list("xyxy") for place in (1, 2, 3)}
    items = pd.DataFrame({"item_id": [2, 0, 1, 3], "item_feature_0": [0.2, 0.0, 0.1, 0.3], **kinds})
    with zipfile.ZipFile(path, "w") as file:
        for name, table in (("all", shown[::-1]), ("item_context", items)):
            text = io.StringIO()
            table.to_csv(text)
            file.writestr(f"obp/dataset/obd/random/all/{name}.csv", text.getvalue())
    return path, shown


def test_a_log_is_read_in_the_order_of_time_with_its_items(wheel):
    path, shown = wheel
    logs = off_policy.read_logs(path, "all")
    np.testing.assert_array_equal(logs.item, shown["item_id"])
    np.testing.assert_array_equal(logs.clicked, shown["click"])
    np.testing.assert_allclose(logs.affinity[:, 3], shown["user-item_affinity_3"])
    np.testing.assert_array_equal(logs.price, [0.0, 0.1, 0.2, 0.3])
    np.testing.assert_array_equal(logs.item_rows["item_1"], [2, 1, 1, 2])
    one = logs.of(np.array([5]), np.array([[2, 0]]), np.zeros((1, 2), bool), (0, 0, 1))
    np.testing.assert_allclose(one.numbers["affinity"][0], shown[["user-item_affinity_2", "user-item_affinity_0"]].loc[5])
    np.testing.assert_array_equal(one.rows["item"], [[3, 1]])
    with pytest.raises(KeyError, match="women"):
        off_policy.read_logs(path, "women")


def test_policies_are_fitted_on_the_first_half_and_valued_on_the_second(wheel):
    logs = off_policy.read_logs(wheel[0], "all")
    rows = {row["road"]: row for row in off_policy.measured(logs, "all", [7])}
    assert set(rows) == {off_policy.UNIFORM, off_policy.BEST, "greedy", "Thompson", "LinUCB"}
    uniform, best = rows[off_policy.UNIFORM], rows[off_policy.BEST]
    assert uniform["ips"] == pytest.approx(1000 * logs.clicked[30:].mean())
    item = off_policy.best_item(logs, np.arange(30))
    assert best["ips"] == pytest.approx(1000 * (logs.clicked[30:] * (logs.item[30:] == item) / 0.25).mean())
    assert all(("dr_minus_best" in row) == (name != off_policy.BEST) for name, row in rows.items())
    assert all(row["dr_low"] <= row["dr"] <= row["dr_high"] for row in rows.values())


def test_policies_show_one_item_in_all(wheel):
    logs = off_policy.read_logs(wheel[0], "all")
    for rows, found, expected in off_policy.chances(logs, np.arange(30), np.arange(30, 60), 7):
        assert expected.shape == (len(rows), 4)
        for shown in found.values():
            np.testing.assert_allclose(shown.sum(axis=1), 1)
        assert 0 < found["Thompson"].max(axis=1).mean() < 1
