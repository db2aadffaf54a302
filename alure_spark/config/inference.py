"""Section `inference`: how the user model runs over the table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from .rules import OneOf, PositiveInt
from .section import Section


@dataclass(frozen=True)
class InferenceConfig(Section, prefix="inference."):
    """How the user model runs over the table."""

    batch_users: PositiveInt = 1024  # users per Arrow batch that a worker holds
    max_tokens: PositiveInt = 200_000  # tokens that run through the model at once: bounds the memory of a worker
    compile: Annotated[str, OneOf(("auto", "always", "never"))] = "never"  # auto: where it is faster
    precision: Annotated[str, OneOf(("float32", "float64"))] = "float32"
