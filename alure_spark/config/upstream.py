"""Section `ranking.upstream`: another ranking model whose interactions are a part of this one (LFM4Ads, module level)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from .rules import OneOf, require
from .section import Section

FROZEN, FINE_TUNED, ALTERNATING = "frozen", "fine_tuned", "alternating"
COPIED, OWN = "copied", "own"


@dataclass(frozen=True)
class UpstreamConfig(Section, prefix="ranking.upstream."):
    """Whose embedding tables and experts stand beside the model's own (docs/explanation/interaction-transfer.md)."""

    model: str = ""  # the name of a ranking model in MLflow's registry, trained on more scenarios than this one; empty: there is none
    version: str = ""  # of that model; empty: its champion of time.as_of
    # What training does to what is copied: frozen: nothing; fine_tuned: it learns as all else does; alternating: it is frozen in the first
    # epoch, learns in the second, and so on in turn.
    train: Annotated[str, OneOf((FROZEN, FINE_TUNED, ALTERNATING))] = FROZEN
    # copied: experts read the other model's embedding tables; own: tables of the same fields and widths, drawn anew, that always learn.
    tables: Annotated[str, OneOf((COPIED, OWN))] = COPIED

    def check_together(self) -> None:
        for setting, value, default in (("train", self.train, FROZEN), ("tables", self.tables, COPIED)):
            require(bool(self.model) or value == default, f"ranking.upstream.{setting}", value, f"{default} without ranking.upstream.model")
