"""The pure part of inference: one user or many, any order, any chunk, any process give the same embedding."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alure_spark.batches.batch import select_users
from alure_spark.config import InferenceConfig
from alure_spark.errors import ConfigError, DataError
from alure_spark.inference import export as export_module
from alure_spark.inference.export import UserEmbedder, checked, chunks, exported, jagged, machine, probe
from alure_spark.model.artifact import Artifact
from tests.inference.small_model import AS_OF_MS, make_artifact, make_rows

EXACT = InferenceConfig(precision="float64")


def embedded(artifact, rows, config=InferenceConfig()):  # noqa: B008 (frozen)
    return UserEmbedder(artifact, config).embed_rows(rows, np.full(rows.num_rows, AS_OF_MS))


def batch_of(embedder, rows):
    return embedder.decoded(rows, np.full(rows.num_rows, AS_OF_MS))


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-5), ("float64", 1e-9)])
@pytest.mark.parametrize("exchange", [False, True])
def test_a_user_alone_has_the_embedding_it_has_in_a_batch(rows, precision, tolerance, exchange):
    embedder = UserEmbedder(make_artifact(exchange=exchange), InferenceConfig(precision=precision))
    batch = batch_of(embedder, rows)
    together = embed_exactly(embedder, batch)
    alone = np.concatenate([embed_exactly(embedder, select_users(batch, torch.tensor([user]))) for user in range(len(batch))])
    np.testing.assert_allclose(together, alone, rtol=0, atol=tolerance)


def embed_exactly(embedder, batch):
    """What embed gives, before it is rounded to float32."""
    with torch.inference_mode():
        found = embedder.encoder.embed(batch)
    lengths = sum(source.lengths for source in batch.sources.values())
    return torch.where(lengths[:, None] > 0, found, 0).numpy()


@pytest.mark.parametrize("layers", [1, 2])
def test_the_shortcut_of_the_last_layer_equals_a_read_of_all_states(rows, layers):
    embedder = UserEmbedder(make_artifact(layers=layers), EXACT)
    batch = batch_of(embedder, rows)
    with torch.inference_mode():
        states = embedder.encoder.states(batch)
        read = embedder.encoder.embed_at(batch, states, torch.arange(len(batch)), batch.as_of_ms).numpy()
    known = embedder.embed(batch).any(axis=1)
    np.testing.assert_allclose(embed_exactly(embedder, batch)[known], read[known], rtol=0, atol=1e-9)
    np.testing.assert_allclose(embedder.embed(batch)[known], read[known], rtol=0, atol=2e-6)


def test_every_path_of_the_model_moves_the_embedding(artifact, rows):
    """Else the equalities above would prove nothing: each weight, changed alone, changes an embedding."""
    rows = rows.slice(0, 20)
    before = embedded(artifact, rows, EXACT)
    for name, parameter in UserEmbedder(artifact, EXACT).encoder.named_parameters():
        changed = UserEmbedder(artifact, EXACT)
        with torch.no_grad():
            changed.encoder.get_parameter(name).mul_(1.5).add_(0.1 * torch.arange(parameter.numel()).view(parameter.shape) % 0.7)
        after = changed.embed_rows(rows, np.full(20, AS_OF_MS))
        assert np.abs(after - before).max() > 1e-6, name


@settings(max_examples=15, deadline=None)
@given(st.permutations(range(13)), st.sampled_from([1, 7, 50, 10**6]))
def test_the_order_of_users_and_the_size_of_a_chunk_change_nothing(order, max_tokens):
    artifact, rows = make_artifact(), make_rows(13)
    expected = embedded(artifact, rows)
    found = embedded(artifact, rows.take(pa.array(order)), InferenceConfig(max_tokens=max_tokens))
    np.testing.assert_allclose(found, expected[list(order)], rtol=0, atol=2e-6)


@given(st.lists(st.integers(0, 30), max_size=20), st.integers(1, 60))
def test_chunks_hold_each_user_with_tokens_once_and_at_most_max_tokens(lengths, max_tokens):
    lengths = torch.tensor(lengths, dtype=torch.int64)
    found = chunks(lengths, max_tokens)
    assert sorted(torch.cat([torch.zeros(0, dtype=torch.int64), *found]).tolist()) == torch.nonzero(lengths).flatten().tolist()
    assert all(len(users) == 1 or lengths[users].sum() <= max_tokens for users in found)
    # As few as this order allows: the next user would not have fitted.
    assert all(lengths[one].sum() + lengths[next_one[0]] > max_tokens for one, next_one in itertools.pairwise(found))


def test_embeddings_are_rounded_unit_rows_and_zeros_where_nothing_is_known(artifact, rows):
    found = embedded(artifact, rows)
    empty = np.array([all(not rows.column(f"{source}__item_id")[user].as_py() for source in artifact.spec.sources) for user in range(41)])
    assert empty.sum() >= 4
    assert (found[empty] == 0).all()
    np.testing.assert_allclose(np.linalg.norm(found[~empty], axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(found, found.astype(np.float64).round(6).astype(np.float32))
    assert found.dtype == np.float32


def test_a_number_that_rounds_to_zero_has_no_sign(artifact, rows, monkeypatch):
    embedder = UserEmbedder(artifact, InferenceConfig())
    monkeypatch.setattr(embedder.encoder, "embed", lambda batch: torch.full((len(batch), embedder.dimension), -1e-9))
    assert not np.signbit(embedder.embed_rows(rows, np.full(41, AS_OF_MS))).any()


def test_no_user_at_all_gives_no_row(artifact, rows):
    assert embedded(artifact, rows.slice(0, 0)).shape == (0, 16)


def test_lists_of_a_slice_with_nulls_become_offsets_and_values():
    lists = pa.array([[1, 2], None, [], [3, None, 5], [6]], pa.list_(pa.int64()))
    for start in range(6):
        for stop in range(start, 6):
            found = jagged(lists.slice(start, stop - start), "integer", 1, "x")
            expected = [one or [] for one in lists.to_pylist()[start:stop]]
            assert [np.diff(found.offsets).tolist()] == [[len(one) for one in expected]]
            present = np.ones(len(found.values), bool) if found.present is None else found.present
            values = [value if there else None for value, there in zip(found.values.tolist(), present, strict=True)]
            assert values == [value for one in expected for value in one]


@pytest.mark.parametrize("source", ["purchase", "visit"])
def test_a_history_that_reaches_past_as_of_is_refused(artifact, rows, source):
    user, newest = max(enumerate(rows.column(f"{source}__known_at_ms").to_pylist()), key=lambda row: (row[1] or [0])[-1])
    alone = rows.slice(user, 1)
    names = [name for name in alone.schema.names if name.endswith("_ms") and not name.startswith(source)]
    others = {name.partition("__")[0] for name in names}
    emptied = [
        pa.nulls(1, column.type) if name.partition("__")[0] in others else column
        for name, column in zip(alone.schema.names, alone.columns, strict=True)
    ]
    alone = pa.RecordBatch.from_arrays(emptied, names=alone.schema.names)
    embedder = UserEmbedder(artifact, InferenceConfig())
    assert embedder.embed_rows(alone, np.array([newest[-1] + 1])).any()
    with pytest.raises(DataError, match=f"user 'u{user}' has an event of '{source}' known at {newest[-1]} ms, but as_of is {newest[-1]}"):
        embedder.embed_rows(alone, np.array([newest[-1]]))


def test_a_missing_column_is_named(artifact, rows):
    with pytest.raises(DataError, match="lack the array column 'visit__item_id'"):
        embedded(artifact, rows.select([name for name in rows.schema.names if name != "visit__item_id"]))


def test_the_probe_holds_the_awkward_users_and_is_the_same_every_time(artifact):
    _, vocabulary = artifact.encoder()
    one, two = probe(artifact.spec, vocabulary), probe(artifact.spec, vocabulary)
    for turn, (source, tokens) in enumerate(one.sources.items()):
        assert tokens.lengths.tolist() == [0, *np.roll([1, 5, 5, 5, artifact.spec.attention_window(source) + 3], turn)]
        for name, values in {"known": tokens.known_at_ms, **tokens.rows, **tokens.numbers}.items():
            assert len(values.unique()) > 4, (source, name)
        assert all((row == 0).any() and (row > 0).any() for row in tokens.rows.values())
        assert torch.equal(tokens.known_at_ms, two.sources[source].known_at_ms)
    assert len(UserEmbedder(artifact, InferenceConfig()).embed(one)) == 6


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_a_worker_that_does_not_reproduce_the_probe_refuses_to_work(artifact, precision):
    export = exported(artifact, InferenceConfig(precision=precision))
    assert checked(export).config.precision == precision
    other = dataclasses.replace(export, artifact=make_artifact(seed=4))
    with pytest.raises(DataError, match="differs from the exported model by"):
        checked(other)
    broken = dataclasses.replace(export, expected=np.full_like(export.expected, np.nan))
    with pytest.raises(DataError, match="differs from the exported model by nan"):
        checked(broken)


def test_the_smallest_change_of_a_used_weight_is_seen_by_the_probe(artifact):
    model, vocabulary = artifact.model()
    with torch.no_grad():
        model.encoder.final_norm["visit"].bias += 1e-3
    export = dataclasses.replace(exported(artifact, InferenceConfig()), artifact=Artifact.of(model, vocabulary, {}))
    with pytest.raises(DataError, match="differs from the exported model"):
        checked(export)


def test_an_export_leaves_the_read_out_behind_and_has_a_key_per_content(artifact):
    export = exported(artifact, InferenceConfig())
    assert export.artifact.readout == b""
    assert export.artifact.model_id == artifact.model_id
    keys = {exported(made, config).key for made in (artifact, make_artifact(seed=4)) for config in (InferenceConfig(), EXACT)}
    assert len(keys) == 4
    assert exported(artifact, InferenceConfig()).key == export.key


@pytest.mark.parametrize("damaged", ["user.safetensors", "model.json"])
def test_a_damaged_file_is_not_loaded(artifact, tmp_path, damaged):
    folder = artifact.write(tmp_path)
    content = bytearray((folder / damaged).read_bytes())
    place = content.find(b'"heads": 2') + 9 if damaged == "model.json" else len(content) - 9
    content[place] ^= 6
    (folder / damaged).write_bytes(content)
    with pytest.raises(DataError, match="was changed or damaged"):
        Artifact.read(folder)


def test_without_a_compiler_always_says_so_and_auto_runs_eagerly(artifact, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"inference.compile is 'always', but there is no C\+\+ compiler .* here: install g\+\+"):
        exported(artifact, InferenceConfig(compile="always"))
    assert exported(artifact, InferenceConfig(compile="auto")).package is None


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_the_compiled_model_equals_the_eager_one(artifact, rows, precision):
    export = exported(artifact, InferenceConfig(compile="always", precision=precision))
    assert export.package.machine == machine()
    found = checked(export)
    assert all("_rest" in vars(layer) for layer in export_module._layers(found.encoder))
    eager = embedded(artifact, rows, InferenceConfig(precision=precision))
    for some in (rows, rows.slice(3, 1), rows.slice(1, 1), rows.slice(0, 0)):
        vectors = found.embed_rows(some, np.full(some.num_rows, AS_OF_MS))
        np.testing.assert_allclose(vectors, embedded(artifact, some, InferenceConfig(precision=precision)), rtol=0, atol=1e-5)
    elsewhere = dataclasses.replace(export, package=dataclasses.replace(export.package, machine="another"))
    assert not any("_rest" in vars(layer) for layer in export_module._layers(checked(elsewhere).encoder))
    np.testing.assert_array_equal(checked(elsewhere).embed_rows(rows, np.full(41, AS_OF_MS)), eager)
    with pytest.raises(DataError, match="differs from the exported model"):
        checked(dataclasses.replace(export, artifact=make_artifact(seed=4)))


@pytest.mark.slow
def test_auto_keeps_the_faster_method(artifact, monkeypatch):
    compiled = []
    monkeypatch.setattr(export_module, "compiled", lambda *_: compiled.append(1) or package)
    package = export_module.Package(b"", machine())
    monkeypatch.setattr(export_module, "_install", lambda *_: None)
    for seconds, kept in (([2.0, 1.0], True), ([1.0, 2.0], False)):
        monkeypatch.setattr(export_module, "_seconds", lambda *_, seconds=seconds: seconds)
        assert (exported(artifact, InferenceConfig(compile="auto")).package is not None) == kept
    assert len(compiled) == 2
