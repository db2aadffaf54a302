"""The two surfaces hold what they say, representations know nothing of later, variants have one size, gains are where they are planted."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from alure_spark.batches.batch import SourceTokens, select_users
from alure_spark.clock import DAY_MS
from alure_spark.config import ModelConfig, TransferConfig
from alure_spark.metrics import normalized_entropy
from alure_spark.model.spec import ModelSpec
from alure_spark.model.user_model import UserModel
from benchmarks import transfer, transfer_page, transfer_upstream, transfer_worlds
from benchmarks.ranking_sets import RankingRows
from benchmarks.transfer import ALL, NOTHING, Result, Task, Variant

OPENS_MS, CUT_MS = (transfer_worlds.BEGIN_MS + day * DAY_MS for day in (transfer_worlds.OPENS, transfer_worlds.CUT))
DECAY = TransferConfig(half_life_days=3.0, window_days=5)


def twins(users=60, seed=1):
    return [transfer_worlds.two_surfaces(np.random.default_rng(seed), users, null) for null in (False, True)]


def small_model(log):
    """A user model that nobody has trained."""
    ads = transfer_worlds.ACCOUNTS * transfer_worlds.ADS_PER_ACCOUNT
    config = ModelConfig(dimension=8, heads=2, feed_forward=8, max_events=32, views=("svd",))
    spaces = {"item_id": ads + 1, "account_id": transfer_worlds.ACCOUNTS + 1}
    sources = {name: {} for name in log.sources}
    return UserModel(ModelSpec(sources, (transfer_worlds.CLICK,), spaces, item_dimension=8, config=config, tasks=("click",))).eval()


def test_the_null_twin_has_the_same_rich_surface_and_the_same_impressions():
    one, null = twins()
    for stream in one.upstream.sources:
        assert torch.equal(one.upstream.sources[stream].rows["item_id"], null.upstream.sources[stream].rows["item_id"])
    assert torch.equal(one.upstream.impressions.labels["click"], null.upstream.impressions.labels["click"])
    for name, values in one.rows.categories.items():
        np.testing.assert_array_equal(values, null.rows.categories[name])
    np.testing.assert_array_equal(one.rows.time_ms, null.rows.time_ms)
    assert abs(np.corrcoef(one.truth, null.truth)[0, 1]) < 0.3, "only the place of the ad counts in both"


def test_the_rich_surface_tells_of_the_poor_one_only_in_the_world():
    """Ads that are clicked often on the rich surface are responded to often on the poor one."""
    for one, low, high in zip(twins(600), (0.5, -0.3), (1.0, 0.3), strict=True):
        shown = one.upstream.impressions
        ads = len(one.ads[0])
        ad, click = shown.rows["item_id"].numpy() - 1, shown.labels["click"].numpy()
        rich = np.bincount(ad, click, ads) / np.bincount(ad, minlength=ads)
        ad = one.rows.categories["ad"].astype(int)
        poor = np.bincount(ad, one.truth, ads) / np.maximum(1, np.bincount(ad, minlength=ads))
        seen = np.bincount(ad, minlength=ads) > 5
        assert low < np.corrcoef(rich[seen], poor[seen])[0, 1] < high


def test_the_poor_surface_opens_later_and_cold_advertisers_come_after_the_cut():
    one, _ = twins(400)
    rows = one.rows
    assert rows.time_ms.min() >= OPENS_MS
    assert len(rows.user) < len(one.upstream.impressions.time_ms) / 5, "it is poor"
    assert (rows.is_train == (rows.time_ms < CUT_MS)).all()
    assert not (one.cold & rows.is_train).any()
    assert 0.03 < one.cold[~rows.is_train].mean() < 0.5
    known = set(rows.categories["account"][rows.is_train])
    assert not known & set(rows.categories["account"][one.cold])
    first = {account: rows.time_ms[rows.categories["account"] == account].min() for account in set(rows.categories["account"][one.cold])}
    for account, time_ms in zip(rows.categories["account"][one.cold], rows.time_ms[one.cold], strict=True):
        assert time_ms - first[account] < transfer_worlds.FIRST_DAYS * DAY_MS


def means_by_a_loop(seen, owner, time_ms):
    """Each row by itself: days of 24 hours since midnight, the newest one whole."""
    rows = []
    for one, now in zip(owner, time_ms, strict=True):
        midnight, total, weight = now - now % DAY_MS, 0.0, 0.0
        for whose, known, value in zip(seen.owner, seen.known_at_ms, seen.values, strict=True):
            days = (midnight - 1 - known) // DAY_MS
            if whose == one and known < midnight and days < DECAY.window_days:
                total, weight = total + 0.5 ** (days / DECAY.half_life_days) * value, weight + 0.5 ** (days / DECAY.half_life_days)
        rows.append(total / weight if weight else np.full(seen.values.shape[1], np.nan))
    return np.array(rows)


def drawn_impressions(seed=3):
    draw = np.random.default_rng(seed)
    times = draw.integers(0, 12 * DAY_MS, 200)
    times[:40] -= times[:40] % DAY_MS  # some at midnight
    seen = transfer_upstream.Seen(draw.integers(0, 6, 200), times, draw.normal(size=(200, 3)))
    asked = draw.integers(0, 12 * DAY_MS, 50)
    asked[:10] -= asked[:10] % DAY_MS
    return seen, draw.integers(0, 8, 50), asked


def test_decaying_means_are_those_of_a_loop_over_what_was_known():
    seen, owner, asked = drawn_impressions()
    made = transfer_upstream.decaying_means(seen, owner, asked, DECAY)
    np.testing.assert_allclose(made, means_by_a_loop(seen, owner, asked), rtol=1e-5, atol=1e-6)
    assert 0 < np.isnan(made).any(axis=1).sum() < len(made)


def test_nothing_that_is_known_later_moves_a_representation():
    """Every impression and event from one midnight on is changed; what is read at rows before the next midnight stays."""
    one, _ = twins()
    moment = OPENS_MS + 5 * DAY_MS
    log, model = one.upstream, small_model(one.upstream)
    before = one.rows.select((one.rows.time_ms >= moment) & (one.rows.time_ms < moment + DAY_MS))
    assert len(before.user) > 10

    def read(changed):
        return transfer.Extracted(model, changed, transfer_upstream.crosses(model, changed, "hidden")).given(before, one.ads).vectors

    def other(part):
        at = part.known_at_ms if hasattr(part, "known_at_ms") else part.time_ms
        return replace(part, rows={name: torch.where(at >= moment, rows.flip(0), rows) for name, rows in part.rows.items()})

    shuffled = {name: other(tokens) for name, tokens in log.sources.items()}
    first, later = read(log), read(replace(log, sources=shuffled, impressions=other(log.impressions)))
    for name, values in first.items():
        np.testing.assert_allclose(later[name], values, atol=1e-5, err_msg=name)
    assert not np.allclose(first["user_cross"], first["user_cross"].mean(axis=0), atol=1e-3)


def test_a_user_embedding_is_that_of_the_user_alone_at_midnight():
    one, _ = twins(20)
    model, rows = small_model(one.upstream), one.rows.select(np.arange(0, len(one.rows.user), 9))
    made = transfer_upstream.user_embeddings(model, one.upstream, rows.user, rows.time_ms)
    for user, time_ms, values in zip(rows.user, rows.time_ms, made, strict=True):
        alone = transfer_upstream.known_until(select_users(one.upstream, torch.tensor([user])), int(time_ms - time_ms % DAY_MS))
        with torch.no_grad():
            np.testing.assert_allclose(values, model.encoder.embed(alone)[0].numpy(), atol=1e-5)


def coin_tosses(log, most=6, seed=4):
    """The log with the first impressions of each user, each of which is clicked by the toss of a coin: nothing foretells a click."""
    shown = log.impressions
    kept = torch.arange(len(shown.time_ms)) - shown.offsets[shown.users()] < most
    shown = shown.select(kept)
    clicked = torch.from_numpy(np.random.default_rng(seed).random(len(shown.time_ms)) < 0.5)

    def tokens(its):
        lengths = torch.bincount(shown.users()[its], minlength=len(log))
        offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
        return SourceTokens(offsets, shown.time_ms[its], shown.time_ms[its], {name: rows[its] for name, rows in shown.rows.items()}, {})

    sources = {transfer_worlds.CLICK: tokens(clicked), transfer_worlds.SHOWN: tokens(torch.ones_like(clicked))}
    return replace(log, sources=sources, impressions=replace(shown, labels={"click": clicked.float()}))


def test_means_over_all_rows_seem_to_foretell_what_is_a_coin_toss():
    """The leak of the paper's public code: what was known after an impression is in the mean that is attached to it."""
    one, _ = twins(1500)
    log = coin_tosses(one.upstream)
    torch.manual_seed(0)
    shown = log.impressions
    user, time_ms, label = shown.users().numpy(), shown.time_ms.numpy(), shown.labels["click"].numpy()
    seen = transfer_upstream.Seen(user, time_ms, transfer_upstream.crosses(small_model(log), log, "hidden"))
    before = transfer_upstream.decaying_means(seen, user, time_ms, replace(DECAY, window_days=60))
    of_all = np.stack([seen.values[user == number].mean(axis=0) for number in range(len(log))])[user]
    rows, half = ~np.isnan(before).any(axis=1), user < len(log) // 2
    ne = {}
    for name, values in (("before", before), ("of all", of_all)):
        values = (values - values[rows].mean(axis=0)) / values[rows].std(axis=0)
        fitted = LogisticRegression(C=0.1, max_iter=500).fit(values[rows & half], label[rows & half])
        ne[name] = normalized_entropy(label[rows & ~half], fitted.predict_proba(values[rows & ~half])[:, 1])
    assert ne["before"] > 0.998, "nothing foretells a coin"
    assert ne["of all"] < 0.993, "and yet these means seem to"


