"""What each row and each number adds to the outputs by itself, beside what the experts make of them together."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from .adapters import Projections
from .spec import RankingSpec
from .tables import Codes, EmbeddingTable


class LinearPart(nn.Module):
    """Nothing before training: what few examples teach first."""

    def __init__(self, spec: RankingSpec, rows: int, outputs: int) -> None:
        super().__init__()
        self.rows = EmbeddingTable(rows, outputs, 0.0)
        self.given = Projections(spec, outputs, plain=True)
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def forward(self, codes: Codes, numbers: Mapping[str, Tensor]) -> Tensor:
        """(M, outputs)."""
        by_row = self.rows(codes).sum(dim=1)
        return by_row + self.given(numbers).sum(dim=1) if self.given.names else by_row
