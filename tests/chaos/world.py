"""A tiny world carried through every job that writes, each as a process of its own, and copies of it as it was before each job."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import yaml

from tests.conftest import ROOT, SHORT_LIVED, own_spark

from . import delta_reader, log

KEY = "a key of the chaos tests, long enough"
FIRST, SECOND = "2025-01-11", "2025-01-12"
CONF = {
    "name": "chaos",
    "time": {"as_of": f"{SECOND}T00:00:00Z", "horizon_days": 2},
    "streams": {
        "organic_impression": {"attributes": {"category_id": "categorical", "dwell_ms": "numeric"}},
        "page_impression": {"attributes": {"category_id": "categorical"}},
        "ad_impression": {"attributes": {"media_type": "categorical", "position": "numeric", "dwell_ms": "numeric"}},
        "ad_click": {"attributes": {"account_id": "categorical"}},
        "conversion": {"attributes": {"account_id": "categorical", "value": "numeric"}},
    },
    "labels": {"validation_days": 2, "impression_attributes": ["media_type", "position"]},
    "embedding": {"sources": ["organic_impression", "page_impression", "ad_click", "conversion"], "dimension": 8},
    "model": {"dimension": 16, "heads": 2, "feed_forward": 16, "max_events": 32, "window": 16, "dropout": 0.0},
    "training": {"epochs": 2, "batch_users": 16, "export_rows": 16, "threads": 1, "checkpoint_steps": 2, "reader": "pyarrow"},
    "inference": {"precision": "float64", "batch_users": 100},
    "graph": {"graphs": ["alure", "bff", "ppr"], "k2": 3, "recall_queries": 10},
    "evaluate": {"k": 5, "item_sources": ["organic_impression"], "bootstrap": 20},
    "spark": {
        "master": "local[1]", "shuffle_partitions": 1, "driver_memory": "1g",
        "settings": {"spark.driver.extraJavaOptions": SHORT_LIVED, "spark.default.parallelism": "1"},
    },
}  # fmt: skip
NARROW = "time.not_before=2025-01-07"  # the events of the first day are refused


@dataclass(frozen=True)
class Step:
    """One job of the world, as a command line. The tables it writes are whatever its row in `runs` names."""

    name: str
    module: str
    arguments: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()


STEPS = (
    Step("ingest the first batch", "ingest_events", settings=(f"time.as_of={FIRST}", "ingest.batch_days=30", NARROW)),
    Step("ingest a batch", "ingest_events", settings=("ingest.batch_days=1", NARROW)),
    Step("replay_quarantine", "replay_quarantine"),
    Step("ingest the whole log", "ingest_events"),
    Step("correlate_dwell", "correlate_dwell"),
    Step("build_sequences", "build_sequences", ("--from", FIRST, "--to", SECOND)),
    Step("train_model", "train_model"),
    Step("embed_users", "embed_users"),
    Step("log_embeddings", "log_embeddings", settings=("embedding.publish_lag_hours=0",)),
    Step("build_graph", "build_graph"),
    Step("retrieve_ads", "retrieve_ads"),
    Step("evaluate", "evaluate"),
    Step(
        "apply_retention", "apply_retention",
        settings=("lake.keep_days={events: 4, user_sequences: 0.5, training_examples: 0.5}", "lake.vacuum_hours=0"),
    ),
    Step("forget_users", "forget_users", ("--user", "u003", "--user", "u007"), ("lake.vacuum_hours=0",)),
)  # fmt: skip


@dataclass
class Timeline:
    """When an undisturbed job did what, in seconds since its start."""

    started: float = 0.0  # its row `started` was there
    commits: list[float] = field(default_factory=list)  # of other tables than runs
    run_commits: int = 0  # of the table runs
    published: float = 0.0  # the last commit of runs
    ended: float = 0.0


class World:
    """The folder of one chaos run: lakes/N are copies to break, before/STEP is everything as it was before a step.

    A restored lake gets a new path each time: a Spark that lives on remembers the log of the path that it knew.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        source = {"kind": "tables", "options": log.write(folder / "log")}
        (folder / "conf.yml").write_text(yaml.safe_dump(CONF | {"source": source}))
        self.remote = ""  # the address of a Spark Connect server, which then does the work
        self.lakes = 0
        self.lake = self._new_lake()
        self.timelines: dict[tuple[str, bool], Timeline] = {}  # by step, and whether a Connect server does the work
        self.expected: dict[str, list[delta_reader.State]] = {}  # step -> the states that its publications leave, the first before it
        self.models: dict[str, list[dict[str, str]]] = {}  # step -> the registry before and after
        self.hashes: dict[str, dict[str, str]] = {}  # step -> table -> content_hash, as the product recorded it

    def command(self, step: Step, *more: str) -> list[str]:
        places = {
            "lake.root": self.lake, "lake.scratch": self.folder / "scratch", "tracking.uri": f"sqlite:///{self.folder}/mlflow.db",
            "tracking.artifact_root": self.folder / "artifacts", "tracking.offline_root": self.folder / "untracked",
        }  # fmt: skip
        remote = (f"spark.remote={self.remote}",) if self.remote else ()
        values = [*(f"{key}={value}" for key, value in places.items()), *remote, *step.settings, *more]
        return [
            sys.executable, "-m", f"jobs.{step.module}", "--conf", str(self.folder / "conf.yml"), *step.arguments,
            *(part for value in values for part in ("--set", value)),
        ]  # fmt: skip

    def start(self, step: Step, *more: str) -> Process:
        """The job in a session of its own, so that all of it can be killed."""
        return Process(self.command(step, *more), self.folder / "last")

    def finish(self, step: Step, *more: str) -> Process:
        """The job, undisturbed."""
        process = self.start(step, *more)
        process.wait()
        return process

    def state(self) -> delta_reader.State:
        """What is published now. Raises Unreadable."""
        return delta_reader.content(self.lake, delta_reader.published(self.lake))

    def registry(self) -> dict[str, str]:
        return delta_reader.models(self.folder / "mlflow.db")

    def progress(self) -> tuple[int, int]:
        """Commits so far: of runs, and of all other tables."""
        commits = [path.parent.parent.name for path in self.lake.glob("*/_delta_log/0*.json")]
        return commits.count("runs"), len(commits) - commits.count("runs")

    def save(self, name: str) -> None:
        """Keep everything as it is now, under the name."""
        kept = self.folder / "before" / name
        shutil.rmtree(kept, ignore_errors=True)
        kept.mkdir(parents=True)
        for place in ("scratch", "artifacts", "mlflow.db"):
            if (self.folder / place).exists():
                _copy(self.folder / place, kept / place)
        _copy(self.lake, kept / "lake")

    def restore(self, name: str) -> None:
        """Everything as it was when the name was saved; the lake has a new path."""
        kept = self.folder / "before" / name
        shutil.rmtree(self.lake, ignore_errors=True)  # a server may still be writing there for a killed client
        self.lake = self._new_lake()
        self.lake.rmdir()
        _copy(kept / "lake", self.lake)
        for place in ("scratch", "artifacts", "mlflow.db"):
            subprocess.run(["rm", "-rf", str(self.folder / place)], check=True)
            if (kept / place).exists():
                _copy(kept / place, self.folder / place)

    def undisturbed(self, step: Step) -> None:
        """Run the step once as it should be, and learn what it leaves."""
        self.save(step.name)
        states, known = [self.state()], len(delta_reader.runs(self.lake))
        self.models[step.name] = [self.registry()]
        self.watch(step)
        new = delta_reader.runs(self.lake)[known:]
        for number in range(known + 1, known + len(new)):  # between two publications of one command
            states.append(delta_reader.content(self.lake, delta_reader.published(self.lake, number)))
        self.expected[step.name] = [*states, self.state()]
        self.hashes[step.name] = {name: value for run in new for name, value in run["content_hashes"].items()}
        self.models[step.name].append(self.registry())

    def watch(self, step: Step) -> None:
        """Run the step to its end and note when it did what. Raises AssertionError where it fails."""
        timeline = Timeline()
        first_runs, commits = self.progress()
        runs = first_runs
        process, begin = self.start(step), time.monotonic()
        while process.running():
            now_runs, now_commits = self.progress()
            at = time.monotonic() - begin
            timeline.commits += [at] * (now_commits - commits)
            if now_runs > runs:
                timeline.started, timeline.published = timeline.started or at, at
            runs, commits = now_runs, now_commits
            time.sleep(0.01)
        timeline.ended, timeline.run_commits = time.monotonic() - begin, self.progress()[0] - first_runs
        assert process.code == 0, f"{step.name} undisturbed ended with {process.code}:\n{process.said()[-3000:]}"
        self.timelines[step.name, bool(self.remote)] = timeline

    def _new_lake(self) -> Path:
        self.lakes += 1
        path = self.folder / "lakes" / str(self.lakes)
        path.mkdir(parents=True, exist_ok=True)
        return path


