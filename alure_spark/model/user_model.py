"""The whole user model: the user sub-graph, the read-out of impressions, and the loss that trains both.

`UserModel.encoder` alone is what embeds the table (ALURE, section 2.4: only the parts that make the embedding are evaluated).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..batches.batch import JaggedBatch
from ..batches.vocabulary import ITEM
from ..config import ObjectiveConfig
from .linear import Linear, linear
from .objectives import OBJECTIVES
from .objectives.labels import label_loss
from .parallel import ALONE, Alone
from .readout import Readout
from .spec import ModelSpec
from .trainable import ParameterGroup
from .user_encoder import UserEncoder


@dataclass(frozen=True)
class Moments:
    """Until when a batch may be learnt from, and at which moment neighbours are asked for the future."""

    cut_ms: int  # embeddings of the neighbour objective are as of this moment
    until_ms: int  # its later engagements end here; next items and labels too
    from_ms: int = 0  # next items before this time are not asked for: they have been learnt from
    validation: bool | None = False  # which impressions count: those of the training split, of the validation split, or (None) all


class UserModel(nn.Module):
    """Encoder and read-out."""

    log_frequency: Tensor  # (rows of item_id,) of the training histories

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        torch.manual_seed(spec.config.seed)
        self.spec = spec
        self.encoder, self.readout = UserEncoder(spec), Readout(spec)
        self.next_item = Linear(spec.views * spec.item_dimension, spec.state_width)
        self.register_buffer("log_frequency", torch.zeros(spec.spaces[ITEM]))

    def losses(
        self,
        batch: JaggedBatch,
        moments: Moments,
        weights: ObjectiveConfig,
        processes: Alone = ALONE,
        states: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Objective -> its unweighted mean loss in nats; only objectives with a weight and with something to learn from.

        processes: those that share the batch; each gets its own part of the means, which add up to them. states: what
        encoder.states(batch) gave, where it is known already: history is encoded once per user.
        """
        encoder, found = self.encoder, {}
        heads = {task: column for column, task in enumerate(self.spec.tasks) if weights.weight(task)}
        chosen = {name: one for name, one in OBJECTIVES.items() if weights.weight(name)}
        if states is None:
            needed = heads or self.spec.config.residual or any(one.reads_states for one in chosen.values())
            states = encoder.states(batch) if needed else {}
        shown = batch.impressions
        if shown is not None and heads:
            wanted = shown.validation == moments.validation if moments.validation is not None else torch.ones_like(shown.validation)
            weight = torch.where(wanted, shown.weight, 0.0)
            if processes.total(weight.sum()) > 0:
                logits = self.readout(batch, states, encoder)
                for task, column in heads.items():
                    found[task] = label_loss(logits[:, column], shown.labels[task], weight.to(logits.dtype), processes)
        for name, one in chosen.items():
            loss = one.loss(self, batch, states, moments, processes)
            if loss is not None:
                found[name] = loss
        return found

    def parameter_groups(self) -> list[ParameterGroup]:
        """Item tables; the few numbers that weigh events; matrices, which alone decay; the rest. Quantizers never move."""
        encoder = self.encoder
        pooling = encoder.pooling_parameters()
        apart = {encoder.item_vectors, *pooling, *encoder.quantizers.parameters()}
        network = [parameter for parameter in self.parameters() if parameter not in apart]
        return [
            ParameterGroup("items", [encoder.item_vectors], decays=False),
            ParameterGroup("pooling", pooling, decays=False),
            ParameterGroup("matrices", [parameter for parameter in network if parameter.ndim > 1]),
            ParameterGroup("rest", [parameter for parameter in network if parameter.ndim <= 1], decays=False),
        ]

    def next_item_scores(self, batch: JaggedBatch, source: str) -> Tensor:
        """(B, rows) scores of every item as the user's next one of the source at as_of; row 0, the unknown item, gets -inf."""
        last = self.encoder.last_states(batch)[source][:, 0]
        scores = linear(last, self.next_item(self.encoder.item_vectors))
        scores[:, 0] = -torch.inf
        return scores

    def probabilities(self, batch: JaggedBatch) -> Tensor:
        """(M, tasks) calibrated probabilities at the batch's impressions."""
        logits = self.readout(batch, self.encoder.states(batch), self.encoder)
        return self.readout.probabilities(logits)
