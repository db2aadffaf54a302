"""The synthetic world holds what it plants: each effect is found where its switch is on and is gone where it is off."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from alure_spark.errors import ConfigError
from alure_spark.sources.synthetic.options import PREFERENCE_SWITCHES
from alure_spark.sources.synthetic.truth import respond, truth_ads, truth_users
from alure_spark.sources.synthetic.world import EXTRA_ATTRIBUTES, WorldOptions, canonical
from alure_spark.tables import ADS, DERIVED_EVENT_COLUMNS, EVENTS, FOLLOWS

OPTIONS = WorldOptions(users=1200, events_per_user=40.0)
SWITCHES = (
    "community_interest", "dwell_law", "time_habits", "arrival_delay", "attribute_effects",
    "follow_homophily", "conversion_delay", "media_clusters", "text_topics", "activity_skew",
)  # fmt: skip
# Four worlds serve all tests. Each switch is off in one of `even` and `odd` and on in the other, so that both an effect
# that stays without its switch and one that needs a second switch are seen.
WORLDS = {
    "full": OPTIONS,
    "null": replace(OPTIONS, null=True),
    "even": replace(OPTIONS, seed=8, **dict.fromkeys(SWITCHES[0::2], False)),
    "odd": replace(OPTIONS, seed=9, **dict.fromkeys(SWITCHES[1::2], False)),
}


class World:
    """One world as pandas frames: events with truth and labels beside them."""

    def __init__(self, spark: SparkSession, options: WorldOptions) -> None:
        events, ads, follows = canonical(spark, options)
        self.options, self.lazy = options, events
        self.users = _pandas(truth_users(spark, options)).set_index("user_id")
        self.ads = _pandas(ads).merge(_pandas(truth_ads(spark, options))[["ad_id", "community", "semantic_id_1"]], on="ad_id")
        self.follows = _pandas(follows)
        self.schema = {field.name: field.dataType.simpleString() for field in events.schema}
        self.events = _pandas(events.drop("media_embedding"))
        outcomes = {name: set(self.events.loc[self.events.source == name, "impression_id"]) for name in ("ad_click", "conversion")}
        shown = self.events[self.events.source == "ad_impression"]
        self.shown = shown.assign(
            click=shown.event_id.isin(outcomes["ad_click"]).astype(int),
            conversion=shown.event_id.isin(outcomes["conversion"]).astype(int),
        ).join(self.users[["dwell_slope", "community"]], on="user_id")

    def of(self, *sources: str) -> pd.DataFrame:
        return self.events[self.events.source.isin(sources)]


@pytest.fixture(scope="module")
def full(spark: SparkSession) -> World:
    return World(spark, WORLDS["full"])


@pytest.fixture(scope="module")
def worlds(spark: SparkSession, full: World) -> dict[str, World]:
    return {"full": full, **{name: World(spark, options) for name, options in WORLDS.items() if name != "full"}}


@pytest.fixture(scope="module")
def answered(spark: SparkSession, full: World) -> pd.DataFrame:
    """What the truth answers for every ad impression of the full world, with its labels."""
    pairs = full.shown[["user_id", "item_id", "event_time", "click", "conversion"]]
    pairs = pairs.rename(columns={"item_id": "ad_id", "event_time": "time"})
    return _pandas(respond(spark.createDataFrame(pairs), spark, OPTIONS))


def _pandas(frame: DataFrame) -> pd.DataFrame:
    return frame.toArrow().to_pandas()


def _share_of_own_community(world: World) -> float:
    """Share of organic impressions whose category belongs to the user's community, over chance."""
    seen = world.of("organic_impression").join(world.users.community, on="user_id")
    category = seen.category_id.str.removeprefix("cat").astype(int)
    return float((category % world.options.communities == seen.community).mean() * world.options.communities)


def _conversion_gain(shown: pd.DataFrame) -> float:
    """Standardised difference of mean log dwell between converted impressions and the others."""
    log_dwell = np.log(shown.dwell_ms.to_numpy(float))
    converted = shown.conversion.to_numpy() == 1
    return float((log_dwell[converted].mean() - log_dwell[~converted].mean()) / log_dwell.std())


