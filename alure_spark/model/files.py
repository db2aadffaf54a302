"""Models on disk: files are trusted only by their digest, and whatever a library says of a damaged one becomes a DataError."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from ..errors import ConfigError, DataError

DECISIVE_FACTS = {"as_of_ms": int, "validated": str, "learnt_until_ms": int}  # of a description's facts those that later runs decide by
# Of JSON, of safetensors, of a spec that does not fit its dataclass, and of weights that do not fit their spec.
WRONG = (SafetensorError, ConfigError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError, OSError)


@contextmanager
def readable(what: str) -> Iterator[None]:
    """Around the reading of a file: raises DataError, which names `what` (a subject, such as "the model in ./m"), where it fails."""
    try:
        yield
    except WRONG as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise DataError(
            f"{what} cannot be read ({type(error).__name__}: {reason}): if it was changed or damaged, take it from MLflow again, "
            "or train anew"
        ) from error


def require_digest(what: str, digest: str, expected: str) -> None:
    """Raises DataError where what was read has another digest than the expected one."""
    if digest != expected:
        raise DataError(
            f"{what} was changed or damaged: its digest is {digest[:12]}..., expected {expected[:12]}...; "
            "take it from MLflow again, or train anew"
        )


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def finite_weights(model: nn.Module) -> dict[str, Tensor]:
    """Name -> float32 weights and buffers, as safetensors saves them. Raises DataError where one is not finite."""
    weights = {name: value.detach().to(torch.float32).contiguous() for name, value in model.state_dict().items()}
    broken = [name for name, value in weights.items() if not value.isfinite().all()]
    if broken:
        raise DataError(f"the model's weights {', '.join(broken[:3])} hold NaN or infinity: it is not saved")
    return weights


def write_sealed(path: Path, content: Mapping[str, Any]) -> None:
    """As JSON, with a digest of itself; in the order given, which is that of the weights' columns."""
    seal = sha256(json.dumps(content).encode())
    path.write_text(json.dumps({**content, "description_digest": seal}, indent=1) + "\n")


def read_sealed(path: Path, described: Mapping[str, type]) -> dict[str, Any]:
    """What write_sealed wrote. Raises ValueError where it is not so, or its keys and their types are not `described`."""
    said = json.loads(path.read_bytes())
    if not isinstance(said, dict) or said.pop("description_digest", "") != sha256(json.dumps(said).encode()):
        raise ValueError(f"{path.name} does not have the digest that it names")
    if {name: type(value) for name, value in said.items()} != dict(described):
        raise ValueError(f"{path.name} holds {', '.join(said)}; allowed: {', '.join(described)}, each of its type")
    json.dumps(said["spec"], allow_nan=False)
    for name, kind in DECISIVE_FACTS.items():
        if name in said["facts"] and type(said["facts"][name]) is not kind:
            raise ValueError(f"its {name} is {said['facts'][name]!r}; allowed: {kind.__name__}")
    return said
