"""MLflow runs: what was read, with which code and conf, and how good it was. The only place that imports mlflow.

Tables are published before anything is tracked, so a tracking failure loses no data. When the store fails, the tracker says
so once and writes everything else of the run (parameters, metrics, figures) under `tracking.offline_root` instead.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .config import Config, TrackingConfig, as_dict, format_time
from .errors import DataError, TrackingError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
logger = logging.getLogger(__name__)


def git_commit() -> str:
    """The commit of the code that runs, with '-dirty' when files differ from it; 'unknown' outside a checkout."""
    here = Path(__file__).parent
    command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip()


@dataclass(frozen=True)
class ModelVersion:
    """A registered model: where its files are, and the digest that they must have."""

    name: str
    version: str
    digest: str
    folder: Path


def content_digest(folder: Path) -> str:
    """sha256 over the names and the bytes of all files below the folder, hex."""
    content = hashlib.sha256()
    for name in sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()):
        with (folder / name).open("rb") as file:
            content.update(f"{name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode(errors="surrogateescape"))
    return content.hexdigest()


class Tracker:
    """Logs into the current MLflow run; one run may span several jobs (the pipeline)."""

    def __init__(self, config: TrackingConfig) -> None:
        self.config = config
        self.run_id = ""
        self.offline: Path | None = None
        self.metrics: dict[str, float] = {}  # everything logged in this run, for the table on the terminal

    @contextlib.contextmanager
    def run(self, job: str, config: Config) -> Iterator[Tracker]:
        """A run around the block, unless one is open already. A failing block marks the run as failed."""
        if self.run_id:
            yield self
            return
        self.run_id, self.offline, self.metrics = f"offline-{uuid.uuid4().hex[:8]}", None, {}
        self._try("start a run", lambda mlflow: self._start(mlflow, job, config))
        self._try("log the configuration", lambda mlflow: mlflow.log_dict(as_dict(config), "config.json"))
        self.log_params(_flat({key: value for key, value in as_dict(config).items() if key not in ("streams", "spark", "tracking")}))
        try:
            with self._ended("end the run"):
                yield self
        finally:
            self.run_id = ""

    def _start(self, mlflow: Any, job: str, config: Config) -> None:
        mlflow.set_tracking_uri(self.config.uri)
        if mlflow.get_experiment_by_name(self.config.experiment) is None:
            root = self.config.artifact_root
            place = Path(root).absolute().as_uri() if root and "://" not in root else root or None
            # The kind makes the MLflow page open with runs, metrics and their comparison instead of its GenAI view.
            kind = {"mlflow.experimentKind": "custom_model_development"}
            mlflow.create_experiment(self.config.experiment, artifact_location=place, tags=kind)
        mlflow.set_experiment(self.config.experiment)
        tags = {
            "alure.job": job,
            "alure.config_hash": config.digest(),
            "alure.git_commit": git_commit(),
            "alure.python": sys.version.split()[0],
        }
        day = format_time(config.time.as_of_ms)[:10] if config.time.as_of else "no day"
        self.run_id = mlflow.start_run(run_name=f"{config.name}-{job} {day}", tags=tags).info.run_id

    @contextlib.contextmanager
    def child(self, name: str, config: Config) -> Iterator[Tracker]:
        """A run of its own below the open one, around the block: what is logged in it is the child's."""
        parent, above = self.run_id, self.metrics
        self.metrics = {}
        tags = {"alure.job": name, "alure.config_hash": config.digest()}
        self._try("start a child run", lambda mlflow: mlflow.start_run(run_name=name, tags=tags, nested=True))
        try:
            with self._ended("end a child run"):
                yield self
        finally:
            self.run_id, self.metrics = parent, above

    @contextlib.contextmanager
    def _ended(self, what: str) -> Iterator[None]:
        """Ends the innermost run after the block, as failed where the block fails."""
        status = "FAILED"
        try:
            yield
            status = "FINISHED"
        finally:
            self._try(what, lambda mlflow: mlflow.end_run(status))

    def log_params(self, values: Mapping[str, Any]) -> None:
        """Parameters; values are cut at 500 characters."""
        clean = {key: str(value)[:500] for key, value in values.items()}
        self._try("log parameters", lambda mlflow: mlflow.log_params(clean), {"params": clean})

    def log_metrics(self, values: Mapping[str, float | None], step: int | None = None) -> None:
        """Metrics (of a step, for a curve); None means nothing to measure: its name goes into the tag alure.absent_metrics."""
        present = {key: float(value) for key, value in values.items() if value is not None}
        self.metrics.update(present)
        if present:
            self._try("log metrics", lambda mlflow: mlflow.log_metrics(present, step=step), {"metrics": present})
        absent = sorted(key for key, value in values.items() if value is None)
        if absent:
            self.set_tag("alure.absent_metrics", ", ".join(absent))

    def set_tag(self, key: str, value: str) -> None:
        self._try("set a tag", lambda mlflow: mlflow.set_tag(key, value), {"tags": {key: value}})

    def log_inputs(self, root: str, versions: Mapping[str, int]) -> None:
        """The Delta version of every table that a job read."""

        def log(mlflow: Any) -> None:
            from mlflow.data.delta_dataset_source import DeltaDatasetSource
            from mlflow.data.meta_dataset import MetaDataset

            for name, version in versions.items():
                place = {"path": f"{root}/{name}"} if "/" in root else {"delta_table_name": f"{root}.{name}"}
                source = DeltaDatasetSource(delta_table_version=version, **place)
                mlflow.log_input(MetaDataset(source, name=f"{name}@v{version}"), context="read")  # type: ignore[abstract]

        self._try("log the tables read", log, {"inputs": dict(versions)})

    def log_figure(self, figure: Figure, name: str) -> None:
        """A matplotlib figure as the artifact of that file name."""
        self._try("log a figure", lambda mlflow: mlflow.log_figure(figure, name), {"figure": name})
        if self.offline:
            path = self.offline / name
            path.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(path)

    def log_text(self, text: str, name: str) -> None:
        self._try("log a text", lambda mlflow: mlflow.log_text(text, name), {"text": {name: text}})

    def log_model(self, name: str, folder: Path, loader_module: str, digest: str, tags: Mapping[str, str]) -> str:
        """Register a model folder under the name, as a pyfunc that loader_module reads; returns the new version.

        Raises TrackingError: a model that is in no store cannot be used, unlike a metric that is missing.
        """
        try:
            import mlflow

            mlflow.set_tracking_uri(self.config.uri)
            requirements = ["torch", "numpy", "pandas", "pyarrow", "safetensors"]
            logged = mlflow.pyfunc.log_model(
                name="user_model", loader_module=loader_module, data_path=str(folder), pip_requirements=requirements
            )
            client = mlflow.MlflowClient()
            if not client.search_registered_models(f"name = '{name}'"):
                client.create_registered_model(name)
            tags = {"alure.digest": digest, "alure.content_digest": content_digest(folder), **tags}
            made = client.create_model_version(name, logged.model_uri, self.run_id, tags=tags, model_id=logged.model_id)
            return str(made.version)
        except Exception as error:
            raise TrackingError(
                f"MLflow at {self.config.uri} did not take the model ({type(error).__name__}: {error}); "
                "run the job again when it does: training goes on from its last checkpoint"
            ) from error

    def promote(self, name: str, version: str, alias: str = "champion") -> None:
        """Let the alias name that version."""
        import mlflow

        mlflow.MlflowClient(self.config.uri).set_registered_model_alias(name, alias, version)

    def find_model(self, name: str, which: str = "champion") -> ModelVersion | None:
        """The version that an alias names, or the version of that number; None where there is none yet.

        Raises TrackingError when the store cannot be read or the version has no digest, DataError when a file is not as it was
        registered (models of earlier releases have no digest of their files: what reads them checks alure.digest).
        """
        import mlflow

        mlflow.set_tracking_uri(self.config.uri)
        client = mlflow.MlflowClient(self.config.uri)
        try:
            if not client.search_registered_models(f"name = '{name}'"):
                return None
            if not which.isdigit() and which not in client.get_registered_model(name).aliases:
                return None
            found = client.get_model_version(name, which) if which.isdigit() else client.get_model_version_by_alias(name, which)
            folder = Path(mlflow.artifacts.download_artifacts(f"models:/{name}/{found.version}"))
        except Exception as error:
            raise TrackingError(
                f"MLflow at {self.config.uri} does not give model {name}, {which} ({type(error).__name__}: {error})"
            ) from error
        digest = found.tags.get("alure.digest")
        if not digest:
            raise TrackingError(f"model {name} version {found.version} has no digest (tag alure.digest): it is not one of ours")
        data, registered = [path for path in folder.glob("data/*") if path.is_dir()], found.tags.get("alure.content_digest")
        if len(data) != 1 or (registered and content_digest(data[0]) != registered):
            raise DataError(
                f"model {name} version {found.version} in {folder} was changed or damaged: its files are not those that were registered; "
                "bring them back, or train anew"
            )
        return ModelVersion(name, str(found.version), digest, data[0])

    def model_versions(self, name: str) -> dict[str, dict[str, str]]:
        """Number -> tags of all versions of a registered model, oldest first. Raises TrackingError when the store cannot be read."""
        import mlflow

        try:
            found = mlflow.MlflowClient(self.config.uri).search_model_versions(f"name = '{name}'")
        except Exception as error:
            raise TrackingError(f"MLflow at {self.config.uri} does not list model {name} ({type(error).__name__}: {error})") from error
        return {str(version.version): dict(version.tags) for version in sorted(found, key=lambda version: int(version.version))}

    def tag_of(self, run_id: str, key: str) -> str | None:
        """A tag of another run, or None when the store has no such run."""
        import mlflow

        mlflow.set_tracking_uri(self.config.uri)
        try:
            return mlflow.get_run(run_id).data.tags.get(key)
        except mlflow.exceptions.MlflowException:
            return None

    def _try(self, what: str, action: Callable[[Any], None], content: Mapping[str, Any] | None = None) -> None:
        """Do it in MLflow; after the first failure keep the content in a file instead."""
        if self.offline is None:
            try:
                import mlflow

                action(mlflow)
                return
            except Exception as error:
                self.offline = Path(self.config.offline_root) / self.run_id
                self.offline.mkdir(parents=True, exist_ok=True)
                logger.warning(
                    "MLflow could not %s (%s: %s). The tables are published; the rest of this run's figures go to %s",
                    what, type(error).__name__, str(error).splitlines()[0] if str(error) else "", self.offline,
                )  # fmt: skip
        if content is not None:
            with (self.offline / "log.jsonl").open("a") as file:
                file.write(json.dumps(content) + "\n")


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
