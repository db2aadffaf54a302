"""Do several tasks entangle one embedding? Distances of pairs that are near in one task and far in another (Pan et al., section 7.3).

Enters: ranking networks, and batches of impressions: each is a pair of a user side and an ad side. Leaves: numbers.
A side is the sum of the vectors of its fields (their `part`: "ad" or another), the similarity of a pair the cosine of its sides.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..batches.batch import JaggedBatch
from ..errors import DataError
from ..ranking.network import RankingNetwork
from ..ranking.schemes import copy_of
from ..ranking.spec import RankingSpec

AD = "ad"  # the part of the fields of the ad and the impression (training/ranking_start.py)
NEAR, FAR = 60.0, 40.0  # percentiles of similarity: above, and below
EMPTY = "the ranking model has no field of the {} that is in a table: contradictory pairs need both sides"


@dataclass(frozen=True)
class Embedding:
    """Tables of a network that are looked at together, side by side."""

    tables: tuple[str, ...]
    tasks: tuple[str, ...]  # that learn them


def embeddings_of(spec: RankingSpec) -> dict[str, Embedding]:
    """Name -> tables: each tower's own where the scheme has such tables, and those that are shared; tables of several sizes one by one."""
    plan, towers = spec.plan(), spec.tasks_of_towers()
    found = {}
    for tower, tasks in towers.items():
        own = tuple(copy_of(name, tower) for name in spec.tables if copy_of(name, tower) in plan.tables)
        if own:
            found[tower] = Embedding(own, tasks)
    shared = tuple(name for name in spec.tables if name in plan.tables)
    if found and shared:
        return found | {"shared": Embedding(shared, spec.tasks)}
    return found or {name: Embedding((name,), spec.tasks) for name in shared}


@torch.no_grad()
def similarities(network: RankingNetwork, batches: Iterable[JaggedBatch]) -> tuple[dict[tuple[str, ...], np.ndarray], np.ndarray]:
    """(Tables of each embedding -> (M,) float64 cosines, (M, tasks) float64 logits), of all impressions in their order.

    Also under all tables of the network together. Raises DataError where one side has no field.
    """
    spec = network.spec
    parts = [spec.fields[name].part == AD for name in spec.order]
    sides = {side: [place for place, is_ad in enumerate(parts) if is_ad == (side == AD)] for side in ("user", AD)}
    for side, places in sides.items():
        if not places:
            raise DataError(EMPTY.format(side))
    groups = {one.tables for one in embeddings_of(spec).values()} | {tuple(network.plan.tables)}
    found: dict[tuple[str, ...], list[np.ndarray]] = {tables: [] for tables in groups}
    logits = []
    for batch in batches:
        vectors = network.table_vectors(batch)
        for tables, its in found.items():
            user, ad = (torch.cat([vectors[name][:, places].sum(dim=1) for name in tables], dim=1) for places in sides.values())
            its.append(torch.nn.functional.cosine_similarity(user.double(), ad.double(), dim=1).numpy())
        logits.append(network.logits(network(batch)).double().numpy())
    return {tables: np.concatenate(its) for tables, its in found.items()}, np.concatenate(logits)


def distances(similarity: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """(M,) float64: of each pair, the share of all pairs that are nearer, 0 to 100, so that embeddings of any width can be compared.

    A model may learn interest as nearness, or as its opposite, which a layer above turns round. So the similarity (M,) counts with the sign
    of its correlation with the logits (M, tasks) of the tasks that learn it; of several tasks with their standardized sum.
    """
    spread = logits.std(axis=0)
    score = ((logits - logits.mean(axis=0)) / np.where(spread > 0, spread, 1)).sum(axis=1)
    sign = -1.0 if float((similarity - similarity.mean()) @ (score - score.mean())) < 0 else 1.0
    rank: np.ndarray = np.argsort(np.argsort(-sign * similarity, kind="stable"), kind="stable")
    return 100 * rank / max(1, len(rank) - 1)


def contradictory(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(M,) bool: pairs that are near in the one task and far in the other, by their distances (M,) in models of one task each."""
    return (one < 100 - NEAR) & (other > 100 - FAR)


@dataclass(frozen=True)
class Entanglement:
    """Pairs near in the first task and far in the second, under several embeddings."""

    tasks: tuple[str, str]
    pairs: int  # of which these are a part
    distances: Mapping[str, Mapping[str, np.ndarray]]  # model -> embedding -> (n,) float64

    @property
    def contradictory(self) -> int:
        return len(next(iter(next(iter(self.distances.values())).values())))

    def gap(self, model: str, near: str, far: str) -> float:
        """How much farther the pairs are in the second task than in the first, mean in points of 100. 0: one embedding for both."""
        its = self.distances[model]
        return float((its[far] - its[near]).mean())


def entanglement(
    tasks: tuple[str, str], single: Sequence[RankingNetwork], models: Mapping[str, RankingNetwork], batches: Sequence[JaggedBatch]
) -> Entanglement:
    """single: a model of each of the two tasks alone, which say which pairs are contradictory. models: what is looked at, by name."""
    alone = []
    for network in single:
        found, logits = similarities(network, batches)
        alone.append(distances(found[tuple(network.plan.tables)], logits))
    chosen = contradictory(*alone)
    result: dict[str, dict[str, np.ndarray]] = {"single-task": dict(zip(tasks, (its[chosen] for its in alone), strict=True))}
    for model, network in models.items():
        found, logits = similarities(network, batches)
        result[model] = {}
        for name, one in embeddings_of(network.spec).items():
            columns = [network.spec.tasks.index(task) for task in one.tasks]
            result[model][name] = distances(found[one.tables], logits[:, columns])[chosen]
    return Entanglement(tasks, len(chosen), result)
