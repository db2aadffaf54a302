"""The click graph out of `events`, and the job through the lake: what is an edge, no leak, the same for any partitioning, erasure."""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
import torch
from pyspark.sql import functions as F

from alure_spark.config import Config, FeaturePolicy, LakeConfig, SimilarityConfig, StreamConfig, TaskConfig, TimeConfig, TrackingConfig
from alure_spark.config.labels import LabelConfig
from alure_spark.errors import ConfigError, DataError
from alure_spark.lake import as_of_scope
from alure_spark.privacy import identity
from alure_spark.running import open_context, run_jobs
from alure_spark.tables import EVENTS, SIMILARITY_EMBEDDINGS
from alure_spark.training.click_graph import click_edges, collect_graph, graph_of, with_draws
from jobs import forget_users, train_similarity
from tests.ranking.click_worlds import clicks, drawn_rows

AS_OF = datetime(2025, 3, 10, tzinfo=UTC)
AS_OF_MS = int(AS_OF.timestamp() * 1000)
CONFIG = SimilarityConfig(dimension=4, fanout=(4, 3), batch_edges=64, epochs=4)
SCHEMA = "user_id string, item_id string, source string, known_at timestamp"
CLICK = ("ad_click",)


def click_rows():
    """(user, item, source, known_at): a click in the 9 days before as_of, some of them twice, one user and one item once only."""
    rows = [
        (f"u{user:02d}", f"i{item:02d}", "ad_click", AS_OF - timedelta(hours=1 + (7 * user + item) % 216))
        for user, item in clicks(40, 20, 2, 5, 0.9).tolist()
    ]
    rows += rows[::7]
    rows += [("once", "i00", "ad_click", AS_OF - timedelta(days=1)), ("u00", "rare", "ad_click", AS_OF - timedelta(days=1))]
    return [*rows, ("u01", None, "ad_click", AS_OF - timedelta(days=1)), ("u02", "page", "organic", AS_OF - timedelta(days=1))]


LATER = [
    ("new", "i02", "ad_click", AS_OF),  # known at as_of: not before it
    ("new", "i03", "ad_click", AS_OF),
    ("new", "i01", "ad_click", AS_OF + timedelta(seconds=1)),
    ("new", "other", "ad_click", AS_OF + timedelta(days=1)),
    ("new", "other", "ad_click", AS_OF + timedelta(days=1)),
    ("u00", "rare", "ad_click", AS_OF + timedelta(days=1)),
]


def events_of(spark, rows):
    """Rows of `events`; each is an event of its own."""
    numbered = [(f"e{place}", *row) for place, row in enumerate(rows)]
    known = spark.createDataFrame(numbered, f"event_id string, {SCHEMA}").withColumn("country", F.lit("ALL"))
    null = {column.name: F.lit(None).cast(column.type) for column in EVENTS.columns if column.name not in known.columns}
    moments = {"event_time": F.col("known_at"), "known_date": F.to_date("known_at"), "event_hash": F.xxhash64("event_id")}
    return known.withColumns(null | moments)


@pytest.fixture(scope="module")
def events(spark):
    return events_of(spark, click_rows()).cache()


def expected_edges(rows, min_events, days=0.0, sources=CLICK):
    begin = AS_OF - timedelta(days=days) if days else datetime(1970, 1, 1, tzinfo=UTC)
    known = [(user, item) for user, item, source, at in rows if item and source in sources and begin <= at < AS_OF]
    of_user, of_item = Counter(user for user, _ in known), Counter(item for _, item in known)
    return {(user, item) for user, item in known if of_user[user] >= min_events and of_item[item] >= min_events}


@pytest.mark.parametrize(
    ("more", "sources"),
    [
        ({}, CLICK),
        ({"min_events": 1}, CLICK),
        ({"min_events": 6}, CLICK),
        ({"days": 2.0}, CLICK),
        ({"min_events": 1}, ("organic", "ad_click")),
    ],
)
def test_an_edge_is_a_user_and_an_item_with_enough_events_known_before_as_of(spark, more, sources):
    rows = [*click_rows(), *LATER]
    config = SimilarityConfig(**more)
    edges = [tuple(row) for row in click_edges(events_of(spark, rows), sources, config, AS_OF_MS).collect()]
    expected = expected_edges(rows, config.min_events, config.days, sources)
    assert len(edges) == len(set(edges)), "each pair once"
    assert set(edges) == expected != set()


def equal(one, other):
    same = one.users.equals(other.users) and one.items.equals(other.items)
    return same and all(torch.equal(getattr(one.graph, name), getattr(other.graph, name)) for name in ("neighbours", "edges", "held_out"))


