"""How the head of standalone retrieval is trained: a sampled softmax over the ads that could be shown (LFM4Ads, model level).

Enters: engagements with the user's and the ad's vector as they were published before the impression, and the ads of today. Leaves: the
head of the epoch that foretells the newest engagements best.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from pyspark.sql import DataFrame
from torch import Tensor, nn

from ..config import StandaloneConfig
from ..errors import DataError
from ..model.retrieval_head import RetrievalHead
from ..model.trainable import ParameterGroup
from .loop import Fitted, fit
from .plan import Plan, warmup_cosine
from .tensor_batches import TensorBatches

VALIDATED = 4096  # validation engagements that are compared with the ads at once


class Engagements(NamedTuple):
    """n impressions that the user engaged with, oldest first."""

    users: Tensor  # (n, k) float32, published before the impression
    ads: Tensor  # (n, d) float32, published before the impression
    ad: Tensor  # (n,) int64 hash
    time_ms: Tensor  # (n,) int64

    def part(self, rows: slice) -> Engagements:
        return Engagements(*(tensor[rows] for tensor in self))


class Catalogue(NamedTuple):
    """A ads that an engaged one is compared with."""

    vectors: Tensor  # (A, d) float32
    ad: Tensor  # (A,) int64 hash
    from_ms: Tensor  # (A,) int64: not shown before
    to_ms: Tensor  # (A,) int64: not shown from then on


def collected(engagements: DataFrame, catalogue: DataFrame) -> tuple[Engagements, Catalogue]:
    """Both as tensors; columns: see events/standalone_rows.py. Rows lie in the driver's memory."""
    of_users = engagements.toArrow().combine_chunks().sort_by([("time_ms", "ascending"), ("user_id", "ascending"), ("ad_id", "ascending")])
    of_ads = catalogue.toArrow().combine_chunks().sort_by("ad_id")
    columns = (_matrix(of_users, "user"), _matrix(of_users, "ad"), _integers(of_users, "ad_id"), _integers(of_users, "time_ms"))
    ads = (_matrix(of_ads, "ad"), *(_integers(of_ads, name) for name in ("ad_id", "from_ms", "to_ms")))
    return Engagements(*columns), Catalogue(*ads)


def _integers(table: pa.Table, name: str) -> Tensor:
    return torch.from_numpy(table.column(name).to_numpy().astype(np.int64))


def _matrix(table: pa.Table, name: str) -> Tensor:
    flat = pc.list_flatten(table.column(name)).to_numpy().astype(np.float32)
    return torch.from_numpy(flat.reshape(table.num_rows, -1 if table.num_rows else 0))


class SampledSoftmax(nn.Module):
    """A head while it learns: the log-probability of the engaged ad among the ads that could be shown then, by a sample of them.

    Every ad is drawn alike, so that the sum over the sample, times the number of ads per drawn one, expects the sum over all; then the
    inner product is the log of the probability, with what makes an ad popular in it. (Negatives from a batch come as often as they are
    engaged with, which would have to be taken out again.)
    """

    def __init__(self, head: RetrievalHead, catalogue: Catalogue, negatives: int) -> None:
        super().__init__()
        self.head, self.catalogue, self.negatives = head, catalogue, negatives

    def losses(self, users: Tensor, ads: Tensor, ad: Tensor, time_ms: Tensor) -> dict[str, Tensor]:
        """softmax: mean over engagements (Engagements) of minus the log-probability, nats."""
        size = len(self.catalogue.ad)
        drawn = torch.randperm(size)[: self.negatives] if self.negatives < size else torch.arange(size)
        others = Catalogue(*(tensor[drawn] for tensor in self.catalogue))
        queries = self.head(users)
        mine = (queries * ads).sum(1)
        theirs = queries @ others.vectors.T + math.log(size / len(drawn))
        absent = ~_could_be_shown(ad, time_ms, others)
        all_of_them = torch.cat([mine[:, None], theirs.masked_fill(absent, -math.inf)], dim=1)
        return {"softmax": (all_of_them.logsumexp(dim=1) - mine).mean()}

    def parameter_groups(self) -> list[ParameterGroup]:
        return self.head.parameter_groups()


