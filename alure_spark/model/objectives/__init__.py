"""What the user model is trained for, beside the labels of tasks (labels.py). A new objective is a file here and a line in OBJECTIVES.

The name is that of its weight, training.objectives.<name>, and of its loss in metrics and curves.
"""

from __future__ import annotations

from .neighbour import NEIGHBOUR
from .next_item import NEXT_ITEM
from .objective import Objective

OBJECTIVES: dict[str, Objective] = {"next_item": NEXT_ITEM, "neighbour": NEIGHBOUR}
