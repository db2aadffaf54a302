"""What does an attribute of an event tell? The normalized entropy that is lost when its values are dealt out anew (permutation importance).

The values of one attribute of one source are exchanged among all events of a batch, so that their distribution stays and what they say
of their event is gone; the model is not trained again. DynamiX (section 4.1) removes the attributes that tell least.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from ..batches.batch import JaggedBatch
from ..batches.epochs import Batches
from ..config import ObjectiveConfig
from ..metrics import cluster_bootstrap, normalized_entropy
from ..model.user_model import Moments, UserModel
from ..training import user_evaluation

KINDS = ("categorical", "numeric", "text", "embedding")


@dataclass(frozen=True)
class Importance:
    """One attribute and task; ne_loss above 0: without it predictions are worse."""

    source: str
    attribute: str
    task: str
    ne: float  # of the model as it is, on the validation split
    ne_loss: float  # mean over the seeds of NE with the attribute exchanged minus NE
    low: float  # 95 % interval over users
    high: float


def exchanged(batch: JaggedBatch, source: str, attribute: str, seed: int) -> JaggedBatch:
    """The batch with one attribute of one source exchanged among its events, by (seed, batch)."""
    tokens = batch.sources[source]
    first = int.from_bytes(batch.user_ids[0].encode()[-8:], "little") if len(batch) else 0
    order = torch.from_numpy(np.random.default_rng([seed, first, len(batch)]).permutation(len(tokens.known_at_ms)))

    def mixed(part: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: values[order] if name == attribute else values for name, values in part.items()}

    dealt = replace(
        tokens, rows=mixed(tokens.rows), numbers=mixed(tokens.numbers), words=mixed(tokens.words), vectors=mixed(tokens.vectors)
    )
    return replace(batch, sources={**batch.sources, source: dealt})


@torch.no_grad()
def _without(
    model: UserModel, loader: Batches, source: str, attributes: Sequence[str], seeds: Sequence[int]
) -> dict[str, list[np.ndarray]]:
    """Attribute -> per seed (M, tasks) probabilities at the validation impressions. The other sources are encoded once per batch."""
    moved = model.spec.sources if model.spec.config.exchange else (source,)
    logits: dict[tuple[str, int], list[np.ndarray]] = {(attribute, seed): [] for attribute in attributes for seed in seeds}
    for batch in loader.in_order():
        states = model.encoder.states(batch)
        for (attribute, seed), parts in logits.items():
            mixed = exchanged(batch, source, attribute, seed)
            parts.append(user_evaluation.impression_logits(model, mixed, states | model.encoder.states(mixed, moved))[0])

    def probabilities(parts: list[np.ndarray]) -> np.ndarray:
        return model.readout.probabilities(torch.from_numpy(np.concatenate(parts))).numpy()  # type: ignore[no-any-return]

    return {attribute: [probabilities(logits[attribute, seed]) for seed in seeds] for attribute in attributes}


def attribute_importance(
    model: UserModel, loader: Batches, moments: Moments, seeds: Sequence[int] = (7, 8, 9), resamples: int = 200
) -> list[Importance]:
    """Of every attribute that the model reads, for each task with labels of both classes; the attribute that tells most first.

    moments: those of the validation split (user_training.Calendar.validation). Costs the read-out and one source's encoding per attribute
    and seed (all sources' with model.exchange), and holds the predictions of one source's attributes. Raises DataError where there is
    nothing to evaluate by.
    """
    objectives = ObjectiveConfig().labels_only()
    whole = user_evaluation.evaluate(model, loader, moments, objectives)
    plain = user_evaluation.probabilities(model, whole)
    found = []
    for source in model.spec.sources:
        attributes = [name for kind in KINDS for name in model.spec.of_kind(source, kind)]
        for attribute, mixed in (_without(model, loader, source, attributes, seeds) if attributes else {}).items():
            for column, task in enumerate(whole.tasks):
                if not whole.has_both(column):
                    continue
                lost = _ne_lost(whole, column, plain, mixed)
                interval = cluster_bootstrap(lost, whole.users, resamples)
                ne = normalized_entropy(whole.labels[:, column], plain[:, column], whole.weights)
                found.append(Importance(source, attribute, task, ne, lost(np.ones(len(plain))), interval.low, interval.high))
    return sorted(found, key=lambda one: (whole.tasks.index(one.task), -one.ne_loss, one.source, one.attribute))


def _ne_lost(
    whole: user_evaluation.Evaluation, column: int, plain: np.ndarray, mixed: Sequence[np.ndarray]
) -> Callable[[np.ndarray], float]:
    """Weights (M,) of a draw -> mean over the seeds of NE with the attribute exchanged minus NE."""

    def lost(drawn: np.ndarray) -> float:
        with_it, *without = (normalized_entropy(whole.labels[:, column], p[:, column], whole.weights * drawn) for p in (plain, *mixed))
        return float(np.mean(without)) - with_it

    return lost
