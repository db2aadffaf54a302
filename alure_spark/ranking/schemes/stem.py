"""STEM, shared and task-specific embeddings (Su et al., AAAI 2024; Pan et al., section 5.1)."""

from __future__ import annotations

from collections.abc import Sequence

from .plan import Experts, Plan, Tables, TowerPlan, copy_of, expert_copies, table_copies


def stem(tables: Tables, experts: Experts, towers: Sequence[str], main: str) -> Plan:
    """The conf's tables and experts are there once for all and once more for each tower.

    A tower reads its own experts, those of the other towers without a gradient, and the shared ones, so that what another task wants
    changes nothing in its tables. Its gate reads the sum of its own and the shared mean vectors.
    """
    every_table = {name: size for tower in towers for name, size in table_copies(tables, tower).items()}
    every_expert = {name: one for tower in towers for name, one in expert_copies(experts, tower, with_tables=True).items()}
    plans = {}
    for tower in towers:
        own = tuple(copy_of(name, tower) for name in experts)
        others = tuple(copy_of(name, other) for other in towers if other != tower for name in experts)
        gate = tuple((copy_of(name, tower), name) for name in tables)
        plans[tower] = TowerPlan((*own, *others, *experts), gate, frozenset(others))
    return Plan(every_table | dict(tables), every_expert | dict(experts), plans)
