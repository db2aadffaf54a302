"""What each tower reads of the experts, by the plan of a multi-task scheme (schemes/): a gate's weighted sum, or the mean."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..model.linear import Linear
from ..model.named import Modules
from .schemes import Plan


def gates(plan: Plan) -> Modules:
    """A linear layer for each tower that has a gate, called as the tower."""
    tables = {**plan.tables, **plan.upstream_tables}
    widths = {name: sum(tables[part[0]] for part in tower.gate) for name, tower in plan.towers.items()}
    return Modules({name: Linear(widths[name], len(tower.reads)) for name, tower in plan.towers.items() if tower.gate})


def mixtures(plan: Plan, of_towers: Modules, branches: Mapping[str, Tensor], vectors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tower -> (M, hidden). branches: expert -> (M, hidden); vectors: table -> (M, fields, its numbers).

    Towers that read the same experts share one copy of what these made, (M, experts, hidden).
    """
    weights, found = gate_weights(plan, of_towers, vectors), {}
    stacks: dict[tuple[tuple[str, ...], frozenset[str]], Tensor] = {}
    for name, tower in plan.towers.items():
        key = tower.reads, tower.detached
        if key not in stacks:
            read = [branches[one].detach() if one in tower.detached else branches[one] for one in tower.reads]
            stacks[key] = torch.stack(read, dim=1)
        if name in weights:
            # A matrix product for each impression takes five times the time.
            found[name] = (weights[name][:, :, None] * stacks[key]).sum(dim=1)
        else:
            found[name] = stacks[key].mean(dim=1)
    return found


def gate_weights(plan: Plan, of_towers: Modules, vectors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tower -> (M, the experts it reads), adding up to 1, for each tower that has a gate. vectors: as `mixtures` has them."""
    means = {table: its.mean(dim=1) for table, its in vectors.items()}
    overviews: dict[tuple[tuple[str, ...], ...], Tensor] = {}
    found = {}
    for name, tower in plan.towers.items():
        if tower.gate and tower.gate not in overviews:
            overviews[tower.gate] = torch.cat([sum((means[table] for table in part[1:]), means[part[0]]) for part in tower.gate], dim=1)
        if tower.gate:
            overview = overviews[tower.gate] if tower.gate_teaches else overviews[tower.gate].detach()
            found[name] = of_towers[name](overview).softmax(dim=1)
    return found
