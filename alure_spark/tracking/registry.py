"""The model registry: models by name, version and alias, with the digest that their files must have."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import TrackingConfig
from ..errors import AlureError, DataError, TrackingError
from ..masking import masked_text, resolve
from ..paths import sqlite_uri
from .names import LONGEST_TAG, as_text
from .store import FILES, QUICK, is_refusal, limited, require_store, said


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


class Registry:
    """The models of a tracking store. What a job cannot do without: where the store fails, within seconds, it raises TrackingError."""

    config: TrackingConfig

    @property
    def live_run_id(self) -> str | None:
        """The open run, where MLflow has it."""
        return None

    def log_model(self, name: str, folder: Path, loader_module: str, digest: str, tags: Mapping[str, str]) -> str:
        """Register a model folder under the name, as a pyfunc that loader_module reads; returns the new version.

        Raises TrackingError: a model that is in no store cannot be used, unlike a metric that is missing.
        """
        then = "; run the job again when it does: training goes on from its last checkpoint"
        with self._asked("did not take the model", then):
            import mlflow
            from mlflow.models import Model

            client = self._client()
            if not client.search_registered_models(f"name = '{name}'"):
                client.create_registered_model(name)
            requirements = ["torch", "numpy", "pandas", "pyarrow", "safetensors"]
            files = {"loader_module": loader_module, "data_path": str(folder), "pip_requirements": requirements}
            with limited(FILES):
                logged = Model.log(None, mlflow.pyfunc, name="user_model", flavor_name="pyfunc", run_id=self.live_run_id, **files)
            stored = {
                key: as_text(value, LONGEST_TAG)
                for key, value in {"alure.digest": digest, "alure.content_digest": content_digest(folder), **tags}.items()
            }
            made = client.create_model_version(name, logged.model_uri, self.live_run_id, tags=stored, model_id=logged.model_id)
            return str(made.version)

    def promote(self, name: str, version: str, alias: str = "champion") -> None:
        """Let the alias name that version. Raises TrackingError when the store cannot be written."""
        with self._asked(f"does not let '{alias}' name version {version} of model {name}"):
            self._client().set_registered_model_alias(name, alias, version)

    def find_model(self, name: str, which: str = "champion") -> ModelVersion | None:
        """The version that an alias names, or the version of that number; None where there is none yet.

        Raises TrackingError when the store cannot be read or the version has no digest, DataError when a file is not as it was
        registered (models of earlier releases have no digest of their files: what reads them checks alure.digest).
        """
        with self._asked(f"does not give model {name}, {which}"):
            import mlflow

            client = self._client()
            if not client.search_registered_models(f"name = '{name}'"):
                return None
            if not which.isdigit() and which not in client.get_registered_model(name).aliases:
                return None
            found = client.get_model_version(name, which) if which.isdigit() else client.get_model_version_by_alias(name, which)
            with limited(FILES):
                folder = Path(mlflow.artifacts.download_artifacts(f"models:/{name}/{found.version}"))
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
        with self._asked(f"does not list model {name}"):
            found = self._client().search_model_versions(f"name = '{name}'")
        return {str(version.version): dict(version.tags) for version in sorted(found, key=lambda version: int(version.version))}

    def tag_of(self, run_id: str, key: str) -> str | None:
        """A tag of another run, or None when the store has no such run. Raises TrackingError when the store cannot be read."""
        with self._asked(f"does not give the run {run_id}"):
            import mlflow

            client = self._client()
            try:
                return client.get_run(run_id).data.tags.get(key)
            except mlflow.exceptions.MlflowException as error:
                if not is_refusal(error):
                    raise
                return None

    @property
    def place(self) -> str:
        """The store as it may be printed: without login or token."""
        return masked_text(self.config.uri)

    def _uri(self) -> str:
        return sqlite_uri(resolve(self.config.uri, "tracking.uri"))

    def _client(self) -> Any:
        import mlflow

        require_store(self._uri())
        mlflow.set_tracking_uri(self._uri())
        return mlflow.MlflowClient(self._uri())

    @contextlib.contextmanager
    def _asked(self, what: str, then: str = "") -> Iterator[None]:
        """For what a job cannot do without: any failure in the block becomes a TrackingError, within seconds."""
        try:
            with limited(QUICK):
                yield
        except AlureError:
            raise
        except Exception as error:
            raise TrackingError(f"MLflow at {self.place} {what} ({said(error)}){then}") from error
