"""Semantic ids: codes against a loop, their use, and the files and the function they are read from."""

from __future__ import annotations

import itertools

import pytest
import torch

from alure_spark.errors import DataError
from alure_spark.inference.semantic_pyfunc import SemanticIdFunction
from alure_spark.model import semantic_ids
from alure_spark.model.semantic_ids import SemanticIds, distinct_codes, usage


def random_model(levels=2, codes=3, dimension=4, seed=1):
    model = SemanticIds(dimension, levels, codes, 5)
    draw = torch.Generator().manual_seed(seed)
    for value in (*model.parameters(), model.codebooks, model.mean):
        value.data.copy_(torch.randn(value.shape, generator=draw))
    return model.double().eval()


def test_codes_are_the_best_of_all_sums_where_the_beam_holds_them_all():
    model = random_model()
    x = torch.randn(50, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    z = model.encoder((x - model.mean) / model.scale).detach()
    found = model.encode(x)
    for row, vector in enumerate(z):
        sums = {codes: model.codebooks[0, codes[0]] + model.codebooks[1, codes[1]] for codes in itertools.product(range(3), repeat=2)}
        best = min(sums, key=lambda codes: float((sums[codes] - vector).square().sum()))
        assert tuple(found[row].tolist()) == best
        decoded = model.decoder(sums[best][None]) * model.scale + model.mean
        torch.testing.assert_close(model.decode(found[row : row + 1]), decoded)


def test_an_embedding_with_nan_has_no_code_and_changes_nobody_elses():
    model = random_model()
    x = torch.randn(6, 4, dtype=torch.float64)
    broken = x.clone()
    broken[2, 1] = torch.nan
    assert model.encode(broken)[2].tolist() == [-1, -1]
    others = [0, 1, 3, 4, 5]
    assert torch.equal(model.encode(broken)[others], model.encode(x)[others])
    assert model.encode(x[:0]).shape == (0, 2)


@pytest.mark.parametrize("rows", [0, 1, 40])
def test_each_distinct_embedding_is_encoded_once_to_the_same_codes(rows, monkeypatch):
    model = random_model()
    distinct = torch.randn(7, 4, dtype=torch.float64)
    distinct[3] = torch.nan
    x = distinct[torch.randint(0, 7, (rows,), generator=torch.Generator().manual_seed(3))]
    expected, asked, encode = model.encode(x), [], model.encode
    monkeypatch.setattr(model, "encode", lambda part: (asked.append(len(part)), encode(part))[1])
    assert torch.equal(distinct_codes(model, x), expected)
    assert sum(asked) <= 7


def test_usage_is_that_of_a_count():
    one, two = usage(torch.tensor([[0, 1], [0, 2], [0, 1], [0, 2]]), 4)
    assert (one.used, one.perplexity) == (0.25, 1.0)
    assert two.used == 0.5
    assert two.perplexity == pytest.approx(2.0)


def test_what_is_read_back_gives_the_same_codes_and_a_changed_file_is_refused(tmp_path):
    model, embeddings = random_model(dimension=6).float(), torch.randn(50, 6)
    folder = semantic_ids.write(model, tmp_path / "model")
    digest = semantic_ids.digest(folder)
    assert torch.equal(semantic_ids.read(folder, digest).encode(embeddings), model.encode(embeddings))
    content = bytearray((folder / semantic_ids.FILE).read_bytes())
    content[-5] ^= 1
    (folder / semantic_ids.FILE).write_bytes(content)
    with pytest.raises(DataError, match="changed or damaged"):
        semantic_ids.read(folder, digest)
    with pytest.raises(DataError, match="not a quantiser"):
        semantic_ids.read(tmp_path)


def test_the_function_of_mlflow_gives_the_codes_of_a_frame():
    import pandas as pd

    model, embeddings = random_model(dimension=6).float(), torch.randn(3, 6)
    frame = pd.DataFrame({"embedding": [embeddings[0].tolist(), None, embeddings[2].tolist()]}, index=[4, 9, 1])
    found = SemanticIdFunction(model).predict(frame)
    codes = model.encode(embeddings).tolist()
    assert found["semantic_id"].to_list() == [codes[0], None, codes[2]]
    assert found.index.to_list() == [4, 9, 1]
    with pytest.raises(DataError, match="an embedding has 2 numbers; this quantiser takes 6"):
        SemanticIdFunction(model).predict(pd.DataFrame({"embedding": [[1.0, 2.0]]}))
    with pytest.raises(DataError, match="did you mean 'embeddings'"):
        SemanticIdFunction(model).predict(pd.DataFrame({"embeddings": [[1.0, 2.0]]}))
