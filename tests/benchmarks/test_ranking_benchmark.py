"""The ranking benchmark runs and writes what the contract asks; a history read once and copied ones are the same impressions."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import ranking
from benchmarks.peers.answer import Rows
from benchmarks.ranking_cases import HISTORY_SIZES, TASK, history_batch, made, rows_of, weights_of
from benchmarks.ranking_peers import process

SMALL = ["--rows", "64", "--batch", "32", "--sizes", "40", "20", "10", "5", "--users", "3", "--impressions", "2", "--events", "4",
         "--largest-table", "40000", "--repetitions", "1"]  # fmt: skip
OURS = {"history_once_vs_per_row", "history_once_vs_per_row_scoring", "step_cost_large_table"}
OURS |= {f"{architecture}_{ratio}" for architecture in ("dcn_v2", "ipnn") for ratio in ("scoring_products_share", "products_vs_torch")}
OF_SO_FEW_ROWS_PERHAPS_NOT = {"history_alone_once_vs_per_row", "history_alone_once_vs_per_row_scoring"}
PEERS = os.environ.get("ALURE_RANKING_PEERS")  # the folder of --peers, where they are installed


def run(folder: Path, *more: str) -> dict:
    ranking.main([*SMALL, "--results", str(folder), *more])
    return json.loads((folder / "ranking.json").read_text())


def test_without_peers_ours_alone_is_measured(tmp_path, capsys):
    written = run(tmp_path)
    assert set(written["ratios"]) - OF_SO_FEW_ROWS_PERHAPS_NOT == OURS
    assert {row["road"] for row in written["rows"]} >= {"train dcn_v2 ours", "score ipnn ours", "train history_copied ours"}
    assert all(row["rows_per_core_second"] > 0 for row in written["rows"])
    assert "the peers are left out" in capsys.readouterr().out


@pytest.mark.skipif(not PEERS, reason="ALURE_RANKING_PEERS names no folder with the peers' environments")
def test_with_peers_their_logits_are_ours_and_every_ratio_is_written(tmp_path):
    written = run(tmp_path, "--peers", PEERS)
    assert set(written["ratios"]) >= OURS | {"training_vs_fastest_torch_peer", "scoring_vs_fastest_torch_peer"}
    assert {row["road"] for row in written["rows"]} >= {"train dcn_v2 torch-rechub", "score trees LightGBM", "score linear Vowpal Wabbit"}


def test_the_fastest_peer_is_compared_with_and_the_worse_architecture_is_told():
    rates = {("ours", work, case): [40.0, 40.0] for work in ranking.WORKS for case in ("dcn_v2", "ipnn")}
    rates |= {("ours", "train", case): [rate, rate] for case, rate in zip((*ranking.HISTORY, ranking.NO_HISTORY), (20, 5, 40), strict=True)}
    rates |= {("ours", "score", case): [20, 20] for case in (*ranking.HISTORY, ranking.NO_HISTORY)}
    rates |= {("ours", "train", f"table_{rows}"): [10.0, 20.0] for rows in (10_000, 99_000)}
    rates |= {
        ("rechub", "train", "dcn_v2"): [10.0, 20.0],
        ("deepctr", "train", "dcn_v2"): [20.0, 10.0],
        ("deepctr", "train", "ipnn"): [5, 5],
    }
    ratios = ranking.ratios_of(rates, "99000")
    assert ratios["dcn_v2_training_vs_fastest_torch_peer"]["median"] == 2.0
    assert ratios["ipnn_training_vs_fastest_torch_peer"]["median"] == 8.0
    assert ratios["training_vs_fastest_torch_peer"]["median"] == 2.0
    assert ratios["step_cost_large_table"]["median"] == 1.0
    assert "scoring_vs_fastest_torch_peer" not in ratios
    assert ratios["history_once_vs_per_row"]["median"] == 4.0
    assert ratios["history_alone_once_vs_per_row"]["median"] == pytest.approx((1 / 5 - 1 / 40) / (1 / 20 - 1 / 40))
    assert "history_alone_once_vs_per_row_scoring" not in ratios  # it cost nothing


def test_a_copied_history_gives_the_same_logits():
    rows = rows_of(8, 4, [5, 5])
    once, copied = (made(case, rows, 5, 3, 4) for case in ranking.HISTORY)
    assert len(once.batches[0].user_ids) == 5
    assert len(copied.batches[0].user_ids) == 15
    ranking.require_equal(once.logits(), copied.logits(), "both")
    with pytest.raises(AssertionError, match="the logits of both differ"):
        ranking.require_equal(once.logits(), copied.logits() + 0.01, "both")


def test_every_impression_reads_all_events_of_its_user():
    batch = history_batch(4, 3, 6)
    shown, tokens = batch.impressions, batch.sources["click"]
    assert (tokens.lengths == 6).all()
    assert shown.time_ms.min() > tokens.known_at_ms.max()
    assert set(shown.rows) == set(HISTORY_SIZES)
    assert len(shown.labels[TASK]) == 12


@pytest.mark.parametrize("rows", [20_000, 1_000_000])
def test_a_larger_table_is_touched_in_as_many_rows(rows):
    given = rows_of(200, 100, [10] * 4)
    small, large = (made(f"table_{size}", given, 0, 0, 0) for size in (10_000, rows))
    assert large.network.lookup.total == rows
    touched = [len(case.network.codes(case.batches[0]).rows.unique()) for case in (small, large)]
    assert touched[0] == touched[1]
    large.train()


def test_the_weights_for_peers_are_those_of_the_case():
    rows = rows_of(8, 4, [5, 3])
    weights, again = (weights_of(made("dcn_v2", rows, 0, 0, 0).network) for _ in range(2))
    assert weights["tables"].shape == (8, 16)
    assert weights["cross.1.weight"].shape == (32, 32)
    assert not weights["cross.0.bias"].any()
    assert all(np.array_equal(weights[name], again[name]) for name in weights)


def test_a_process_that_has_ended_is_one_sentence(tmp_path):
    Rows(np.zeros((2, 1), np.int64), np.zeros(2, np.float32), (3,), 2).write(tmp_path)
    with (
        process("benchmarks.ranking_cases", sys.executable, tmp_path, "1", "1", "1") as ours,
        pytest.raises(RuntimeError, match="KeyError"),
    ):
        ours.ask("train", "nothing")