def _peak_share(world: World) -> float:
    """Share of organic impressions within three hours of the habit's peak in local time (a quarter by chance)."""
    seen = world.of("organic_impression").join(world.users.habit, on="user_id")
    local = seen.event_time + pd.to_timedelta(seen.utc_offset_minutes, unit="min")
    hour = local.dt.hour + local.dt.minute / 60
    distance = (hour - seen.habit.map({"morning": 8.5, "evening": 20.5}) + 12) % 24 - 12
    return float((distance.abs() < 3).mean())


def _late_share(world: World) -> float:
    return float((world.events.arrival_time - world.events.event_time > pd.Timedelta(minutes=30)).mean())


def _position_gain(world: World) -> float:
    """Log of click rate on the upper half of the positions over that on the lower half."""
    upper = world.shown.position < 5
    return float(np.log(world.shown[upper].click.mean() / world.shown[~upper].click.mean()))


def _homophily(world: World) -> float:
    """Share of follows within the community, over chance."""
    community = world.users.community
    same = world.follows.src_user_id.map(community).to_numpy() == world.follows.dst_user_id.map(community).to_numpy()
    return float(same.mean() * world.options.communities)


def _median_minutes_to_convert(world: World) -> float:
    click = world.of("ad_click").set_index("impression_id").event_time
    conversion = world.of("conversion").set_index("impression_id").event_time
    return float((conversion - click.reindex(conversion.index)).dt.total_seconds().median() / 60)


def _media_similarity(world: World) -> float:
    """Mean cosine of ads of one category minus that of any two ads."""
    media = np.stack(world.ads.media_embedding.to_numpy())
    unit = media / np.linalg.norm(media, axis=1, keepdims=True)
    category = world.ads.category_id.to_numpy()
    same = (category[:, None] == category) & ~np.eye(len(unit), dtype=bool)
    return float((unit @ unit.T)[same].mean())


def _topic_share(world: World) -> float:
    """Share of comments that hold a topic word of their category."""
    said = world.of("comment")
    return float(np.mean([f"topic{c.removeprefix('cat')}word" in text for c, text in zip(said.category_id, said.text, strict=True)]))


def _spread_of_activity(world: World) -> float:
    count = world.of("organic_impression").groupby("user_id").size().reindex(world.users.index, fill_value=0)
    return float(count.std() / count.mean())


# switch -> (measure, at most this without the effect, at least this with it)
EFFECTS = {
    "community_interest": (_share_of_own_community, 1.1, 4.0),
    "dwell_law": (lambda world: _conversion_gain(world.shown), 0.1, 0.35),
    "time_habits": (_peak_share, 0.27, 0.6),
    "arrival_delay": (_late_share, 0.0, 0.08),
    "attribute_effects": (_position_gain, 0.12, 0.3),
    "follow_homophily": (_homophily, 1.15, 5.0),
    "conversion_delay": (_median_minutes_to_convert, 0.1, 5.0),
    "media_clusters": (_media_similarity, 0.1, 0.5),
    "text_topics": (_topic_share, 0.0, 0.9),
    "activity_skew": (_spread_of_activity, 0.1, 0.8),
}


@pytest.mark.parametrize("switch", SWITCHES)
def test_an_effect_is_there_exactly_when_its_switch_is_on(worlds: dict[str, World], switch: str) -> None:
    measure, without, with_effect = EFFECTS[switch]
    found = {name: measure(world) for name, world in worlds.items()}
    expected = {name: world.options.on(switch) for name, world in worlds.items()}
    assert expected["full"]
    assert expected["even"] != expected["odd"]
    assert expected["null"] != (switch in PREFERENCE_SWITCHES)
    assert {name: value >= with_effect for name, value in found.items()} == expected, found
    assert {name: value > without for name, value in found.items()} == expected, found


