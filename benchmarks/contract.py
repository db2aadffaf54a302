"""What every benchmark leaves behind: benchmarks/results/NAME.json and one table on the terminal.

Enters: rows (one per method, with seconds and whatever the benchmark measures) and ratios. A ratio above 1 means that ours is
better, unless its name says share or cost. The tables of docs/benchmarks are generated from these files.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from alure_spark.tracking import git_commit

RESULTS = Path(__file__).parent / "results"
FLAGS = ("avx2", "avx512f", "avx512_vnni", "amx_tile", "asimd", "sve")  # the CPU flags that decide speed
PACKAGES = ("pyspark", "delta-spark", "pyarrow", "numpy", "scipy", "scikit-learn", "pandas", "faiss-cpu", "torch", "implicit")
Row = dict[str, Any]


def machine() -> dict[str, Any]:
    """Cores that this process may use, CPU model and flags, memory."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    facts = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
    named = {key.strip(): value.strip() for key, value in facts.items()}
    flags = set((named.get("flags") or named.get("Features") or "").split())
    return {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "cpu": named.get("model name", platform.processor() or platform.machine()),
        "cpu_flags": [flag for flag in FLAGS if flag in flags],
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
    }


def versions() -> dict[str, str]:
    """Python and the installed packages that a result may depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def spread(values: Sequence[float]) -> dict[str, float]:
    """{"median", "min", "max"} of one ratio over the repetitions."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def middle(rows: Sequence[Row]) -> Row:
    """The repetition of one method with the median of seconds_cpu (of an even number, the upper one)."""
    return sorted(rows, key=lambda row: row["seconds_cpu"])[len(rows) // 2]


def places(folder: str) -> list[str]:
    """The overrides that keep a run of the pipeline inside a folder."""
    tracking = [f"tracking.uri=sqlite:///{folder}/mlflow.db", f"tracking.artifact_root={folder}/artifacts"]
    return [f"lake.root={folder}/lake", f"lake.scratch={folder}/scratch", *tracking, f"tracking.offline_root={folder}/untracked"]


@contextmanager
def measured(row: Row, interval_s: float = 0.1) -> Iterator[Row]:
    """Fills seconds_wall, seconds_cpu and peak_mb (resident, sampled) of the block, over this process and all its children.

    seconds_cpu counts whole ticks of the clock, and one at least, so that a rate of a very short block is a low bound and no division
    by zero. seconds_cpu and peak_mb are None where there is no /proc.
    """
    first = _tree()
    last, peak, stop = {key: cpu for key, (cpu, _) in first.items()}, [0.0], threading.Event()

    def look() -> None:
        family = _tree()
        # A process that ends keeps the last figure that was seen of it.
        last.update({key: cpu for key, (cpu, _) in family.items()})
        peak[0] = max(peak[0], sum(resident for _, resident in family.values()))

    def watch() -> None:
        while not stop.wait(interval_s):
            look()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    wall = time.perf_counter()
    try:
        yield row
    finally:
        row["seconds_wall"] = time.perf_counter() - wall
        stop.set()
        watcher.join()
        look()
        spent = sum(cpu - first.get(key, (0.0, 0.0))[0] for key, cpu in last.items())
        row["seconds_cpu"], row["peak_mb"] = (max(spent, 1 / _ticks_per_second()), peak[0]) if last else (None, None)


def event_log(folder: str) -> dict[str, str]:
    """Spark settings of a new session that make it write down what its tasks shuffled (see shuffled_bytes)."""
    return {"spark.eventLog.enabled": "true", "spark.eventLog.dir": f"file:{folder}", "spark.eventLog.compress": "false",
            "spark.eventLog.rolling.enabled": "false"}  # fmt: skip


def shuffled_bytes(folder: Path) -> int:
    """Bytes that finished tasks wrote for a shuffle, over all sessions that log to the folder. Raises OSError where none does."""
    logs = list(folder.iterdir())
    if not logs:
        raise FileNotFoundError(f"{folder} holds no event log: start the session with contract.event_log")
    written = re.compile(r'"Shuffle Bytes Written":(\d+)')
    tasks = [line for log in logs for line in log.read_text().splitlines() if '"Event":"SparkListenerTaskEnd"' in line]
    return sum(int(found[1]) for line in tasks if (found := written.search(line)))


def _ticks_per_second() -> int:
    return os.sysconf("SC_CLK_TCK")


def _tree() -> dict[tuple[int, int], tuple[float, float]]:
    """(pid, start tick) -> (CPU seconds, resident MB) of this process and its living descendants; empty where there is no /proc."""
    processes: dict[int, tuple[int, int, float, float]] = {}
    ticks, page = _ticks_per_second(), os.sysconf("SC_PAGE_SIZE")
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended meanwhile
            continue
        cpu, resident = sum(map(int, fields[11:13])) / ticks, int(fields[21]) * page / 2**20
        processes[int(entry.parent.name)] = (int(fields[1]), int(fields[19]), cpu, resident)
    family, found = [os.getpid()] if processes else [], {}
    while family:
        parent = family.pop()
        _, started, cpu, resident = processes[parent]
        found[parent, started] = (cpu, resident)
        family += [process for process, (its_parent, *_) in processes.items() if its_parent == parent]
    return found


def quality_parser(doc: str | None, seeds: Sequence[int]) -> argparse.ArgumentParser:
    """What the command line of a benchmark of quality has: --seeds, --resamples and --results. doc: the benchmark's own docstring."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=list(seeds))
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser


def table(rows: Sequence[Row]) -> str:
    """The rows as one aligned text table; columns in order of first appearance."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = [columns, *[[_cell(row.get(column)) for column in columns] for row in rows]]
    widths = [max(len(line[index]) for line in text) for index in range(len(columns))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in text)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) and abs(value) < 10 else f"{value:,.0f}" if isinstance(value, float) else str(value)


def earlier(name: str, keeps: Callable[[Row], bool], folder: Path = RESULTS) -> list[Row]:
    """Rows of the last run that this one does not measure again, each with the commit that it is of."""
    path = folder / f"{name}.json"
    if not path.exists():
        return []
    result = json.loads(path.read_text())
    return [{"commit": result["commit"]} | row for row in result["rows"] if keeps(row)]


def publish(
    name: str, size: Mapping[str, Any], rows: Sequence[Row], ratios: Mapping[str, Mapping[str, float]], folder: Path = RESULTS
) -> Path:
    """Prints the table and the ratios, and writes folder/NAME.json; returns its path."""
    result = {
        "name": name, "date": datetime.now(UTC).isoformat(timespec="seconds"), "commit": git_commit(), "machine": machine(),
        "versions": versions(), "size": dict(size), "rows": list(rows), "ratios": {key: dict(value) for key, value in ratios.items()},
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n")
    print(table(rows))
    for key, value in ratios.items():
        print(f"{key}: median {value['median']:.3f} (min {value['min']:.3f}, max {value['max']:.3f})")
    print(f"written to {path}", file=sys.stderr)
    return path
