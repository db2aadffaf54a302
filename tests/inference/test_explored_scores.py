"""What a model says of its own uncertainty: further columns, draws that can be made again, and what may decide the order."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from alure_spark.batches.epochs import MemoryLoader
from alure_spark.config import ExplorationConfig, FieldConfig, RankingConfig
from alure_spark.errors import DataError
from alure_spark.inference import candidate_scores, example_scores
from alure_spark.inference.ranking_rows import ImpressionScorer, require_fields
from alure_spark.ranking.artifact import RankingArtifact
from alure_spark.training import ranking_exploration, ranking_model
from tests.inference.small_candidates import candidates, with_columns
from tests.ranking.planted_ranking import DRAFT, VOCABULARY, users

EXPLORATION = ExplorationConfig(features=64, prior_variance=4.0)
CONFIG = RankingConfig(cap=3, exploration=EXPLORATION)
FURTHER = ("explored", "logit_mean_click", "logit_variance_click", "explored_click")


@pytest.fixture(scope="module")
def artifact():
    loader = MemoryLoader(users(200), 64, seed=1)
    network = ranking_model.new_network(ranking_model.fitted_spec(DRAFT, loader, VOCABULARY), loader, 3)
    trained = ranking_model.train(network, loader, RankingConfig(epochs=3, learning_rate=0.01))
    posteriors = ranking_exploration.fitted_posteriors(trained.network, loader, EXPLORATION)
    return RankingArtifact.of(trained.network, VOCABULARY, {}, {task: one.posterior for task, one in posteriors.items()})


@pytest.fixture(scope="module")
def scorer(artifact):
    return ImpressionScorer(artifact)


def scored(rows, scorer, config=CONFIG):
    return candidate_scores.scored(rows, scorer, config, "m").to_pylist()


def thompson(config=CONFIG, **changed):
    return replace(config, exploration=replace(config.exploration, policy="thompson", **changed))


def by_ad(row, name):
    """Ads of a user are not distinct in these rows: their values by ad, each once."""
    return dict(zip(row["ad_id"], row[name], strict=True))


def test_expected_scores_and_their_order_stay_as_they_are_without_exploration(scorer):
    rows = candidates(seed=2, count=20)
    plain = scored(rows, scorer, RankingConfig(cap=3))
    assert not set(FURTHER) & set(plain[0])
    assert [{name: value for name, value in row.items() if name not in FURTHER} for row in scored(rows, scorer)] == plain


def test_the_draw_decides_only_where_the_conf_says_so(scorer):
    rows, config = candidates(seed=2, count=30), replace(CONFIG, cap=10, score={"click": "bid"})
    greedy, by_draw = scored(rows, scorer, config), scored(rows, scorer, thompson(config))
    assert all(row["score"] == sorted(row["score"], reverse=True) for row in greedy)
    assert all(row["explored"] == sorted(row["explored"], reverse=True) for row in by_draw)
    assert any(row["explored"] != sorted(row["explored"], reverse=True) for row in greedy)
    for one, other in zip(greedy, by_draw, strict=True):
        assert all(by_ad(one, name) == by_ad(other, name) for name in ("score", "p_click", *FURTHER))
    assert [row["ad_id"] for row in greedy] != [row["ad_id"] for row in by_draw]


def test_the_drawn_score_is_the_worth_of_the_drawn_probability(scorer):
    for row in scored(candidates(seed=3), scorer, replace(CONFIG, score={"click": "2.5"})):
        np.testing.assert_allclose(row["explored"], 2.5 * np.array(row["explored_click"]))
        np.testing.assert_allclose(row["score"], 2.5 * np.array(row["p_click"]))


def test_same_request_and_seed_same_draw_alone_or_among_others_in_any_order(scorer):
    rows, config = candidates(seed=4, count=12), thompson()
    together = {row["user_id"]: row for row in scored(rows, scorer, config)}
    assert {row["user_id"]: row for row in scored(rows, scorer, config)} == together
    permuted = scored(rows.take(pa.array(np.random.default_rng(0).permutation(12))), scorer, config)
    alone = [row for number in range(12) for row in scored(rows.slice(number, 1), scorer, config)]
    for row in [*permuted, *alone]:
        assert row["ad_id"] == together[row["user_id"]]["ad_id"]
        np.testing.assert_allclose(row["explored"], together[row["user_id"]]["explored"], atol=2e-6)
    other = scored(rows, scorer, thompson(seed=8))
    assert all(row["explored"] != together[row["user_id"]]["explored"] for row in other if row["explored"])


def test_another_moment_is_another_request(scorer):
    rows = candidates(seed=5, count=12)
    times = rows.column("time_ms").to_pylist()
    later = with_columns(rows, {"time_ms": pa.array([[one + 1 for one in its] for its in times], pa.list_(pa.int64()))})
    for now, then in zip(scored(rows, scorer), scored(later, scorer), strict=True):
        assert now["score"] == then["score"]
        assert not now["ad_id"] or now["explored"] != then["explored"]


def test_candidates_of_one_request_share_one_draw_of_the_function(scorer):
    """Two candidates that are alike to the model get the same drawn probability; independent draws would tear them apart."""
    rows = candidates(seed=6, count=30)
    for row in scored(rows, scorer, replace(CONFIG, cap=10)):
        alike = dict[float, set[float]]()
        for mean, drawn in zip(row["logit_mean_click"], row["explored_click"], strict=True):
            alike.setdefault(mean, set()).add(drawn)
        assert all(max(drawn) - min(drawn) < 1e-3 for drawn in alike.values())


def examples(count, moments=1):
    """Rows of impression_examples: one impression each, the same for all but its user and its moment."""
    begin, tasks = datetime(2025, 1, 1, tzinfo=UTC), ("click",)
    rows = [
        {
            "user_id": f"u{number}",
            "event_time": begin + timedelta(milliseconds=number % moments),
            "ad_id": "ad1",
            "split": None,
            "as_of": begin,
            **dict.fromkeys(tasks, 0),
            "impression__ad": 3,
            "impression__category": 2,
            "impression__price": 4.0,
        }
        for number in range(count)
    ]
    time = pa.timestamp("us", "UTC")
    kinds = {"event_time": time, "as_of": time, "split": pa.string(), "click": pa.int32()}
    schema = pa.schema([(name, kinds.get(name, pa.array([value]).type)) for name, value in rows[0].items()])
    return pa.RecordBatch.from_pylist(rows, schema)


@pytest.fixture(scope="module")
def plain():
    """A model without histories, as ready-made tables have it."""
    draft = replace(DRAFT, sequences={}, fields={name: one for name, one in DRAFT.fields.items() if name != "clicks"})
    loader = MemoryLoader(users(200), 64, seed=1)
    network = ranking_model.new_network(ranking_model.fitted_spec(draft, loader, VOCABULARY), loader, 3)
    network.eval()
    posteriors = ranking_exploration.fitted_posteriors(network, loader, EXPLORATION)
    return ImpressionScorer(RankingArtifact.of(network, VOCABULARY, {}, {"click": posteriors["click"].posterior}))


def test_drawn_probabilities_of_many_users_are_the_posterior(plain):
    """A KS test over 12,000 requests, in the logit: the further columns say themselves what the draws are drawn from."""
    found = example_scores.scored(examples(12_000), plain, EXPLORATION, "m").to_pydict()
    mean, variance, p = found["logit_mean_click"][0], found["logit_variance_click"][0], np.array(found["explored_click"])
    assert variance > 0.01
    assert stats.kstest(np.log(p / (1 - p)), stats.norm(mean, variance**0.5).cdf).pvalue > 0.01
    assert set(found["p_click"]) == set(example_scores.scored(examples(1), plain, ExplorationConfig(), "m").to_pydict()["p_click"])


def test_impressions_of_one_moment_of_a_user_are_one_request(plain):
    rows = examples(40, moments=2)
    one_user = with_columns(rows, {"user_id": pa.array(["u"] * 40)})
    drawn = example_scores.scored(one_user, plain, EXPLORATION, "m").to_pydict()["explored_click"]
    assert len(set(drawn[::2])) == len(set(drawn[1::2])) == 1
    assert drawn[0] != drawn[1]


def test_the_posteriors_are_saved_and_covered_by_the_digest(artifact, tmp_path):
    again = RankingArtifact.read(artifact.write(tmp_path), artifact.digest)
    assert again == artifact
    one, other = (its.posteriors()["click"] for its in (artifact, again))
    assert (one.precision == other.precision).all()
    assert (one.mean == other.mean).all()
    content = bytearray((tmp_path / "exploration.safetensors").read_bytes())
    content[-9] ^= 1
    (tmp_path / "exploration.safetensors").write_bytes(content)
    with pytest.raises(DataError, match="changed or damaged"):
        RankingArtifact.read(tmp_path)
    (tmp_path / "exploration.safetensors").unlink()
    with pytest.raises(DataError, match="changed or damaged"):
        RankingArtifact.read(tmp_path)


def test_a_model_of_before_has_the_digest_and_the_files_that_it_had(artifact, tmp_path):
    before = replace(artifact, exploration=b"")
    artifact.write(tmp_path)
    assert {path.name for path in before.write(tmp_path).iterdir()} == {"ranking.safetensors", "model.json"}
    assert RankingArtifact.read(tmp_path).posteriors() == {}
    assert before.digest != artifact.digest


def test_a_model_that_does_not_say_is_refused_where_the_conf_asks(artifact):
    fields = {
        "ad": FieldConfig("impression.ad_id", "id"),
        "category": FieldConfig("ad.category_id", "id"),
        "price": FieldConfig("ad.bid", "numeral_systems"),
        "clicks": FieldConfig("history.click.count", "numeral_systems"),
    }
    columns = artifact.spec.layout().columns()
    require_fields(artifact, RankingConfig(fields, exploration=EXPLORATION), columns)
    with pytest.raises(DataError, match=r"does not say how unsure it is, which ranking.exploration asks for: run jobs/train_ranking.py"):
        require_fields(replace(artifact, exploration=b""), RankingConfig(fields, exploration=EXPLORATION), columns)
