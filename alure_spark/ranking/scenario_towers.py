"""Towers and gates of single scenarios: surfaces, countries, whatever a field says of an impression (Pan et al., section 2).

Enters: what the experts made of M impressions, and what the towers of all scenarios say. Leaves: the same, but for each impression
whose scenario the training split has named what the scenario's own gates and towers say. Others keep what the towers of all say. So that
these learn from every scenario, a training step sends them a share of all impressions, as if their scenario were not known.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from ..model.linear import Linear
from ..model.named import Modules
from .mixtures import gates, mixtures
from .spec import RankingSpec

SHARED = 0.1  # of the impressions of a training step


def tower(spec: RankingSpec, outputs: Mapping[str, slice]) -> nn.Sequential:
    """Hidden layers, and a last one with the outputs of its tasks."""
    sizes = [spec.hidden, *spec.tower]
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers, Linear(sizes[-1], max(one.stop for one in outputs.values())))


class ScenarioTowers(nn.Module):
    """A gate and a tower for each scenario, which is called by its row of the field's embedding; row 0 is of all that are not known."""

    def __init__(self, spec: RankingSpec) -> None:
        super().__init__()
        self.plan, scenarios = spec.plan(), map(str, range(1, spec.scenarios + 1))
        members = spec.tasks_of_towers()
        made = {name: (gates(self.plan), {one: tower(spec, spec.outputs(tasks)) for one, tasks in members.items()}) for name in scenarios}
        self.gates = Modules({name: own for name, (own, _) in made.items()})
        self.towers = Modules({name: Modules(own) for name, (_, own) in made.items()})

    def forward(self, rows: Tensor, branches: Mapping[str, Tensor], vectors: Mapping[str, Tensor], shared: Tensor) -> Tensor:
        """(M, outputs) of the towers, side by side.

        rows (M,) int64: scenarios; branches: expert -> (M, hidden); vectors: table -> (M, fields, its numbers); shared (M, outputs).
        """
        if self.training:
            rows = torch.where(torch.empty(len(rows)).uniform_() < SHARED, 0, rows)
        for row in rows.unique().tolist():
            if not row:
                continue
            mine, own = torch.nonzero(rows == row)[:, 0], cast(Modules, self.towers[str(row)])
            parts = [{name: its[mine] for name, its in given.items()} for given in (branches, vectors)]
            mixed = mixtures(self.plan, cast(Modules, self.gates[str(row)]), *parts)
            shared = shared.index_copy(0, mine, torch.cat([own[name](its) for name, its in mixed.items()], dim=1))
        return shared
