"""What a time encoding of a token is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ...batches.batch import SourceTokens


@dataclass(frozen=True)
class Encoding:
    """Causal numbers of when an event happened: what comes after a token does not change them."""

    setting: str  # of ModelConfig: whether models have it
    width: int
    encode: Callable[[SourceTokens, int, torch.dtype], Tensor]  # (tokens of T events, events that it may look back, dtype) -> (T, width)
    looks_back: bool = False  # says nothing where a token may not look at the one before it
