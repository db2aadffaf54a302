"""Heterogeneous experts over several embedding tables (Pan et al., sections 2 and 4.2, figure 1).

values -> codes -> vectors of every table -> experts, each with the histories and the fields beside it -> a layer with ReLU
-> per tower: a gate's weights over the experts -> hidden layers -> a logit for each of its tasks; for a task whose label is a number
also the mean and deviation of its log (values.py).

Which tables and experts there are, and which of them a tower reads, is the plan of a multi-task scheme (schemes/, section 5).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..batches.batch import Impressions, JaggedBatch, SourceTokens
from ..config import OF_SAME, ExpertConfig
from ..errors import DataError, nearest
from ..model.linear import Linear
from ..model.named import Modules
from ..model.trainable import ParameterGroup
from .adapters import FieldGates, Projections, with_flag
from .encodings.behaviours import Behaviours, read_behaviours
from .encodings.temporal_interest import TemporalInterest
from .experts import EXPERTS, Expert
from .history_counts import history_count
from .linear import LinearPart
from .losses import CrossEntropy, Loss, ValueLoss, ZeroInflatedLognormal
from .mixtures import gates, mixtures
from .scenario_towers import ScenarioTowers, tower
from .spec import RankingSpec
from .tables import Codes, EmbeddingTable, Lookup
from .values import expected, raw_of

UNBOUNDED = torch.finfo(torch.float32).max  # an infinite weight is not saved
GRADIENT = "gradient."  # begins the names of what is measured of gradients


class RankingNetwork(nn.Module):
    """What tasks expect of impressions: logits, and distributions of values."""

    calibration: Tensor  # (tasks, 2): scale and offset of a logit; of a value task the factor of its expected value, and 0
    # Of value tasks, not there without one: (values,) the largest value that training saw; (outputs,) what no output is above.
    largest: Tensor
    most: Tensor
    # gradient.<task>.negatives -> () the norm of what the last step's losses said to the logits of impressions without a response.
    gradients: dict[str, Tensor]

    def __init__(self, spec: RankingSpec, loss: Loss | None = None) -> None:
        super().__init__()
        self.spec, self.plan, self.gradients = spec, spec.plan(), {}
        self.loss = loss or CrossEntropy()  # what training minimizes; it is not saved
        self.value_loss: ValueLoss = ZeroInflatedLognormal()
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
        self.gates = gates(self.plan)
        self.members = spec.tasks_of_towers()
        self.outputs = spec.outputs()
        width = max(one.stop for one in self.outputs.values())
        self.towers = Modules({name: tower(spec, spec.outputs(tasks)) for name, tasks in self.members.items()})
        by_tower = spec.outputs([task for tasks in self.members.values() for task in tasks])
        self.columns = [column for task in spec.tasks for column in range(width)[by_tower[task]]]  # of the towers' outputs, side by side
        self.binary = [spec.tasks.index(task) for task in spec.binary]
        self.linear = LinearPart(spec, self.lookup.total, width) if spec.linear else None
        self.scenarios = ScenarioTowers(spec) if spec.scenario else None
        self.standards = {name: spec.fields[name].standard for name in spec.dense}
        # Probabilities are made honest after training: sigmoid(scale * logit + offset), one pair per task.
        self.register_buffer("calibration", torch.tensor([[1.0, 0.0]] * len(spec.tasks)))
        if spec.values:
            self.register_buffer("largest", torch.full((len(spec.values),), UNBOUNDED))
            self.register_buffer("most", torch.full((width,), UNBOUNDED))

    def forward(self, batch: JaggedBatch) -> Tensor:
        """(M, outputs) of the batch's impressions: a logit per task, of a value task OUTPUTS numbers, in the order of the tasks.

        Raises DataError on a field or stream that the batch lacks.
        """
        codes, numbers = self.codes(batch), self._numbers(batch)
        vectors = {name: self._vectors(name, codes, numbers) for name in self.plan.tables}
        histories = {name: self._histories(name, batch, vectors[name]) for name in self.plan.tables}
        read = {name: its * self.gating[name](numbers) for name, its in vectors.items()} if self.gating else vectors
        raw, branches = [numbers[name] for name in self.spec.raw], {}
        for name, expert in self.plan.experts.items():
            met, beside = self._split(read[expert.table])
            branches[name] = self.experts[name](met, [*histories[expert.table], *beside, *raw])
        mixed = mixtures(self.plan, self.gates, branches, vectors)
        together = torch.cat([self.towers[name](its) for name, its in mixed.items()], dim=1)
        if self.scenarios is not None:
            together = self.scenarios(self.value(batch, self.spec.scenario), branches, vectors, together)
        if self.columns != sorted(self.columns):
            together = together[:, self.columns]
        together = together if self.linear is None else together + self.linear(codes, numbers)
        return torch.minimum(together, self.most) if self.spec.values else together

    def with_hidden(self, batch: JaggedBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """(what forward gives, task -> (M, width) what the last layer of its tower reads), in one pass. Raises as forward.

        Of scenarios it is the tower of all.
        """
        hidden: dict[str, Tensor] = {}

        def keeping(name: str) -> RemovableHandle:
            last = cast(nn.Sequential, self.towers[name])[-1]
            return last.register_forward_pre_hook(lambda _, given: hidden.update(dict.fromkeys(self.members[name], given[0])))

        hooks = [keeping(name) for name in self.members]
        try:
            return self(batch), hidden
        finally:
            for hook in hooks:
                hook.remove()

    def logits(self, outputs: Tensor) -> Tensor:
        """(M, tasks) of what forward gives: of a value task that of a value above 0."""
        return outputs if not self.spec.values else outputs[:, [one.start for one in self.outputs.values()]]

    def calibrated(self, logits: Tensor) -> Tensor:
        """(M, binary tasks) logits of the calibrated probabilities; logits (M, binary tasks) are the columns `binary` of `logits`."""
        pairs = self.calibration[self.binary]
        return logits * pairs[:, 0] + pairs[:, 1]

    def probabilities(self, logits: Tensor) -> Tensor:
        """(M, binary tasks) calibrated probabilities, of logits (M, binary tasks)."""
        return torch.sigmoid(self.calibrated(logits))

    def expected(self, outputs: Tensor, task: str, calibrated: bool = True) -> Tensor:
        """(M,) expected values of a value task, of what forward gives."""
        factor = self.calibration[self.spec.tasks.index(task), 0] if calibrated else 1.0
        return factor * expected(outputs[:, self.outputs[task]], self.largest[self.spec.values.index(task)])

    def predictions(self, outputs: Tensor) -> Tensor:
        """(M, tasks) of what forward gives: calibrated probabilities, and calibrated expected values of value tasks."""
        p = dict(zip(self.spec.binary, self.probabilities(self.logits(outputs)[:, self.binary]).unbind(1), strict=True))
        return torch.stack([p[task] if task in p else self.expected(outputs, task) for task in self.spec.tasks], dim=1)

    def codes(self, batch: JaggedBatch) -> Codes:
        """The rows of all coded fields."""
        return self.lookup.codes([encoding.codes(self.value(batch, name)) for name, encoding in self.encodings.items()])

    def numbers(self, batch: JaggedBatch, name: str) -> Tensor:
        """(M, its width) of a dense field, NaN where missing."""
        return self.standards[name].standardized(self.value(batch, name))

    def value(self, batch: JaggedBatch, name: str) -> Tensor:
        """What the batch says of a field. Raises DataError where it says nothing."""
        return value_of(self.spec, batch, name)

    def losses(self, batch: JaggedBatch) -> dict[str, Tensor]:
        """Task -> () what `loss`, of a value task `value_loss`, says of it, nats, weighted as the impressions are."""
        self.gradients = {}
        shown, tasks = batch.impressions, self.spec.tasks
        if shown is None or not len(shown.time_ms):
            return {}
        outputs, labels, weights = self(batch), shown.labels_of(tasks), shown.weights_of(tasks)
        if outputs.requires_grad:
            outputs.register_hook(partial(self._note_gradient, labels))
        if not self.spec.values:
            return dict(zip(tasks, self.loss(outputs, labels, weights), strict=True))
        weights, found = weights.expand_as(labels), {}
        if self.binary:
            means = self.loss(self.logits(outputs)[:, self.binary], labels[:, self.binary], weights[:, self.binary])
            found = dict(zip(self.spec.binary, means, strict=True))
        for task in self.spec.values:
            column = tasks.index(task)
            found[task] = self.value_loss(outputs[:, self.outputs[task]], labels[:, column], weights[:, column])
        return {task: found[task] for task in tasks}

    def _note_gradient(self, labels: Tensor, gradient: Tensor) -> None:
        norms = torch.linalg.vector_norm(torch.where(labels > 0, 0, self.logits(gradient)), dim=0)
        self.gradients = {f"{GRADIENT}{task}.negatives": norm for task, norm in zip(self.spec.tasks, norms, strict=True)}

    def parameter_groups(self) -> list[ParameterGroup]:
        """`tables`: sparse rows, which do not decay; `network`: all else."""
        tables = list(self.tables.parameters())
        if self.linear is not None:
            tables.append(self.linear.rows.weight)
        mine = {id(parameter) for parameter in tables}
        rest = [parameter for parameter in self.parameters() if id(parameter) not in mine]
        return [ParameterGroup("tables", tables, decays=False, optimizer=torch.optim.SparseAdam), ParameterGroup("network", rest)]

    def start_at(self, rates: Mapping[str, float], logs: Mapping[str, tuple[float, float]] = {}) -> None:
        """Make the first prediction of each task about its base rate. Weights stay, so that what lies below learns from the first step.

        logs: value task -> mean and deviation of the logs of its values above 0.
        """
        every = [self.towers, *(self.scenarios.towers.values() if self.scenarios is not None else ())]
        with torch.no_grad():
            for name, tasks in self.members.items():
                for last in (cast(nn.Linear, cast(nn.Sequential, cast(Modules, towers)[name])[-1]) for towers in every):
                    for task, its in self.spec.outputs(tasks).items():
                        if task in rates:
                            last.bias[its.start] = math.log(rates[task] / (1 - rates[task]))
                        if task in logs:
                            mean, deviation = logs[task]
                            last.bias[its.start + 1 : its.stop] = torch.tensor([mean, raw_of(deviation)])

    def bound(self, largest: Mapping[str, float], deviations: Mapping[str, float]) -> None:
        """Value task -> what its expected value, and the deviation of its log, is never above."""
        for place, task in enumerate(self.spec.values):
            if task in largest:
                self.largest[place] = largest[task]
                self.most[self.outputs[task].stop - 1] = raw_of(deviations[task])

    def parameter_counts(self) -> dict[str, int]:
        """What is learnt, by part: tables and network."""
        return {group.name: sum(parameter.numel() for parameter in group.parameters) for group in self.parameter_groups()}

    def table_vectors(self, batch: JaggedBatch) -> dict[str, Tensor]:
        """Table -> (M, fields, dimension) of the batch's impressions, in the spec's order. Raises DataError on a field that it lacks."""
        codes, numbers = self.codes(batch), self._numbers(batch)
        return {name: self._vectors(name, codes, numbers) for name in self.plan.tables}

    def _numbers(self, batch: JaggedBatch) -> dict[str, Tensor]:
        """Dense field -> (M, its width + 1), with whether it is missing."""
        dtype, fields = self.calibration.dtype, self.spec.fields
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
