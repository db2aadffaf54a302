"""What a multi-task scheme decides: which tables and experts there are, and which of them each tower reads. Plain data, no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ...config import ExpertConfig

Experts = Mapping[str, ExpertConfig]
Tables = Mapping[str, int]  # table -> numbers of its rows


@dataclass(frozen=True)
class TowerPlan:
    """What one tower reads."""

    reads: tuple[str, ...]  # experts, in the order of the gate's weights
    # The gate reads these parts side by side; a part is the sum of the mean vectors of its tables, which are of one width. Empty: there
    # is no gate, all experts weigh the same.
    gate: tuple[tuple[str, ...], ...] = ()
    detached: frozenset[str] = frozenset()  # of the experts: what they make is read, but no gradient goes back to them or to their tables
    gate_teaches: bool = True  # whether the gate's gradient goes to the tables that it reads; experts teach theirs in either case


@dataclass(frozen=True)
class Plan:
    """The part of the network between fields and towers. Weights are drawn in the order of tables, experts and towers."""

    tables: Tables
    experts: Experts
    towers: Mapping[str, TowerPlan]
    upstream_tables: Tables = field(default_factory=dict)  # that gates read too; they are of another model (../upstream.py)


# (tables, experts, towers, main tower or '') -> plan. The tables and experts are those of the conf; the towers are names. Raises
# ConfigError where the scheme cannot have such tables.
Scheme = Callable[[Tables, Experts, Sequence[str], str], Plan]


def copy_of(name: str, tower: str) -> str:
    """What the copy of a table or an expert for one tower is called. No name in a conf has a '-', so that no two can be the same."""
    return f"{name}-{tower}"


def table_copies(tables: Tables, tower: str) -> dict[str, int]:
    """The tables once more, for one tower."""
    return {copy_of(name, tower): size for name, size in tables.items()}


def expert_copies(experts: Experts, tower: str, with_tables: bool) -> dict[str, ExpertConfig]:
    """The experts once more, for one tower; with_tables: each reads the tower's copy of its table, else the table itself."""
    return {
        copy_of(name, tower): ExpertConfig(one.kind, copy_of(one.table, tower) if with_tables else one.table, one.options)
        for name, one in experts.items()
    }


def side_by_side(tables: Iterable[str]) -> tuple[tuple[str, ...], ...]:
    """The gate's input that is the concatenation of the tables' mean vectors."""
    return tuple((name,) for name in tables)
