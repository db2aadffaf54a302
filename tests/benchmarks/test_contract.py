from __future__ import annotations

import json
import subprocess
import sys

from benchmarks import contract

BURN = "import time; end = time.process_time() + 0.6\nwhile time.process_time() < end: pass"


def test_the_cpu_of_children_counts_also_when_they_end_meanwhile():
    row = {}
    with contract.measured(row, interval_s=0.02):
        for _ in range(2):
            subprocess.run([sys.executable, "-c", BURN], check=True)
    assert 1.0 < row["seconds_cpu"] <= 2 * row["seconds_wall"] + 0.2
    assert row["peak_mb"] > 10
    again = {}
    with contract.measured(again):
        pass
    assert 0 < again["seconds_cpu"] < 0.5, "what ended before is not counted again, and a short block costs a tick"


def test_a_result_file_holds_what_the_contract_asks(tmp_path, capsys):
    rows = [{"road": "ours", "seconds_cpu": 1.0}, {"road": "peer", "seconds_cpu": None}]
    path = contract.publish("x", {"n": 3}, rows, {"vs_peer": contract.spread([2.0, 1.0, 4.0])}, tmp_path)
    written = json.loads(path.read_text())
    assert set(written) == {"name", "date", "commit", "machine", "versions", "size", "rows", "ratios"}
    assert written["ratios"] == {"vs_peer": {"median": 2.0, "min": 1.0, "max": 4.0}}
    assert "vs_peer: median 2.000" in capsys.readouterr().out


def test_rows_of_an_earlier_run_are_kept_with_their_commit(tmp_path):
    assert contract.earlier("x", lambda row: True, tmp_path) == []
    path = contract.publish("x", {}, [{"set": "a", "commit": "older"}, {"set": "b"}, {"set": "c"}], {}, tmp_path)
    of = json.loads(path.read_text())["commit"]
    assert contract.earlier("x", lambda row: row["set"] != "c", tmp_path) == [
        {"set": "a", "commit": "older"},
        {"set": "b", "commit": of},
    ]
