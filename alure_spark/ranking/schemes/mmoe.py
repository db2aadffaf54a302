"""MMoE, multi-gate mixture of experts (Ma et al., KDD 2018): one embedding table, and a gate over all experts for each tower."""

from __future__ import annotations

from collections.abc import Sequence

from ...errors import ConfigError
from .ame import ame
from .plan import Experts, Plan, Tables


def mmoe(tables: Tables, experts: Experts, towers: Sequence[str], main: str) -> Plan:
    """The routing is AME's; what makes it another scheme is that there is one table. Raises ConfigError where there are several."""
    if len(tables) > 1:
        raise ConfigError(
            f"ranking.scheme is 'mmoe', which has one table, but ranking.tables has {', '.join(tables)}; with several take ame"
        )
    return ame(tables, experts, towers, main)