def planted(users=400, informative=True, seed=5, numbers=4):
    """A task whose representations are the latents themselves: a response where the main taste of the user is that of the ad."""
    draw = np.random.default_rng(seed)
    taste, makes = draw.normal(size=(users, numbers)), draw.normal(size=(40, numbers))
    count = users * 12
    user, ad = draw.integers(0, users, count), draw.integers(0, 40, count)
    match = taste.argmax(axis=1)[user] == makes.argmax(axis=1)[ad]
    truth = np.where(match, 0.75, 0.15)
    label = (draw.random(count) < truth).astype(float)
    order = np.arange(count) * (10 * DAY_MS // count) + OPENS_MS
    given = (taste[user], makes[ad]) if informative else (draw.normal(size=(users, numbers))[user], draw.normal(size=(40, numbers))[ad])
    vectors = dict(zip(("user_embedding", "ad_representation"), given, strict=True))
    categories = {"ad": ad.astype(str).astype(object), "place": np.full(count, "0", object)}
    rows = RankingRows("planted", user, order, categories, {}, label, label, order < OPENS_MS + 7 * DAY_MS, vectors=vectors)
    return Task(rows, np.zeros(count, bool), truth)


BOTH = {NOTHING: Variant(), "UR + IR": Variant(("user_embedding", "ad_representation"))}


@pytest.mark.parametrize("informative", [True, False])
def test_what_tells_of_the_response_gains_and_what_does_not_gains_nothing(informative):
    task = planted(informative=informative)
    results = transfer.results_of(task, BOTH, 1, rates=(1.2e-2,))
    row = transfer.rows_of([task], [results], 100, transfer.facts_of)[1]
    assert row["variant"] == "UR + IR"
    if informative:
        assert row["low"] > 0.05, row
    else:
        assert row["low"] <= 0.002, row


def test_variants_are_of_one_size_and_each_reads_what_it_says():
    task = planted(100)
    variants = {name: replace(one, reads=one.reads[:2]) for name, one in transfer.VARIANTS.items()}
    variants = {name: replace(one, reads=tuple(its for its in one.reads if its in task.rows.vectors)) for name, one in variants.items()}
    results = transfer.results_of(task, variants, 1, rates=(1e-2,))
    sizes = {one.parameters for one in results.values()}
    assert max(sizes) / min(sizes) < 1.02
    for name, variant in transfer.VARIANTS.items():
        rows = replace(task.rows, vectors=dict.fromkeys(transfer.REPRESENTATIONS, np.zeros((len(task.rows.user), 3))))
        draft = transfer.draft_of(rows, variant)
        assert set(draft.dense) == set(variant.reads)
        assert {draft.fields[its].adapter for its in draft.dense} <= {variant.adapter}
        assert name == NOTHING or draft.dense


def test_the_rows_of_all_seeds_give_one_gain_and_the_cold_ones_their_own():
    """Against ratios of sums by hand."""
    draw = np.random.default_rng(2)
    tasks, results = [], []
    for seed in (1, 2):
        task = planted(50, seed=seed)
        task = replace(task, cold=draw.random(len(task.rows.user)) < 0.4)
        label = task.rows.label[task.tested]
        good = np.where(label == 1, 0.7, 0.3)
        results.append({name: Result(its, 0.0, 0.1, 100) for name, its in ((NOTHING, np.full(len(label), 0.4)), ("UR", good))})
        tasks.append(task)
    rows = transfer.rows_of(tasks, results, 50, transfer.facts_of)
    for which in ("all", "cold"):
        (row,) = (row for row in rows if row["rows"] == which and row["kind"] == "comparison")
        gains, count = [], 0
        for task, one in zip(tasks, results, strict=True):
            kept = task.cold[task.tested] | (which == "all")
            label = task.rows.label[task.tested][kept]
            losses = [-np.log(np.where(label == 1, its.probabilities[kept], 1 - its.probabilities[kept])).sum() for its in one.values()]
            gains.append(1 - losses[1] / losses[0])
            count += len(label)
        assert row["gain"] == pytest.approx(np.mean(gains))
        assert row["impressions"] == count
        assert row["low"] <= row["gain"] <= row["high"]


def small_run(folder, users, seeds, monkeypatch):
    monkeypatch.setattr(transfer, "RATES", (1.2e-2,))
    arguments = ["--users", str(users), "--seeds", *map(str, seeds), "--choosing", "1", "--resamples", "100", "--results", str(folder)]
    transfer.main(arguments)
    return json.loads((folder / "transfer.json").read_text())


@pytest.mark.slow
def test_the_run_leaves_rows_that_the_page_shows(tmp_path, monkeypatch):
    result = small_run(tmp_path, 100, (3,), monkeypatch)
    assert {row["null"] for row in result["rows"] if row["kind"] != "layer"} == {False, True}
    shown = transfer_page.text(result)
    for name in transfer.VARIANTS:
        assert f"| {name} |" in shown
    assert shown.count("| feature |") == 2 * len(transfer.VARIANTS)
    assert shown.count("yes") == 1


@pytest.mark.slow
def test_all_representations_gain_where_the_rich_surface_tells_and_not_in_the_null_twin(tmp_path, monkeypatch):
    result = small_run(tmp_path, 700, (3, 4), monkeypatch)
    rows = {(row["null"], row["variant"]): row for row in result["rows"] if row["kind"] == "variant" and row["rows"] == "all"}
    assert rows[False, ALL]["low"] > 0.02
    assert rows[True, ALL]["low"] <= 0.01