def _could_be_shown(ad: Tensor, time_ms: Tensor, catalogue: Catalogue) -> Tensor:
    """(n, A) bool: which ads other than the engaged one (n,) could have been shown at its time."""
    at = time_ms[:, None]
    return (catalogue.ad != ad[:, None]) & (catalogue.from_ms <= at) & (at < catalogue.to_ms)


def train_head(engagements: Engagements, catalogue: Catalogue, config: StandaloneConfig) -> tuple[RetrievalHead, Fitted]:
    """(head, how it went). The same rows, conf and number of torch's threads give the same weights.

    Raises DataError where there are no two engagements or no two ads, TrainingError where a loss is not finite.
    """
    learned, newest = split(engagements, config)
    if not len(learned.ad) or len(catalogue.ad) < 2:
        raise DataError(
            f"a head of transfer.retrieval takes 2 engagements and 2 ads; there are {len(engagements.ad)} and {len(catalogue.ad)}"
        )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.seed)
        head = RetrievalHead(learned.users.shape[1], catalogue.vectors.shape[1], config.hidden if config.head == "two_layers" else 0)
    head.fit_scales(learned.users, catalogue.vectors)
    batches = TensorBatches(tuple(learned), config.batch, lambda epoch: _order(config.seed, epoch, len(learned.ad)))
    plan = Plan(
        config.epochs, config.learning_rate, config.seed, weight_decay=config.weight_decay,
        schedule=warmup_cosine(config.epochs * batches.steps), rate_setting="transfer.retrieval.learning_rate",
    )  # fmt: skip
    whole = SampledSoftmax(head, catalogue, len(catalogue.ad))
    fitted = fit(SampledSoftmax(head, catalogue, config.negatives), batches, plan, lambda: _loss(whole, newest))
    return head.eval(), fitted


def split(engagements: Engagements, config: StandaloneConfig) -> tuple[Engagements, Engagements]:
    """(those that are learned from, the newest validation_share of them, which choose the epoch)."""
    held_out = math.ceil(len(engagements.ad) * config.validation_share)
    return engagements.part(slice(0, -held_out)), engagements.part(slice(-held_out, None))


def _order(seed: int, epoch: int, rows: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng([seed, epoch]).permutation(rows))


@torch.no_grad()
def _loss(model: SampledSoftmax, engagements: Engagements) -> dict[str, float]:
    """Mean loss over the engagements, among all ads."""
    total = 0.0
    for start in range(0, len(engagements.ad), VALIDATED):
        part = engagements.part(slice(start, start + VALIDATED))
        total += float(model.losses(*part)["softmax"]) * len(part.ad)
    return {"softmax": total / len(engagements.ad)}


@torch.no_grad()
def hit_rate(head: RetrievalHead, engagements: Engagements, catalogue: Catalogue, most: int) -> float:
    """Share of the engagements whose ad is among the `most` ads with the largest inner products of those that could be shown then."""
    hits = 0
    for start in range(0, len(engagements.ad), VALIDATED):
        part = engagements.part(slice(start, start + VALIDATED))
        queries = head(part.users.to(head.mean.dtype))
        mine = (queries * part.ads).sum(1)
        theirs = queries @ catalogue.vectors.T.to(queries.dtype)
        others = _could_be_shown(part.ad, part.time_ms, catalogue)
        hits += int((((theirs > mine[:, None]) & others).sum(1) < most).sum())
    return hits / len(engagements.ad)


def head_metrics(
    head: RetrievalHead, fitted: Fitted, engagements: Engagements, catalogue: Catalogue, config: StandaloneConfig
) -> dict[str, float | None]:
    """What a run says of a head. hit_rate and loss are of the newest engagements, which have chosen the epoch."""
    newest = split(engagements, config)[1]
    return {
        "engagements": float(len(engagements.ad)),
        "ads": float(len(catalogue.ad)),
        "best_epoch": float(fitted.best_epoch),
        "loss": fitted.best_loss,
        "hit_rate": hit_rate(head, newest, catalogue, config.candidates),
    }