def test_rows_do_not_depend_on_the_number_of_partitions(spark: SparkSession) -> None:
    options = replace(OPTIONS, users=60, countries=3, events_per_user=20.0)
    rows = []
    for partitions in (1, 2, 7):
        events, _, follows = canonical(spark, options, partitions)
        frames = (frame.select(F.to_json(F.struct(*frame.columns)).alias("row")) for frame in (events, follows))
        rows.append([sorted(_pandas(frame).row) for frame in frames])
    assert all(len(table) > 300 for table in rows[0])
    assert rows[0] == rows[1] == rows[2]


@pytest.mark.parametrize(("label", "probability"), [("click", "p_click"), ("conversion", "p_conversion")])
def test_clicks_and_conversions_happen_as_often_as_the_truth_says(answered: pd.DataFrame, label: str, probability: str) -> None:
    decile = pd.qcut(answered[probability], 10, labels=False)
    by_decile = answered.groupby(decile).agg(n=(label, "size"), observed=(label, "mean"), truth=(probability, "mean"))
    z = (by_decile.observed - by_decile.truth) / np.sqrt(by_decile.truth * (1 - by_decile.truth) / by_decile.n)
    assert by_decile.truth.iloc[-1] > 8 * by_decile.truth.iloc[0]  # the truth has something to say
    assert z.abs().max() < 3.5, by_decile
    assert (z**2).sum() < 29.6, by_decile  # chi-square of 10 at p = .001


def test_respond_keeps_rows_and_columns_and_gives_nulls_for_ids_that_do_not_exist(spark: SparkSession) -> None:
    pairs = spark.createDataFrame(
        [("u00000003", "a00000005", 1), (f"u{OPTIONS.users:08d}", "a00000005", 2), ("u00000003", "x", 3), (None, "a00000005", 4)],
        "user_id STRING, ad_id STRING, country INT",
    ).withColumn("time", F.timestamp_seconds(F.lit(1737000000)))
    answer = _pandas(respond(pairs, spark, OPTIONS).orderBy("country"))
    assert list(answer.columns) == [*pairs.columns, "p_click", "p_conversion", "value", "expected_value"]
    assert answer.country.tolist() == [1, 2, 3, 4]
    assert answer.expected_value.notna().tolist() == [True, False, False, False]
    first, ad = answer.iloc[0], _pandas(truth_ads(spark, OPTIONS).where("ad_id = 'a00000005'")).iloc[0]
    assert 0 < first.p_conversion < first.p_click < 1
    assert first.expected_value == pytest.approx(ad.bid * first.p_click + ad.value * first.p_conversion)


def test_conversion_rises_with_dwell_for_active_users_only(full: World) -> None:
    shown = full.shown
    active = shown.dwell_slope > 0
    assert _conversion_gain(shown[active]) > 0.5
    assert abs(_conversion_gain(shown[~active])) < 0.1
    quintile = pd.qcut(shown.dwell_ms, 5, labels=False)
    rate = shown.groupby(quintile).conversion.mean()
    assert rate.is_monotonic_increasing
    assert 3 < rate.iloc[4] / rate.iloc[0] < 8
    assert 13_000 < shown.dwell_ms.median() < 17_000


def test_clicks_and_conversions_name_their_impression_and_come_after_it(full: World) -> None:
    shown, click, conversion = (full.of(source).set_index("impression_id") for source in ("ad_impression", "ad_click", "conversion"))
    assert shown.index.is_unique
    assert click.index.is_unique
    assert conversion.index.is_unique
    assert click.index.isin(shown.index).all()
    assert conversion.index.isin(click.index).all()
    for later, earlier in ((click, shown), (conversion, click)):
        before = earlier.reindex(later.index)
        assert (later.event_time > before.event_time).all()
        assert (later[["user_id", "item_id", "account_id"]] == before[["user_id", "item_id", "account_id"]]).all(axis=None)
    assert (conversion.event_time - click.event_time.reindex(conversion.index)).max() <= pd.Timedelta(days=2)
    assert (conversion.value > 0).all()
    assert full.of("ad_impression").value.isna().all()


