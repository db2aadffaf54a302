"""SIGKILL at random moments: what must hold after each kill, and after the job has been run again."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field

import psutil

from . import delta_reader
from .world import Process, Step, World

MODES = ("power", "orphan", "client")
# power: python and its JVM at once; orphan: python alone, its JVM may go on; client: python alone, a Connect server goes on
MOMENTS = ("before its first commit", "between its commits", "after publication", "it had ended")
LONGEST = 4  # kills in a row, before the job is left in peace


@dataclass
class Tally:
    """What happened to one job."""

    job: str
    mode: str
    moments: dict[str, int] = field(default_factory=lambda: dict.fromkeys(MOMENTS, 0))
    recoveries: int = 0
    conflicts: int = 0  # runs that Delta stopped because what a killed client had begun came in between; the next run does it
    failures: list[str] = field(default_factory=list)

    @property
    def kills(self) -> int:
        return sum(self.moments.values()) - self.moments["it had ended"]

    def fail(self, sentence: str) -> None:
        """Noted, and said at once."""
        print(f"  FAILURE {sentence}", flush=True)
        self.failures.append(sentence)

    def line(self) -> str:
        moments = ", ".join(f"{count} {moment}" for moment, count in self.moments.items() if count)
        outcome = "equal hashes" if not self.failures else f"{len(self.failures)} FAILURES"
        conflicts = f", {self.conflicts} conflicts" if self.conflicts else ""
        return f"{self.job} ({self.mode}): {self.kills} kills ({moments}), {self.recoveries} recoveries{conflicts}: {outcome}"


def differences(found: delta_reader.State, expected: delta_reader.State) -> str:
    """'events: 10 rows, not 12' for every table that is another."""
    names = [name for name in sorted(found.keys() | expected.keys()) if found.get(name) != expected.get(name)]
    counts = [(name, found.get(name, ("", 0))[1], expected.get(name, ("", 0))[1]) for name in names]
    return "; ".join(f"{name}: {n:,} rows, not {of:,}" if n != of else f"{name}: {n:,} rows of other content" for name, n, of in counts)


def storm(world: World, step: Step, kills: int, mode: str, seed: int) -> Tally:
    """Kill the job so many times, on from what the kill before left, in rows of up to LONGEST; after each row run it to its end."""
    tally, draw = Tally(step.name, mode), random.Random(f"{seed}/{step.name}/{mode}")
    spent = 0
    if (step.name, bool(world.remote)) not in world.timelines:
        world.restore(step.name)
        world.watch(step)
        if world.state() != world.expected[step.name][-1]:
            tally.fail(f"{step.name} ({mode}), undisturbed: {differences(world.state(), world.expected[step.name][-1])}")
    while spent < kills:
        world.restore(step.name)
        left: list[psutil.Process] = []
        for _ in range(min(kills - spent, draw.randint(1, LONGEST))):
            spent += 1
            moment, left = _kill_once(world, step, mode, draw, tally, spent)
            if moment in ("after publication", "it had ended"):
                break
        _recover(world, step, mode, tally, spent)
        while any(map(_works, left)):
            time.sleep(0.1)
    return tally


def _kill_once(world: World, step: Step, mode: str, draw: random.Random, tally: Tally, number: int) -> tuple[str, list[psutil.Process]]:
    published = len(delta_reader.runs(world.lake))
    before = world.progress()
    process, begin = world.start(step), time.monotonic()
    plan = _wait_for_a_moment(world, step, process, draw, before)
    left: list[psutil.Process] = []
    seconds = time.monotonic() - begin
    if not process.running():
        moment = "it had ended"
    else:
        if mode == "power":
            process.kill()
        else:
            left = process.kill_python_only()
        commits = world.progress()[1] - before[1]
        new = len(delta_reader.runs(world.lake)) > published
        moment = "after publication" if new else "between its commits" if commits else "before its first commit"
    tally.moments[moment] += 1
    where = f"{step.name} ({mode}), kill {number}: {plan}, at {seconds:.1f} s, {moment}"
    print(f"  {where}", flush=True)
    if moment == "it had ended" and process.code != 0:
        _note_failed_run(process, tally, where)
    _check_published(world, step, tally, where)
    return moment, left


def _wait_for_a_moment(world: World, step: Step, process: Process, draw: random.Random, before: tuple[int, int]) -> str:
    """Return at a moment drawn from what the undisturbed job did, or when the process has ended; what was waited for."""
    usual = world.timelines[step.name, bool(world.remote)]
    kind = draw.choices(("any time", "at work", "a commit", "publication"), (1, 3, 4, 2))[0]
    share, commits = draw.random(), draw.randint(1, max(1, len(usual.commits)))
    if kind == "a commit" and not usual.commits:
        kind = "at work"
    if kind == "any time":
        runs, others, delay = before[0], before[1], share * usual.ended
    elif kind == "at work":
        runs, others, delay = before[0] + 1, before[1], share * (usual.ended - usual.started)
    elif kind == "a commit":
        runs, others, delay = before[0] + 1, before[1] + commits, share * draw.choice((0.02, 0.5))
    else:
        runs, others, delay = before[0] + usual.run_commits, before[1], share * (usual.ended - usual.published)
    while process.running():
        now = world.progress()
        if now[0] >= runs and now[1] >= others:
            break
        time.sleep(0.005)
    until = time.monotonic() + delay
    while process.running() and time.monotonic() < until:
        time.sleep(0.005)
    return f"{kind}{f' {commits}' if kind == 'a commit' else ''} + {delay:.2f} s"


def _works(process: psutil.Process) -> bool:
    """Whether it still does anything; in a container nobody may fetch the exit code of one that has ended."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _check_published(world: World, step: Step, tally: Tally, where: str) -> None:
    """What is published is what was before, or what the job makes: never between, and readable."""
    try:
        found = world.state()
    except delta_reader.Unreadable as error:
        tally.fail(f"{where}: {error}")
        return
    if found not in world.expected[step.name]:
        tally.fail(f"{where}: published is {differences(found, world.expected[step.name][-1])}")


