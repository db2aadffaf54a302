"""What the torch peers share: given weights copied in, logits of a first batch, scoring, and sparse gradients made by hand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.peers.answer import Work

SPARSE = "_sparse"  # ends the name of a case whose tables have sparse gradients
RATE = 1e-3  # the learning rate of all torch models


class Model(Protocol):
    """A peer's model of one architecture with its batches in memory."""

    model: Any  # a module, from inputs to probabilities
    inputs: list[Any]  # of each batch

    def train(self) -> None:
        """One step per batch."""


class SparseAndDense:
    """SparseAdam for the parameters whose gradients are sparse, Adam for the others."""

    def __init__(self, tables: Iterable[Tensor], others: Iterable[Tensor]) -> None:
        self.both = (torch.optim.SparseAdam(list(tables), lr=RATE), torch.optim.Adam(others, lr=RATE))
        self.param_groups = self.both[1].param_groups

    def zero_grad(self) -> None:
        for one in self.both:
            one.zero_grad()

    def step(self) -> None:
        for one in self.both:
            one.step()


def optimizer_of(model: nn.Module, tables: Sequence[nn.Embedding], sparse: bool) -> Any:
    """Adam on all parameters, as the libraries have it, or with sparse gradients of the tables."""
    if not sparse:
        return torch.optim.Adam(model.parameters(), lr=RATE)
    for table in tables:
        table.sparse = True
    mine = {id(table.weight) for table in tables}
    return SparseAndDense([table.weight for table in tables], [one for one in model.parameters() if id(one) not in mine])


def copy_weights(tables: Sequence[nn.Embedding], linear: Mapping[str, nn.Linear], weights: Mapping[str, np.ndarray]) -> None:
    """weights: 'tables', those of all fields one below the other; 'NAME.weight' and 'NAME.bias' of each layer."""
    begin = 0
    with torch.no_grad():
        for table in tables:
            table.weight.copy_(torch.from_numpy(weights["tables"][begin : begin + table.num_embeddings]))
            begin += table.num_embeddings
        for name, layer in linear.items():
            layer.weight.copy_(torch.from_numpy(weights[f"{name}.weight"]))
            if layer.bias is not None:
                layer.bias.copy_(torch.from_numpy(weights[f"{name}.bias"]))


def chances(case: Model, batches: int | None = None) -> Tensor:
    """(n,) probabilities of the first batches, or of all."""
    case.model.eval()
    with torch.inference_mode():
        return torch.cat([case.model(inputs).flatten() for inputs in case.inputs[:batches]])


def works(cases: Mapping[str, Model]) -> dict[str, Work]:
    """The works of a torch peer (answer.py)."""
    return {
        "logits": lambda case: torch.logit(chances(cases[case], 1)).numpy(),
        "train": lambda case: cases[case].train(),
        "score": lambda case: float(chances(cases[case]).sum()),
    }
