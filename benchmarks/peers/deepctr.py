"""deepctr-torch: its PNN with inner products, and its cross layers in full matrices with its DNN on top, with torch's Adam.

Its own DCN has the DNN beside the cross layers and cannot be stacked, so `Stacked` puts the same layers one above the other. A step is
that of its `fit` without its DataLoader, which collates row by row and would be most of the time. The cases `_sparse` make the gradients
of its tables sparse by hand. It asks the network for its newest version when it is imported, which is refused.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import requests
import torch
from torch import Tensor, nn

from benchmarks.peers.answer import Rows, answer
from benchmarks.peers.torch_models import SPARSE, Model, copy_weights, optimizer_of, works


def refused(*of: Any, **options: Any) -> None:
    raise requests.ConnectionError("this process opens no connection")


requests.get = refused  # type: ignore[assignment]

from deepctr_torch.inputs import SparseFeat, combined_dnn_input  # noqa: E402
from deepctr_torch.models import DCN, PNN  # noqa: E402


class Stacked(DCN):
    """Cross layers, then its DNN."""

    def __init__(self, columns: list[SparseFeat], crosses: int, hidden: tuple[int, ...]) -> None:
        super().__init__([], columns, cross_num=crosses, cross_parameterization="matrix", dnn_hidden_units=hidden,
                         l2_reg_linear=0, l2_reg_embedding=0, l2_reg_cross=0)  # fmt: skip
        self.dnn_linear = nn.Linear(hidden[-1], 1, bias=False)

    def forward(self, X: Tensor) -> Tensor:
        vectors, numbers = self.input_from_feature_columns(X, self.dnn_feature_columns, self.embedding_dict)
        return self.out(self.dnn_linear(self.dnn(self.crossnet(combined_dnn_input(vectors, numbers)))))


class Case:
    """A model with the given weights."""

    def __init__(self, architecture: str, rows: Rows, weights: dict[str, np.ndarray], sparse: bool) -> None:
        names, dimension = [f"field_{place}" for place in range(len(rows.sizes))], weights["tables"].shape[1]
        columns = [SparseFeat(name, size, embedding_dim=dimension) for name, size in zip(names, rows.sizes, strict=True)]
        hidden = (len(weights["layer.bias"]), len(weights["tower.bias"]))
        self.model: Any
        if architecture == "ipnn":
            self.model = PNN(columns, hidden, l2_reg_embedding=0)
            vectors = dimension * len(names)  # its DNN reads the vectors first, ours the products
            weights = weights | {"layer.weight": np.roll(weights["layer.weight"], vectors, axis=1)}
        else:
            crosses = [weights[name] for name in weights if name.startswith("cross") and name.endswith("weight")]
            self.model = Stacked(columns, len(crosses), hidden)
            with torch.no_grad():
                self.model.crossnet.kernels.copy_(torch.from_numpy(np.stack(crosses)))
        tables = [self.model.embedding_dict[name] for name in names]
        copy_weights(tables, dict(zip(("layer", "tower", "last"), [*self.model.dnn.linears, self.model.dnn_linear], strict=True)), weights)
        with torch.no_grad():
            self.model.out.bias.copy_(torch.from_numpy(weights["last.bias"]))
        self.model.compile(optimizer_of(self.model, tables, sparse), "binary_crossentropy")
        ids, labels = torch.from_numpy(rows.ids).float(), torch.from_numpy(rows.labels)  # floats: its form of a batch
        self.inputs: list[Any] = [ids[cut] for cut in rows.cuts()]
        self.labels = [labels[cut] for cut in rows.cuts()]

    def train(self) -> None:
        model = self.model.train()
        for inputs, labels in zip(self.inputs, self.labels, strict=True):
            chance = model(inputs).squeeze(-1)
            model.optim.zero_grad()
            loss = model.loss_func(chance, labels, reduction="sum")
            whole = loss + model.get_regularization_loss() + model.aux_loss
            whole.backward()
            model.optim.step()


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    rows = Rows.read(folder)
    cases: dict[str, Model] = {}
    for architecture in ("dcn_v2", "ipnn"):
        weights = dict(np.load(folder / f"{architecture}.npz"))
        cases |= {f"{architecture}{SPARSE * sparse}": Case(architecture, rows, weights, sparse) for sparse in (False, True)}
    answer(works(cases))
