"""A head of standalone retrieval: its queries and its files."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from alure_spark.errors import DataError
from alure_spark.inference.head_pyfunc import _load_pyfunc
from alure_spark.model.retrieval_head import DESCRIPTION, WEIGHTS, HeadArtifact, RetrievalHead


def small(hidden):
    torch.manual_seed(3)
    head = RetrievalHead(4, 3, hidden)
    head.fit_scales(torch.randn(50, 4) * 5 + 2, torch.randn(9, 3) * 7)
    return head


@pytest.mark.parametrize("hidden", [0, 6])
def test_a_head_is_the_same_after_its_files_and_in_any_batch(hidden, tmp_path):
    head, users = small(hidden), np.random.default_rng(1).normal(size=(20, 4)).astype(np.float32)
    artifact = HeadArtifact.of(head, "user.embedding", "alure-1", {"as_of_ms": 5})
    again = HeadArtifact.read(artifact.write(tmp_path / "head"))
    assert (again.digest, again.upstream, again.facts) == (artifact.digest, "alure-1", {"as_of_ms": 5})
    queries = again.head().query(users)
    np.testing.assert_array_equal(queries, head.query(users))
    np.testing.assert_array_equal(queries, np.concatenate([again.head().query(users[place : place + 1]) for place in range(20)]))
    x = (users - head.mean.numpy()) / head.scale.numpy()
    for layer in head.layers:
        x = layer(torch.from_numpy(x).double()).detach().numpy()
    np.testing.assert_allclose(queries, x / head.ad_scale.item(), atol=1e-5)
    frame = _load_pyfunc(str(tmp_path / "head")).predict(pd.DataFrame({"vector": list(users)}))
    np.testing.assert_array_equal(np.array(frame["query"].to_list(), np.float32), queries)
    assert HeadArtifact.of(head, "user.embedding", "alure-2", {}).digest != artifact.digest, "of another user model it is another head"


def test_a_damaged_head_is_refused(tmp_path):
    folder = HeadArtifact.of(small(0), "user.embedding", "alure-1", {}).write(tmp_path / "head")
    with pytest.raises(DataError, match="was changed or damaged: its digest is .*, expected 000"):
        HeadArtifact.read(folder, "0" * 64)
    text = (folder / DESCRIPTION).read_text()
    (folder / DESCRIPTION).write_text(text.replace("alure-1", "alure-2"))
    with pytest.raises(DataError, match="cannot be read"):
        HeadArtifact.read(folder)
    (folder / WEIGHTS).unlink()
    with pytest.raises(DataError, match="is not a head of standalone retrieval: it lacks head.safetensors"):
        HeadArtifact.read(folder)


def test_a_vector_of_another_length_is_one_sentence(tmp_path):
    folder = HeadArtifact.of(small(0), "user.embedding", "alure-1", {}).write(tmp_path / "head")
    with pytest.raises(DataError, match="a vector has 3 numbers; this head takes 4"):
        _load_pyfunc(str(folder)).predict(pd.DataFrame({"vector": [[1.0, 2.0, 3.0]]}))
