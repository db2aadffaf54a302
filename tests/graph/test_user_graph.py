"""The whole method on Spark: embeddings -> clusters -> edges -> recall, against plain loops over all pairs."""

import json
import re
import tempfile
from collections import Counter, defaultdict
from dataclasses import replace
from datetime import datetime

import numpy as np
import pytest
from pyspark.sql import functions as F
from pyspark.testing import assertDataFrameEqual

from alure_spark import tables
from alure_spark.config import GraphConfig
from alure_spark.errors import DataError
from alure_spark.graph.blend import with_blend
from alure_spark.graph.edges import pruned_edges, similarity_edges
from alure_spark.graph.embeddings import require_one_model, usable_embeddings
from alure_spark.graph.kmeans import assign_clusters, fit_centroids, with_sizes
from alure_spark.graph.quality import (
    edge_churn,
    embedding_map,
    exact_neighbours,
    graph_statistics,
    in_degrees,
    probe_curves,
    sampled,
    search_recall,
)

AS_OF = datetime(2024, 5, 1)
SCHEMA = tables.USER_EMBEDDINGS.ddl()
CONFIG = GraphConfig(k1=6, users_per_cluster=5, k1_probed=2, k2=5, kmeans_points_per_cluster=8, recall_queries=20)
STRANGE = ["it's", 'say "hi"', "line\nbreak", "tab\t", "ünïcödé", "日本", "🐍", " ", "", "a,b;c", "\\", "%s {x}", "null", "Z", "z"]


def frame(spark, users):
    """users: [(country, user_id, vector)]"""
    rows = [(user, country, AS_OF, "m1", [float(x) for x in vector]) for country, user, vector in users]
    return spark.createDataFrame(rows, SCHEMA)


def build(embeddings, config, unit_users=20_000):
    """Usable embeddings -> (cached users with clusters, centroids, edges)."""
    fitted = fit_centroids(embeddings, config).cache()
    users = assign_clusters(embeddings, fitted).cache()
    centroids = with_sizes(fitted, users).cache()
    edges = similarity_edges(embeddings, centroids, config, tempfile.mkdtemp(), unit_users).cache()
    return users.join(embeddings.select("country", "user_id", "embedding"), ["country", "user_id"]).cache(), centroids, edges


def as_lists(edges):
    """{(country, src): [(dst, weight), ..] in the order of rank}; checks that ranks are 1, 2, .."""
    answers = defaultdict(list)
    for row in sorted(edges.collect(), key=lambda row: row["rank"]):
        assert row["graph"] == "alure"
        assert row["as_of"] == AS_OF
        answers[row["country"], row["src_user_id"]].append((row["dst_user_id"], row["weight"]))
        assert row["rank"] == len(answers[row["country"], row["src_user_id"]])
    return dict(answers)


def brute_force(users, k, reachable=lambda me, them: True):
    """The same from rows (country, user_id, embedding, ..) by loops over all pairs."""
    answers = {}
    by_country = defaultdict(list)
    for row in users:
        by_country[row["country"]].append((row, np.array(row["embedding"], np.float64)))
    for country, rows in by_country.items():
        for me, mine in rows:
            scored = sorted(
                (-(round(float(mine @ theirs), 6) + 0.0), them["user_id"])
                for them, theirs in rows
                if them["user_id"] != me["user_id"] and reachable(me, them)
            )
            if scored:
                answers[country, me["user_id"]] = [(user, -weight) for weight, user in scored[:k]]
    return answers


def assert_same(ours, expected):
    assert ours.keys() == expected.keys()
    for key, answer in expected.items():
        assert [dst for dst, _ in ours[key]] == [dst for dst, _ in answer], key
        assert [weight for _, weight in ours[key]] == pytest.approx([weight for _, weight in answer], abs=1.1e-6)


def gaussian_countries(seed=0):
    """Countries of 1, 2, k2, k2+1 and more users; of equal users, of many ties, of strange ids."""
    random = np.random.default_rng(seed)
    users = []
    for size in (1, 2, CONFIG.k2, CONFIG.k2 + 1, 33, 70):
        users += [(f"n{size}", f"u{i}", random.standard_normal(4)) for i in range(size)]
    users += [("equal", f"u{i}", [1, 2, 3, 4]) for i in range(25)]
    users += [("pairs", f"u{i}", vector) for i, vector in enumerate(np.repeat(random.standard_normal((15, 4)), 2, axis=0))]
    for case in range(20):  # few directions and many users: full of ties
        some = random.integers(-2, 3, (random.integers(1, 21), 2))
        users += [(f"case{case}", f"u{i}", [*vector, 1, 0]) for i, vector in enumerate(some % 2 if case % 2 else some)]
    users += [("strange 'ü\"", user, random.standard_normal(4)) for user in STRANGE]
    return users


