"""python -m tests.chaos --kills 30 --seed 7: every job that writes is killed so often; prints each kill and the outcome per job.

Exit code 1 where something was lost, doubled, unreadable, or ended in a stack trace. With --job (repeatable) only these jobs are killed;
with --mode one way of killing. The kills of a job are shared between the modes: most are of Connect clients, which start soonest.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from . import kills, writers
from .world import STEPS, World, connect_server

SHARES = {"client": 0.5, "power": 0.3, "orphan": 0.2}


def shares(total: int, modes: list[str]) -> dict[str, int]:
    """How many of a job's kills are of which mode; the first mode takes what is left over."""
    shared = {mode: int(total * SHARES[mode] / sum(SHARES[one] for one in modes)) for mode in modes}
    return shared | {modes[0]: shared[modes[0]] + total - sum(shared.values())}


def run(folder: Path, total: int, seed: int, jobs: list[str], modes: list[str], scenarios: list[str]) -> int:
    """The number of failures; prints what happens."""
    begin, world = time.monotonic(), World(folder)
    steps = [step for step in STEPS if not jobs or {step.name, step.module} & set(jobs)]
    needed = [*(steps if total else ()), *(STEPS[-1:] if set(scenarios) - set(writers.WITHOUT_A_WORLD) else ())]
    last = max(map(STEPS.index, needed), default=-1)
    number, tallies, found = shares(total, modes), [], {}
    with connect_server(folder) as address:
        world.remote = address if "client" in modes else ""
        for step in STEPS[: last + 1]:
            world.undisturbed(step)
            rows = {name: count for name, (_, count) in world.expected[step.name][-1].items()}
            print(f"undisturbed: {step.name} in {world.timelines[step.name, bool(world.remote)].ended:.0f} s; rows {rows}", flush=True)
        for name in scenarios:
            try:
                found[name] = writers.SCENARIOS[name](world, address)
            except AssertionError as error:
                found[name] = [f"{name}: {error}"]
            print(f"{name}: {found[name] or 'as it should be'}", flush=True)
        for mode in modes:
            world.remote = address if mode == "client" else ""
            for step in steps if number[mode] else ():
                tallies.append(kills.storm(world, step, number[mode], mode, seed))
                print(tallies[-1].line(), flush=True)
    print(f"\n{sum(tally.kills for tally in tallies)} SIGKILLs in {(time.monotonic() - begin) / 60:.0f} min, seed {seed}")
    for tally in tallies:
        print(f"  {tally.line()}")
    for name, failures in found.items():
        print(f"  {name}: {'as it should be' if not failures else f'{len(failures)} FAILURES'}")
    failures = [failure for one in (*(tally.failures for tally in tallies), *found.values()) for failure in one]
    for failure in failures:
        print(f"FAILURE {failure}")
    return len(failures)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=30, help="SIGKILLs per job")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--job", action="append", default=[], help="only this job")
    parser.add_argument("--mode", action="append", default=[], choices=kills.MODES, help="only this way of killing")
    parser.add_argument("--scenario", action="append", default=[], choices=[*writers.SCENARIOS, "none"], help="only this scenario")
    parser.add_argument("--folder", default="", help="where to work, kept; otherwise a folder that is deleted")
    options = parser.parse_args()
    chosen = options.scenario or (list(writers.SCENARIOS) if not options.job else [])
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(options.folder or temporary).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        scenarios = [name for name in chosen if name != "none"]
        sys.exit(bool(run(folder, options.kills, options.seed, options.job, options.mode or list(SHARES), scenarios)))


if __name__ == "__main__":
    main()
