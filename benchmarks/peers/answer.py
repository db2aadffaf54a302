"""A process of benchmarks.ranking: it does one work after the other, as asked on its input, and says what each cost.

Enters: lines `WORK CASE`, e.g. `train dcn_v2`. Leaves: a line of JSON each, seconds of CPU and wall of this process. What libraries print
goes to the error output. Nothing of alure_spark is imported here, because peers have versions of their own.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

Work = Callable[[str], object]  # of a case


@dataclass(frozen=True)
class Rows:
    """The impressions that all methods train on and score."""

    ids: np.ndarray  # (n, fields) int64, of each field 0 to its size - 1
    labels: np.ndarray  # (n,) float32, 0 or 1
    sizes: tuple[int, ...]  # ids of each field
    batch: int  # rows of a step

    @classmethod
    def read(cls, folder: Path) -> Rows:
        with np.load(folder / "rows.npz") as saved:
            return cls(saved["ids"], saved["labels"], tuple(saved["sizes"].tolist()), int(saved["batch"]))

    def write(self, folder: Path) -> None:
        np.savez(folder / "rows.npz", ids=self.ids, labels=self.labels, sizes=np.array(self.sizes), batch=self.batch)

    def cuts(self) -> list[slice]:
        """The batches."""
        return [slice(begin, begin + self.batch) for begin in range(0, len(self.ids), self.batch)]


def answer(works: Mapping[str, Work]) -> None:
    """Until the input ends. A work that returns an array has it saved as FOLDER/answer.npy, which is not timed."""
    folder = Path(sys.argv[1])
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        work, case = line.split()
        wall, cpu = time.perf_counter(), time.process_time()
        result = works[work](case)
        spent = {"seconds_cpu": time.process_time() - cpu, "seconds_wall": time.perf_counter() - wall}
        if isinstance(result, np.ndarray):
            np.save(folder / "answer.npy", result)
        replies.write(json.dumps(spent) + "\n")
        replies.flush()
