"""torch-rechub: its DCN V2 (full matrices, stacked) and its trainer, with torch's Adam. It has no inner products between fields.

Its BatchNorm layers are taken out, because ours has none. Its tables have dense gradients; the case `dcn_v2_sparse` makes them sparse by
hand, which the library does not offer. Its cross layers add the bias after the product; ours, as in the paper, before: it is 0 here.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch_rechub.basic.features import SparseFeature
from torch_rechub.models.ranking import DCNv2
from torch_rechub.trainers import CTRTrainer

from benchmarks.peers.answer import Rows, answer
from benchmarks.peers.torch_models import SPARSE, copy_weights, optimizer_of, works


class Stacked:
    """DCN V2 with the given weights."""

    def __init__(self, rows: Rows, weights: dict[str, np.ndarray], sparse: bool) -> None:
        names = [f"field_{place}" for place in range(len(rows.sizes))]
        features = [SparseFeature(name, size, weights["tables"].shape[1]) for name, size in zip(names, rows.sizes, strict=True)]
        crosses = [name for name in weights if name.startswith("cross") and name.endswith("weight")]
        hidden = [len(weights["layer.bias"]), len(weights["tower.bias"])]
        self.model: Any = DCNv2(features, len(crosses), {"dims": hidden}, model_structure="stacked", use_low_rank_mixture=False)
        layers = self.model.stacked_dnn.mlp
        for place, layer in enumerate(layers):
            if isinstance(layer, nn.BatchNorm1d):
                layers[place] = nn.Identity()
        tables = [self.model.embedding.embed_dict[name] for name in names]
        first, second = (layer for layer in layers if isinstance(layer, nn.Linear))
        linear = {"layer": first, "tower": second, "last": self.model.linear.fc}
        linear |= {f"cross.{place}": layer for place, layer in enumerate(self.model.crossnet.w)}
        copy_weights(tables, linear, weights)
        self.trainer = CTRTrainer(self.model, optimizer_fn=lambda parameters, **options: optimizer_of(self.model, tables, sparse))
        ids, labels = torch.from_numpy(rows.ids), torch.from_numpy(rows.labels)
        self.inputs: list[Any] = [{name: ids[cut, place].contiguous() for place, name in enumerate(names)} for cut in rows.cuts()]
        self.labels = [labels[cut] for cut in rows.cuts()]

    def train(self) -> None:
        self.trainer.train_one_epoch(list(zip(self.inputs, self.labels, strict=True)))


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    rows, weights = Rows.read(folder), dict(np.load(folder / "dcn_v2.npz"))
    answer(works({"dcn_v2": Stacked(rows, weights, sparse=False), f"dcn_v2{SPARSE}": Stacked(rows, weights, sparse=True)}))
