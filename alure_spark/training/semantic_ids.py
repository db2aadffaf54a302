"""How the autoencoder of semantic ids is trained: codebooks by K-means and least squares, encoder and decoder by gradient.

Encoder and decoder start as the identity and the codebooks by K-means on the residuals, so that training starts at a plain residual
quantizer. After each epoch of gradient steps, least squares moves all codebooks together, and a code that no embedding takes moves to
the residual of one of them. Of the start and all epochs, the weights that reconstruct held-out embeddings best are kept.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor

from ..config import SemanticIdConfig
from ..errors import DataError
from ..model.semantic_ids import ASSIGNED, SemanticIds, reconstruction_error
from .loop import fit
from .plan import Plan, Schedule
from .tensor_batches import TensorBatches

HELD_OUT = 10  # one in so many embeddings validates the epochs
STAYING = 0.1  # embeddings that ask a code to stay where it is


def train_semantic_ids(embeddings: Tensor, config: SemanticIdConfig) -> SemanticIds:
    """A quantizer of embeddings (n, D) float32 without NaN. The same rows, conf and threads give the same weights.

    Raises DataError with fewer embeddings than codes, TrainingError where the loss or a gradient is not finite.
    """
    if len(embeddings) < config.codes:
        raise DataError(f"{len(embeddings):,} embeddings are too few for {config.codes} codes: lower semantic_ids.codes")
    draw = torch.Generator().manual_seed(config.seed)
    torch.manual_seed(config.seed)
    model = SemanticIds(embeddings.shape[1], config.levels, config.codes, config.hidden)
    model.mean.copy_(embeddings.mean(0))
    model.scale.copy_(embeddings.std(0, unbiased=False).square().mean().sqrt().clamp(min=1e-12))
    order = torch.randperm(len(embeddings), generator=draw)
    held_out = embeddings[order[: len(order) // HELD_OUT]]
    learnt = embeddings[order[len(held_out) :]] if len(order) - len(held_out) >= config.codes else embeddings
    _start_codebooks(model, learnt, config, draw)

    def error() -> float:
        return reconstruction_error(held_out, model.decode(model.encode(held_out)))

    def end_epoch() -> dict[str, float]:
        refit(model, learnt)
        revive(model, learnt, draw)
        return {"error": error()}

    start, start_error = copy.deepcopy(model.state_dict()), error()
    if math.isfinite(start_error):  # else the held-out embeddings are all alike, and cannot say which epoch is best: the start stays
        batches = TensorBatches([learnt], config.batch, lambda epoch: torch.randperm(len(learnt), generator=draw))
        weights = {"commitment": config.commitment}
        plan = Plan(config.epochs, config.learning_rate, config.seed, loss_weights=weights, schedule=_line(config.epochs, batches.steps))
        if fit(model, batches, plan, end_epoch).best_loss >= start_error:
            model.load_state_dict(start)
    return model.eval()


@torch.no_grad()
def _start_codebooks(model: SemanticIds, embeddings: Tensor, config: SemanticIdConfig, draw: torch.Generator) -> None:
    """K-means on what the levels before leave over of the normalized embeddings (n, D)."""
    left = (embeddings - model.mean) / model.scale
    for book in model.codebooks:
        book.copy_(_kmeans(left, config.codes, config.kmeans_iterations, draw))
        left = left - book[_nearest(left, book)]


def _line(epochs: int, steps: int) -> Schedule:
    """Down a line from epoch to epoch, to 0 after the last one; steps: per epoch."""
    return lambda step: 1 - step // steps / epochs


@torch.no_grad()
def refit(model: SemanticIds, embeddings: Tensor) -> None:
    """Move all codebooks to where the sums of the codes that embeddings (n, D) take now are nearest to their encoded vectors."""
    z = model.encoder((embeddings - model.mean) / model.scale).double()
    place = model.quantize(z.to(embeddings.dtype)) + torch.arange(model.levels) * model.codes  # (n, L) of all levels' codes
    size = model.levels * model.codes
    together = torch.zeros(size * size, dtype=torch.float64)  # how many take both of two codes
    for one in place.T:
        for other in place.T:
            together += torch.bincount(one * size + other, minlength=size * size)
    sums = torch.zeros(size, z.shape[1], dtype=torch.float64)
    for one in place.T:
        sums.index_add_(0, one, z)
    books = model.codebooks.flatten(0, 1).double()
    # Levels are determined up to what one gives and another takes: a little weight on where they are decides.
    solved = torch.linalg.solve(together.view(size, size) + STAYING * torch.eye(size, dtype=torch.float64), sums + STAYING * books)
    model.codebooks.copy_(solved.view_as(model.codebooks))


@torch.no_grad()
def revive(model: SemanticIds, embeddings: Tensor, draw: torch.Generator) -> int:
    """Move each code that none of the embeddings (n, D) takes to the residual of one of them; returns how many there were."""
    z, revived = model.encoder((embeddings - model.mean) / model.scale), 0
    codes = model.quantize(z)
    left = z.clone()
    for level, book in enumerate(model.codebooks):
        unused = torch.nonzero(torch.bincount(codes[:, level], minlength=model.codes) == 0).squeeze(1)
        left_before = left
        left = left - book[codes[:, level]]
        book[unused] = left_before[torch.randint(0, len(z), (len(unused),), generator=draw)]
        revived += len(unused)
    return revived


def _nearest(rows: Tensor, centers: Tensor) -> Tensor:
    return torch.cat([torch.cdist(part, centers).argmin(dim=1) for part in rows.split(ASSIGNED)])


def _kmeans(rows: Tensor, count: int, iterations: int, draw: torch.Generator) -> Tensor:
    """(count, D) centers; an empty one takes the place of a row."""
    centers = rows[torch.randperm(len(rows), generator=draw)[:count]].clone()
    for _ in range(iterations):
        mine = _nearest(rows, centers)
        sizes = torch.bincount(mine, minlength=count)
        sums = torch.zeros_like(centers).index_add_(0, mine, rows)
        centers = torch.where(sizes[:, None] > 0, sums / sizes.clamp(min=1)[:, None], centers)
        empty = torch.nonzero(sizes == 0).squeeze(1)
        centers[empty] = rows[torch.randint(0, len(rows), (len(empty),), generator=draw)]
    return centers