def test_partitions_and_order_of_rows_and_what_comes_later_change_nothing(spark, events):
    expected = collect_graph(events, CLICK, CONFIG, AS_OF_MS)
    assert len(expected.graph.held_out) > 5
    mixed = events_of(spark, [*LATER, *click_rows()[::-1]]).repartition(7, "item_id")
    before = spark.conf.get("spark.sql.shuffle.partitions")
    spark.conf.set("spark.sql.shuffle.partitions", "5")
    try:
        assert equal(collect_graph(mixed, CLICK, CONFIG, AS_OF_MS), expected)
    finally:
        spark.conf.set("spark.sql.shuffle.partitions", before)
    seeded = SimilarityConfig(dimension=4, fanout=(4, 3), seed=8)
    assert not equal(collect_graph(events, CLICK, seeded, AS_OF_MS), expected)


def test_the_order_of_rows_changes_nothing():
    rows = drawn_rows(clicks(60, 40, 2, 6, 0.9), 0.2)
    expected = graph_of(rows, 4)
    shuffled = graph_of(rows.take(np.random.default_rng(1).permutation(len(rows))), 4)
    assert (shuffled.users, shuffled.items) == (expected.users, expected.items)
    for name in ("neighbours", "edges", "held_out"):
        assert torch.equal(getattr(shuffled.graph, name), getattr(expected.graph, name))


def test_the_draw_of_a_node_is_an_order_of_its_neighbors_that_other_edges_do_not_change(spark):
    pairs = [(f"u{user}", f"i{item}") for user, item in clicks(30, 12, 2, 5, 0.5).tolist()]

    def draws(some, seed):
        drawn = with_draws(spark.createDataFrame(some, "user_id string, item_id string"), seed)
        places = defaultdict(dict)
        for row in drawn.collect():
            places[row["user_id"]][row["of_user"]] = row["item_id"]
            places[row["item_id"]][row["of_item"]] = row["user_id"]
            assert not row["held_out"]
        assert all(sorted(of) == list(range(1, len(of) + 1)) for of in places.values())
        return {node: [near for _, near in sorted(of.items())] for node, of in places.items()}

    whole, fewer = draws(pairs, 1), draws(pairs[::2], 1)
    assert {(node, near) for node, of in whole.items() for near in of} == {*pairs, *((item, user) for user, item in pairs)}
    for node, of in fewer.items():
        assert of == [near for near in whole[node] if near in of]
    assert whole != draws(pairs, 2)
    busiest = max(whole, key=lambda node: len(whole[node]))
    first = Counter(draws(pairs, seed)[busiest][0] for seed in range(3, 9))
    assert len(first) > 2, "who comes first depends on the seed"


def test_graphs_that_nothing_can_be_learned_from_are_sentences(events):
    with pytest.raises(DataError, match=r"no click of similarity.sources \(ad_click\) known before 2025-03-01 .* choose a later"):
        collect_graph(events, CLICK, CONFIG, AS_OF_MS - 9 * 86_400_000)
    with pytest.raises(DataError, match=r"none that the policy leaves"):
        collect_graph(events, (), CONFIG, AS_OF_MS)
    with pytest.raises(DataError, match=r"has [\d]+ edges, and similarity.max_edges is 3: shorten similarity.days"):
        collect_graph(events, CLICK, SimilarityConfig(max_edges=3), AS_OF_MS)


def test_sources_are_streams_and_by_default_that_of_the_clicks():
    streams = {"ad_click": StreamConfig(), "tap": StreamConfig(), "read": StreamConfig(), "ad_impression": StreamConfig()}
    assert Config(streams=streams).similarity_sources == ("ad_click",)
    tasks = LabelConfig(tasks={"click": TaskConfig("tap")})
    assert Config(streams=streams, labels=tasks).similarity_sources == ("tap",)
    both = SimilarityConfig(sources=("tap", "read"))
    assert Config(streams=streams, similarity=both).similarity_sources == ("tap", "read")
    policy = {"all": FeaturePolicy(sources=("ad_click", "read"))}
    assert Config(streams=streams, similarity=both, feature_policy=policy).similarity_sources == ("read",)
    with pytest.raises(ConfigError, match="similarity.sources names the source 'taps'.*'tap'"):
        Config(streams=streams, similarity=SimilarityConfig(sources=("taps",)))
    with pytest.raises(ConfigError, match="similarity.fanout is .*; allowed: two numbers"):
        SimilarityConfig(fanout=(3,))


def context_of(folder, as_of=AS_OF, **more):
    tracking = TrackingConfig(f"sqlite:///{folder}/mlflow.db", "e", f"{folder}/artifacts", f"{folder}/untracked")
    lake = LakeConfig(f"{folder}/lake", f"{folder}/scratch", vacuum_hours=0.0)
    streams = {"ad_click": StreamConfig(), "organic": StreamConfig()}
    values = {"similarity": CONFIG, "time": TimeConfig(as_of.isoformat())} | more
    return open_context(Config(lake=lake, tracking=tracking, streams=streams, **values))