@pytest.fixture(scope="module")
def good(spark):
    return usable_embeddings(frame(spark, gaussian_countries()))[0].cache()


@pytest.fixture(scope="module")
def exact(good):
    return build(good, replace(CONFIG, search="exact"), unit_users=2)  # up to 16 users in the base: several blocks


@pytest.fixture(scope="module")
def probed(good):
    return build(good, replace(CONFIG, search="probed"), unit_users=7)


def test_exact_search_equals_brute_force_in_countries_of_every_size(exact):
    users, _, edges = exact
    expected = brute_force(users.collect(), CONFIG.k2)
    assert {len(expected[key]) for key in expected if key[0] == "n2"} == {1}
    assert ("n1", "u0") not in expected
    assert_same(as_lists(edges), expected)


def test_probed_search_equals_brute_force_inside_the_probed_lists(probed):
    users, centroids, edges = probed
    vectors = defaultdict(list)
    for row in centroids.orderBy("country", "cluster_id").collect():
        vectors[row["country"]].append(np.array(row["centroid"], np.float64))

    def lists(row):
        mine = np.array(row["embedding"], np.float64)
        scored = [(-round(float(mine @ c), 6), number) for number, c in enumerate(vectors[row["country"]])]
        return {number for _, number in sorted(scored)[: CONFIG.k1_probed]}

    probes = {(row["country"], row["user_id"]): lists(row) for row in users.collect()}
    expected = brute_force(users.collect(), CONFIG.k2, lambda me, them: them["cluster_id"] in probes[me["country"], me["user_id"]])
    assert max(map(len, vectors.values())) == CONFIG.k1
    ours = as_lists(edges)
    assert_same(ours, expected)
    assert ours != brute_force(users.collect(), CONFIG.k2)  # probing does leave neighbours out here


def test_every_user_belongs_to_the_cluster_of_the_most_similar_centroid(probed):
    users, centroids, _ = probed
    rows = users.collect()
    vectors = {(row["country"], row["cluster_id"]): np.array(row["centroid"], np.float64) for row in centroids.collect()}
    for row in rows:
        mine = np.array(row["embedding"], np.float64)
        scored = [(-round(float(mine @ c), 6), number) for (country, number), c in vectors.items() if country == row["country"]]
        assert row["cluster_id"] == min(scored)[1]
    sizes = defaultdict(int)
    for row in rows:
        sizes[row["country"], row["cluster_id"]] += 1
    assert {(row["country"], row["cluster_id"]): row["size"] for row in centroids.collect() if row["size"]} == dict(sizes)


@pytest.mark.parametrize(("position", "name"), [(0, "user_clusters"), (1, "cluster_centroids"), (2, "user_edges")])
def test_frames_have_the_columns_of_the_tables(probed, position, name):
    found = {field.name: field.dataType.simpleString() for field in probed[position].schema}
    expected = {column.name: column.type.lower() for column in tables.table(name).columns}
    assert {name: found[name] for name in expected} == expected


def test_the_result_does_not_depend_on_partitions_or_row_order(good, probed):
    columns = ["user_id", "country", "cluster_id"]
    for partitions in (1, 7):
        shuffled = good.orderBy(F.xxhash64("user_id", F.lit(partitions))).repartition(partitions, F.reverse("user_id"))
        users, centroids, edges = build(shuffled, replace(CONFIG, search="probed"), unit_users=7)
        assertDataFrameEqual(users.select(columns), probed[0].select(columns))
        assertDataFrameEqual(centroids, probed[1], rtol=0, atol=0)
        assertDataFrameEqual(edges, probed[2], rtol=0, atol=0)


def test_the_size_of_the_units_does_not_change_the_edges(probed, tmp_path):
    users, centroids, edges = probed
    in_one = similarity_edges(users, centroids, replace(CONFIG, search="probed"), str(tmp_path))
    assert as_lists(in_one) == as_lists(edges)


