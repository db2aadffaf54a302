"""A head on the user's vector whose inner product with an ad's frozen vector says how likely the user engages with it (LFM4Ads).

Standalone retrieval, the model level of LFM4Ads: the user model stays as it is, and only this small map is learned for a task.
training/retrieval_head.py trains it, retrieval/standalone.py searches by it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from ..errors import DataError
from .files import finite_weights, read_sealed, readable, require_digest, write_sealed
from .trainable import ParameterGroup

WEIGHTS, DESCRIPTION = "head.safetensors", "head.json"
DESCRIBED = {"spec": dict, "facts": dict, "digest": str}
SPEC = ("inputs", "outputs", "hidden", "reads", "upstream")
DECIMALS = 6  # of a query: so many that rounding hides what the size of a batch changes in a double


class RetrievalHead(nn.Module):
    """User vectors (n, inputs) -> queries (n, outputs): one layer, or with hidden > 0 two and a GELU between them."""

    mean: Tensor  # (inputs,) of the vectors that were learned from
    scale: Tensor  # (inputs,) their spread
    ad_scale: Tensor  # () spread of the ads' vectors

    def __init__(self, inputs: int, outputs: int, hidden: int = 0) -> None:
        super().__init__()
        first = nn.Linear(inputs, hidden or outputs)
        self.layers = nn.Sequential(first, nn.GELU(), nn.Linear(hidden, outputs)) if hidden else nn.Sequential(first)
        self.register_buffer("mean", torch.zeros(inputs))
        self.register_buffer("scale", torch.ones(inputs))
        self.register_buffer("ad_scale", torch.ones(()))

    def fit_scales(self, users: Tensor, ads: Tensor) -> None:
        """Take mean and spread of vectors of users (n, inputs) and of ads (A, outputs), so that both layers see numbers about 1."""
        self.mean, spread = users.mean(0), users.std(0, correction=0)
        self.scale = torch.where(spread > 0, spread, 1.0)
        spread = (ads - ads.mean(0)).square().mean().sqrt()
        self.ad_scale = torch.where(spread > 0, spread, torch.ones_like(spread))

    def forward(self, users: Tensor) -> Tensor:
        queries: Tensor = self.layers((users - self.mean) / self.scale) / self.ad_scale
        return queries

    @torch.no_grad()
    def query(self, users: np.ndarray) -> np.ndarray:
        """(n, outputs) float32 queries of user vectors (n, inputs): computed in double and rounded, so that any batch gives the same."""
        made: Tensor = self.double()(torch.from_numpy(np.asarray(users, np.float64)))
        return made.numpy().round(DECIMALS).astype(np.float32)

    def parameter_groups(self) -> list[ParameterGroup]:
        """The matrices, which decay, and the biases, which do not."""
        matrices, biases = ([p for p in self.parameters() if (p.ndim > 1) == is_matrix] for is_matrix in (True, False))
        return [ParameterGroup("matrices", matrices), ParameterGroup("biases", biases, decays=False)]


@dataclass(frozen=True)
class HeadArtifact:
    """The bytes of a head, as they travel to disk and to MLflow."""

    weights: bytes
    spec: Mapping[str, Any]  # SPEC: sizes, which vector of the user it reads, and of which user model (MODEL or MODEL/LAYER)
    facts: Mapping[str, Any] = field(default_factory=dict)  # as_of_ms, task, what training said of itself: plain values

    @classmethod
    def of(cls, head: RetrievalHead, reads: str, upstream: str, facts: Mapping[str, Any]) -> HeadArtifact:
        """Of a head in memory. Raises DataError where a weight is not finite."""
        first, last = head.layers[0], head.layers[-1]
        sizes = {"inputs": first.in_features, "outputs": last.out_features, "hidden": first.out_features if len(head.layers) > 1 else 0}
        return cls(save(finite_weights(head)), {**sizes, "reads": reads, "upstream": upstream}, dict(facts))

    @property
    def digest(self) -> str:
        """sha256 over weights and spec, hex."""
        content = hashlib.sha256(self.weights)
        content.update(json.dumps(dict(self.spec)).encode())
        return content.hexdigest()

    @property
    def model_id(self) -> str:
        return f"retrieval-{self.digest[:12]}"

    @property
    def upstream(self) -> str:
        """The user model whose vectors it reads and is searched against, with /LAYER where it reads cross representations."""
        return str(self.spec["upstream"])

    def head(self) -> RetrievalHead:
        """In evaluation mode. Raises DataError on broken weights."""
        with readable(f"head {self.model_id}"):
            head = RetrievalHead(self.spec["inputs"], self.spec["outputs"], self.spec["hidden"])
            head.load_state_dict(load(self.weights))
            return head.eval()

    def write(self, folder: str | Path) -> Path:
        """Into a folder, which is made; returns it."""
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        (place / WEIGHTS).write_bytes(self.weights)
        write_sealed(place / DESCRIPTION, {"spec": dict(self.spec), "facts": dict(self.facts), "digest": self.digest})
        return place

    @classmethod
    def read(cls, folder: str | Path, digest: str = "") -> HeadArtifact:
        """From a folder. Raises DataError when files are missing or do not have the digest (by default the one that the folder names)."""
        place = Path(folder)
        missing = [name for name in (WEIGHTS, DESCRIPTION) if not (place / name).is_file()]
        if missing:
            raise DataError(f"{place} is not a head of standalone retrieval: it lacks {', '.join(missing)}")
        with readable(f"the head in {place}"):
            content = read_sealed(place / DESCRIPTION, DESCRIBED)
            if tuple(content["spec"]) != SPEC:
                raise ValueError(f"its spec holds {', '.join(content['spec'])}; allowed: {', '.join(SPEC)}")
            artifact = cls((place / WEIGHTS).read_bytes(), content["spec"], content["facts"])
        require_digest(f"the head in {place}", artifact.digest, digest or content["digest"])
        return artifact
