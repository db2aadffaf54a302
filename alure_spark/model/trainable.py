"""What a model offers to be trained by the one loop (training/loop.py), and the sum that the loop minimizes.

Enters: the losses of a model by name. Leaves: their weighted sum; groups of parameters, each with the optimizer that suits it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

OptimizerKind = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]  # torch's groups of parameters -> their optimizer


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters of a model that learn in the same way."""

    name: str  # by which a plan of training gives the group its share of the learning rate
    parameters: Sequence[nn.Parameter]
    decays: bool = True  # whether the weight decay of the plan draws them to 0
    optimizer: OptimizerKind = torch.optim.AdamW  # e.g. SparseAdam for a table with sparse gradients


class Trainable(Protocol):
    """A module with losses and groups of parameters; any torch module offers the other methods."""

    def losses(self, *batch: Any, **options: Any) -> Mapping[str, Tensor]:
        """Name -> () float: the mean loss on a batch, unweighted; only losses that the batch has examples for.

        batch: what one item of the loop's batches holds. Where several processes train together, a loss is this process's part of
        the mean over all of them, and all processes give the same names.
        """

    def parameter_groups(self) -> Sequence[ParameterGroup]:
        """All that may learn, no parameter twice; always in the same order, by which a checkpoint is read."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any: ...

    def train(self) -> Any: ...


def total(losses: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """(): the weighted sum of at least one loss; a loss that weights does not name has the weight 1."""
    return torch.stack([weights.get(name, 1.0) * loss for name, loss in losses.items()]).sum()
