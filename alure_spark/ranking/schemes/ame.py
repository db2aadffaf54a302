"""AME, asymmetric multi-embedding (Pan et al., section 5.1): tables of different sizes, whose number does not depend on that of tasks."""

from __future__ import annotations

from collections.abc import Sequence

from .plan import Experts, Plan, Tables, TowerPlan, side_by_side


def ame(tables: Tables, experts: Experts, towers: Sequence[str], main: str) -> Plan:
    """Every tower's gate weighs all experts. It reads a concatenation, because tables of different widths cannot be added.

    Tables of one size are allowed: that is the multi-embedding MMoE, which the paper calls less effective, as its tables are symmetric.
    """
    return Plan(tables, experts, {tower: TowerPlan(tuple(experts), side_by_side(tables)) for tower in towers})
