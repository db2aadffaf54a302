"""The encoder's benchmark runs, writes what the contract asks, and its copies of histories are what serving would hold."""

import json

import pytest
import torch

from alure_spark.batches.batch import select_users
from benchmarks import contract, encoder
from tests.model.worlds import cut_history

KEYS = {
    f"{work}_vs_padded_{order}" for work in ("inference", "inference_full", "training", "training_full") for order in ("random", "sorted")
}
KEYS |= {"encode_once_vs_per_impression", "subgraph_vs_whole_model", "gemm_ceiling_share"}


@pytest.fixture(autouse=True)
def threads():
    """The benchmark computes on one thread, and says so to torch."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_the_benchmark_writes_its_ratios(tmp_path, capsys):
    encoder.main(["--users", "24", "--training-users", "8", "--impressions", "2", "--repetitions", "1", "--results", str(tmp_path)])
    written = json.loads((tmp_path / "encoder.json").read_text())
    onnx = {f"inference_vs_onnx_{order}" for order in ("random", "sorted")} if encoder.onnxruntime else set()
    assert set(written["ratios"]) == KEYS | onnx
    assert 0 < written["ratios"]["gemm_ceiling_share"]["median"] < 1.5
    assert {row["road"] for row in written["rows"]} >= {"inference_plain ours", "training_full padded_sorted", "impressions copied"}
    assert "encode_once_vs_per_impression" in capsys.readouterr().out


def test_without_onnx_runtime_its_methods_are_left_out(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(encoder, "onnxruntime", None)
    encoder.main(["--users", "8", "--training-users", "4", "--impressions", "1", "--repetitions", "1", "--results", str(tmp_path)])
    assert set(json.loads((tmp_path / "encoder.json").read_text())["ratios"]) == KEYS
    assert "left out" in capsys.readouterr().out


def test_a_copy_of_the_history_is_what_serving_would_hold():
    batch = encoder.load_of(6, impressions=4, mean=20)
    copies = encoder.one_copy_per_impression(batch, max_events=5)
    shown = batch.impressions
    expected = cut_history(select_users(batch, shown.users()), shown.time_ms, lambda source: 5)
    mine, theirs = copies.sources[encoder.SOURCE], expected.sources[encoder.SOURCE]
    for column in ("offsets", "known_at_ms", "event_time_ms"):
        assert torch.equal(getattr(mine, column), getattr(theirs, column))
    assert torch.equal(mine.rows["item_id"], theirs.rows["item_id"])
    assert torch.equal(copies.as_of_ms, shown.time_ms)


def test_unequal_outputs_stop_the_benchmark():
    encoder.require_equal("same", torch.ones(3), torch.ones(3))
    with pytest.raises(AssertionError, match="differ"):
        encoder.require_equal("other", torch.ones(3), torch.tensor([1.0, 1.0, 1.01]))


def test_the_padded_methods_see_every_user_once():
    batch = encoder.load_of(10)
    for by_length in (False, True):
        parts = encoder.batches_of(batch, 4, by_length)
        assert sorted(user for part in parts for user in part.user_ids) == sorted(batch.user_ids)
    lengths = [int(length) for part in parts for length in part.sources[encoder.SOURCE].lengths]
    assert lengths == sorted(lengths)
    assert set(contract.spread([1.0])) == {"median", "min", "max"}
