"""What does an attribute of an event tell? The normalized entropy that is lost when its values are dealt out anew (permutation importance).

The values of one attribute of one source are exchanged among all events of a batch, so that their distribution stays and what they say
of their event is gone; the model is not trained again. DynamiX (section 4.1) removes the attributes that tell least.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from ..config import ObjectiveConfig
from ..model.batch import JaggedBatch
from ..model.readout import HEADS
from ..model.user_model import Moments, UserModel
from . import loop
from .loader import Batches, ChangedBatches
from .metrics import cluster_bootstrap, normalized_entropy

KINDS = ("categorical", "numeric", "text", "embedding")


@dataclass(frozen=True)
class Importance:
    """One attribute and head; ne_loss above 0: without it predictions are worse."""

    source: str
    attribute: str
    head: str
    ne: float  # of the model as it is, on the validation split
    ne_loss: float  # mean over the seeds of NE with the attribute exchanged minus NE
    low: float  # 95 % interval over users
    high: float


class Exchanged(ChangedBatches):
    """The batches with one attribute of one source exchanged among the events of a batch, by (seed, batch)."""

    def __init__(self, loader: Batches, source: str, attribute: str, seed: int) -> None:
        super().__init__(loader)
        self.source, self.attribute, self.seed = source, attribute, seed

    def changed(self, batch: JaggedBatch) -> JaggedBatch:
        tokens = batch.sources[self.source]
        first = int.from_bytes(batch.user_ids[0].encode()[-8:], "little") if len(batch) else 0
        order = torch.from_numpy(np.random.default_rng([self.seed, first, len(batch)]).permutation(len(tokens.known_at_ms)))

        def mixed(part: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            return {name: values[order] if name == self.attribute else values for name, values in part.items()}

        exchanged = replace(
            tokens, rows=mixed(tokens.rows), numbers=mixed(tokens.numbers), words=mixed(tokens.words), vectors=mixed(tokens.vectors)
        )
        return replace(batch, sources={**batch.sources, self.source: exchanged})


def attribute_importance(
    model: UserModel, loader: Batches, moments: Moments, seeds: Sequence[int] = (7, 8, 9), resamples: int = 200
) -> list[Importance]:
    """Of every attribute that the model reads, for each head with labels of both classes; the attribute that tells most first.

    moments: those of the validation split (loop.Calendar.validation). One evaluation per attribute and seed. Raises DataError where
    there is nothing to judge by.
    """
    objectives = ObjectiveConfig(click=1.0, conversion=1.0, neighbour=0.0, next_item=0.0)
    whole = loop.evaluate(model, loader, moments, objectives)
    plain = loop.probabilities(model, whole)
    found = []
    for source in model.spec.sources:
        for attribute in (name for kind in KINDS for name in model.spec.of_kind(source, kind)):
            mixed = []
            for seed in seeds:
                again = loop.evaluate(model, Exchanged(loader, source, attribute, seed), moments, objectives)
                mixed.append(loop.probabilities(model, again))
            for column, head in enumerate(HEADS):
                if not whole.has_both(column):
                    continue
                labels, weights = whole.labels[:, column], whole.weights

                def lost(of: np.ndarray, labels: np.ndarray = labels, weights: np.ndarray = weights, column: int = column) -> float:
                    with_it = normalized_entropy(labels, plain[:, column], weights * of)
                    without = [normalized_entropy(labels, one[:, column], weights * of) for one in mixed]  # noqa: B023, called at once
                    return float(np.mean(without)) - with_it

                interval = cluster_bootstrap(lost, whole.users, resamples)
                ne = normalized_entropy(labels, plain[:, column], weights)
                found.append(Importance(source, attribute, head, ne, lost(np.ones(len(labels))), interval.low, interval.high))
    return sorted(found, key=lambda one: (HEADS.index(one.head), -one.ne_loss, one.source, one.attribute))
