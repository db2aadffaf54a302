"""What benchmarks.ranking asks of the ranking network: the cases, and the process that answers for them (benchmarks/peers/answer.py).

`dcn_v2` and `ipnn`: one table, one expert, whose gate is 1; weights of each are written for the peers. `history_once`: impressions that
read their user's history (TIM), and `history_copied`: the same impressions, each a user of its own with a copy of the history. `table_N`:
a table of N rows, the same number of distinct rows touched in the same places of a batch, spread over the whole table.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alure_spark.batches.batch import Impressions, JaggedBatch, SourceTokens, offsets_of
from alure_spark.clock import HOUR_MS
from alure_spark.config import ExpertConfig, SequenceConfig
from alure_spark.model.linear import linear
from alure_spark.ranking.network import RankingNetwork
from alure_spark.ranking.spec import FieldSpec, RankingSpec
from alure_spark.training.optimizers import Optimizers
from alure_spark.training.plan import Plan
from benchmarks.encoder import one_copy_per_impression
from benchmarks.peers.answer import Rows, answer

ARCHITECTURES = ("dcn_v2", "ipnn")
TASK, TABLE, EXPERT, STREAM = "click", "first", "only", "click"
DIMENSION, HIDDEN, TOWER, DEVIATION = 16, 64, 32, 0.1
HISTORY_BATCHES = 8  # of a call
SMALLEST_TABLE = 10_000  # rows of the table that a larger one is compared with
ZIPF = 1.2  # few ids are most of a field
HISTORY_SIZES = {"user": 100_000, "ad": 10_000, "campaign": 1_000, "place": 10}


def spec_of(
    architecture: str, sizes: Sequence[int], sequences: dict[str, SequenceConfig] | None = None, names: Sequence[str] = ()
) -> RankingSpec:
    names = names or [f"field_{place}" for place in range(len(sizes))]
    return RankingSpec(
        fields={name: FieldSpec("id", {"size": size}) for name, size in zip(names, sizes, strict=True)},
        tables={TABLE: DIMENSION},
        experts={EXPERT: ExpertConfig(architecture, TABLE)},
        tasks=(TASK,),
        sequences=sequences or {},
        hidden=HIDDEN,
        tower=(TOWER,),
        deviation=DEVIATION,
    )


def drawn_ids(random: np.random.Generator, rows: int, sizes: Sequence[int]) -> np.ndarray:
    """(rows, fields) int64 by Zipf's law."""
    return np.stack([(random.zipf(ZIPF, rows) - 1) % size for size in sizes], axis=1).astype(np.int64)


def rows_of(rows: int, batch: int, sizes: Sequence[int], seed: int = 7) -> Rows:
    """Impressions whose labels hang on the ids of each field."""
    random = np.random.default_rng(seed)
    ids = drawn_ids(random, rows, sizes)
    scores = np.sin(ids * np.arange(1, len(sizes) + 1)).sum(axis=1)
    labels = random.uniform(size=rows) < 1 / (1 + np.exp(-scores))
    return Rows(ids, labels.astype(np.float32), tuple(sizes), batch)


def batch_of(names: Sequence[str], ids: np.ndarray, labels: np.ndarray) -> JaggedBatch:
    """One user's impressions: without a history it is the same whose they are."""
    n, none = len(ids), torch.zeros(1, dtype=torch.int64)
    columns = {name: torch.from_numpy(np.ascontiguousarray(ids[:, place])) for place, name in enumerate(names)}
    return JaggedBatch("", ("",), none, none, {}, impressions_of(torch.tensor([0, n]), none.expand(n), columns, torch.from_numpy(labels)))


def impressions_of(offsets: Tensor, time_ms: Tensor, columns: dict[str, Tensor], labels: Tensor) -> Impressions:
    n = len(labels)
    return Impressions(
        offsets, time_ms, columns, {}, {TASK: labels}, torch.ones(n), torch.zeros(n, dtype=torch.int64), torch.zeros(n, dtype=torch.bool)
    )


def history_batch(users: int, impressions: int, events: int, seed: int = 7) -> JaggedBatch:
    """Users with so many events an hour apart, and so many impressions a minute apart after them."""
    random = np.random.default_rng(seed)
    known = torch.arange(events).repeat(users) * HOUR_MS
    ads = torch.from_numpy(drawn_ids(random, users * events, [HISTORY_SIZES["ad"]])[:, 0])
    rows = users * impressions
    ids = torch.from_numpy(drawn_ids(random, rows, list(HISTORY_SIZES.values())))
    ids[:, 0] = torch.arange(users).repeat_interleave(impressions)
    columns = {name: ids[:, place].contiguous() for place, name in enumerate(HISTORY_SIZES)}
    shown = events * HOUR_MS + torch.arange(impressions).repeat(users) * 60_000
    nobody = torch.zeros(users, dtype=torch.int64)
    return JaggedBatch(
        "",
        tuple(map(str, range(users))),
        nobody,
        nobody + 1000 * HOUR_MS,
        {STREAM: SourceTokens(offsets_of(torch.full((users,), events)), known, known, {"ad": ads}, {})},
        impressions_of(
            offsets_of(torch.full((users,), impressions)), shown, columns, torch.from_numpy(random.integers(0, 2, rows)).float()
        ),
    )


