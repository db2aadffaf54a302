"""The tracking store, asked for seconds and not for minutes: one that is dead is given up, and asked again at the next run."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..masking import masked_text
from ..paths import as_folder, is_url

# MLflow's own limits (120 s, 7 times) wait 258 s for a server that refuses; what the user has set is left as it is.
QUICK = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_DATABRICKS_ENDPOINT_HTTP_RETRY_TIMEOUT": "30",
}
FILES = QUICK | {"MLFLOW_HTTP_REQUEST_TIMEOUT": "120"}  # a server may store a large model before it answers
_limits: dict[str, str] = {}  # those that `limited` has set, and not the user
SLOW_S = 4  # a call that fails after so long will not be better the next time
STRIKES = 3  # failures in a row after which a store is given up
# Answers that are about what was asked, not about the store.
REFUSALS = ("INVALID_PARAMETER_VALUE", "RESOURCE_ALREADY_EXISTS", "RESOURCE_DOES_NOT_EXIST", "INVALID_STATE", "BAD_REQUEST")
GIT_SECONDS = 10


@contextlib.contextmanager
def limited(limits: dict[str, str]) -> Iterator[None]:
    """MLflow's limits of time within the block, where the user's environment does not set them; those of an inner block win."""
    mine = {key: value for key, value in limits.items() if os.environ.get(key) == _limits.get(key)}
    before = {key: _limits.get(key) for key in mine}
    os.environ.update(mine)
    _limits.update(mine)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
                _limits.pop(key, None)
            else:
                os.environ[key] = _limits[key] = value


def require_store(uri: str) -> None:
    """Raises what a database answers, at once: MLflow asks it ten times, within two minutes. Servers and folders pass."""
    try:
        import sqlalchemy
        from mlflow.store.db.db_types import DATABASE_ENGINES
    except ImportError:  # mlflow-skinny talks to servers only
        return
    if uri.partition(":")[0].partition("+")[0] not in DATABASE_ENGINES:
        return
    place = sqlalchemy.make_url(uri)
    if place.get_backend_name() == "sqlite" and place.database:
        Path(place.database).parent.mkdir(parents=True, exist_ok=True)
    timeout = {"connect_timeout": 5} if place.get_backend_name() in ("postgresql", "mysql") else {}
    engine = sqlalchemy.create_engine(place, connect_args=timeout)
    try:
        sqlalchemy.inspect(engine).get_table_names()
    finally:
        engine.dispose()


def is_refusal(error: Exception) -> bool:
    """Whether the store lives and did not take what it was given, which says nothing of the next call."""
    return getattr(error, "error_code", "") in REFUSALS or isinstance(error, TypeError | ValueError | OverflowError)


def git_commit() -> str:
    """The commit of the code that runs, with '-dirty' when files differ from it; 'unknown' outside a checkout or where git hangs."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    with tempfile.TemporaryFile() as answer:  # not a pipe: what git leaves running would hold it open
        try:
            with subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=answer, stderr=subprocess.DEVNULL, start_new_session=True
            ) as git:
                try:
                    code = git.wait(GIT_SECONDS)
                except subprocess.TimeoutExpired:
                    os.killpg(git.pid, 9)
                    return "unknown"
        except OSError:
            return "unknown"
        answer.seek(0)
        return answer.read().decode("utf-8", "replace").strip() if code == 0 else "unknown"


def open_experiment(mlflow: Any, name: str, artifact_root: str) -> str:
    """Id of the experiment, which is made where it is not there yet."""
    found = mlflow.get_experiment_by_name(name)
    if found is None:
        folder = as_folder(artifact_root)
        place = Path(folder).absolute().as_uri() if folder and not is_url(folder) else folder or None
        # The kind makes the MLflow page open with runs, metrics and their comparison instead of its GenAI view.
        kind = {"mlflow.experimentKind": "custom_model_development"}
        try:
            mlflow.create_experiment(name, artifact_location=place, tags=kind)
        except mlflow.exceptions.MlflowException:
            if mlflow.get_experiment_by_name(name) is None:  # else another process was faster
                raise
    return str(mlflow.set_experiment(name).experiment_id)


def said(error: BaseException) -> str:
    """Type and first line of the error, without secrets."""
    text = str(error).strip()
    return masked_text(f"{type(error).__name__}: {text.splitlines()[0] if text else ''}")