class Process:
    """A job at work: python, its JVM, their children."""

    def __init__(self, command: list[str], said: Path) -> None:
        self.output = said
        environment = own_spark(ALURE_USER_KEY=KEY, OMP_NUM_THREADS="1", PYTHONPATH=str(ROOT), PYTHONUNBUFFERED="1")
        with said.open("wb") as out:
            self.popen = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True
            )

    @property
    def code(self) -> int | None:
        return self.popen.returncode

    def running(self) -> bool:
        return self.popen.poll() is None

    def wait(self) -> int:
        return self.popen.wait()

    def said(self) -> str:
        return self.output.read_text(errors="replace")

    def kill(self) -> None:
        """SIGKILL for all of it at once, as a machine that loses its power."""
        below = _children(self.popen.pid)
        os.killpg(self.popen.pid, signal.SIGKILL)
        for process in below:  # Python workers are in groups of their own
            _kill(process)
        self.popen.wait()

    def kill_python_only(self) -> list[psutil.Process]:
        """SIGKILL for the driver's Python alone; what it leaves behind goes on: the JVM may finish what it had begun."""
        below = _children(self.popen.pid)
        self.popen.kill()
        self.popen.wait()
        return below


@contextmanager
def connect_server(folder: Path) -> Iterator[str]:
    """A Spark Connect server of this machine for the block; its address."""
    import pyspark

    from alure_spark.session import DELTA_PACKAGE, DELTA_SETTINGS, LOOPBACK

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    home = Path(pyspark.__file__).parent
    settings = DELTA_SETTINGS | LOOPBACK | {
        "spark.connect.grpc.binding.port": str(port), "spark.connect.grpc.binding.address": "127.0.0.1", "spark.log.level": "ERROR",
        "spark.databricks.delta.snapshotPartitions": "1", "spark.sql.warehouse.dir": str(folder / "warehouse"),
        "spark.default.parallelism": "1", "spark.driver.extraJavaOptions": SHORT_LIVED,
    }  # fmt: skip
    command = [
        str(home / "bin" / "spark-submit"), "--master", "local[2]", "--driver-memory", "3g", "--packages", DELTA_PACKAGE,
        *(part for key, value in settings.items() for part in ("--conf", f"{key}={value}")),
        "--class", "org.apache.spark.sql.connect.service.SparkConnectServer", "spark-internal",
    ]  # fmt: skip
    environment = {"SPARK_HOME": str(home), "PYSPARK_PYTHON": sys.executable, "PYTHONPATH": str(ROOT), "SPARK_LOCAL_IP": "127.0.0.1"}
    with (folder / "server").open("wb") as log:
        server = subprocess.Popen(
            command, cwd=folder, env=os.environ | environment, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
    try:
        while not _listens(port):
            if server.poll() is not None:
                raise RuntimeError(f"the Spark Connect server did not start:\n{(folder / 'server').read_text()[-3000:]}")
            time.sleep(0.2)
        yield f"sc://127.0.0.1:{port}"
    finally:
        below = _children(server.pid)
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGKILL)
        for process in below:
            _kill(process)
        server.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _children(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _kill(process: psutil.Process) -> None:
    try:
        process.kill()
    except psutil.NoSuchProcess:  # it went with its group
        return


def _copy(source: Path, target: Path) -> None:
    """With its times, which a vacuum looks at."""
    subprocess.run(["cp", "-a", str(source), str(target)], check=True)
