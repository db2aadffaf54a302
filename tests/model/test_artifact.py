"""A model on disk: what comes back is the same function, and anything changed on the way is refused."""

import hashlib
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from alure_spark.batches.vocabulary import ITEM, Vocabulary
from alure_spark.config import InferenceConfig
from alure_spark.errors import DataError
from alure_spark.inference.export import UserEmbedder, probe
from alure_spark.model import semantic_ids
from alure_spark.model.artifact import DESCRIPTION, READOUT, USER, Artifact, read_validated
from alure_spark.model.spec import ModelSpec
from alure_spark.model.user_model import UserModel
from tests.model.worlds import ROWS, assert_close, random_batch, shaken, spec_of

GOLDEN = Path(__file__).parent.parent / "golden" / "model_1.tar.gz"
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


def sealed(place, change):
    """The folder with another description, which names its own digest as one does who means to deceive."""
    content = json.loads((place / DESCRIPTION).read_text())
    del content["description_digest"]
    content = change(content)
    seal = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    described = content | {"description_digest": seal} if isinstance(content, dict) else content
    (place / DESCRIPTION).write_text(json.dumps(described))
    return place


def without(name):
    return lambda content: {key: value for key, value in content.items() if key != name}


def with_spec(**values):
    return lambda content: content | {"spec": content["spec"] | values}


def with_config(**values):
    return lambda content: content | {"spec": content["spec"] | {"config": content["spec"]["config"] | values}}


def with_facts(**values):
    return lambda content: content | {"facts": content["facts"] | values}


@pytest.mark.parametrize(
    "change",
    [
        lambda content: [content],
        lambda content: "a model",
        lambda content: None,
        *map(without, ("spec", "facts", "digest", "readout_digest")),
        lambda content: content | {"another": 1},
        lambda content: content | {"facts": [1]},
        lambda content: content | {"facts": None},
        lambda content: content | {"digest": 7},
        lambda content: content | {"readout_digest": None},
        lambda content: content | {"spec": []},
        with_spec(sources=None),
        with_spec(sources=["view"]),
        with_spec(item_sources="view"),
        with_spec(spaces={ITEM: "many"}),
        with_spec(colour="red"),
        with_spec(config=3),
        with_spec(widths={"title": 0}),
        with_spec(policies={"passive": {"sources": 1}}),
        with_config(dimension="8"),
        with_config(dimension=-8),
        with_config(dropout=float("nan")),
        with_config(views=["no such view"]),
        with_facts(as_of_ms=float("nan")),
        with_facts(as_of_ms="2020-01-01"),
        with_facts(as_of_ms=True),
        with_facts(validated=["0" * 64]),
    ],
)
def test_a_description_of_another_shape_is_refused_with_a_sentence_even_if_it_names_its_own_digest(tmp_path, artifact, change):
    place = sealed(artifact.write(tmp_path / "model"), change)
    with pytest.raises(DataError, match=r"the model in \S+ cannot be read"):
        Artifact.read(place)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe{}", b'{"spec": "\xff"}', b"[" * 100_000, b"{}", b"[]", b"null", b"NaN", b"\0" * 10]
)
def test_a_description_that_is_no_json_is_refused_with_a_sentence(tmp_path, artifact, content):
    place = artifact.write(tmp_path / "model")
    (place / DESCRIPTION).write_bytes(content)
    with pytest.raises(DataError, match=r"the model in \S+ cannot be read"):
        Artifact.read(place)


BROKEN = {
    "nothing": lambda content: b"",
    "cut in the header": lambda content: content[:20],
    "cut in the weights": lambda content: content[:-9],
    "a header of endless length": lambda content: b"\xff" * 8 + content[8:],
    "no tensors": lambda content: b"\x02\0\0\0\0\0\0\0{}",
    "other bytes": lambda content: b"PK\x03\x04" + content,
}


@pytest.mark.parametrize("how", BROKEN)
@pytest.mark.parametrize("part", ["user", "readout"])
def test_broken_weights_are_refused_with_a_sentence_even_if_every_digest_is_theirs(tmp_path, artifact, part, how):
    broken = replace(artifact, **{part: BROKEN[how](getattr(artifact, part))})
    with pytest.raises(DataError, match=r"cannot be read|sub-graph only"):
        Artifact.read(broken.write(tmp_path / "model")).model()


def test_weights_of_another_shape_than_the_spec_are_refused_with_a_sentence(artifact):
    for spec in (spec_of(layers=3), replace(artifact.spec, spaces={})):
        with pytest.raises(DataError, match="cannot be read"):
            replace(artifact, spec=spec).encoder()


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_quantiser_is_refused_with_a_sentence(tmp_path, how):
    place = semantic_ids.write(semantic_ids.SemanticIds(4, 2, 3, 5), tmp_path)
    file = place / semantic_ids.FILE
    file.write_bytes(BROKEN[how](file.read_bytes()))
    with pytest.raises(DataError, match=r"the quantiser in \S+ cannot be read"):
        semantic_ids.read(place)


def test_a_model_that_does_not_say_up_to_when_it_was_trained_is_not_asked_about_the_future(artifact):
    with pytest.raises(DataError, match=r"does not say up to when it was trained \(as_of_ms\)"):
        assert artifact.as_of_ms
    assert replace(artifact, facts={"as_of_ms": 5}).as_of_ms == 5


def test_a_model_that_lost_its_validated_twin_is_not_evaluated_by_itself(tmp_path, artifact):
    twin = Artifact.of(shaken(UserModel(spec_of()), seed=4).float(), vocabulary_of(ROWS), FACTS)
    place = replace(artifact, facts=FACTS | {"validated": twin.digest}).write(tmp_path / "model")
    with pytest.raises(DataError, match="validated is not a user model"):
        read_validated(place, artifact.digest)
    twin.write(place / "validated")
    assert read_validated(place, artifact.digest).model_id == twin.model_id
    assert read_validated(artifact.write(tmp_path / "alone"), artifact.digest).model_id == artifact.model_id


def test_models_of_an_earlier_release_are_read_and_answer_as_then(tmp_path):
    with tarfile.open(GOLDEN) as archive:
        archive.extractall(tmp_path, filter="data")
    then = json.loads((tmp_path / "expected.json").read_text())
    model = Artifact.read(tmp_path / "model", then["digest"])
    assert read_validated(tmp_path / "model", then["digest"]).digest == then["validated"]
    embedder = UserEmbedder(model, InferenceConfig())
    assert_close(torch.tensor(embedder.embed(probe(embedder.spec, embedder.vocabulary))), torch.tensor(then["embeddings"]), 2e-6)
    model.model()
    quantizer = semantic_ids.read(tmp_path / "quantizer", then["quantizer"])
    assert quantizer.encode(torch.tensor(then["vectors"])).tolist() == then["codes"]
