"""A user model on disk: safetensors and JSON, trusted only by its digest (house rule 7).

The registry keeps two digests of a model: this module's, of all that decides an embedding, and one of every byte of the folder
(alure.content_digest, alure_spark/tracking/registry.py), which covers the read-out, the metadata and the validated twin too.

user.safetensors     the user sub-graph and the vocabulary: all that embedding the table needs
readout.safetensors  the rest, for going on with training and for scoring impressions
model.json           the spec, and what the training run said of itself (conf hash, vocabulary version, ...)
validated/           the same three of the model that has not seen the validation split, where there was a refit

The model_id is 'alure-' and 12 hex digits of the digest over user.safetensors and the spec: two models that embed alike have
the same one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from ..batches.vocabulary import Vocabulary
from ..config import as_dict, build
from ..errors import DataError
from .files import finite_weights, read_sealed, readable, require_digest, sha256, write_sealed
from .spec import ModelSpec
from .user_encoder import UserEncoder
from .user_model import UserModel

FIRST_MODELS = "2026-11-23"  # what came later (Since) means at its default what these models did, and leaves their digest as it was
USER, READOUT, DESCRIPTION, VALIDATED = "user.safetensors", "readout.safetensors", "model.json", "validated"
# What a description holds beside its own digest.
DESCRIBED = {"spec": dict, "facts": dict, "digest": str, "readout_digest": str}


@dataclass(frozen=True)
class Artifact:
    """The bytes of a model, as they travel to disk, to MLflow and to Spark's workers."""

    user: bytes
    spec: ModelSpec
    readout: bytes = b""
    facts: Mapping[str, Any] = field(default_factory=dict)  # conf hash, vocabulary version, commit, metrics: plain values

    @classmethod
    def of(cls, model: UserModel, vocabulary: Vocabulary, facts: Mapping[str, Any]) -> Artifact:
        """Of a model in memory. Raises DataError where a weight is not finite or the vocabulary does not fit."""
        vocabulary.require_fits(model.spec.spaces)
        weights = finite_weights(model)
        known = {name: torch.from_numpy(value) for name, value in vocabulary.state().items()}
        user = {name: value for name, value in weights.items() if name.startswith("encoder.")}
        rest = {name: value for name, value in weights.items() if name not in user}
        return cls(save({**user, **known}), model.spec, save(rest), dict(facts))

    @property
    def digest(self) -> str:
        """sha256 over the user sub-graph and the spec, hex."""
        content = hashlib.sha256(self.user)
        # Not sorted: the order of the sources is that of the weights' columns.
        content.update(json.dumps(as_dict(self.spec, FIRST_MODELS)).encode())
        return content.hexdigest()

    @property
    def model_id(self) -> str:
        return f"alure-{self.digest[:12]}"

    @property
    def as_of_ms(self) -> int:
        """The model was trained on what was known before this moment, epoch ms. Raises DataError where it does not say."""
        if "as_of_ms" not in self.facts:
            raise DataError(f"model {self.model_id} does not say up to when it was trained (as_of_ms): train one by jobs/train_model.py")
        return int(self.facts["as_of_ms"])

    def encoder(self) -> tuple[UserEncoder, Vocabulary]:
        """The user sub-graph in evaluation mode, and the vocabulary that it reads ids by. Raises DataError on broken weights."""
        with readable(f"model {self.model_id}"):
            tensors = load(self.user)
            encoder = UserEncoder(self.spec)
            encoder.load_state_dict(_without("encoder.", tensors))
            return encoder.eval(), _vocabulary(tensors)

    def model(self) -> tuple[UserModel, Vocabulary]:
        """The whole model in evaluation mode, and its vocabulary. Raises DataError on broken weights or without a read-out."""
        if not self.readout:
            raise DataError(f"model {self.model_id} holds the user sub-graph only: load it with its {READOUT}")
        with readable(f"model {self.model_id}"):
            tensors = load(self.user)
            model = UserModel(self.spec)
            weights = {name: value for name, value in tensors.items() if name.startswith("encoder.")}
            model.load_state_dict({**weights, **load(self.readout)})
            return model.eval(), _vocabulary(tensors)

    def write(self, folder: str | Path) -> Path:
        """Into a folder, which is made; returns it."""
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        (place / USER).write_bytes(self.user)
        (place / READOUT).write_bytes(self.readout)
        content = {"spec": as_dict(self.spec), "facts": dict(self.facts), "digest": self.digest, "readout_digest": sha256(self.readout)}
        write_sealed(place / DESCRIPTION, content)
        return place

    @classmethod
    def read(cls, folder: str | Path, digest: str = "") -> Artifact:
        """From a folder. Raises DataError when files are missing or do not have the digest (by default the one that the folder names)."""
        place = Path(folder)
        missing = [name for name in (USER, READOUT, DESCRIPTION) if not (place / name).is_file()]
        if missing:
            raise DataError(f"{place} is not a user model: it lacks {', '.join(missing)}")
        with readable(f"the model in {place}"):
            content = read_sealed(place / DESCRIPTION, DESCRIBED)
            spec = build(ModelSpec, content["spec"], "spec")
            found = cls((place / USER).read_bytes(), spec, (place / READOUT).read_bytes(), content["facts"])
        require_digest(f"the model in {place}", found.digest, digest or content["digest"])
        require_digest(f"the model in {place}", sha256(found.readout), content["readout_digest"])
        return found


def read_validated(folder: str | Path, digest: str) -> Artifact:
    """The model of that digest in the folder, as it was before it was refitted: what a gate may evaluate on its validation split.

    Raises DataError as Artifact.read does.
    """
    refitted = Artifact.read(folder, digest)
    if "validated" not in refitted.facts:
        return refitted
    return Artifact.read(Path(folder) / VALIDATED, refitted.facts["validated"])


def _without(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _vocabulary(tensors: Mapping[str, Tensor]) -> Vocabulary:
    return Vocabulary.from_state({name: value.numpy() for name, value in tensors.items() if name.startswith("vocabulary.")})