def publish(context, rows):
    with context.lake.run("ingest_events", context.config, "true") as run:
        run.write("events", events_of(context.spark, rows))


def trained(context):
    """(content hash, rows of this as_of by kind and id) after the job."""
    with context.lake.run("train_similarity", context.config, as_of_scope(context.config.time.as_of_ms)) as run:
        report = train_similarity.train(context, run)
    context.lake.refresh()
    rows = context.lake.read("similarity_embeddings").where(as_of_scope(context.config.time.as_of_ms)).collect()
    return run.content_hashes["similarity_embeddings"], {(row["kind"], row["node_id"]): row for row in rows}, report


def test_the_job_publishes_a_vector_of_every_node_and_an_event_after_as_of_changes_no_bit(spark, tmp_path):
    context = context_of(tmp_path)
    publish(context, click_rows())
    run_jobs(context, [train_similarity.JOB], "similarity")
    context.lake.refresh()
    hashes = context.lake.runs().where("job = 'train_similarity' AND status = 'published'").select("content_hashes").first()[0]
    metrics = context.tracker.metrics
    publish(context, [*LATER, *click_rows()[::-1]])
    again, rows, report = trained(context)
    assert again == hashes["similarity_embeddings"], "the same content, from other partitions and with later events"

    edges = expected_edges(click_rows(), 2)
    assert set(rows) == {("user", user) for user, _ in edges} | {("item", item) for _, item in edges}
    assert not {("user", "once"), ("item", "rare"), ("user", "new")} & set(rows)
    vectors = np.array([row["embedding"] for row in rows.values()])
    assert vectors.shape == (len(rows), 4)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    (its_id,) = {row["model_id"] for row in rows.values()}
    assert its_id.startswith("graphsage-")
    assert report.texts["train_similarity/summary.txt"].startswith(its_id)
    assert all(row["as_of"].replace(tzinfo=UTC) == AS_OF for row in rows.values())
    assert metrics["train_similarity.users"] + metrics["train_similarity.items"] == len(rows)
    assert metrics["train_similarity.edges"] + metrics["train_similarity.held_out"] == len(edges)
    assert report.metrics["validation_loss"] == pytest.approx(metrics["train_similarity.validation_loss"])
    assert 0 <= metrics["train_similarity.share_in_order"] <= 1
    assert list((tmp_path / "artifacts").rglob("losses.png"))
    assert not list((tmp_path / "scratch").rglob("*.checkpoint"))


@pytest.mark.slow
def test_each_as_of_has_its_own_rows(spark, tmp_path):
    publish(context_of(tmp_path), [*click_rows(), *LATER])
    _, rows, _ = trained(context_of(tmp_path))
    tomorrow = context_of(tmp_path, AS_OF + timedelta(days=2))
    _, later, _ = trained(tomorrow)
    assert ("user", "new") in later.keys() - rows.keys()
    assert tomorrow.lake.read("similarity_embeddings").count() == len(rows) + len(later)


def test_a_row_of_an_item_names_no_user(spark):
    kinds = spark.createDataFrame([("user", "7"), ("item", "7")], "kind string, node_id string")
    assert [tuple(row) for row in kinds.select(*map(F.expr, SIMILARITY_EMBEDDINGS.users)).collect()] == [("7",), (None,)]


@pytest.mark.slow
def test_forgetting_a_user_deletes_its_vector_and_not_that_of_an_item_of_the_same_id(spark, tmp_path, monkeypatch):
    monkeypatch.setenv(identity.KEY_VARIABLE, "k" * 32)
    context = context_of(tmp_path)
    kinds = [("user", "7"), ("item", "7"), ("user", "8"), ("item", "8")]
    rows = spark.createDataFrame(kinds, "kind string, node_id string").withColumns(
        {"as_of": F.timestamp_millis(F.lit(AS_OF_MS)), "model_id": F.lit("graphsage-0"), "embedding": F.array(F.lit(1.0).cast("float"))}
    )
    with context.lake.run("train_similarity", context.config, "true") as run:
        run.write("similarity_embeddings", rows.select(*SIMILARITY_EMBEDDINGS.column_names).coalesce(1), as_of_scope(AS_OF_MS))
    context.lake.refresh()
    run_jobs(context, [forget_users.job(["7", "9"])], "forget")
    context.lake.refresh()
    left = context.lake.read("similarity_embeddings").select("kind", "node_id").collect()
    assert sorted(map(tuple, left)) == sorted(kinds[1:])
    assert context.tracker.metrics["forget_users.deleted.similarity_embeddings"] == 1
    assert context.tracker.metrics["forget_users.unmatched"] == 1
