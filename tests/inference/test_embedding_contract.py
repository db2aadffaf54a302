"""What every way to embed users keeps to: the shape of the table, unit length, one row per user of whom something is known, the same rows
however Spark cuts them, and a model_id that tells one model from another."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import functions as F
from pyspark.testing import assertDataFrameEqual

from alure_spark.baselines import user_embeddings
from alure_spark.config import EmbeddingConfig, InferenceConfig
from alure_spark.inference.table import embed_table
from alure_spark.lake import timestamp
from alure_spark.tables import USER_EMBEDDINGS
from tests.inference.small_model import AS_OF_MS, make_artifact

ITEM_SOURCES = ["purchase", "ad_click"]


class Alure:
    """The registered model: random weights."""

    def __init__(self, sequences, seed):
        self.artifact = make_artifact(seed)
        self.model_id = self.artifact.model_id

    def embed(self, sequences):
        return embed_table(sequences, self.artifact, InferenceConfig(), AS_OF_MS)


class Classic:
    """Item vectors fitted on the users."""

    def __init__(self, sequences, seed):
        self.config = EmbeddingConfig(method=self.method, dimension=6, seed=seed)
        self.model = user_embeddings.fit(self.histories(sequences.where("user_id != 'stranger'")), self.config)
        self.model_id = self.model.model_id(self.config)

    def histories(self, sequences):
        return user_embeddings.item_histories(sequences, ITEM_SOURCES)

    def embed(self, sequences):
        return user_embeddings.embed_users(self.histories(sequences), self.model, self.config)


class Svd(Classic):
    method = "svd"


class Item2Vec(Classic):
    method = "item2vec"


@pytest.fixture(scope="module")
def sequences(spark, rows):
    """The rows of small_model, and one user of items that no model knows: it gets a row of unit length or none."""
    known = spark.createDataFrame(pa.Table.from_batches([rows])).withColumn("as_of", timestamp(AS_OF_MS))
    items = {name: F.transform(name, lambda item: item + 10**6) for name in known.columns if name.endswith("__item_id")}
    stranger = known.where("user_id = 'u0'").withColumns(items).withColumn("user_id", F.lit("stranger"))
    return known.unionByName(stranger).cache()


@pytest.fixture(scope="module", params=[Alure, Svd, Item2Vec])
def method(request, sequences):
    return request.param(sequences, seed=3)


@pytest.fixture(scope="module")
def embedded(method, sequences):
    return method.embed(sequences).cache()


def test_rows_are_those_of_the_table_and_of_unit_length(embedded, method, sequences):
    assert dict(embedded.dtypes) == {column.name: column.type.lower() for column in USER_EMBEDDINGS.columns}
    made = embedded.toPandas()
    assert not made.empty
    assert made["user_id"].is_unique
    assert set(made["model_id"]) == {method.model_id}
    lengths = np.linalg.norm(np.stack(made["embedding"].tolist()).astype(np.float64), axis=1)
    np.testing.assert_allclose(lengths, 1, atol=1e-5)
    given = sequences.select("user_id", "country", "as_of")
    assertDataFrameEqual(embedded.select(given.columns), given.join(embedded.select("user_id"), "user_id", "left_semi"))


def test_who_did_nothing_gets_no_row_and_takes_none_from_others(embedded, method, sequences):
    names = [name for name in sequences.columns if "__" in name]
    nobody = sequences.withColumns({name: F.lit(None).cast(dict(sequences.dtypes)[name]) for name in names})
    more = sequences.unionByName(nobody.withColumn("user_id", F.concat(F.lit("nobody "), "user_id")))
    assertDataFrameEqual(method.embed(more), embedded, rtol=0, atol=1e-6)


@pytest.mark.parametrize("partitions", [1, 7])
def test_the_cut_and_the_order_of_rows_change_nothing(embedded, method, sequences, partitions):
    cut = sequences.orderBy(F.xxhash64("user_id", F.lit(partitions))).repartition(partitions, F.reverse("user_id"))
    assertDataFrameEqual(method.embed(cut), embedded, rtol=0, atol=1e-6)


def test_each_user_is_embedded_from_the_own_row_alone(embedded, method, sequences):
    some = sequences.where(F.col("user_id").endswith("3"))
    assertDataFrameEqual(method.embed(some), embedded.where(F.col("user_id").endswith("3")), rtol=0, atol=1e-6)


def test_the_model_id_tells_one_model_from_another_and_not_one_from_itself(method, sequences):
    again, other = type(method)(sequences, seed=3), type(method)(sequences, seed=4)
    assert again.model_id == method.model_id
    assert other.model_id != method.model_id
