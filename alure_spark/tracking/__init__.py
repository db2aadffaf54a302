"""MLflow runs: what was read, with which code and conf, and how good it was. The only place that imports mlflow.

Tables are published before anything is tracked, so a tracking failure loses no data. A call that fails costs what it should have
logged, which goes to a file under `tracking.offline_root`; a store that is dead is given up for the rest of the run. Both are counted
and said at its end. The next run asks the store again. A run is written by its id: a run that somebody else has open stays as it is.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..clock import format_time
from ..config import Config, TrackingConfig, as_dict
from ..masking import masked_text, public
from . import unended
from .names import LONGEST, LONGEST_PARAMETER, LONGEST_TAG, Names, as_number, as_text, clean, clean_file
from .registry import Columns, ModelVersion, Registry
from .store import QUICK, SLOW_S, STRIKES, git_commit, is_refusal, limited, open_experiment, require_store, said

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Columns", "ModelVersion", "Tracker", "git_commit"]
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
logger = logging.getLogger(__name__)
STORE, ARTIFACTS = "store", "artifacts"  # a run's figures may fail where its metrics do not


@dataclass
class _Open:
    """One run while it is open: its id, whether MLflow has it, and what was logged so far."""

    run_id: str
    live: bool = False
    names: Names = field(default_factory=Names)
    absent: dict[str, str] = field(default_factory=dict)  # metric -> why MLflow has no number of it; '' where nothing was to be measured


@dataclass
class _Trouble:
    """What went wrong in a run and those below it."""

    strikes: Counter[str] = field(default_factory=Counter)  # failures in a row of the store, of the artifacts
    given_up: set[str] = field(default_factory=set)
    lost: Counter[str] = field(default_factory=Counter)  # what could not be done -> how often
    first: str = ""  # the first failure, as a sentence
    unwritable: str = ""  # why offline_root took nothing


class Tracker(Registry):
    """Logs into the current MLflow run; one run may span several jobs (the pipeline)."""

    def __init__(self, config: TrackingConfig) -> None:
        self.config = config
        self.offline: Path | None = None  # where is what MLflow did not take of this run
        self.metrics: dict[str, float] = {}  # everything logged in this run, for the table on the terminal
        self.published: dict[str, int] = {}  # table -> version that the jobs of this run have published, for the sentence on a failure
        self._open: _Open | None = None
        self._trouble = _Trouble()

    @property
    def run_id(self) -> str:
        """Id of the open run; 'offline-...' where MLflow could not start one, '' where none is open."""
        return self._open.run_id if self._open else ""

    @property
    def live_run_id(self) -> str | None:
        return self._open.run_id if self._open and self._open.live else None

    @contextlib.contextmanager
    def run(self, job: str, config: Config) -> Iterator[Tracker]:
        """A run around the block, unless one is open already. A failing block marks the run as failed.

        Raises ConfigError when tracking.uri refers to an environment variable that is not set.
        """
        if self._open:
            yield self
            return
        self._uri()
        self.offline, self.metrics, self.published, self._trouble = None, {}, {}, _Trouble()
        day = format_time(config.time.as_of_ms)[:10] if config.time.as_of else "no day"
        tags = {"alure.git_commit": git_commit(), "alure.python": sys.version.split()[0]}
        with self._opened(job, f"{config.name}-{job} {day}", config, tags, "start a run"):
            conf = public(as_dict(config))
            self._artifact("log the configuration", lambda client, run: client.log_dict(run, conf, "config.json"))
            self.log_params(_flat({key: value for key, value in conf.items() if key != "streams"}))
            yield self

    @contextlib.contextmanager
    def child(self, name: str, config: Config) -> Iterator[Tracker]:
        """A run of its own below the open one, around the block: what is logged in it is the child's."""
        parent = {"mlflow.parentRunId": self.live_run_id} if self.live_run_id else {}
        above, self.metrics = self.metrics, {}
        try:
            with self._opened(name, name, config, parent, "start a child run"):
                yield self
        finally:
            self.metrics = above

    @contextlib.contextmanager
    def _opened(self, job: str, title: str, config: Config, tags: Mapping[str, str], what: str) -> Iterator[None]:
        """The run around the block. It ends however the block ends: as failed, unless the block ended well."""
        above, self._open = self._open, _Open(f"offline-{uuid.uuid4().hex[:8]}")
        tags = {"alure.job": job, "alure.config_hash": config.digest(), **tags}
        status = "FAILED"
        try:
            self._start(what, title, tags)
            yield
            status = "FINISHED"
        finally:
            try:
                self._end(status)
                if above is None:
                    self._say_what_is_missing()
            finally:
                self._open = above

    def _start(self, what: str, title: str, tags: Mapping[str, str]) -> None:
        def start(mlflow: Any) -> None:
            from mlflow.tracking.context.registry import resolve_tags

            require_store(self._uri())
            mlflow.set_tracking_uri(self._uri())
            experiment = open_experiment(mlflow, as_text(self.config.experiment, 500) or "alure_spark", self.config.artifact_root)
            name = as_text(title, LONGEST)
            context = {key: masked_text(str(value)) for key, value in resolve_tags({}).items()}  # git's origin may hold a token
            stored = {key: as_text(value, LONGEST_TAG) for key, value in (context | dict(tags)).items()}
            made = mlflow.MlflowClient(self._uri()).create_run(experiment, run_name=name, tags=stored)
            assert self._open is not None
            self._open.run_id, self._open.live = made.info.run_id, True
            unended.note(self.config.offline_root, self.run_id, self.place)

        if STORE in self._trouble.given_up:  # a child of a run that MLflow did not take
            self._trouble.lost[what] += 1
        elif self._attempt(what, start, STORE) is None:
            self._end_what_stayed_open()
        elif what == "start a run":
            self._give_up(STORE, ARTIFACTS)

    def _end(self, status: str) -> None:
        """Tell MLflow that the open run has ended, also where it was given up: it may be back, and no run stays open."""
        run = self._open
        if not run or not run.live:
            return
        if self._attempt("end the run", lambda mlflow: mlflow.MlflowClient(self._uri()).set_terminated(run.run_id, status), STORE, True):
            unended.note(self.config.offline_root, run.run_id, self.place, status)
        else:
            unended.forget(self.config.offline_root, run.run_id)

    def _end_what_stayed_open(self) -> None:
        """Earlier runs that were killed, or whose end MLflow was not there to take."""
        for run_id, status in unended.found(self.config.offline_root, self.place).items():

            def end(mlflow: Any, run_id: str = run_id, status: str = status) -> None:
                mlflow.MlflowClient(self._uri()).set_terminated(run_id, status)

            error = self._attempt("end an earlier run", end, STORE)
            if error is None or is_refusal(error):  # the store has no such run any more
                unended.forget(self.config.offline_root, run_id)

    def log_params(self, values: Mapping[str, Any]) -> None:
        """Parameters; values are cut at 500 characters."""
        texts = {str(key): as_text(value, LONGEST_PARAMETER) for key, value in values.items()}

        def log(client: Any, run: str) -> None:
            from mlflow.entities import Param

            client.log_batch(run, params=[Param(name, texts[key]) for key, name in self._names(texts).items()])

        self._store("log parameters", log, {"params": texts})

    def log_metrics(self, values: Mapping[str, float | None], step: int | None = None) -> None:
        """Metrics (of a step, for a curve). None means nothing to measure: its name goes into the tag alure.absent_metrics.

        So does, with its value, what is not finite: no store has a number for it.
        """
        numbers = {str(key): as_number(value) for key, value in values.items() if value is not None}
        present = {key: value for key, value in numbers.items() if math.isfinite(value)}
        self.metrics.update(numbers)
        if present:

            def log(client: Any, run: str) -> None:
                from mlflow.entities import Metric

                now = time.time_ns() // 1_000_000
                named = self._names(present)
                client.log_batch(run, metrics=[Metric(named[key], value, now, step or 0) for key, value in present.items()])

            self._store("log metrics", log, {"metrics": present})
        absent = {str(key): "" for key, value in values.items() if value is None}
        absent |= {key: f" ({value})" for key, value in numbers.items() if key not in present}
        if absent and self._open:
            self._open.absent |= absent
            names = ", ".join(f"{key}{why}" for key, why in sorted(self._open.absent.items()))
            self.set_tag("alure.absent_metrics", names)

    def set_tag(self, key: str, value: str) -> None:
        """A tag; values are cut at 5,000 characters."""
        text = as_text(value, LONGEST_TAG)
        self._store("set a tag", lambda client, run: client.set_tag(run, self._names([key])[str(key)], text), {"tags": {key: text}})

    def log_inputs(self, root: str, versions: Mapping[str, int]) -> None:
        """The Delta version of every table that a job read."""

        def log(client: Any, run: str) -> None:
            from mlflow.data.delta_dataset_source import DeltaDatasetSource
            from mlflow.data.meta_dataset import MetaDataset
            from mlflow.entities import DatasetInput, InputTag

            found = []
            for name, version in versions.items():
                place = {"path": f"{root}/{name}"} if "/" in root else {"delta_table_name": f"{root}.{name}"}
                source = DeltaDatasetSource(delta_table_version=version, **place)
                dataset = MetaDataset(source, name=f"{name}@v{version}")  # type: ignore[abstract]
                found.append(DatasetInput(dataset._to_mlflow_entity(), [InputTag("mlflow.data.context", "read")]))
            client.log_inputs(run, found)

        root = masked_text(root)
        if versions:
            self._store("log the tables read", log, {"inputs": dict(versions)})

    def log_figure(self, figure: Figure, name: str) -> None:
        """A matplotlib figure as the artifact of that file name."""
        file = clean_file(name)
        if not self._artifact("log a figure", lambda client, run: client.log_figure(run, figure, file), {"figure": file}):
            self._keep(lambda folder: figure.savefig(_made(folder / file)))

    def log_text(self, text: str, name: str) -> None:
        """A text, without the secrets of the conf, as the artifact of that file name."""
        text, file = as_text(masked_text(text)), clean_file(name)
        self._artifact("log a text", lambda client, run: client.log_text(run, text, file), {"text": {file: text}})

    def _names(self, names: Iterable[object]) -> dict[str, str]:
        return self._open.names.of(names) if self._open else {str(name): clean(name) for name in names}

    def _store(self, what: str, action: Callable[[Any, str], Any], content: Mapping[str, Any], channel: str = STORE) -> bool:
        """Do it to the open run in MLflow, or else keep the content in a file; whether MLflow has it."""
        run = self._open
        if run and run.live and channel not in self._trouble.given_up:
            if self._attempt(what, lambda mlflow: action(mlflow.MlflowClient(self._uri()), run.run_id), channel) is None:
                return True
        else:
            self._trouble.lost[what] += 1
        line = json.dumps(content, default=str)
        self._keep(lambda folder: _append(_made(folder / "log.jsonl"), line))
        return False

    def _artifact(self, what: str, action: Callable[[Any, str], Any], content: Mapping[str, Any] | None = None) -> bool:
        return self._store(what, action, content or {}, ARTIFACTS)

    def _attempt(self, what: str, action: Callable[[Any], Any], channel: str, last: bool = False) -> Exception | None:
        """Do it in MLflow; the error, where it failed. A channel that fails slowly, or again and again, is given up."""
        began = time.monotonic()
        try:
            import mlflow

            with limited(QUICK):
                action(mlflow)
        except Exception as error:
            self._trouble.lost[what] += 1
            self._trouble.first = self._trouble.first or f"MLflow could not {what} ({said(error)})"
            self._trouble.strikes[channel] += 0 if is_refusal(error) else 1
            slow = time.monotonic() - began > SLOW_S
            if not last and (slow or self._trouble.strikes[channel] >= STRIKES):
                self._give_up(channel, *([ARTIFACTS] if channel == STORE else []))
            return error
        self._trouble.strikes[channel] = 0
        return None

    def _give_up(self, *channels: str) -> None:
        new = set(channels) - self._trouble.given_up
        self._trouble.given_up |= new
        if new and self._open:
            place = self._folder()
            logger.warning(
                "%s; it is asked no more in this run: what it does not take goes to %s. %s so far",
                self._trouble.first,
                place,
                self._so_far(),
            )

    def _folder(self) -> Path:
        return Path(self.config.offline_root) / (self.run_id or "no run")

    def _keep(self, write: Callable[[Path], Any]) -> None:
        """Write into the run's folder below offline_root. Where that cannot be written either, the run is only counted as incomplete."""
        if self._trouble.unwritable:
            return
        try:
            folder = self._folder()
            write(folder)
            self.offline = self.offline or folder
        except Exception as error:
            self._trouble.unwritable = said(error)

    def _so_far(self) -> str:
        tables = ", ".join(f"{name} v{version}" for name, version in self.published.items())
        return f"Published: {tables}" if tables else "No table is published"

    def _say_what_is_missing(self) -> None:
        trouble = self._trouble
        if not trouble.lost:
            return
        counted = ", ".join(f"{what} ({count})" if count > 1 else what for what, count in trouble.lost.items())
        kept = f"what it lacks is in {self.offline}" if self.offline and not trouble.unwritable else "what it lacks is lost"
        if trouble.unwritable:
            kept += f": tracking.offline_root cannot be written ({trouble.unwritable})"
        logger.warning("%s. MLflow could not %s; %s. %s", trouble.first, counted, kept, self._so_far())


def _made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _append(path: Path, line: str) -> None:
    with path.open("a") as file:
        file.write(f"{line}\n")


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
