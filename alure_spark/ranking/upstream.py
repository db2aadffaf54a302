"""The interactions of another ranking model inside this one (LFM4Ads, module level: isomorphic interaction module).

Enters: the other model with its vocabulary, and the vocabulary of this one, which has its rows and those of new ids behind them. Leaves:
experts of the same shapes that begin with its weights. In the beginning they make of every impression what they make in the other model:
an id that is new to it has the vector by which it reads unknown ids.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..batches.vocabulary import Vocabulary
from ..config import COPIED, FROZEN, UpstreamConfig
from .network import RankingNetwork
from .spec import RankingSpec, UpstreamSpec

TABLES = "tables."  # begins the names of the weights that are rows of coded fields


def upstream_spec(model_id: str, model: RankingSpec, config: UpstreamConfig, dropout: float) -> UpstreamSpec:
    """Of another model as it was saved. dropout: of what its experts make, where they learn."""
    return UpstreamSpec(model_id, replace(model, dropout=0.0 if config.train == FROZEN else dropout), config.train, config.tables)


def with_rows(spec: RankingSpec, vocabulary: Vocabulary) -> RankingSpec:
    """The spec whose upstream has a row for each id of the vocabulary; itself where it has none."""
    if spec.upstream is None:
        return spec
    fields = dict(spec.upstream.model.fields)
    for name, one in fields.items():
        if one.encoding == "id":
            fields[name] = replace(one, settings={"size": vocabulary.size(spec.upstream.model.space_of(name))})
    return replace(spec, upstream=replace(spec.upstream, model=replace(spec.upstream.model, fields=fields)))


@torch.no_grad()
def copy_interactions(network: RankingNetwork, other: RankingNetwork, known: Vocabulary, vocabulary: Vocabulary) -> None:
    """Give the network's upstream the weights of the other model, in place; not those of tables that are its own.

    known: the vocabulary of the other model, vocabulary: that of the network.
    """
    upstream = network.spec.upstream
    if upstream is None or network.upstream is None:
        raise ValueError("the network has no upstream: its spec says nothing of one")
    given, rows = other.state_dict(), rows_read(other, known, vocabulary)
    for name, weight in network.upstream.state_dict().items():
        if not name.startswith(TABLES):
            weight.copy_(given[name])
        elif upstream.tables == COPIED:
            weight.copy_(given[name][rows])


def rows_read(other: RankingNetwork, known: Vocabulary, vocabulary: Vocabulary) -> Tensor:
    """(rows of a table,) int64: for each row of the coded fields under the vocabulary, the row that the other model reads for the same."""
    parts = []
    for name, begin, count in zip(other.spec.coded, other.lookup.begins, other.lookup.rows, strict=True):
        own, space = np.arange(count), other.spec.space_of(name)
        if other.spec.fields[name].encoding == "id":
            own = np.arange(vocabulary.size(space))
            if space in vocabulary.entries:
                hashes, rows = vocabulary.entries[space]
                own[rows] = known.rows(space, hashes)
        parts.append(begin + own)
    return torch.from_numpy(np.concatenate(parts))