def communities(seed=1, groups=10, size=25, d=16):
    random = np.random.default_rng(seed)
    users = []
    for country in ("A", "B"):
        centres = random.standard_normal((groups, d))
        users += [
            (country, f"{country}{group}-{i}", centres[group] + 0.5 * random.standard_normal(d))
            for group in range(groups)
            for i in range(size)
        ]
    return users


def test_members_of_a_planted_community_become_neighbours(spark):
    config = GraphConfig(k1=20, users_per_cluster=10, k1_probed=5, k2=10, search="probed")
    good, _ = usable_embeddings(frame(spark, communities()))
    rows = build(good, config)[2].collect()
    assert len(rows) == 2 * 250 * 10
    inside = np.mean([row["src_user_id"].split("-")[0] == row["dst_user_id"].split("-")[0] for row in rows])
    assert inside > 0.95  # chance is 0.1


def test_recall_is_one_for_exact_edges_and_lower_for_probed_and_for_corrupted_edges(good, exact, probed):
    edges, rank, dst = exact[2], F.col("rank"), F.col("dst_user_id")
    equal = F.concat(F.lit("u"), (rank + 10).cast("string"))
    first_two = edges.where("country = 'n70' and rank <= 2")
    variants = {  # a copy of a country under another name -> its edges
        "n70 probed": probed[2].where("country = 'n70'"),
        "equal, others named": edges.where("country = 'equal'").withColumn("dst_user_id", equal).where("src_user_id != dst_user_id"),
        # The weight stays, and the neighbour is somebody else, oneself, or the same one again; or the edge is gone.
        "n70 wrong": edges.where("country = 'n70'").withColumn("dst_user_id", F.when(rank == 2, F.lit("u0")).otherwise(dst)),
        "n70 itself": edges.where("country = 'n70'").withColumn("dst_user_id", F.when(rank == 1, F.col("src_user_id")).otherwise(dst)),
        "n70 lost": edges.where("country = 'n70' and rank > 2"),
        "n70 twice": first_two.withColumn("rank", rank + 2).union(first_two),
        "n2 nothing": edges.where("false"),
    }
    everyone, all_edges = good, edges
    for name, changed in variants.items():
        original = re.split("[ ,]", name)[0]
        everyone = everyone.union(good.where(F.col("country") == original).withColumn("country", F.lit(name)))
        all_edges = all_edges.union(changed.withColumn("country", F.lit(name)))
    everyone = everyone.repartition(3, "user_id")
    sample = sampled(everyone, CONFIG).cache()
    rows = search_recall(all_edges, sample, everyone, exact_neighbours(sample, everyone, CONFIG.k2)).collect()
    recall = {row["country"]: row["recall"] for row in rows}
    queries = {row["country"]: row["queries"] for row in rows}
    assert "n1" not in recall
    assert queries["n2"] == 2
    assert queries["n70"] == CONFIG.recall_queries
    assert {share for country, share in recall.items() if country not in variants} == {1.0}
    assert recall["equal, others named"] >= 0.95  # whoever of many equal users is named, the answer is right
    assert 0 < recall["n70 probed"] < 1
    assert 0.8 <= recall["n70 wrong"] < 0.9
    assert recall["n70 itself"] == pytest.approx(0.8)
    assert recall["n70 lost"] == pytest.approx(0.6)
    assert recall["n70 twice"] == pytest.approx(0.4)
    assert recall["n2 nothing"] == 0


def test_graph_statistics_are_those_of_a_graph_counted_by_hand(spark):
    edges = spark.createDataFrame(
        [("a", "b", 0.9), ("b", "a", 0.9), ("c", "a", 0.5), ("d", "a", 0.1)], "src_user_id string, dst_user_id string, weight double"
    )
    clusters = spark.createDataFrame(
        [("a", "X", 0), ("b", "X", 0), ("c", "X", 0), ("d", "X", 1), ("e", "Y", 0)], "user_id string, country string, cluster_id int"
    )
    assert graph_statistics(edges, clusters).first().asDict() == pytest.approx({
        "users": 5, "connected_share": 0.8, "edges": 4, "mean_weight": 0.6, "in_degree_p50": 0, "in_degree_p90": 2.2, "in_degree_max": 3,
        "reciprocity": 0.5, "clusters": 3, "cluster_size_min": 1, "cluster_size_median": 1, "cluster_size_max": 3,
    })  # fmt: skip


