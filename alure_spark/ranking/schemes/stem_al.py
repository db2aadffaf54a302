"""STEM-AL, auxiliary learning (Pan et al., section 5.2): one main tower, and auxiliary ones from which it learns."""

from __future__ import annotations

from collections.abc import Sequence

from .plan import Experts, Plan, Tables, TowerPlan, copy_of, expert_copies, side_by_side, table_copies


def stem_al(tables: Tables, experts: Experts, towers: Sequence[str], main: str) -> Plan:
    """Each tower has the conf's tables and experts for itself. An auxiliary tower reads its own, the main tower reads all, with gradients.

    So no auxiliary loss reaches the main tower's tables. The main tower is first, whatever the order of the tasks, so that its gate stays
    as it is when the auxiliary towers are left out (ranking/serving.py).

    Gates do not teach the tables. Theirs would be the fastest way to the tables of a main task with few positives: rows would first learn
    who responds at all, and a table whose inner product says that much has no way back to who likes what (docs/decisions.md).
    """
    order = [main, *(tower for tower in towers if tower != main)]
    every_table = {name: size for tower in order for name, size in table_copies(tables, tower).items()}
    every_expert = {name: one for tower in order for name, one in expert_copies(experts, tower, with_tables=True).items()}
    plans = {main: TowerPlan(tuple(every_expert), side_by_side(every_table), gate_teaches=False)}
    for tower in order[1:]:
        own = tuple(copy_of(name, tower) for name in experts)
        plans[tower] = TowerPlan(own, side_by_side(table_copies(tables, tower)) if len(own) > 1 else (), gate_teaches=False)
    return Plan(every_table, every_expert, plans)
