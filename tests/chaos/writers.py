"""Writers beside writers: two at once, one that is dead but whose work goes on, one whose scratch is full, one that vacuums after a kill.

Each scenario returns what is wrong; nothing means that it went as it should.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from . import delta_reader
from .kills import differences
from .world import SECOND, STEPS, Process, Step, World

STEP = {step.name: step for step in STEPS}


def two_writers(world: World, address: str) -> list[str]:
    """While one job writes, a second is refused with a sentence and a third waits: as if they had come one after the other."""
    world.restore("correlate_dwell")
    runs = world.progress()[0]
    first = world.start(STEP["correlate_dwell"])
    while first.running() and world.progress()[0] == runs:
        time.sleep(0.01)
    refused, waited = (
        Process(world.command(STEP["build_sequences"], f"lake.wait_minutes={minutes}"), world.folder / f"last.{minutes}")
        for minutes in (0, 30)
    )
    codes = [process.wait() for process in (first, refused, waited)]
    said = " / ".join(map(_tail, (first, refused, waited)))
    wrong = [] if codes == [0, 2, 0] else [f"two writers ended with {codes}, not [0, 2, 0]: {said}"]
    if "has been writing to lake" not in refused.said() or "Traceback" in refused.said():
        wrong.append(f"the second writer was not told why: {_tail(refused)}")
    return wrong + _differs(world, world.expected["build_sequences"][-1], "two writers")


def the_same_job_twice(world: World, address: str) -> list[str]:
    """A batch that two processes take in at the same moment is there once."""
    step = STEP["ingest a batch"]
    world.restore(step.name)
    both = [Process(world.command(step, "lake.wait_minutes=30"), world.folder / f"last.{number}") for number in range(2)]
    codes = [process.wait() for process in both]
    wrong = [] if codes == [0, 0] else [f"the same job twice ended with {codes}: {_tail(both[0])} / {_tail(both[1])}"]
    return wrong + _differs(world, world.expected[step.name][-1], "the same job twice")


def vacuum_after_a_kill(world: World, address: str) -> list[str]:
    """A writer is killed between its commits; the next job is a retention that vacuums at once: what is published stays."""
    world.restore("apply_retention")
    expected, commits = world.state(), world.progress()[1]
    rebuild = Step("rebuild", "build_sequences", ("--from", SECOND, "--to", SECOND))
    killed = world.start(rebuild)
    while killed.running() and world.progress()[1] == commits:
        time.sleep(0.005)
    killed.kill()
    keep = "lake.keep_days={events: 999, user_sequences: 999, training_examples: 999}"  # nothing is so old
    retention = world.finish(Step("retention", "apply_retention", settings=(keep, "lake.vacuum_hours=0")))
    wrong = [] if retention.code == 0 else [f"the retention after a kill ended with {retention.code}: {_tail(retention)}"]
    wrong += _differs(world, expected, "a vacuum after a kill")
    again = world.finish(rebuild)
    if again.code:
        wrong.append(f"the job that was killed cannot be run again after a vacuum: {_tail(again)}")
    return wrong + _differs(world, expected, "the killed job, run again after a vacuum")


def full_scratch(world: World, address: str) -> list[str]:
    """A scratch of no room: the job fails, its tables stay as they were, and it runs once there is room."""
    place, wrong = world.folder / "small", []
    place.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, check=False, capture_output=True).returncode:
        print("  full scratch: skipped, because mounting a small tmpfs needs root")
        return []
    try:
        for name in ("train_model", "build_graph"):
            step, there = STEP[name], f"lake.scratch={place}"
            world.restore(name)
            subprocess.run(["mount", "-o", "remount,size=8k", str(place)], check=True)
            failed = world.finish(step, there)
            if failed.code == 0:
                wrong.append(f"{name} ended well on a full scratch disk: the disk was not full")
            print(f"  full scratch: {name} ended with {failed.code}: {_tail(failed)}", flush=True)
            wrong += _differs(world, world.expected[name][0], f"{name} on a full scratch disk")
            subprocess.run(["mount", "-o", "remount,size=300m", str(place)], check=True)
            again = world.finish(step, there)
            if again.code:
                wrong.append(f"{name} with room in its scratch again ended with {again.code}: {_tail(again)}")
            wrong += _differs(world, world.expected[name][-1], f"{name} with room in its scratch again")
            if world.registry() != world.models[name][-1]:
                wrong.append(f"{name} with room in its scratch again: the registry holds {world.registry()}")
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)
    return wrong


def orphan_commits_later(world: World, address: str) -> list[str]:
    """A Connect client dies in its write, which the server ends after the next writer has published."""
    return _orphan(world, address, "later", "replace")


def orphan_commits_in_between(world: World, address: str) -> list[str]:
    """A Connect client dies in its write, which the server ends while the next writer, which replaces a scope, is about to commit."""
    return _orphan(world, address, "between", "replace")


def orphan_commits_before_an_append(world: World, address: str) -> list[str]:
    """As before, where the next writer appends, which never conflicts."""
    return _orphan(world, address, "between", "append")


def _orphan(world: World, address: str, when: str, mode: str) -> list[str]:
    root = world.folder / "edges" / f"{when}-{mode}"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    lake, name = root / "lake", f"an orphan that commits {when} ({mode})"

    def writer(as_of_ms: int, rows: int, mode: str = "replace", gate: str = "") -> Process:
        command = [sys.executable, "-m", "tests.chaos.edges_writer", address, str(lake), str(as_of_ms), str(rows), mode]
        return Process([*command, str(root / gate)] if gate else command, root / f"said.{as_of_ms}")

    def done(process: Process, what: str) -> list[str]:
        return [] if process.wait() == 0 else [f"{name}: {what} ended with {process.code}: {_tail(process)}"]

    wrong = done(writer(100, 10), "the first writer")
    orphan = writer(200, 50, gate="orphan")
    _until(lambda: (root / "orphan.begun").exists(), orphan)
    orphan.kill_python_only()
    if when == "later":
        wrong += done(writer(300, 3, mode), "the next writer")
        (root / "orphan.go").touch()
        _wait_for_commit(lake / "user_edges", 50)
    else:
        second = writer(300, 3, mode, "second")
        _until(lambda: (root / "second.begun").exists(), second)
        (root / "orphan.go").touch()
        _wait_for_commit(lake / "user_edges", 50)
        (root / "second.go").touch()
        if second.wait():  # refused is fair, with a sentence; then it comes again
            if "Traceback" in second.said():
                wrong.append(f"{name}: the second writer ended in a stack trace: {_tail(second)}")
            wrong += _days(lake, {100: 10}, f"{name}, after the second writer was refused")
            wrong += done(writer(300, 3, mode), "the second writer, once more")
    wrong += _days(lake, {100: 10, 300: 3}, name)
    wrong += done(writer(400, 2), "the last writer")
    return wrong + _days(lake, {100: 10, 300: 3, 400: 2}, f"{name}, after one more writer")


def _days(lake: Path, expected: dict[int, int], what: str) -> list[str]:
    """What is wrong with the number of published edges per as_of, in epoch ms. The partition is the second's thousandth."""
    rows = delta_reader.rows(lake / "user_edges", delta_reader.published(lake)["user_edges"])
    found = Counter(round(datetime.fromisoformat(str(row["as_of"])).replace(tzinfo=UTC).timestamp() * 1000) for row in rows)
    return [] if found == expected else [f"{what}: published edges per as_of {dict(found)}, not {expected}"]


