"""How GraphSAGE is trained on a graph that lies in memory, and what is published of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from ..config import SimilarityConfig, as_dict
from ..errors import DataError
from ..ranking.graph_sage import ClickGraph, GraphSage
from .loop import Fitted, Observer, fit
from .plan import Plan, warmup_cosine
from .tensor_batches import TensorBatches

# Of the held-out edges every other one chooses the epoch, and the rest say how good it is, which those can no longer say.
CHOOSING, MEASURING = slice(0, None, 2), slice(1, None, 2)
VALIDATED = 20_000  # held-out edges at most of which the loss is taken


def train_graph_sage(
    graph: ClickGraph, config: SimilarityConfig, checkpoint: Path | None = None, observe: Observer | None = None
) -> tuple[GraphSage, Fitted]:
    """The model of the epoch with the least loss on held-out edges; without any that of the last epoch.

    The same graph, conf and number of torch's threads give the same weights, also after a kill (see fit).

    Raises DataError where the graph has one user or one item only, TrainingError where the loss or a gradient is not finite.
    """
    if graph.users < 2 or graph.items < 2:
        raise DataError(
            f"the graph of similarity.sources has {graph.users} users and {graph.items} items with an edge; it takes 2 of each: lower "
            "similarity.min_events, raise similarity.days, or name other similarity.sources"
        )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.seed)
        model = GraphSage(graph, config.dimension, config.fanout, config.negatives)
    batches = TensorBatches(tuple(graph.edges.T), config.batch_edges, _order(config.seed, len(graph.edges)))
    plan = Plan(
        config.epochs, config.learning_rate, config.seed, schedule=warmup_cosine(config.epochs * batches.steps),
        rate_setting="similarity.learning_rate",
    )  # fmt: skip
    validate = partial(_held_out_loss, model, graph.held_out[CHOOSING], config.seed) if len(graph.held_out) else None
    fitted = fit(model, batches, plan, validate, checkpoint, observe)
    return model.eval(), fitted


def _held_out_loss(model: GraphSage, edges: torch.Tensor, seed: int) -> dict[str, float]:
    """The model's losses on the edges (n, 2), with the same negatives each time."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        chosen = edges[torch.randperm(len(edges))[:VALIDATED]]
        return {name: float(loss) for name, loss in model.losses(*chosen.T).items()}


def _order(seed: int, edges: int) -> Callable[[int], torch.Tensor]:
    """Epoch -> (edges,) a permutation that depends on the seed and the epoch alone."""
    return lambda epoch: torch.from_numpy(np.random.default_rng([seed, epoch]).permutation(edges))


def model_id(model: GraphSage, config: SimilarityConfig) -> str:
    """'graphsage-' and 12 hex digits: a digest of the weights and the conf."""
    digest = hashlib.sha256(json.dumps(as_dict(config), sort_keys=True).encode())
    for name, weights in sorted(model.state_dict().items()):
        digest.update(name.encode() + weights.numpy().tobytes())
    return f"graphsage-{digest.hexdigest()[:12]}"


def share_in_order(graph: ClickGraph, embeddings: torch.Tensor, seed: int) -> float | None:
    """Share of held-out edges whose cosine is above that of the same user and the item of another one; ties count half, None of none.

    Items are compared as often as they are clicked, so popularity alone gives a half, as chance does. Of edges that were learned from
    the share is above a half on a random graph, too. embeddings (N, D) of all nodes. Other items that the user clicked are left out.
    """
    user, item = graph.held_out[MEASURING].numpy().T
    other = np.random.default_rng(seed).permutation(item)
    clicked = np.concatenate([graph.edges.numpy(), graph.held_out.numpy()]) @ [len(embeddings), 1]
    new = ~np.isin(user * len(embeddings) + other, clicked)
    if not new.any():
        return None
    z = embeddings.numpy()
    gap = (z[user[new]] * (z[item[new]] - z[other[new]])).sum(1)
    return float((gap > 0).mean() + 0.5 * (gap == 0).mean())