def test_ads_are_shown_only_in_flight(full: World) -> None:
    shown = full.shown.merge(full.ads, left_on="item_id", right_on="ad_id", suffixes=("", "_ad"))
    assert len(shown) == len(full.shown)
    assert (shown.event_time >= shown.active_from).all()
    assert ((shown.event_time < shown.active_to) | shown.active_to.isna()).all()
    assert (shown.account_id == shown.account_id_ad).all()
    assert (shown.category_id == shown.category_id_ad).all()
    open_all_along = full.ads.active_to.isna() & (full.ads.active_from < pd.Timestamp(OPTIONS.start))
    assert 0.6 < open_all_along.mean() < 0.8


def test_tables_have_the_canonical_columns_and_whole_milliseconds(spark: SparkSession, full: World) -> None:
    declared = {c.name: c.type.lower() for c in EVENTS.columns if c.name not in DERIVED_EVENT_COLUMNS}
    extra = {name: "double" if kind == "numeric" else "string" for name, kind in EXTRA_ATTRIBUTES.items()}
    assert full.schema == {**declared, **extra}
    assert list(full.ads.columns[: len(ADS.columns) - 1]) == [c.name for c in ADS.columns if c.name != "ad_hash"]
    assert tuple(full.follows.columns) == FOLLOWS.column_names
    assert full.events.event_id.is_unique
    assert not full.follows.duplicated(["src_user_id", "dst_user_id"]).any()
    assert full.follows.src_user_id.isin(full.users.index).all()
    assert full.follows.dst_user_id.isin(full.users.index).all()
    required = ["event_id", "user_id", "country", "event_time", "source", "item_id", "account_id", "category_id", "surface"]
    assert full.events[required].notna().all(axis=None)
    for times in (full.events.event_time, full.events.arrival_time, full.follows.event_time, full.ads.active_from):
        assert (times.dt.microsecond % 1000 == 0).all()
    assert (full.events.arrival_time >= full.events.event_time).all()
    assert (full.events.arrival_time - full.events.event_time).max() <= pd.Timedelta(days=2)
    media = _pandas(full.lazy.where("user_id < 'u00000020'").select("source", "media_embedding"))
    impression = media.source.isin(["organic_impression", "ad_impression"])
    assert (media.media_embedding.notna() == impression).all()
    assert media.media_embedding[impression].map(len).eq(OPTIONS.media_dim).all()


def test_countries_are_very_unequal_and_know_nothing_of_communities(full: World) -> None:
    users = full.users
    share = users.country.value_counts(normalize=True)
    assert 0.86 < share["C0"] < 0.94
    assert share.index[0] == "C0"
    table = pd.crosstab(users.country == "C0", users.community).to_numpy()
    expected = table.sum(1, keepdims=True) * table.sum(0) / table.sum()
    assert ((table - expected) ** 2 / expected).sum() < 24.3  # chi-square of 7 at p = .001
    offsets = full.events.groupby("country").utc_offset_minutes.nunique()
    assert (offsets == 1).all()


def test_follows_are_often_returned_and_have_hubs(full: World) -> None:
    follows = full.follows
    pairs = set(zip(follows.src_user_id, follows.dst_user_id, strict=True))
    assert np.mean([(dst, src) in pairs for src, dst in pairs]) > 0.3
    followers = follows.dst_user_id.value_counts()
    assert followers.iloc[0] > 8 * followers.mean()
    assert (follows.src_user_id != follows.dst_user_id).all()


def test_weekends_are_busier_in_local_time(full: World) -> None:
    seen = full.of("organic_impression")
    local = seen.event_time + pd.to_timedelta(seen.utc_offset_minutes, unit="min")
    assert 1.25 < (local.dt.dayofweek >= 5).mean() / (2 / 7) < 1.32  # 1.286 by construction


@pytest.mark.parametrize(
    ("changed", "named"),
    [({"users": 0}, "users is 0"), ({"seed": 1.5}, "seed is 1.5"), ({"start": "2025-01-06T05:00:00Z"}, "midnight"),
     ({"start": "soon"}, "midnight"), ({"dwell_law": 1}, "dwell_law is 1"), ({"countries": True}, "countries is True")],
)  # fmt: skip
def test_a_wrong_option_is_refused_by_name(changed: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        replace(OPTIONS, **changed)
