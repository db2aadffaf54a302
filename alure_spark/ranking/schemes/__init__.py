"""How several tasks share tables and experts (Pan et al., section 5). A new scheme is a file here, a line below and its name in the conf.

A scheme is plain data: from the conf's tables, experts and towers it makes the plan that ranking/network.py builds.
"""

from __future__ import annotations

from .ame import ame
from .mmoe import mmoe
from .plan import Plan, Scheme, TowerPlan, copy_of
from .ple import ple
from .shared_bottom import shared_bottom
from .stem import stem
from .stem_al import stem_al

SCHEMES: dict[str, Scheme] = {
    "shared_bottom": shared_bottom,
    "mmoe": mmoe,
    "ple": ple,
    "stem": stem,
    "ame": ame,
    "stem_al": stem_al,
}

__all__ = ["SCHEMES", "Plan", "Scheme", "TowerPlan", "copy_of"]
