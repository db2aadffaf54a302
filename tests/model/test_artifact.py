"""A model on disk: what comes back is the same function, and anything changed on the way is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from alure_spark.errors import DataError
from alure_spark.model.artifact import DESCRIPTION, READOUT, USER, Artifact
from alure_spark.model.batch import ITEM
from alure_spark.model.spec import ModelSpec
from alure_spark.model.user_model import UserModel
from alure_spark.model.vocabulary import Vocabulary
from tests.model.worlds import ROWS, assert_close, random_batch, shaken, spec_of

FACTS = {"conf": "abc", "vocabulary_version": 3}


def vocabulary_of(rows):
    """Ids 100, 101, ... of rows 1, 2, ... up to `rows` - 1, in the space of the items."""
    row = np.arange(1, rows)
    return Vocabulary.from_arrays(np.full(rows - 1, ITEM, object), row + 99, row)


@pytest.fixture(scope="module")
def model():
    return shaken(UserModel(spec_of())).float()


@pytest.fixture(scope="module")
def artifact(model):
    return Artifact.of(model, vocabulary_of(ROWS), FACTS)


def test_what_is_read_back_answers_as_what_was_written(tmp_path, model, artifact):
    again = Artifact.read(artifact.write(tmp_path / "model"))
    assert (again.model_id, again.facts, again.spec) == (artifact.model_id, FACTS, artifact.spec)
    batch = random_batch(model.spec, 6, 20, impressions=5)
    (encoder, vocabulary), (whole, _) = again.encoder(), again.model()
    assert not encoder.training
    assert not whole.training
    with torch.no_grad():
        assert_close(encoder.embed(batch), model.encoder.embed(batch), 0)
        assert_close(whole.encoder.embed(batch), model.encoder.embed(batch), 0)
        assert_close(whole.probabilities(batch), model.probabilities(batch), 0)
    assert vocabulary.rows(ITEM, np.array([100, 128, 129])).tolist() == [1, 29, 0]


def test_models_that_embed_alike_have_one_id(model, artifact):
    assert Artifact.of(model, vocabulary_of(ROWS), {"other": "facts"}).model_id == artifact.model_id
    assert Artifact.of(model, vocabulary_of(ROWS - 1), FACTS).model_id != artifact.model_id
    other = shaken(UserModel(spec_of()), seed=4).float()
    assert Artifact.of(other, vocabulary_of(ROWS), FACTS).model_id != artifact.model_id


def test_the_digest_of_an_early_model_is_still_the_same():
    """Of the first release of models; what was added to the conf since then means at its default what it did without."""
    spec = ModelSpec({"purchase": {"value": "numeric"}}, ("purchase",), {ITEM: 3})
    assert Artifact(b"weights", spec).digest == "a7f717ae6c52d401fa4184cfcbffb31b63bbd57571068207c2c78f0d66b0cf97"
    assert Artifact(b"weights", replace(spec, config=replace(spec.config, read_positions=2))).digest[:6] != "a7f717"


def flip(file, share):
    """Changes one bit of the byte at this share of the file."""
    content = bytearray(file.read_bytes())
    content[round(share * (len(content) - 2))] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("name", [USER, READOUT])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 0.9, 1.0])
def test_one_flipped_bit_of_the_weights_is_refused(tmp_path, artifact, name, share):
    place = artifact.write(tmp_path / "model")
    flip(place / name, share)
    with pytest.raises(DataError, match="changed or damaged"):
        Artifact.read(place)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0])
def test_one_flipped_bit_of_the_description_is_refused(tmp_path, artifact, share):
    place = artifact.write(tmp_path / "model")
    flip(place / DESCRIPTION, share)
    with pytest.raises(DataError):
        Artifact.read(place)


@pytest.mark.parametrize("name", [USER, READOUT, DESCRIPTION])
def test_a_missing_file_is_named(tmp_path, artifact, name):
    place = artifact.write(tmp_path / "model")
    (place / name).unlink()
    with pytest.raises(DataError, match=f"lacks {name}"):
        Artifact.read(place)


def test_another_model_than_the_expected_one_is_refused(tmp_path, artifact):
    place = artifact.write(tmp_path / "model")
    assert Artifact.read(place, artifact.digest).model_id == artifact.model_id
    with pytest.raises(DataError, match="changed or damaged"):
        Artifact.read(place, "0" * 64)


def test_a_model_with_nan_is_not_saved():
    model = UserModel(spec_of())
    with torch.no_grad():
        model.encoder.compress[0].weight[0, 0] = torch.nan
    with pytest.raises(DataError, match=r"encoder\.compress\.0\.weight hold NaN"):
        Artifact.of(model, vocabulary_of(ROWS), FACTS)


def test_a_vocabulary_newer_than_the_model_is_refused(model):
    with pytest.raises(DataError, match="newer than the model"):
        Artifact.of(model, vocabulary_of(ROWS + 1), FACTS)


def test_the_user_sub_graph_alone_embeds_but_does_not_score(artifact):
    alone = Artifact(artifact.user, artifact.spec)
    assert alone.model_id == artifact.model_id
    alone.encoder()
    with pytest.raises(DataError, match=READOUT):
        alone.model()


def test_the_description_is_plain_json(tmp_path, artifact):
    content = json.loads((artifact.write(tmp_path) / DESCRIPTION).read_text())
    assert content["facts"] == FACTS
    assert content["spec"]["config"]["layers"] == 2
