"""A ranking model on disk: as it was, or refused."""

from __future__ import annotations

import json

import pytest
import torch

from alure_spark.batches.epochs import MemoryLoader
from alure_spark.errors import DataError
from alure_spark.ranking.artifact import DESCRIPTION, WEIGHTS, RankingArtifact
from alure_spark.training import ranking_model
from tests.ranking.planted_ranking import DRAFT, VOCABULARY, users


@pytest.fixture(scope="module")
def artifact():
    loader = MemoryLoader(users(40), 16, seed=1)
    spec = ranking_model.fitted_spec(DRAFT, loader, VOCABULARY)
    return RankingArtifact.of(ranking_model.new_network(spec, loader, 3), VOCABULARY, {"as_of_ms": 7})


def test_it_comes_back_as_it_was(artifact, tmp_path):
    again = RankingArtifact.read(artifact.write(tmp_path / "model"), artifact.digest)
    assert again == artifact
    assert again.as_of_ms == 7
    (one, vocabulary), (other, _) = artifact.network(), again.network()
    batch = users(20, seed=9)
    torch.testing.assert_close(other(batch), one(batch), rtol=0, atol=0)
    assert vocabulary.size("ad") == VOCABULARY.size("ad")
    assert artifact.model_id == f"ranking-{artifact.digest[:12]}"


@pytest.mark.parametrize("name", [WEIGHTS, DESCRIPTION])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_one_flipped_bit_is_refused(artifact, tmp_path, name, share):
    folder = artifact.write(tmp_path)
    content = bytearray((folder / name).read_bytes())
    content[int(share * len(content))] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(DataError, match="changed or damaged"):
        RankingArtifact.read(folder, artifact.digest).network()


def test_another_model_or_none_is_refused(artifact, tmp_path):
    folder = artifact.write(tmp_path)
    with pytest.raises(DataError, match="was changed or damaged: its digest is"):
        RankingArtifact.read(folder, "0" * 64)
    (folder / WEIGHTS).unlink()
    with pytest.raises(DataError, match=f"is not a ranking model: it lacks {WEIGHTS}"):
        RankingArtifact.read(folder)


def test_a_weight_that_is_not_finite_is_not_saved(artifact):
    network, _ = artifact.network()
    with torch.no_grad():
        network.tables["one"].weight[3, 1] = torch.nan
    with pytest.raises(DataError, match=r"tables\.one\.weight hold NaN or infinity"):
        RankingArtifact.of(network, VOCABULARY, {})


def test_a_spec_of_another_shape_is_refused_even_with_its_own_seal(artifact, tmp_path):
    folder = artifact.write(tmp_path)
    said = json.loads((folder / DESCRIPTION).read_text())
    said["spec"]["hidden"] = 17
    (folder / DESCRIPTION).write_text(json.dumps(said))
    with pytest.raises(DataError, match="does not have the digest that it names"):
        RankingArtifact.read(folder)
