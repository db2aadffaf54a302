"""The world of drift holds what it says, every road reads the rows of its day, and sentences say what the intervals allow."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ortho_group

from alure_spark.alignment import fit_alignment
from alure_spark.batches.vocabulary import ITEM
from alure_spark.clock import DAY_MS
from benchmarks import transfer_drift as drift
from benchmarks import transfer_drift_page as page
from benchmarks import transfer_drift_versions as versions
from benchmarks import transfer_drift_world as worlds
from benchmarks.transfer_drift_versions import Representations

USERS, DAYS = 60, 8


@pytest.fixture(scope="module")
def world():
    return worlds.drawn(np.random.default_rng(1), USERS, DAYS)


def test_rows_are_given_in_the_order_in_which_items_and_ads_come():
    rows = {kind: worlds.rows_of(kind, np.arange(count), 10**6) for kind, count in (("items", worlds.ITEMS), ("ads", worlds.ADS))}
    assert sorted(np.concatenate(list(rows.values()))) == list(range(1, worlds.vocabulary_size(worlds.MOST_DAYS)))
    for day in (0, 1, 5):
        size, tomorrow = worlds.vocabulary_size(day), worlds.vocabulary_size(day + 1)
        for kind, its in rows.items():
            assert its[worlds.active(kind, day)].max() < size, "what is there is known once the day is over"
            new = worlds.rows_of(kind, np.arange(*worlds.active(kind, day + 1).indices(10**6)), size)
            assert (new == 0).sum() == worlds.NEW[kind], "and what is new tomorrow is not"
            assert its[worlds.active(kind, day + 1)].max() < tomorrow


def test_users_meet_what_is_there_and_their_clicks_follow_the_truth_but_in_the_null_twin(world):
    for day in range(DAYS):
        for shown, kind in ((world.viewed, "items"), (world.rich, "ads"), (world.poor, "ads")):
            there = worlds.active(kind, day)
            assert there.start <= shown[day].min() <= shown[day].max() < there.stop
    likely = world.poor_truth > np.median(world.poor_truth)
    for clicks, low, high in ((world.poor_clicks, 0.15, 1), (world.null_clicks, -0.06, 0.06)):
        assert low < clicks[likely].mean() - clicks[~likely].mean() < high
    with pytest.raises(ValueError, match="41 days; allowed: at most 40"):
        worlds.drawn(np.random.default_rng(1), 2, 41)


def test_a_history_ends_where_it_says_and_names_what_the_version_knows(world):
    batch = worlds.histories(world, 1, 6, 3, 5, worlds.vocabulary_size(2))
    begin, end = (worlds.START_MS + day * DAY_MS for day in (1, 6))
    for tokens in batch.sources.values():
        assert begin <= tokens.known_at_ms.min()
        assert tokens.known_at_ms.max() <= end
        assert tokens.rows[ITEM].max() < worlds.vocabulary_size(2)
        assert (tokens.rows[ITEM] == 0).any(), "what came later is the unknown item"
    shown = batch.impressions
    assert len(shown.time_ms) == USERS * 3 * worlds.RICH
    assert shown.validation.float().mean() == pytest.approx(1 / 3)
    clicks = len(batch.sources["click"].known_at_ms)
    assert clicks == world.rich_clicks[1:6].sum()


def numbered(day):
    """Representations that say whose they are and of which day."""
    user, ad = np.arange(USERS) + 1000.0 * day, np.arange(worlds.ADS) + 1000.0 * day + 0.5
    return Representations(user[:, None], ad[:, None], np.concatenate([user, ad])[:, None])


def test_an_impression_reads_its_user_and_its_ad_of_its_own_day(world):
    lane = drift.Lane(world, 1, {"road": {day: numbered(day) for day in range(DAYS)}})
    read = drift.vectors(lane, "road", drift.ALL, range(2, 5))
    assert set(read) == {"user_user", "ad_item", "user_cross", "ad_cross"}
    batch = worlds.poor_impressions(world, 2, 5, False, read, True, worlds.active("ads", 3))
    day = (batch.impressions.time_ms.numpy() - worlds.START_MS) // DAY_MS
    user, ad = batch.impressions.users().numpy(), world.poor[2:5].transpose(1, 0, 2).ravel()
    for name, whose in (("user_user", user), ("user_cross", user), ("ad_item", ad + 0.5), ("ad_cross", ad + 0.5)):
        np.testing.assert_array_equal(batch.impressions.vectors[name][:, 0].numpy(), whose + 1000 * day)
    known = (ad >= worlds.NEW["ads"] * 3) & (ad < worlds.NEW["ads"] * 3 + worlds.ACTIVE["ads"])
    np.testing.assert_array_equal(batch.impressions.rows["ad"].numpy(), np.where(known, ad + 1, 0))
    np.testing.assert_array_equal(batch.impressions.labels["click"].numpy(), world.poor_clicks[2:5].transpose(1, 0, 2).ravel())


def test_a_turned_version_is_the_old_one_and_what_is_missing_stays_missing():
    random = np.random.default_rng(2)
    old = Representations(*(random.normal(size=(count, width)) for count, width in ((90, 16), (80, 32), (170, 32))))
    new = {}
    for kind, width in versions.WIDTHS.items():
        new[kind] = getattr(old, kind) @ ortho_group.rvs(width, random_state=3) + 4
        new[kind][-5:] = np.nan
    back, residuals = versions.in_space(Representations(**new), old, fit_alignment)
    for kind in versions.WIDTHS:
        np.testing.assert_allclose(getattr(back, kind)[:-5], getattr(old, kind)[:-5], atol=1e-4)
        assert np.isnan(getattr(back, kind)[-5:]).all()
        assert residuals[kind] < 1e-6
    far = versions.in_space(Representations(**new), old, versions.unturned)[1]
    assert min(far.values()) > 1


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.01, 0.03, "better (+2.0%, +1.0% to +3.0%)"),
        (-0.03, -0.01, "worse (-2.0%, -3.0% to -1.0%)"),
        (-0.01, 0.03, "not clearly different (+1.0%, -1.0% to +3.0%)"),
        (-0.03, 0.01, "not clearly different (-1.0%, -3.0% to +1.0%)"),
    ],
)
def test_better_and_worse_are_said_only_of_whole_intervals(low, high, said):
    row = {"over_none": (low + high) / 2, "over_none_low": low, "over_none_high": high}
    assert page._said(row, "none") == said
    assert page._gap(row, "raw") == ""
