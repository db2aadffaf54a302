"""The model registry: models by name, version and alias, with the digest that their files must have.

Unity Catalog, the registry of Databricks, is asked for what it supports only: no filters but by name, models of a signature and of
three-part names, and tags whose keys have no '.'.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import tempfile
import warnings
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import TrackingConfig
from ..errors import AlureError, ConfigError, DataError, TrackingError, shown
from ..masking import masked_text, resolve
from ..paths import sqlite_uri
from .names import LONGEST_TAG, as_text
from .store import FILES, QUICK, is_refusal, limited, require_store, said

LONGEST_CATALOG_TAG = 1000  # of a value in Unity Catalog
ABSENT = ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND")
PAGE = 1000  # versions of a model that are asked for at once


@dataclass(frozen=True)
class ModelVersion:
    """A registered model: where its files are, and the digest that they must have. A downloaded folder is erased with this object."""

    name: str
    version: str
    digest: str
    folder: Path


@dataclass(frozen=True)
class Columns:
    """The columns of a model's signature, which Unity Catalog demands; values of inputs are checked by the model itself."""

    required: tuple[str, ...]
    optional: tuple[str, ...]
    outputs: Mapping[str, str]  # column -> its type for MLflow, as in 'string'; 'float[]' is a list of floats

    def signature(self) -> Any:
        """As MLflow's ModelSignature. Raises MlflowException on an output type that MLflow does not have."""
        from mlflow.models import ModelSignature
        from mlflow.types.schema import AnyType, Array, ColSpec, Schema

        types = {name: Array(kind[:-2]) if kind.endswith("[]") else kind for name, kind in self.outputs.items()}
        return ModelSignature(
            inputs=Schema([ColSpec(AnyType(), name, required=name in self.required) for name in (*self.required, *self.optional)]),
            outputs=Schema([ColSpec(kind, name) for name, kind in types.items()]),
        )


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

    def log_model(self, name: str, folder: Path, loader_module: str, digest: str, tags: Mapping[str, str], columns: Columns) -> str:
        """Register a model folder under the name, as a pyfunc that loader_module reads; returns the new version.

        Raises TrackingError: a model that is in no store cannot be used, unlike a metric that is missing; ConfigError on a name that
        Unity Catalog does not take.
        """
        then = "; run the job again when it does: training goes on from its last checkpoint"
        with self._asked("did not take the model", then):
            import mlflow
            from mlflow.models import Model

            client = self._client(name)
            if _registered(client, name) is None:
                client.create_registered_model(name)
            requirements = ["torch", "numpy", "pandas", "pyarrow", "safetensors"]
            files = {"loader_module": loader_module, "data_path": str(folder), "pip_requirements": requirements}
            files["signature"] = columns.signature()
            stored = _stored({"alure.digest": digest, "alure.content_digest": content_digest(folder), **tags})
            with limited(FILES), warnings.catch_warnings():
                # The columns are known, and the model checks its input by itself: no example is needed to find them.
                warnings.filterwarnings("ignore", message=".*input example was not provided")
                logged = Model.log(None, mlflow.pyfunc, name="user_model", flavor_name="pyfunc", run_id=self.live_run_id, **files)
                made = client.create_model_version(name, logged.model_uri, self.live_run_id, tags=stored, model_id=logged.model_id)
            return str(made.version)

    def promote(self, name: str, version: str, alias: str = "champion") -> None:
        """Let the alias name that version. Raises TrackingError when the store cannot be written."""
        with self._asked(f"does not let '{alias}' name version {version} of model {name}"):
            self._client(name).set_registered_model_alias(name, alias, version)

    def alias_tags(self, name: str, alias: str = "champion") -> tuple[str, Mapping[str, str]] | None:
        """The version that an alias names and its tags, without its files; None where there is none yet.

        Raises TrackingError when the store cannot be read.
        """
        with self._asked(f"does not give model {name}, {alias}"):
            found = _version(self._client(name), name, alias)
        return None if found is None else (str(found.version), _tags(found))

    def find_model(self, name: str, which: str = "champion") -> ModelVersion | None:
        """The version that an alias names, or the version of that number; None where there is none yet.

        Raises TrackingError when the store cannot be read or the version has no digest, DataError when a file is not as it was
        registered (models of earlier releases have no digest of their files: what reads them checks alure.digest).
        """
        with self._asked(f"does not give model {name}, {which}"):
            client = self._client(name)
            found = _version(client, name, which)
            if found is None:
                return None
            with limited(FILES), contextlib.ExitStack() as failing:
                folder, copy = _downloaded(client, name, str(found.version))
                if copy:
                    failing.callback(shutil.rmtree, copy, ignore_errors=True)
                version = self._checked(name, str(found.version), _tags(found), folder)
                failing.pop_all()
        if copy:
            weakref.finalize(version, shutil.rmtree, copy, ignore_errors=True)
        return version

    def _checked(self, name: str, version: str, tags: Mapping[str, str], folder: Path) -> ModelVersion:
        digest = tags.get("alure.digest")
        if not digest:
            raise TrackingError(f"model {name} version {version} has no digest (tag alure.digest): it is not one of ours")
        data, registered = [path for path in folder.glob("data/*") if path.is_dir()], tags.get("alure.content_digest")
        if len(data) != 1 or (registered and content_digest(data[0]) != registered):
            raise DataError(
                f"model {name} version {version} in {folder} was changed or damaged: its files are not those that were registered; "
                "bring them back, or train anew"
            )
        return ModelVersion(name, version, digest, data[0])

    def model_versions(self, name: str) -> dict[str, dict[str, str]]:
        """Number -> tags of all versions of a registered model, oldest first. Raises TrackingError when the store cannot be read."""
        found: dict[int, dict[str, str]] = {}
        with self._asked(f"does not list model {name}"):
            client, page = self._client(name), None
            while page is None or page.token:
                page = client.search_model_versions(f"name = '{name}'", PAGE, page_token=page.token if page else None)
                for version in page:  # those that Unity Catalog finds lack their tags
                    whole = client.get_model_version(name, version.version) if is_unity_catalog() else version
                    found[int(version.version)] = _tags(whole)
        return {str(version): found[version] for version in sorted(found)}

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

    def _client(self, name: str = "") -> Any:
        """A client of the store. Raises ConfigError where its registry cannot hold a model of that name."""
        import mlflow

        require_store(self._uri())
        mlflow.set_tracking_uri(self._uri())
        parts = name.split(".")
        if name and is_unity_catalog() and (len(parts) != 3 or not all(parts)):
            raise ConfigError(
                f"tracking.model_name is {shown(self.config.model_name)}, and the model would be {shown(name)}; allowed in Unity Catalog: "
                "catalog.schema.model, as in main.alure.user_model (the workspace's own registry: MLFLOW_REGISTRY_URI=databricks)"
            )
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


