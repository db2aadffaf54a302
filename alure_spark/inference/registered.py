"""The user model in MLflow's registry: which version a conf names, the one to go on from, and how a new one gets there.

So do the quantizers of given embeddings, each under a name of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..clock import parse_time
from ..config import Config
from ..errors import TrackingError
from ..lake import make_private, scratch_folder, workspace
from ..model import semantic_ids
from ..model.artifact import VALIDATED, Artifact
from ..tracking import Columns, ModelVersion, Tracker
from . import pyfunc, semantic_pyfunc


def registered(config: Config, tracker: Tracker) -> ModelVersion:
    """Where the registered model lies that embedding.model names. Raises TrackingError where there is none."""
    found = tracker.find_model(config.model_name, config.embedding.model)
    if found is None:
        raise TrackingError(
            f"MLflow at {tracker.place} has no model {config.model_name} with alias or version '{config.embedding.model}': "
            "run jobs/train_model.py first"
        )
    return found


def champion(config: Config, tracker: Tracker) -> Artifact:
    """The registered model that embedding.model names, its digest checked. Raises TrackingError where there is none."""
    found = registered(config, tracker)
    return Artifact.read(found.folder, found.digest)


def earlier_champion(config: Config, tracker: Tracker) -> Artifact | None:
    """The newest registered model that passed its gate and was trained for an earlier as_of; a rerun goes on from where the run did."""
    passed = list[tuple[int, int]]()
    for version, tags in tracker.model_versions(config.model_name).items():
        if tags.get("alure.gate", "").startswith("champion") and "alure.as_of" in tags:
            passed.append((parse_time(tags["alure.as_of"]), int(version)))
    earlier = [one for one in passed if one[0] < config.time.as_of_ms]
    found = tracker.find_model(config.model_name, str(max(earlier)[1])) if earlier else None  # of a day run again the last
    return Artifact.read(found.folder, found.digest) if found else None


def register(
    config: Config, tracker: Tracker, artifact: Artifact, validated: Artifact | None, tags: Mapping[str, str], scratch_name: str
) -> str:
    """A new version of the conf's model; its number. validated: the twin that has not seen the validation split, which lies beside it."""
    with scratch_folder(workspace(config.lake), scratch_name) as folder:
        written = artifact.write(folder)
        if validated:
            validated.write(written / VALIDATED)
        make_private(folder)
        columns = Columns(pyfunc.REQUIRED, pyfunc.optional_columns(artifact.spec), pyfunc.OUTPUTS)
        return tracker.log_model(config.model_name, written, pyfunc.__name__, artifact.digest, tags, columns)


def register_quantizer(config: Config, tracker: Tracker, attribute: str, model: semantic_ids.SemanticIds) -> tuple[str, str]:
    """A new version of the quantizer of an embedding attribute, which train_model reads from now on: (version, digest)."""
    name = config.semantic_ids_name(attribute)
    with scratch_folder(workspace(config.lake), f"{name}-{config.digest()}") as scratch:
        folder = semantic_ids.write(model, Path(scratch))
        make_private(scratch)
        digest, tags = semantic_ids.digest(folder), {"alure.as_of": config.time.as_of, "alure.attribute": attribute}
        columns = Columns(semantic_pyfunc.REQUIRED, (), semantic_pyfunc.OUTPUTS)
        version = tracker.log_model(name, folder, semantic_pyfunc.__name__, digest, tags, columns)
    tracker.promote(name, version)
    return version, digest