@dataclass
class Case:
    """A network, and its batches in memory. A training continues where the one before ended."""

    network: RankingNetwork
    batches: list[JaggedBatch]

    def __post_init__(self) -> None:
        self.optimizers = Optimizers(self.network.parameter_groups(), Plan(epochs=1, learning_rate=1e-3, seed=7))
        widest = max(module.in_features for module in self.network.modules() if isinstance(module, nn.Linear))
        self.ones = torch.ones(widest * max(len(batch.impressions.time_ms) for batch in self.batches if batch.impressions is not None))

    def logits(self) -> np.ndarray:
        """(n,) of the first batch."""
        with torch.inference_mode():
            return self.network(self.batches[0])[:, 0].numpy()

    def train(self) -> None:
        for batch in self.batches:
            self.optimizers.step(self.network.losses(batch))

    def products(self, product: Callable[..., Tensor]) -> None:
        """The matrix products of the linear layers alone, which no method with these layers can do without."""
        layers = [module for module in self.network.modules() if isinstance(module, nn.Linear)]
        with torch.inference_mode():
            for batch in self.batches:
                assert batch.impressions is not None
                for layer in layers:
                    x = self.ones[: len(batch.impressions.time_ms) * layer.in_features].view(-1, layer.in_features)
                    product(x, layer.weight, layer.bias)

    def score(self) -> float:
        with torch.inference_mode():
            return sum(float(self.network(batch).sum()) for batch in self.batches)


def network_of(spec: RankingSpec) -> RankingNetwork:
    """The same weights each time. Biases of the cross layers are 0, where a peer's formula is another one (peers/rechub.py)."""
    torch.manual_seed(7)
    network = RankingNetwork(spec)
    for name, parameter in network.named_parameters():
        if "crosses" in name and name.endswith("bias"):
            torch.nn.init.zeros_(parameter)
    return network


def weights_of(network: RankingNetwork) -> dict[str, np.ndarray]:
    """As the peers read them (peers/torch_models.py)."""
    branch: Any = network.experts[EXPERT]
    tower: Any = network.towers[TASK]
    layers = {"layer": branch.layer, "tower": tower[0], "last": tower[-1]}
    layers |= {f"cross.{place}": cross for place, cross in enumerate(getattr(branch.expert, "crosses", ()))}
    named = {f"{name}.{kind}": getattr(layer, kind) for name, layer in layers.items() for kind in ("weight", "bias")}
    table: Any = network.tables[TABLE]
    return {name: value.detach().numpy() for name, value in {"tables": table.weight, **named}.items()}


def made(case: str, rows: Rows, users: int, impressions: int, events: int) -> Case:
    """The case of a name. Those of a table have the fields of `rows`, each with an equal part of it."""
    kind, _, of = case.partition("_")
    if kind == "history":
        sequences = {} if of == "none" else {"clicked": SequenceConfig(STREAM, "ad", "ad", events)}
        batches = [history_batch(users, impressions, events, seed) for seed in range(HISTORY_BATCHES)]
        spec = spec_of("ipnn", list(HISTORY_SIZES.values()), sequences, list(HISTORY_SIZES))
        return Case(network_of(spec), [one_copy_per_impression(batch, events) for batch in batches] if of == "copied" else batches)
    ids, sizes = rows.ids, list(rows.sizes)
    if kind == "table":
        sizes = [int(of) // len(sizes)] * len(sizes)
        ids = drawn_ids(np.random.default_rng(7), len(ids), [SMALLEST_TABLE // len(sizes)] * len(sizes)) * (int(of) // SMALLEST_TABLE)
    spec = spec_of("dcn_v2" if kind == "table" else case, sizes)
    return Case(network_of(spec), [batch_of(list(spec.fields), ids[cut], rows.labels[cut]) for cut in rows.cuts()])


if __name__ == "__main__":
    torch.set_num_threads(1)
    rows, (users, impressions, events) = Rows.read(Path(sys.argv[1])), map(int, sys.argv[2:5])
    cases = {case: made(case, rows, users, impressions, events) for case in sys.argv[5:]}
    answer(
        {
            "logits": lambda case: cases[case].logits(),
            "train": lambda case: cases[case].train(),
            "score": lambda case: cases[case].score(),
            "products": lambda case: cases[case].products(linear),
            "torch_products": lambda case: cases[case].products(F.linear),
        }
    )
