"""The model as MLflow hands it out: saved, loaded and asked as anybody would."""

from __future__ import annotations

from dataclasses import replace

import mlflow
import numpy as np
import pandas as pd
import pytest

from alure_spark.config import FeaturePolicy, InferenceConfig
from alure_spark.errors import DataError
from alure_spark.inference.export import UserEmbedder
from alure_spark.inference.pyfunc import OUTPUTS, REQUIRED, _load_pyfunc, optional_columns
from alure_spark.model.artifact import Artifact
from alure_spark.tracking import Columns
from tests.inference.small_model import AS_OF_MS


@pytest.fixture(scope="module")
def folder(artifact, tmp_path_factory):
    return artifact.write(tmp_path_factory.mktemp("model") / "user_model")


@pytest.fixture(scope="module")
def frame(rows):
    return rows.to_pandas()


@pytest.fixture(scope="module")
def expected(artifact, rows):
    return UserEmbedder(artifact, InferenceConfig()).embed_rows(rows, np.full(rows.num_rows, AS_OF_MS))


def test_the_model_from_mlflow_embeds_as_plain_python_does(folder, artifact, frame, expected, tmp_path):
    place, module = str(tmp_path / "saved"), "alure_spark.inference.pyfunc"
    signature = Columns(REQUIRED, optional_columns(artifact.spec), OUTPUTS).signature()
    mlflow.pyfunc.save_model(place, loader_module=module, data_path=str(folder), pip_requirements=[], signature=signature)
    model = mlflow.pyfunc.load_model(place)
    found = model.predict(frame)
    for asked in (frame.assign(as_of=pd.Timestamp(AS_OF_MS, unit="ms", tz="UTC")), frame.drop(columns="country").assign(other=1)):
        assert model.predict(asked)["embedding"].tolist() == found["embedding"].tolist()
    assert list(found.columns) == ["user_id", "embedding"]
    assert found["user_id"].tolist() == frame["user_id"].tolist()
    np.testing.assert_allclose(np.array(found["embedding"].tolist()), expected, rtol=0, atol=2e-6)
    plain = UserEmbedder(Artifact.read(folder), InferenceConfig())
    assert plain.dimension == len(found["embedding"][0])


def test_country_and_as_of_are_optional_and_the_index_stays(folder, frame, expected):
    model = _load_pyfunc(str(folder))
    some = frame.drop(columns="country").iloc[[5, 3, 9]]
    for asked in (some, some.assign(as_of=pd.Timestamp(AS_OF_MS, unit="ms")), some.assign(as_of="2017-07-14T02:40:00Z")):
        found = model.predict(asked)
        assert found.index.tolist() == [5, 3, 9]
        np.testing.assert_allclose(np.array(found["embedding"].tolist()), expected[[5, 3, 9]], rtol=0, atol=2e-6)
    assert model.predict(frame.iloc[:0]).empty


def test_python_lists_with_none_are_read_like_arrays_with_nulls(folder, rows, frame, expected):
    listed = pd.DataFrame(rows.to_pylist())
    np.testing.assert_allclose(np.array(_load_pyfunc(str(folder)).predict(listed)["embedding"].tolist()), expected, rtol=0, atol=2e-6)


def test_each_segment_is_read_as_its_policy_says(artifact, rows, frame, tmp_path):
    drop = FeaturePolicy(drop_attributes={"purchase": ("value", "title")}, sources=("purchase", "visit"))
    policed = replace(artifact, spec=replace(artifact.spec, policies={"passive": drop}))
    assert policed.digest != artifact.digest
    folder = policed.write(tmp_path / "model")
    model, plain = _load_pyfunc(str(folder)), UserEmbedder(Artifact.read(folder), InferenceConfig())
    as_of = np.full(rows.num_rows, AS_OF_MS)
    by_segment = {name: plain.embed_rows(rows, as_of, name) for name in ("passive", "active")}
    assert np.abs(by_segment["passive"] - by_segment["active"]).max() > 0.01
    names = np.where(np.arange(len(frame)) % 3 == 0, "passive", "active")
    found = np.array(model.predict(frame.assign(segment=names))["embedding"].tolist())
    np.testing.assert_allclose(
        found, np.where((names == "passive")[:, None], by_segment["passive"], by_segment["active"]), rtol=0, atol=2e-6
    )
    with pytest.raises(DataError, match="give each row its 'segment'"):
        model.predict(frame)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frame: frame.drop(columns="visit__item_id"), "lack the array column 'visit__item_id'"),
        (lambda frame: frame.drop(columns="user_id"), "lack the column 'user_id'"),
        (lambda frame: frame.assign(visit__item_id="x"), "'visit__item_id' does not hold lists of integers"),
        (lambda frame: frame.assign(as_of=pd.NaT), "'as_of' of user 'u0' is missing"),
        (lambda frame: frame.assign(as_of=pd.Timestamp("2000-01-01")), "give the row of user_sequences at or before as_of"),
    ],
)
def test_wrong_rows_are_refused_with_a_reason(folder, frame, change, message):
    with pytest.raises(DataError, match=message):
        _load_pyfunc(str(folder)).predict(change(frame))


def test_a_damaged_model_is_not_loaded(artifact, tmp_path):
    folder = artifact.write(tmp_path)
    content = bytearray((folder / "user.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "user.safetensors").write_bytes(content)
    with pytest.raises(DataError, match="was changed or damaged"):
        _load_pyfunc(str(folder))
