"""The processes of benchmarks.ranking: how a peer gets a Python of its own, and how a process is asked to work.

A peer's environment holds the packages of benchmarks/peers/NAME.txt; what it needs beside them (torch, numpy) it reads from this one, so
that both sides have the same torch, and nothing is installed here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
REQUIREMENTS = Path(__file__).parent / "peers"
TORCH_PEERS, OTHER_PEERS = ("rechub", "deepctr"), ("trees", "wabbit")
# One thread each. And the allocator keeps what a batch has freed: given back to the system, it costs both sides up to half their time.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1),
    "MALLOC_MMAP_THRESHOLD_": str(2**25),
    "PYTHONPATH": str(ROOT),
}


def python_of(peer: str, folder: Path) -> str:
    """The peer's Python inside the folder; made where it is not there. Raises CalledProcessError where its packages cannot be had."""
    own = folder / peer
    python = own / "bin" / "python"
    if not (own / "made").exists():
        venv.create(own, with_pip=True, clear=True)
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        (own / "lib" / version / "site-packages" / "ours.pth").write_text(sysconfig.get_paths()["purelib"])
        subprocess.run([python, "-m", "pip", "install", "--quiet", "-r", REQUIREMENTS / f"{peer}.txt"], check=True)
        (own / "made").touch()
    return str(python)


class Process:
    """One that answers for a method (peers/answer.py)."""

    def __init__(self, command: Sequence[str], folder: Path, log: Any) -> None:
        self.folder, self.log = folder, log
        self.running = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, cwd=ROOT, env=os.environ | ENVIRONMENT
        )

    def ask(self, work: str, case: str) -> dict[str, float]:
        """What the work cost: seconds_cpu, seconds_wall, of its process alone. Raises RuntimeError where the process has ended."""
        assert self.running.stdin is not None
        assert self.running.stdout is not None
        try:
            self.running.stdin.write(f"{work} {case}\n")
            self.running.stdin.flush()
            answer = next((line for line in self.running.stdout if line.startswith("{")), "")  # a library greets as it is imported
        except BrokenPipeError:
            answer = ""
        if not answer:
            last = Path(self.log.name).read_text()[-2000:]
            raise RuntimeError(f"the process asked for '{work} {case}' has ended; the end of what it said: {last}")
        spent: dict[str, float] = json.loads(answer)
        return spent


@contextmanager
def process(module: str, python: str, folder: Path, *arguments: str) -> Iterator[Process]:
    """Runs while the block does: `python -m module folder arguments`."""
    with (folder / f"{module}.log").open("w") as log:
        started = Process([python, "-m", module, str(folder), *arguments], folder, log)
        try:
            yield started
        finally:
            assert started.running.stdin is not None
            started.running.stdin.close()
            started.running.wait()
