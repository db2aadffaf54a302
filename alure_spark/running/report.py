"""What a job has to say of what it did: numbers, figures and texts for MLflow and the terminal."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass
class Report:
    """What a job has to say once its tables are published. A metric of None was not measurable (absent, not zero)."""

    metrics: dict[str, float | None] = field(default_factory=dict)
    figures: dict[str, Figure] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)  # file name -> text; printed too
