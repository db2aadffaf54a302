"""A ranking model on disk: safetensors and JSON, trusted only by its digest (house rule 7).

ranking.safetensors      weights, calibration and the vocabulary
exploration.safetensors  how unsure the model is, per task (exploration.py); only of models that were trained to say so
model.json               the spec with its fitted encodings, and what the training run said of itself

The model_id is 'ranking-' and 12 hex digits of the digest over these files' tensors and the spec.
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

from ..batches.vocabulary import Vocabulary
from ..config import build
from ..errors import DataError
from ..model.files import finite_weights, read_sealed, readable, require_digest, write_sealed
from .exploration import KEYS, Posterior
from .network import RankingNetwork
from .serving import served
from .spec import RankingSpec

WEIGHTS, DESCRIPTION = "ranking.safetensors", "model.json"
EXPLORATION = "exploration.safetensors"
DESCRIBED = {"spec": dict, "facts": dict, "digest": str}


@dataclass(frozen=True)
class RankingArtifact:
    """The bytes of a ranking model, as they travel to disk, to MLflow and to Spark's workers."""

    weights: bytes
    spec: RankingSpec
    facts: Mapping[str, Any] = field(default_factory=dict)  # as_of_ms, conf hash, commit, metrics: plain values
    exploration: bytes = b""  # the posteriors of the tasks; empty: the model does not say how unsure it is

    @classmethod
    def of(
        cls,
        network: RankingNetwork,
        vocabulary: Vocabulary,
        facts: Mapping[str, Any],
        posteriors: Mapping[str, Posterior] | None = None,
    ) -> RankingArtifact:
        """Of a model in memory, without what only its training needs; posteriors: task -> its posterior, of all tasks or none.

        Raises DataError where a weight is not finite.
        """
        network = served(network)
        known = {name: torch.from_numpy(value) for name, value in vocabulary.state().items()}
        kept = {task: one for task, one in (posteriors or {}).items() if task in network.spec.binary}
        tensors = {f"{task}.{name}": value for task, one in kept.items() for name, value in one.state().items()}
        return cls(save(finite_weights(network) | known), network.spec, dict(facts), save(tensors) if tensors else b"")

    @property
    def digest(self) -> str:
        """sha256 over weights, vocabulary, spec and posteriors, hex."""
        content = hashlib.sha256(self.weights)
        content.update(json.dumps(self.spec.saved()).encode())
        content.update(self.exploration)
        return content.hexdigest()

    @property
    def model_id(self) -> str:
        return f"ranking-{self.digest[:12]}"

    @property
    def as_of_ms(self) -> int:
        """The model was trained on what was known before this moment, epoch ms. Raises DataError where it does not say."""
        if "as_of_ms" not in self.facts:
            raise DataError(f"model {self.model_id} does not say up to when it was trained (as_of_ms): train one by jobs/train_ranking.py")
        return int(self.facts["as_of_ms"])

    def network(self) -> tuple[RankingNetwork, Vocabulary]:
        """The model in evaluation mode, and the vocabulary that it reads ids by. Raises DataError on broken weights."""
        with readable(f"model {self.model_id}"):
            tensors = load(self.weights)
            vocabulary = Vocabulary.from_state({name: value.numpy() for name, value in tensors.items() if name.startswith("vocabulary.")})
            network = RankingNetwork(self.spec)
            network.load_state_dict({name: value for name, value in tensors.items() if not name.startswith("vocabulary.")})
            return network.eval(), vocabulary

    def posteriors(self) -> dict[str, Posterior]:
        """Task -> its posterior; empty where the model was trained without. Raises DataError on broken ones."""
        if not self.exploration:
            return {}
        with readable(f"the posterior of model {self.model_id}"):
            tensors = load(self.exploration)
            return {task: Posterior.of_state({key: tensors[f"{task}.{key}"] for key in KEYS}) for task in self.spec.binary}

    def write(self, folder: str | Path) -> Path:
        """Into a folder, which is made; returns it."""
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        (place / WEIGHTS).write_bytes(self.weights)
        (place / EXPLORATION).unlink(missing_ok=True)  # of a model that was written here before
        if self.exploration:
            (place / EXPLORATION).write_bytes(self.exploration)
        write_sealed(place / DESCRIPTION, {"spec": self.spec.saved(), "facts": dict(self.facts), "digest": self.digest})
        return place

    @classmethod
    def read(cls, folder: str | Path, digest: str = "") -> RankingArtifact:
        """From a folder. Raises DataError when files are missing or do not have the digest (by default the one that the folder names)."""
        place = Path(folder)
        missing = [name for name in (WEIGHTS, DESCRIPTION) if not (place / name).is_file()]
        if missing:
            raise DataError(f"{place} is not a ranking model: it lacks {', '.join(missing)}")
        with readable(f"the model in {place}"):
            content = read_sealed(place / DESCRIPTION, DESCRIBED)
            spec, unsure = build(RankingSpec, content["spec"], "spec"), place / EXPLORATION
            exploration = unsure.read_bytes() if unsure.is_file() else b""
            artifact = cls((place / WEIGHTS).read_bytes(), spec, content["facts"], exploration)
        require_digest(f"the model in {place}", artifact.digest, digest or content["digest"])
        return artifact
