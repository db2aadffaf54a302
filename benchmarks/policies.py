"""What do segments save, and what do they gain? DynamiX's Tables 2 and 3 in small, on the synthetic world.

    python -m benchmarks.policies

conf/dynamix.yml, job by job as a user runs them: segments of three weeks, rows told apart by the segment at each impression, and every
experiment of the conf with three seeds (jobs/compare_policies.py). Intervals: NE gain over users and seeds, throughput over the rounds.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace

from alure_spark.clock import DAY_MS, format_time
from alure_spark.config import load
from alure_spark.running import open_context, run_jobs
from benchmarks import contract
from jobs import build_sequences, compare_policies, correlate_dwell, ingest_events

DAYS = 21  # of segments before as_of, all that training looks at
FIGURES = ("gain", "low", "high")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=1500)
    parser.add_argument("--rounds", type=int, default=32)
    options = parser.parse_args(arguments)
    settings = [f"source.options.users={options.users}", f"dynamix.compare_rounds={options.rounds}"]
    with tempfile.TemporaryDirectory(prefix="policies_") as folder:
        context = open_context(load("conf/dynamix.yml", [*settings, *contract.places(folder)]))
        config, as_of = context.config, context.config.time.as_of_ms
        run_jobs(context, [ingest_events.JOB], "benchmark_policies")
        for day in range(DAYS, -1, -1):
            context.config = replace(config, time=replace(config.time, as_of=format_time(as_of - day * DAY_MS)))
            run_jobs(context, [correlate_dwell.JOB], "benchmark_policies")
        segments = {key: value for key, value in context.tracker.metrics.items() if key.startswith("correlate_dwell.s")}
        context.config = config
        run_jobs(context, [build_sequences.JOB, compare_policies.JOB], "benchmark_policies")
        found = {key.removeprefix("compare_policies."): value for key, value in context.tracker.metrics.items()}
    experiments = [(name, experiment.against) for name, experiment in config.experiments.items() if experiment.against]
    rows: list[contract.Row] = []
    for name, against in experiments:
        for segment in ("total", *config.dynamix.segments):
            row: contract.Row = {"experiment": name, "against": against, "segment": segment}
            for measure in ("click", "conversion", "training", "inference"):
                row |= {f"{measure}_{figure}": found.get(f"{name}.{segment}.{measure}.{figure}") for figure in FIGURES}
            rows.append(row)
    impressions = {name: found.get(f"build_sequences.segment.{name}.impressions") for name in config.dynamix.segments}
    contract.publish("policies", {"settings": settings, "impressions": impressions, "segments": segments}, rows, {})


if __name__ == "__main__":
    main()