BAD = {
    "null": (None, "embedding is null or empty"),
    "empty": ([], "embedding is null or empty"),
    "short": ([1.0, 2.0], "embedding has 2 numbers; most have 3"),
    "nan": ([1.0, float("nan"), 0.0], "embedding holds null, NaN or infinity"),
    "inf": ([1.0, float("-inf"), 0.0], "embedding holds null, NaN or infinity"),
    "hole": ([1.0, None, 0.0], "embedding holds null, NaN or infinity"),
    "zero": ([0.0, -0.0, 0.0], "embedding is all zeros"),
}


def test_unusable_embeddings_are_refused_with_a_reason_and_none_is_lost(spark):
    vectors = [[3.0, 0.0, 4.0], [1e-20, 0.0, 0.0], [1e30, 1e30, 0.0], [0.0, -2.0, 0.0]]
    rows = [(f"good{i}", "A", AS_OF, "m1", vector) for i, vector in enumerate(vectors)]
    rows += [(user, "A", AS_OF, "m1", vector) for user, (vector, _) in BAD.items()]
    rows += [(None, "A", AS_OF, "m1", [1.0, 1.0, 1.0])]
    good, refused = usable_embeddings(spark.createDataFrame(rows, SCHEMA))
    assert good.schema.simpleString() == spark.createDataFrame([], SCHEMA).schema.simpleString()
    found = {row["user_id"]: row["embedding"] for row in good.collect()}
    expected = {f"good{i}": np.array(vector) / np.linalg.norm(vector) for i, vector in enumerate(vectors)}
    assert found.keys() == expected.keys()
    for user, vector in expected.items():
        assert found[user] == pytest.approx(vector, abs=1e-7)
    reasons = {json.loads(row["row"]).get("user_id"): row["reason"] for row in refused.collect()}
    assert reasons == {None: "user_id, country or as_of is null"} | {user: reason for user, (_, reason) in BAD.items()}
    assert refused.columns == [name for name in tables.QUARANTINE.column_names if name != "run_id"]
    assert good.count() + refused.count() == len(rows)


def test_a_table_without_one_usable_embedding_is_refused_as_a_whole(spark):
    good, refused = usable_embeddings(spark.createDataFrame([("u", "A", AS_OF, "m1", None), ("v", "A", AS_OF, "m1", [])], SCHEMA))
    assert good.count() == 0
    assert refused.count() == 2


def test_embeddings_of_two_models_are_an_error_that_says_what_to_run(spark):
    rows = [("u", "A", AS_OF, "m1", [1.0]), ("v", "A", AS_OF, "m2", [1.0])]
    require_one_model(spark.createDataFrame(rows[:1], SCHEMA))
    with pytest.raises(DataError, match=r"'m1' \(1 rows\), 'm2' \(1 rows\).*jobs/embed_users.py"):
        require_one_model(spark.createDataFrame(rows, SCHEMA))


def test_a_country_without_centroids_is_an_error(spark, good):
    fitted = fit_centroids(good.where("country = 'n2'"), CONFIG)
    with pytest.raises(Exception, match="has no centroids: fit them on the same embeddings"):
        assign_clusters(good, fitted).count()


def ranked_edges(spark, rows):
    """[(src, dst, weight)] in the order of rank -> user_edges."""
    ranks, full = defaultdict(int), []
    for src, dst, weight in rows:
        ranks[src] += 1
        full.append((src, dst, "A", "alure", weight, ranks[src], 1, AS_OF))
    return spark.createDataFrame(full, tables.USER_EDGES.ddl())


LINKS = [("a", "b", 0.9), ("a", "c", 0.5), ("b", "a", 0.9), ("b", "c", 0.7), ("c", "b", 0.7), ("d", "c", 0.5), ("d", "a", 0.2)]


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ({}, LINKS),
        ({"min_similarity": 0.5}, LINKS[:-1]),
        ({"mutual": True}, [LINKS[0], *LINKS[2:5]]),
        ({"hub_cap": 1}, [("a", "b", 0.9), ("b", "a", 0.9), ("b", "c", 0.7)]),
        ({"hub_cap": 2}, [("a", "b", 0.9), ("a", "c", 0.5), ("b", "a", 0.9), ("b", "c", 0.7), ("c", "b", 0.7), ("d", "a", 0.2)]),
        ({"mutual": True, "min_similarity": 0.8}, [("a", "b", 0.9), ("b", "a", 0.9)]),
    ],
)
def test_edges_that_the_conf_does_not_want_are_left_out_and_ranks_close_up(spark, options, left):
    made = as_lists(pruned_edges(ranked_edges(spark, LINKS), replace(CONFIG, **options)))
    expected = defaultdict(list)
    for src, dst, weight in left:
        expected["A", src].append((dst, weight))
    assert made == dict(expected)


