"""Section `tracking`: where MLflow's store is, and what runs and models are called there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from .names import FilePath, check_path, check_run_name
from .rules import or_empty
from .section import Section


@dataclass(frozen=True)
class TrackingConfig(Section, prefix="tracking."):
    uri: FilePath = "sqlite:///mlflow.db"
    experiment: FilePath = "alure_spark"
    artifact_root: Annotated[str, or_empty(check_path)] = "./mlartifacts"  # '' leaves it to the tracking server
    offline_root: FilePath = "./out/untracked"  # where a run's figures go when the tracking store fails
    # The registered model ('' is alure_user_model_<name of the conf>); Unity Catalog: catalog.schema.name
    model_name: Annotated[str, or_empty(check_run_name)] = ""
