"""What an objective beside the labels of tasks is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from ...batches.batch import JaggedBatch
from ..parallel import Alone

if TYPE_CHECKING:
    from ..user_model import Moments, UserModel


@dataclass(frozen=True)
class Objective:
    """A loss of the user model that needs no labels."""

    # (model, batch, states of encoder.states, moments, processes) -> the mean loss in nats, None where there is nothing to learn from.
    loss: Callable[[UserModel, JaggedBatch, Mapping[str, Tensor], Moments, Alone], Tensor | None]
    reads_states: bool = True  # else it gets none unless somebody else reads them