def _recover(world: World, step: Step, mode: str, tally: Tally, number: int) -> None:
    """The job, run again in peace, ends in the content of the undisturbed run."""
    for _ in range(3):
        process = world.finish(step)
        if process.code == 0:
            break
        _note_failed_run(process, tally, f"{step.name} ({mode}), run again after kill {number}")
    tally.recoveries += process.code == 0
    where = f"{step.name} ({mode}), recovered after kill {number}"
    expected = world.expected[step.name][-1]
    try:
        found = world.state()
        written = {name for run in delta_reader.runs(world.lake)[-1:] for name in run["outputs"]}
        heads = delta_reader.content(world.lake, {name: delta_reader.head(world.lake / name) for name in written})
    except delta_reader.Unreadable as error:
        tally.fail(f"{where}: {error}")
        return
    if found != expected:
        tally.fail(f"{where}: {differences(found, expected)}")
    wanted = {name: expected[name] for name in written}
    if mode == "power" and heads != wanted:  # otherwise what was left behind may add a commit to the head
        tally.fail(f"{where}: a reader that knows nothing of runs sees {differences(heads, wanted)}")
    recorded = {name: value for run in delta_reader.runs(world.lake)[-1:] for name, value in run["content_hashes"].items()}
    others = [name for name in recorded.keys() & world.hashes[step.name].keys() if recorded[name] != world.hashes[step.name][name]]
    if others:
        tally.fail(f"{where}: the recorded content hashes differ for {', '.join(sorted(others))}")
    registry, usual = world.registry(), world.models[step.name][-1]
    if registry != usual:
        tally.fail(f"{where}: the registry holds {registry}, not {usual}")


def _note_failed_run(process: Process, tally: Tally, where: str) -> None:
    """A run ended badly. Where a commit of a killed client came in between that is fair, and counted; else it is a failure."""
    said = process.said()
    lines = [line for line in said.strip().splitlines() if line.strip()]
    print(f"  {where}: ended with {process.code}: {' | '.join(lines[-2:])[:600]}", flush=True)
    if "DELTA_CONCURRENT" in said:
        tally.conflicts += 1
    else:
        tally.fail(f"{where}: ended with {process.code}: {' | '.join(lines[-2:])[:600]}")
