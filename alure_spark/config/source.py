"""Section `source`: whose data is read. Its options are checked by the adapter's own Options (alure_spark/sources)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .section import Section


@dataclass(frozen=True)
class SourceConfig(Section, prefix="source."):
    kind: str = "completejourney"  # completejourney, synthetic or tables
    options: Mapping[str, Any] = field(default_factory=dict)
