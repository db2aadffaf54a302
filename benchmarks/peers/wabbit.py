"""Vowpal Wabbit, what people pick instead of a network: logistic regression on the same rows, a namespace per field, one pass.

It reads its text format from a file, as its users have it; the file is written before the first work.
"""

from __future__ import annotations

import sys
from pathlib import Path

import vowpalwabbit

from benchmarks.peers.answer import Rows, answer

BITS = 22  # of the hashed weights

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    rows = Rows.read(folder)
    with (folder / "rows.vw").open("w") as text:
        for label, ids in zip(rows.labels.tolist(), rows.ids.tolist(), strict=True):
            fields = " ".join(f"|f{place} {one}" for place, one in enumerate(ids))
            text.write(f"{1 if label else -1} {fields}\n")
    common = ["-d", str(folder / "rows.vw"), "--loss_function", "logistic", "-b", str(BITS), "--quiet"]

    def run(*own: str) -> None:
        vowpalwabbit.Workspace(arg_list=[*common, *own]).finish()

    answer(
        {
            "train": lambda case: run("-f", str(folder / "model.vw")),
            "score": lambda case: run("-t", "-i", str(folder / "model.vw"), "-p", str(folder / "chances.txt"), "--link", "logistic"),
        }
    )
