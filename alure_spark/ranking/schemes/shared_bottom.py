"""Shared bottom (Caruana 1997): all towers read the mean of the same experts."""

from __future__ import annotations

from collections.abc import Sequence

from .plan import Experts, Plan, Tables, TowerPlan


def shared_bottom(tables: Tables, experts: Experts, towers: Sequence[str], main: str) -> Plan:
    """One bottom as the conf has it, and no gate."""
    return Plan(tables, experts, {tower: TowerPlan(tuple(experts)) for tower in towers})
