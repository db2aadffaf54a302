"""PLE with one level of extraction, which its paper calls CGC (Tang et al., RecSys 2020): shared experts and each tower's own."""

from __future__ import annotations

from collections.abc import Sequence

from .plan import Experts, Plan, Tables, TowerPlan, copy_of, expert_copies, side_by_side


def ple(tables: Tables, experts: Experts, towers: Sequence[str], main: str) -> Plan:
    """The embedding tables are shared by all; the conf's experts are there once for all and once more for each tower."""
    copies = {tower: expert_copies(experts, tower, with_tables=False) for tower in towers}
    every = {name: one for its in copies.values() for name, one in its.items()} | dict(experts)
    gate = side_by_side(tables)
    reads = {tower: (*(copy_of(name, tower) for name in experts), *experts) for tower in towers}
    return Plan(tables, every, {tower: TowerPlan(reads[tower], gate) for tower in towers})
