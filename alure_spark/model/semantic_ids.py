"""Semantic ids: a given embedding (of a picture, a clip, a text) as a few codes, by a residual-quantized autoencoder.

RQ-VAE (Lee et al. 2022; ALURE, section 2.1, encodes "user viewed images or short form videos" by it): the encoder's vector is
replaced by the sum of one vector from each of L codebooks, each level taking what the levels before left over; the decoder makes
the embedding of that sum. training/semantic_ids.py trains it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from ..errors import DataError
from .files import readable
from .linear import Linear
from .trainable import ParameterGroup

FILE = "semantic_ids.safetensors"
BEAM = 4  # partial codes that are followed at once: greedy choices of a level cost accuracy in the next ones
ASSIGNED = 8192  # rows whose distances to a codebook are held at once


class SemanticIds(nn.Module):
    """Embeddings (n, D) -> codes (n, L), and back."""

    mean: Tensor  # (D,) of the embeddings
    scale: Tensor  # () their spread
    codebooks: Tensor  # (L, K, D)

    def __init__(self, dimension: int, levels: int, codes: int, hidden: int) -> None:
        super().__init__()
        self.levels, self.codes, self.hidden = levels, codes, hidden
        self.encoder, self.decoder = _Skip(dimension, hidden), _Skip(dimension, hidden)
        self.register_buffer("codebooks", torch.zeros(levels, codes, dimension))
        self.register_buffer("mean", torch.zeros(dimension))
        self.register_buffer("scale", torch.ones(()))

    @property
    def size(self) -> dict[str, int]:
        """What its weights' shapes depend on beside D."""
        return {"levels": self.levels, "codes": self.codes, "hidden": self.hidden}

    @torch.no_grad()
    def encode(self, embeddings: Tensor) -> Tensor:
        """(n, L) int64 codes of embeddings (n, D); where a number is NaN, all of them are -1 (no code)."""
        there = ~embeddings.isnan().any(dim=1)
        codes = torch.full((len(embeddings), self.levels), -1)
        codes[there] = self.quantize(self.encoder((embeddings[there].to(self.codebooks.dtype) - self.mean) / self.scale))
        return codes

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """(n, D) embeddings that codes (n, L) stand for."""
        decoded: Tensor = self.decoder(self._sum(codes)) * self.scale + self.mean
        return decoded

    @torch.no_grad()
    def quantize(self, z: Tensor) -> Tensor:
        """(n, L) int64: codes whose vectors sum up nearest to z (n, D), by beam search; equal distances go to the smaller code."""
        return torch.cat([self._beam(part) for part in z.split(max(1, ASSIGNED // BEAM))]) if len(z) else z.new_zeros(0, self.levels).long()

    def _beam(self, z: Tensor) -> Tensor:
        rows, taken = len(z), torch.zeros(len(z), 1, 0, dtype=torch.int64)
        left, error = z[:, None], z.square().sum(1)[:, None]  # (n, beam, D), (n, beam)
        for book in self.codebooks:
            # |r - c|^2 = |r|^2 - 2 r c + |c|^2
            distance = error[:, :, None] - 2 * left @ book.T + book.square().sum(1)
            kept = min(BEAM, distance.shape[1] * self.codes)
            error, place = distance.flatten(1).topk(kept, dim=1, largest=False, sorted=True)
            before, code = place // self.codes, place % self.codes
            taken = torch.cat([taken.gather(1, before[:, :, None].expand(-1, -1, taken.shape[2])), code[:, :, None]], dim=2)
            left = left.gather(1, before[:, :, None].expand(-1, -1, left.shape[2])) - book[code]
        return taken[torch.arange(rows), error.argmin(dim=1)]

    def _sum(self, codes: Tensor) -> Tensor:
        return torch.stack([book[codes[:, level]] for level, book in enumerate(self.codebooks)]).sum(0)

    def losses(self, embeddings: Tensor) -> dict[str, Tensor]:
        """Means over embeddings (n, D), in units of their spread.

        reconstruction: squared error of what is decoded. commitment: squared distance of the encoder's vector to the sum of its codes.
        """
        x = (embeddings - self.mean) / self.scale
        z = self.encoder(x)
        chosen = self._sum(self.quantize(z.detach()))
        decoded = self.decoder(z + (chosen - z).detach())  # the gradient passes the choice as if there were none
        return {"reconstruction": (decoded - x).square().sum(1).mean(), "commitment": (z - chosen).square().sum(1).mean()}

    def parameter_groups(self) -> list[ParameterGroup]:
        """Encoder and decoder; the codebooks are no parameters, they are moved by least squares."""
        return [ParameterGroup("all", list(self.parameters()), decays=False)]


class _Skip(nn.Module):
    """x plus a network on x that starts at zero."""

    def __init__(self, dimension: int, hidden: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(Linear(dimension, hidden), nn.GELU(), Linear(hidden, dimension))
        for parameter in self.inner[2].parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = x + self.inner(x)
        return result


@dataclass(frozen=True)
class Usage:
    """How one codebook is used by the embeddings it was trained on."""

    used: float  # share of the codes that somebody has
    perplexity: float  # exp of the entropy of the codes: how many would be used if all were used alike


def usage(codes: Tensor, size: int) -> list[Usage]:
    """Per level of codes (n, L), how its codebook of `size` codes is used."""
    found = []
    for level in codes.T:
        share = torch.bincount(level, minlength=size).double() / max(1, len(level))
        entropy = -(share * share.clamp(min=1e-300).log()).sum()
        found.append(Usage(float((share > 0).double().mean()), float(entropy.exp())))
    return found


def reconstruction_error(embeddings: Tensor, decoded: Tensor) -> float:
    """Mean squared distance, as a share of the embeddings' variance."""
    total = (embeddings - embeddings.mean(0)).square().sum()
    return float((embeddings - decoded).square().sum() / total)


def distinct_codes(model: SemanticIds, embeddings: Tensor) -> Tensor:
    """model.encode(embeddings), each distinct row (n, D) encoded once: many events are of one medium."""
    if len(embeddings) < 2:
        return model.encode(embeddings)
    weights = torch.from_numpy(np.random.default_rng(0).standard_normal(embeddings.shape[1]))
    _, group = torch.unique(embeddings.nan_to_num(nan=1e9).double() @ weights, return_inverse=True)
    first = torch.full((int(group.max()) + 1,), len(group)).scatter_reduce(0, group, torch.arange(len(group)), "amin")
    same = ((embeddings == embeddings[first][group]) | embeddings.isnan()).all()
    return model.encode(embeddings[first])[group] if same else model.encode(embeddings)


def write(model: SemanticIds, folder: str | Path) -> Path:
    """The quantiser as a file in the folder, which is made; returns the folder."""
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    (place / FILE).write_bytes(save({name: value.contiguous() for name, value in model.state_dict().items()}))
    return place


def digest(folder: str | Path) -> str:
    """sha256 of the quantiser in the folder, hex. Raises DataError where there is none."""
    file = Path(folder) / FILE
    if not file.is_file():
        raise DataError(f"{folder} is not a quantiser: it lacks {FILE}")
    return hashlib.sha256(file.read_bytes()).hexdigest()


def read(folder: str | Path, expected: str = "") -> SemanticIds:
    """From a folder. Raises DataError when the file is missing, broken or has not the expected digest."""
    found = digest(folder)
    if expected and found != expected:
        raise DataError(f"the quantiser in {folder} was changed or damaged: its digest is {found[:12]}..., expected {expected[:12]}...")
    with readable(f"the quantiser in {folder}"):
        state = load((Path(folder) / FILE).read_bytes())
        levels, codes, dimension = state["codebooks"].shape
        model = SemanticIds(dimension, levels, codes, len(state["encoder.inner.0.bias"]))
        model.load_state_dict(state)
        return model.eval()