def _wait_for_commit(table: Path, rows: int) -> None:
    """Until a commit that adds so many rows is there, or none has come for long (Delta refused it)."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        for path in (table / "_delta_log").glob("*.json"):
            for line in path.read_text().splitlines():
                metrics = json.loads(line).get("commitInfo", {}).get("operationMetrics", {})
                if metrics.get("numOutputRows") == str(rows):
                    return
        time.sleep(0.1)
    print(f"  the orphan's commit of {rows} rows never came")


def _until(condition: Callable[[], bool], process: Process) -> None:
    while not condition():
        assert process.running(), f"a writer ended too early: {_tail(process)}"
        time.sleep(0.05)


def _differs(world: World, expected: delta_reader.State, what: str) -> list[str]:
    try:
        found = world.state()
    except delta_reader.Unreadable as error:
        return [f"{what}: {error}"]
    return [] if found == expected else [f"{what}: {differences(found, expected)}"]


def _tail(process: Process) -> str:
    return " | ".join(line for line in process.said().strip().splitlines()[-2:])[:600]


SCENARIOS: dict[str, Callable[[World, str], list[str]]] = {
    function.__name__: function
    for function in (
        two_writers, the_same_job_twice, vacuum_after_a_kill, full_scratch,
        orphan_commits_later, orphan_commits_in_between, orphan_commits_before_an_append,
    )
}  # fmt: skip
WITHOUT_A_WORLD = ("orphan_commits_later", "orphan_commits_in_between", "orphan_commits_before_an_append")
