"""A ranking network that goes on from an earlier one: what was learnt stays, and new ids get rows of their own.

Enters: the earlier network, and one as drawn for today, whose fields of ids may have more rows. Leaves: today's with the earlier weights.
So an impression of ids that were known before has the same logits in both. What only a training has (the towers of auxiliary tasks, which
an artifact leaves out) stays as it was drawn.
"""

from __future__ import annotations

import torch

from .network import RankingNetwork
from .serving import LINEAR_ROWS, per, places
from .tables import grown

TABLES = "tables."  # begins the names of the weights that are rows of ids


@torch.no_grad()
def continued(earlier: RankingNetwork, today: RankingNetwork) -> RankingNetwork:
    """`today`, changed in place: every weight that the earlier network has is as it is there, and tables grow by rows of today's.

    Both are of one spec but for the rows of ids and auxiliary tasks. Raises ValueError where a field has fewer rows than before.
    """
    kept = places(today, earlier.spec.tasks)
    weights = today.state_dict()  # it shares the memory of the parameters
    for name, learnt in earlier.state_dict().items():
        mine = weights[name]
        if name == LINEAR_ROWS:
            columns = kept["output"]
            mine[:, columns] = grown(learnt, earlier.lookup, mine[:, columns], today.lookup)
        elif name.startswith(TABLES):
            mine.copy_(grown(learnt, earlier.lookup, mine, today.lookup))
        elif per(name):
            mine[kept[per(name)]] = learnt
        elif mine.shape == learnt.shape:
            mine.copy_(learnt)
        else:  # copy_ would repeat a smaller one
            raise ValueError(f"the weights {name} were {tuple(learnt.shape)} and are {tuple(mine.shape)}")
    return today
