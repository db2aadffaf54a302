"""Candidates ranked by the model: the same probabilities by whatever way, and an order by what responses are worth."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from alure_spark.batches.epochs import MemoryLoader
from alure_spark.config import FieldConfig, RankingConfig
from alure_spark.errors import ConfigError, DataError
from alure_spark.inference.candidate_scores import scored
from alure_spark.inference.ranking_pyfunc import RankingFunction, optional_columns, outputs
from alure_spark.inference.ranking_rows import ImpressionScorer, require_fields
from alure_spark.ranking.artifact import RankingArtifact
from alure_spark.training import ranking_model
from tests.inference.small_candidates import candidates, hashes, with_columns
from tests.ranking.planted_ranking import DRAFT, VOCABULARY, users


@pytest.fixture(scope="module")
def scorer():
    loader = MemoryLoader(users(200), 64, seed=1)
    spec = ranking_model.fitted_spec(DRAFT, loader, VOCABULARY)
    network = ranking_model.new_network(spec, loader, 3)
    trained = ranking_model.train(network, loader, RankingConfig(epochs=3, learning_rate=0.01))
    return ImpressionScorer(RankingArtifact.of(trained.network, VOCABULARY, {}))


def test_a_user_alone_has_the_probabilities_that_it_has_among_others(scorer):
    rows = candidates()
    together, at = scorer.predictions(rows), 0
    for number in range(rows.num_rows):
        alone = scorer.predictions(rows.slice(number, 1))
        np.testing.assert_allclose(alone, together[at : at + len(alone)], atol=2e-6)
        at += len(alone)
    assert at == len(together)


def test_candidates_come_by_score_ties_as_retrieved_and_at_most_the_cap(scorer):
    rows = candidates(seed=2, count=20)
    config = RankingConfig(score={"click": "bid"}, cap=3)
    result = scored(rows, scorer, config, "m").to_pylist()
    p, at = scorer.predictions(rows)[:, 0], 0
    for given, row in zip(rows.to_pylist(), result, strict=True):
        mine = p[at : at + len(given["ads"])]
        at += len(mine)
        worth = [round((bid or 0.0) * chance, 9) for bid, chance in zip(given["_bid"], mine, strict=True)]
        best = sorted(range(len(worth)), key=lambda place: (-worth[place], place))[:3]
        assert row["ad_id"] == [given["ads"][place] for place in best]
        assert row["account_id"] == [given["accounts"][place] for place in best]
        assert row["score"] == pytest.approx([worth[place] for place in best], abs=1e-8)
        assert row["p_click"] == pytest.approx([mine[place] for place in best])
        assert (row["user_id"], row["country"], row["model_id"]) == (given["user_id"], "SE", "m")


def test_without_a_score_the_first_tasks_probability_decides(scorer):
    rows = candidates(seed=3)
    for row in scored(rows, scorer, RankingConfig(), "m").to_pylist():
        assert row["score"] == row["p_click"] == sorted(row["p_click"], reverse=True)


def test_what_becomes_known_after_the_moment_changes_nothing(scorer):
    rows = candidates(seed=5, count=30)
    known = rows.column("click__known_at_ms").to_pylist()
    categories = rows.column("click__category").to_pylist()
    other = [[hashes("category", [1])[0] if at >= 500 * 3_600_000 else one for at, one in zip(*pair, strict=True)] for pair in
             zip(known, categories, strict=True)]  # fmt: skip
    assert other != categories
    changed = with_columns(rows, {"click__category": pa.array(other, pa.list_(pa.int64()))})
    np.testing.assert_array_equal(scorer.predictions(changed), scorer.predictions(rows))


def test_the_pyfunc_says_what_the_table_says(scorer):
    rows = candidates(seed=6)
    frame = rows.to_pandas()
    frame.index = [10 + number for number in range(len(frame))]
    predicted = RankingFunction(scorer).predict(frame)
    assert predicted.index.tolist() == frame.index.tolist()
    assert np.concatenate([np.array(one) for one in predicted["p_click"]]).tolist() == scorer.predictions(rows)[:, 0].tolist()
    assert {"time_ms", *optional_columns(scorer.spec)} == set(scorer.columns())
    assert outputs(scorer.spec) == {"user_id": "string", "p_click": "double[]"}


def test_a_field_that_is_missing_at_serving_is_one_sentence(scorer):
    rows = candidates()
    with pytest.raises(DataError, match="the rows lack the column 'impression__price'"):
        scorer.predictions(rows.select([name for name in rows.schema.names if name != "impression__price"]))
    with pytest.raises(DataError, match="the rows lack the column 'impression__price'"):
        RankingFunction(scorer).predict(rows.to_pandas().drop(columns="impression__price"))
    with pytest.raises(DataError, match="'impression__price' does not hold lists of numbers"):
        RankingFunction(scorer).predict(pd.DataFrame(rows.to_pandas()).assign(impression__price="cheap"))


def test_a_conf_that_no_longer_fits_the_model_is_one_sentence(scorer):
    artifact = RankingArtifact.of(scorer.network, VOCABULARY, {})
    fields = {
        "ad": FieldConfig("impression.ad_id", "id"),
        "category": FieldConfig("ad.category_id", "id"),
        "price": FieldConfig("ad.bid", "numeral_systems"),
        "clicks": FieldConfig("history.click.count", "numeral_systems"),
    }
    columns = [*scorer.columns(), "ads"]
    require_fields(artifact, RankingConfig(fields), columns)
    with pytest.raises(ConfigError, match=r"reads the field 'price', which ranking.fields lacks; did you mean 'prices'"):
        require_fields(artifact, RankingConfig({("prices" if name == "price" else name): one for name, one in fields.items()}), columns)
    with pytest.raises(ConfigError, match=r"by the encoding numeral_systems, but ranking.fields.price says standardized"):
        require_fields(artifact, RankingConfig(fields | {"price": FieldConfig("ad.bid", "standardized")}), columns)
    with pytest.raises(DataError, match=r"the rows lack the array 'click__known_at_ms'.*run jobs/build_sequences.py"):
        require_fields(artifact, RankingConfig(fields), [name for name in columns if name != "click__known_at_ms"])
