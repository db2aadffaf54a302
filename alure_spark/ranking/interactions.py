"""From what is known of impressions to what experts make of it: the part of the ranking model below gates and towers.

values -> codes -> vectors of every table -> experts, each with the histories and the fields beside it -> a layer with ReLU. The ranking
model (network.py) has one such part of its own, and may have that of another ranking model beside it (upstream.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from ..batches.batch import Impressions, JaggedBatch, SourceTokens
from ..config import OF_SAME, ExpertConfig
from ..errors import DataError, nearest
from ..model.linear import Linear
from ..model.named import Modules
from .adapters import FieldGates, Projections, with_flag
from .encodings.behaviours import Behaviours, read_behaviours
from .encodings.temporal_interest import TemporalInterest
from .experts import EXPERTS, Expert
from .history_counts import history_count
from .spec import RankingSpec
from .tables import Codes, EmbeddingTable, Lookup


class Met(NamedTuple):
    """What is made of M impressions."""

    codes: Codes
    numbers: dict[str, Tensor]  # dense field -> (M, its width + 1)
    vectors: dict[str, Tensor]  # table -> (M, fields, dimension)
    branches: dict[str, Tensor]  # expert -> (M, hidden)


class Interactions(nn.Module):
    """Encodings, embedding tables, histories and experts."""

    def __init__(self, spec: RankingSpec) -> None:
        super().__init__()
        self.spec, self.plan = spec, spec.plan()
        self.encodings = {name: spec.fields[name].made() for name in spec.coded}
        self.lookup = Lookup([encoding.rows for encoding in self.encodings.values()])
        tables = self.plan.tables
        self.tables = Modules({name: EmbeddingTable(self.lookup.total, size, spec.deviation) for name, size in tables.items()})
        self.given = Modules({name: Projections(spec, size) for name, size in tables.items()})
        self.gating = Modules({name: FieldGates(spec, size) for name, size in tables.items()} if spec.gating else {})
        self.histories = Modules({name: _Histories(spec, size) for name, size in tables.items()})
        order = {name: place for place, name in enumerate(spec.order)}
        self.met, self.beside = ([order[name] for name in names] for names in (spec.interacting, spec.beside))
        self.experts = Modules({name: _Branch(spec, own, tables[own.table]) for name, own in self.plan.experts.items()})
        self.standards = {name: spec.fields[name].standard for name in spec.dense}

    def meet(self, batch: JaggedBatch) -> Met:
        """What the experts make of the batch's impressions. Raises DataError on a field or stream that the batch lacks."""
        codes, numbers = self.codes(batch), self._numbers(batch)
        vectors = {name: self._vectors(name, codes, numbers) for name in self.plan.tables}
        histories = {name: self._histories(name, batch, vectors[name]) for name in self.plan.tables}
        read = {name: its * self.gating[name](numbers) for name, its in vectors.items()} if self.gating else vectors
        raw, branches = [numbers[name] for name in self.spec.raw], {}
        for name, expert in self.plan.experts.items():
            met, beside = self._split(read[expert.table])
            branches[name] = self.experts[name](met, [*histories[expert.table], *beside, *raw])
        return Met(codes, numbers, vectors, branches)

    def codes(self, batch: JaggedBatch) -> Codes:
        """The rows of all coded fields."""
        return self.lookup.codes([encoding.codes(self.value(batch, name)) for name, encoding in self.encodings.items()])

    def numbers(self, batch: JaggedBatch, name: str) -> Tensor:
        """(M, its width) of a dense field, NaN where missing."""
        return self.standards[name].standardized(self.value(batch, name))

    def value(self, batch: JaggedBatch, name: str) -> Tensor:
        """What the batch says of a field. Raises DataError where it says nothing."""
        return value_of(self.spec, batch, name)

    def table_vectors(self, batch: JaggedBatch) -> dict[str, Tensor]:
        """Table -> (M, fields, dimension) of the batch's impressions, in the spec's order. Raises DataError on a field that it lacks."""
        codes, numbers = self.codes(batch), self._numbers(batch)
        return {name: self._vectors(name, codes, numbers) for name in self.plan.tables}

    def _numbers(self, batch: JaggedBatch) -> dict[str, Tensor]:
        """Dense field -> (M, its width + 1), with whether it is missing."""
        dtype, fields = next(self.parameters()).dtype, self.spec.fields
        return {name: with_flag(self.numbers(batch, name), fields[name].width, name).to(dtype) for name in self.spec.dense}

    def _vectors(self, table: str, codes: Codes, numbers: Mapping[str, Tensor]) -> Tensor:
        """(M, fields, dimension), in the spec's order."""
        found = self.tables[table](codes)
        return torch.cat([found, self.given[table](numbers)], dim=1) if self.spec.projected else found

    def _split(self, vectors: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The vectors of the fields that interact (M, fields, dimension), and those beside them (M, numbers), if any."""
        if not self.beside:  # all interact: nothing has to be copied, nor its gradient
            return vectors, []
        return vectors[:, self.met], [vectors[:, self.beside].flatten(1)]

    def _histories(self, table: str, batch: JaggedBatch, vectors: Tensor) -> list[Tensor]:
        shown = _shown(batch)
        found = []
        for name, sequence in self.spec.sequences.items():
            tokens = self._tokens(name, batch)
            of_tokens = self._rows(table, sequence.target, tokens.rows[sequence.category])
            target = vectors[:, self.spec.coded.index(sequence.target)]
            found.append(self.interest(table, name)(tokens, of_tokens, shown.users(), shown.time_ms, target))
        return found

    def _tokens(self, name: str, batch: JaggedBatch) -> SourceTokens:
        """Those of a sequence's stream. Raises DataError where the batch lacks them, or their categories."""
        sequence = self.spec.sequences[name]
        tokens = batch.sources.get(sequence.source)
        if tokens is None or sequence.category not in tokens.rows:
            what = f"'{sequence.category}' of the stream '{sequence.source}'"
            raise DataError(f"ranking.sequences.{name} reads {what}, which the rows lack")
        return tokens

    def _rows(self, table: str, name: str, rows: Tensor) -> Tensor:
        """(n, dimension): rows (n,) int64 of a field in a table."""
        return cast(EmbeddingTable, self.tables[table]).of(rows + self.lookup.begins[self.spec.coded.index(name)])

    def interest(self, table: str, sequence: str) -> TemporalInterest:
        """What reads the sequence in the vectors of the table."""
        return cast(TemporalInterest, cast(_Histories, self.histories[table]).of[sequence])

    def behaviours(self, batch: JaggedBatch, name: str) -> Behaviours:
        """Those from which a sequence is read, of all impressions."""
        shown = _shown(batch)
        return read_behaviours(self._tokens(name, batch), shown.users(), shown.time_ms, self.spec.sequences[name].events)

    def attention(self, batch: JaggedBatch, name: str, read: Behaviours) -> dict[str, Tensor]:
        """Table -> (n,) the weights of the n behaviours of a sequence, as TIM has them inside forward."""
        sequence, tokens = self.spec.sequences[name], self._tokens(name, batch)
        rows = tokens.rows[sequence.category], self.value(batch, sequence.target)
        weights = {}
        for table in self.plan.tables:
            vectors, targets = (self._rows(table, sequence.target, its) for its in rows)
            weights[table] = self.interest(table, name).attention(read, vectors, targets)
        return weights

    def field_rows(self) -> dict[str, dict[str, Tensor]]:
        """Table -> field -> (rows of the field, numbers of the table), as they are."""
        parts = {name: cast(EmbeddingTable, table).weight.detach().split(self.lookup.rows) for name, table in self.tables.items()}
        return {name: dict(zip(self.spec.coded, its, strict=True)) for name, its in parts.items()}


class _Branch(nn.Module):
    """An expert, and the layer that is not linear: without it several tables would be one (section 4.2)."""

    def __init__(self, spec: RankingSpec, own: ExpertConfig, dimension: int) -> None:
        super().__init__()
        self.expert: Expert = EXPERTS[own.kind](spec.meeting(), dimension, **own.options)
        self.layer = Linear(self.expert.width + dimension * (len(spec.sequences) + len(spec.beside)) + spec.raw_width, spec.hidden)
        self.dropout = nn.Dropout(spec.dropout)

    def forward(self, vectors: Tensor, beside: list[Tensor]) -> Tensor:
        made = self.expert(vectors)
        made = torch.cat([made, *beside], dim=1) if beside else made  # of one alone, cat is a copy
        return self.dropout(torch.relu(self.layer(made)))


class _Histories(nn.Module):
    def __init__(self, spec: RankingSpec, dimension: int) -> None:
        super().__init__()
        switches = {name: (one.events, one.position, one.interval) for name, one in spec.sequences.items()}
        self.of = Modules({name: TemporalInterest(dimension, *its, spec.deviation) for name, its in switches.items()})


def _shown(batch: JaggedBatch) -> Impressions:
    if batch.impressions is None:
        raise DataError("the batch has no impressions to be ranked")
    return batch.impressions


def value_of(spec: RankingSpec, batch: JaggedBatch, name: str) -> Tensor:
    """What a batch says of a field: of its impressions, or counted from histories. Raises DataError where it says nothing."""
    shown, one = _shown(batch), spec.fields[name]
    if one.history:
        stream, what, *of = one.history.split(".", 2)
        tokens = batch.sources.get(stream)
        if tokens is None:
            raise DataError(f"ranking.fields.{name} counts the stream '{stream}', which the rows lack")
        counted = of[0] if of else ""
        return history_count(tokens, shown, what, counted, spec.space_of(counted) if what in OF_SAME else "", one.days)
    for part in (shown.rows, shown.numbers, shown.vectors, shown.words):
        if name in part:
            return part[name]
    known = [*shown.rows, *shown.numbers, *shown.vectors, *shown.words]
    raise DataError(f"the impressions lack the field '{name}'{nearest(name, known)}")
