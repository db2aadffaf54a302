"""The ranking network beside torch-rechub and deepctr-torch, a history read once, and a large table: rows per core-second.

    python -m benchmarks.ranking --peers FOLDER     # a folder for the peers' environments, made where they are not there

One table of 16 numbers a row, 20 id fields of 10 to 100,000 ids by Zipf's law, batches of 2,048 rows, one thread. `dcn_v2`: two full
cross layers, then layers of 64 and 32. `ipnn`: all inner products and the vectors, then the same layers. With the same weights the logits
of a batch are the same first. Ours: sparse gradients with SparseAdam for the table, AdamW without decay for the rest. Peers: torch's
Adam over all, as they come; `sparse`: their tables' gradients made sparse by hand, with SparseAdam (no ratio of theirs as shipped has it).
All have their batches in memory; ours checks gradients and ids as in any training, the peers' steps are theirs.

`history`: 20 impressions per user that read the last 50 events (TIM), as one user or each as a user of its own with a copied history; with
`none` they read no history, so that the cost of the history alone is a difference.
`table`: a step with 10^7 rows of the table over one with 10^4, the same number of distinct rows in each batch.
`products`: the matrix products of the linear layers alone, which every method of the architecture must do; as a share of scoring.
`torch_products`: the same by torch's own nn.functional.linear, as the peers do them.
LightGBM (100 trees) and Vowpal Wabbit (one pass over its text file) are what people pick instead: rows, no ratios.
Methods alternate; each is a process of its own; seconds are its CPU seconds; the first turn of each is not counted.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import contract
from benchmarks.peers.answer import Rows
from benchmarks.ranking_cases import ARCHITECTURES, HISTORY_BATCHES, SMALLEST_TABLE, made, rows_of, weights_of
from benchmarks.ranking_peers import OTHER_PEERS, REQUIREMENTS, TORCH_PEERS, Process, process, python_of

SIZES = (100_000,) * 4 + (10_000,) * 4 + (1_000,) * 4 + (100,) * 4 + (10,) * 4
NAMES = {"ours": "ours", "rechub": "torch-rechub", "deepctr": "deepctr-torch", "trees": "LightGBM", "wabbit": "Vowpal Wabbit"}
CASES = {
    "rechub": ("dcn_v2", "dcn_v2_sparse"),
    "deepctr": ("dcn_v2", "dcn_v2_sparse", "ipnn", "ipnn_sparse"),
    "trees": ("trees",),
    "wabbit": ("linear",),
}
HISTORY, NO_HISTORY = ("history_once", "history_copied"), "history_none"
WORKS = ("train", "score", "products", "torch_products")


@dataclass(frozen=True)
class Method:
    """One work of one process; `rows` are answered by one call."""

    peer: str
    work: str  # one of WORKS
    case: str
    rows: int

    @property
    def name(self) -> str:
        return f"{self.work} {self.case} {NAMES[self.peer]}"


def require_equal(one: np.ndarray, other: np.ndarray, names: str) -> None:
    """Raises AssertionError where logits differ by more than 1e-4 of themselves (and 1e-5, which is what a float holds of a chance)."""
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5, err_msg=f"the logits of {names} differ")


def measure(processes: Mapping[str, Process], methods: Sequence[Method], repetitions: int) -> dict[Method, list[dict[str, float]]]:
    """What each call cost, the methods in turn; one turn before is not counted."""
    spent: dict[Method, list[dict[str, float]]] = {method: [] for method in methods}
    for repetition in range(repetitions + 1):
        for method in methods:
            cost = processes[method.peer].ask(method.work, method.case)
            if repetition:
                spent[method].append(cost)
    return spent


def ratios_of(rates: Mapping[tuple[str, str, str], Sequence[float]], largest: str) -> dict[str, dict[str, float]]:
    """rates: (peer, work, case) -> rows per CPU second of each repetition. Without torch peers there is no ratio of them."""

    def over(mine: tuple[str, str, str], theirs: tuple[str, str, str]) -> list[float]:
        return [one / other for one, other in zip(rates[mine], rates[theirs], strict=True)]

    ratios = {}
    for word, work in (("training", "train"), ("scoring", "score")):
        least = []
        for ending, key in (("", f"{word}_vs_fastest_torch_peer"), ("_sparse", f"{word}_vs_peer_made_sparse")):
            for architecture in ARCHITECTURES:
                its = [
                    over(("ours", work, architecture), at) for at in rates if at[1:] == (work, architecture + ending) and at[0] != "ours"
                ]
                if its and not (ending and work == "score"):
                    slowest = [min(turn) for turn in zip(*its, strict=True)]
                    ratios[f"{architecture}_{key}"] = contract.spread(slowest)
                    least += [] if ending else [slowest]
        if least:
            ratios[f"{word}_vs_fastest_torch_peer"] = contract.spread([min(turn) for turn in zip(*least, strict=True)])
        ending = "" if work == "train" else "_scoring"
        once, copied, without = (rates["ours", work, case] for case in (*HISTORY, NO_HISTORY))
        ratios[f"history_once_vs_per_row{ending}"] = contract.spread([one / other for one, other in zip(once, copied, strict=True)])
        alone = [(1 / one - 1 / none, 1 / two - 1 / none) for one, two, none in zip(once, copied, without, strict=True)]
        if all(mine > 0 for mine, _ in alone):  # of few rows a history may cost nothing that a clock can tell
            ratios[f"history_alone_once_vs_per_row{ending}"] = contract.spread([theirs / mine for mine, theirs in alone])
    for architecture in ARCHITECTURES:
        share = over(("ours", "score", architecture), ("ours", "products", architecture))
        ratios[f"{architecture}_scoring_products_share"] = contract.spread(share)
        faster = over(("ours", "products", architecture), ("ours", "torch_products", architecture))
        ratios[f"{architecture}_products_vs_torch"] = contract.spread(faster)
    small, large = (("ours", "train", f"table_{rows}") for rows in (SMALLEST_TABLE, largest))
    return ratios | {"step_cost_large_table": contract.spread(over(small, large))}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, help="folder of the peers' environments; without it only ours is measured")
    parser.add_argument("--rows", type=int, default=32_768, help="rows of one call")
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="ids of each field")
    parser.add_argument("--users", type=int, default=256, help="users of a batch with a history")
    parser.add_argument("--impressions", type=int, default=20, help="impressions of each of them")
    parser.add_argument("--events", type=int, default=50, help="events of each of them")
    parser.add_argument("--largest-table", type=int, default=10**7, help="rows")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--results", type=Path, default=contract.RESULTS)
    options = parser.parse_args(arguments)
    peers = (*TORCH_PEERS, *OTHER_PEERS) if options.peers else ()
    if not peers:
        print("no --peers FOLDER: the peers are left out")
    pythons = {peer: python_of(peer, options.peers.resolve()) for peer in peers}
    tables = [f"table_{rows}" for rows in (SMALLEST_TABLE, options.largest_table)]
    shown = HISTORY_BATCHES * options.users * options.impressions
    with tempfile.TemporaryDirectory(prefix="ranking_") as temporary, ExitStack() as stack:
        folder = Path(temporary)
        rows = rows_of(options.rows, options.batch, options.sizes)
        rows.write(folder)
        save_weights(rows, folder)
        size = [str(number) for number in (options.users, options.impressions, options.events)]
        asked = [*size, *ARCHITECTURES, *HISTORY, NO_HISTORY, *tables]
        processes = {"ours": stack.enter_context(process("benchmarks.ranking_cases", sys.executable, folder, *asked))}
        for peer, python in pythons.items():
            processes[peer] = stack.enter_context(process(f"benchmarks.peers.{peer}", python, folder))
        check(processes, folder)
        methods = [Method("ours", work, case, options.rows) for case in ARCHITECTURES for work in WORKS]
        methods += [Method(peer, work, case, options.rows) for peer in peers for case in CASES[peer] for work in works(case)]
        methods += [Method("ours", work, case, shown) for work in ("train", "score") for case in (*HISTORY, NO_HISTORY)]
        methods += [Method("ours", "train", case, options.rows) for case in tables]
        spent = measure(processes, methods, options.repetitions)
    table, rates = [], {}
    for method, costs in spent.items():
        rates[method.peer, method.work, method.case] = [method.rows / cost["seconds_cpu"] for cost in costs]
        row = {"road": method.name, "rows": method.rows, **contract.middle(costs)}
        table.append(row | {"rows_per_core_second": statistics.median(rates[method.peer, method.work, method.case])})
    settings = {name: value for name, value in vars(options).items() if name not in ("results", "peers")}
    settings["peers"] = [line for peer in peers for line in (REQUIREMENTS / f"{peer}.txt").read_text().split()]
    contract.publish("ranking", {**settings, "threads": 1}, table, ratios_of(rates, str(options.largest_table)), options.results)


def works(case: str) -> tuple[str, ...]:
    """Sparse gradients make no difference to scoring."""
    return ("train",) if case.endswith("_sparse") else ("train", "score")


def save_weights(rows: Rows, folder: Path) -> None:
    """Those of ours, which every process makes from the same seed."""
    for architecture in ARCHITECTURES:
        np.savez(folder / f"{architecture}.npz", **weights_of(made(architecture, rows, 0, 0, 0).network))


def check(processes: Mapping[str, Process], folder: Path) -> None:
    """Raises AssertionError where a peer has other logits, or impressions have others with a copied history."""

    def logits(peer: str, case: str) -> np.ndarray:
        processes[peer].ask("logits", case)
        saved: np.ndarray = np.load(folder / "answer.npy")
        return saved

    once, copied = (logits("ours", case) for case in HISTORY)
    require_equal(once, copied, "a history read once and copied")
    for peer in processes.keys() & set(TORCH_PEERS):
        for case in CASES[peer]:
            require_equal(logits("ours", case.removesuffix("_sparse")), logits(peer, case), f"ours and {peer}, {case}")


if __name__ == "__main__":
    main()
