"""The registered model on impressions that it has not seen: the validation split of `training_examples` and the model's validated twin."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from ..config import Config
from ..inference.registered import registered
from ..inference.user_table import require_trained_before
from ..lake import JobRun, as_of_scope, workspace
from ..model.artifact import Artifact, read_validated
from ..model.user_model import Moments, UserModel
from ..packed.segments import Segments, segment_loaders
from ..tracking import Tracker


class ValidationSplit(NamedTuple):
    """A model, the packed rows as it reads them, and the moments of the impressions to evaluate by."""

    model: UserModel
    loader: Segments
    moments: Moments


def validated_model(config: Config, tracker: Tracker) -> Artifact:
    """The twin of the registered model that has not seen the validation split. Raises TrackingError where there is none, ConfigError
    where it has learnt from later days than as_of.
    """
    version = registered(config, tracker)
    artifact = read_validated(version.folder, version.digest)
    require_trained_before(artifact, config)
    return artifact


@contextmanager
def validation_split(run: JobRun, config: Config, artifact: Artifact, name: str) -> Iterator[ValidationSplit]:
    """The rows of as_of, packed in a folder of lake.scratch that the name and the run's id name, and that goes with the block."""
    as_of = config.time.as_of_ms
    model, vocabulary = artifact.model()
    layout = artifact.spec.layout(impressions=True)
    examples = run.read("training_examples").where(as_of_scope(as_of))
    border = as_of - config.labels.validation_ms
    scratch, folder = workspace(config.lake), f"{name}-{run.run_id}"
    with segment_loaders(examples, layout, vocabulary, config.training, scratch, folder) as packed:
        yield ValidationSplit(model, packed.decoding(artifact.spec, vocabulary), Moments(border, as_of, border, validation=True))