def test_churn_counts_edges_that_went_away_from_users_who_are_still_there(spark):
    before = ranked_edges(spark, [("a", "b", 0.9), ("a", "c", 0.8), ("b", "a", 0.7), ("gone", "a", 0.7)])
    now = ranked_edges(spark, [("a", "b", 0.3), ("a", "d", 0.2), ("b", "a", 0.7), ("new", "a", 0.1)])
    (row,) = edge_churn(now, before).collect()
    assert row["churn"] == pytest.approx(1 / 3)
    assert row["earlier_edges"] == 3


def test_the_probe_curve_says_what_each_number_of_lists_finds(good, probed):
    config = replace(CONFIG, recall_queries=1000)
    users, centroids, edges = probed
    sample = sampled(good, config).cache()
    exact = exact_neighbours(sample, good, config.k2).cache()
    recall = {row["country"]: row["recall"] for row in search_recall(edges, sample, good, exact).collect()}
    curves = probe_curves(exact, sample, users.drop("embedding"), centroids)
    assert curves.keys() == recall.keys()
    for curve in curves.values():
        assert curve.probed[0] == 1
        assert (np.diff(curve.recall) >= 0).all()
        assert (np.diff(curve.searched) >= 0).all()
        assert curve.recall[-1] == 1
        assert curve.searched[-1] == pytest.approx(1)
    n70 = curves["n70"]
    assert n70.recall[list(n70.probed).index(CONFIG.k1_probed)] == pytest.approx(recall["n70"])
    sizes = {(row["country"], row["cluster_id"]): row["size"] for row in centroids.collect()}
    own = [sizes["n70", row["cluster_id"]] / 70 for row in users.where("country = 'n70'").collect()]
    assert n70.searched[0] == pytest.approx(np.mean(own)), "the nearest list is the user's own"


def test_in_degrees_and_the_map_are_of_all_users(good, probed):
    users, _, edges = probed
    named = Counter(row["dst_user_id"] for row in edges.where("country = 'n70'").collect())
    expected = Counter(named.get(row["user_id"], 0) for row in users.where("country = 'n70'").collect())
    found = in_degrees(edges.where("country = 'n70'"), users.where("country = 'n70'")).collect()
    assert {row["degree"]: row["users"] for row in found} == expected
    mapped = embedding_map(good, users.drop("embedding"), CONFIG)
    assert len(mapped) == good.count()
    assert mapped["x"].var() >= mapped["y"].var() > 0
    assert set(mapped["country"]) == {row["country"] for row in good.select("country").distinct().collect()}


def test_connected_share_is_of_users_with_an_edge(spark):
    clusters = spark.createDataFrame([(user, "A", AS_OF, 0) for user in "abcd"], tables.USER_CLUSTERS.ddl())
    (row,) = graph_statistics(ranked_edges(spark, [("a", "b", 0.9), ("a", "c", 0.8), ("b", "a", 0.7)]), clusters).collect()
    assert row["connected_share"] == 0.5


def test_the_edges_of_a_graph_are_computed_once_though_the_blend_reads_them_too(spark):
    computed = spark.sparkContext.accumulator(0)

    def counted(batches):
        for batch in batches:
            computed.add(batch.num_rows)
            yield batch

    schema = "src_user_id string, dst_user_id string, country string, graph string, weight double, rank int, as_of timestamp, origins int"
    made = []
    for graph, bit in (("alure", 1), ("ppr", 4)):
        rows = [(f"u{i}", f"u{i + bit}", "A", graph, 0.5, 1, AS_OF, bit) for i in range(10)]
        made.append(spark.createDataFrame(rows, schema).mapInArrow(counted, schema))
    everything = with_blend(made, GraphConfig(graphs=("alure", "ppr")))
    everything.write.format("noop").mode("overwrite").save()
    assert computed.value == 20
    assert {row["graph"]: row["count"] for row in everything.groupBy("graph").count().collect()} == {"alure": 10, "ppr": 10, "blend": 20}
    for frame in made:
        frame.unpersist()