def is_unity_catalog() -> bool:
    """Whether the registry is that of Databricks' Unity Catalog, as it is for tracking.uri databricks."""
    import mlflow
    from mlflow.utils.uri import is_databricks_unity_catalog_uri

    return bool(is_databricks_unity_catalog_uri(mlflow.get_registry_uri()))


def _registered(client: Any, name: str) -> Any:
    """The registered model, or None; without a search, which Unity Catalog does not filter."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code not in ABSENT:
            raise
        return None


def _version(client: Any, name: str, which: str) -> Any:
    """The version that an alias names, or that has this number; None where there is none of that alias, or no such model."""
    model = _registered(client, name)
    if model is None or (not which.isdigit() and which not in model.aliases):
        return None
    return client.get_model_version(name, which) if which.isdigit() else client.get_model_version_by_alias(name, which)


def _stored(tags: Mapping[str, str]) -> dict[str, str]:
    """Tags as the registry takes them: 'alure_digest' in Unity Catalog, which has no '.' in keys and cuts at 1,000 characters."""
    if not is_unity_catalog():
        return {key: as_text(value, LONGEST_TAG) for key, value in tags.items()}
    return {key.replace(".", "_"): as_text(value, LONGEST_CATALOG_TAG).strip() for key, value in tags.items()}


def _tags(version: Any) -> dict[str, str]:
    """The version's tags by the keys that they were given, also where the registry stored 'alure_digest'."""
    return {f"alure.{key[6:]}" if key.startswith("alure_") else key: value for key, value in dict(version.tags).items()}


def _downloaded(client: Any, name: str, version: str) -> tuple[Path, str]:
    """Folder of the version's files, and the temporary folder to erase afterwards: '' where the files are on this machine already."""
    import mlflow

    model = f"models:/{name}/{version}"
    if _is_here(client.get_model_version_download_uri(name, version)):
        return Path(mlflow.artifacts.download_artifacts(model)), ""
    copy = tempfile.mkdtemp(prefix="alure_model_")
    try:
        return Path(mlflow.artifacts.download_artifacts(model, dst_path=copy)), copy
    except BaseException:
        shutil.rmtree(copy, ignore_errors=True)
        raise


def _is_here(uri: str) -> bool:
    """Whether MLflow reads the artifacts in place instead of downloading them."""
    from mlflow.utils.uri import is_local_uri

    return bool(is_local_uri(uri))
