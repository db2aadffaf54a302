"""Lakes in which the user model of the chain has made representations of two days."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from alure_spark.clock import parse_time
from alure_spark.config import TransferConfig, load
from alure_spark.running import open_context, run_jobs
from jobs import build_sequences, extract_representations
from tests.conftest import ROOT, overrides

FIRST = parse_time("2025-01-16T00:00:00Z")
HALF_LIFE, WINDOW = 3.0, 10


def context_at(chain, folder, day, **more):
    """The chain's conf and registry, a lake of its own, `day` days later, with representations of the hidden layer."""
    config = load(ROOT / "conf" / "test.yml", overrides(folder))
    transfer = TransferConfig("hidden", HALF_LIFE, WINDOW)
    time = replace(config.time, as_of=f"2025-01-{16 + day}T00:00:00Z")
    labels = replace(config.labels, validation_days=0.25)
    return open_context(replace(config, **({"time": time, "transfer": transfer, "labels": labels} | more)))


def copied(chain, folder):
    shutil.copytree(chain.lake.root, folder / "lake")
    shutil.copy(Path(chain.lake.root).parent / "mlflow.db", folder / "mlflow.db")
    return folder


def extracted(chain, tmp_path_factory):
    """Contexts of the second day: of a lake in which it came after the first, and of one in which it is the first to be extracted."""
    daily, whole = (tmp_path_factory.mktemp(name) for name in ("daily", "whole"))
    copied(chain, daily)
    for day in (0, 1):
        run_jobs(context_at(chain, daily, day), [build_sequences.JOB], "test")
    shutil.copytree(daily, whole, dirs_exist_ok=True)
    for folder, day in ((daily, 0), (daily, 1), (whole, 1)):
        run_jobs(context_at(chain, folder, day), [extract_representations.JOB], "test")
    return context_at(chain, daily, 1), context_at(chain, whole, 1)
