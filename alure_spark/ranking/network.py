"""Heterogeneous experts over several embedding tables (Pan et al., sections 2 and 4.2, figure 1).

what experts make of impressions (interactions.py) -> per tower: a gate's weights over the experts -> hidden layers -> a logit for each of
its tasks; for a task whose label is a number also the mean and deviation of its log (values.py). The experts may be those of another
ranking model as well (upstream.py).

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

from ..batches.batch import JaggedBatch
from ..config import COPIED, FROZEN
from ..model.named import Modules
from ..model.trainable import ParameterGroup
from .interactions import Interactions
from .linear import LinearPart
from .losses import CrossEntropy, Loss, ValueLoss, ZeroInflatedLognormal
from .mixtures import gates, mixtures
from .scenario_towers import ScenarioTowers, tower
from .spec import RankingSpec, of_upstream
from .values import expected, raw_of

UNBOUNDED = torch.finfo(torch.float32).max  # an infinite weight is not saved
GRADIENT = "gradient."  # begins the names of what is measured of gradients


class RankingNetwork(Interactions):
    """What tasks expect of impressions: logits, and distributions of values."""

    calibration: Tensor  # (tasks, 2): scale and offset of a logit; of a value task the factor of its expected value, and 0
    # Of value tasks, not there without one: (values,) the largest value that training saw; (outputs,) what no output is above.
    largest: Tensor
    most: Tensor
    # gradient.<task>.negatives -> () the norm of what the last step's losses said to the logits of impressions without a response.
    gradients: dict[str, Tensor]

    def __init__(self, spec: RankingSpec, loss: Loss | None = None) -> None:
        super().__init__(spec)
        self.gradients = {}
        self.loss = loss or CrossEntropy()  # what training minimizes; it is not saved
        self.value_loss: ValueLoss = ZeroInflatedLognormal()
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
        self.upstream = Interactions(spec.upstream.model) if spec.upstream else None
        for parameter in self.frozen():
            parameter.requires_grad_(False)
        # Probabilities are made honest after training: sigmoid(scale * logit + offset), one pair per task.
        self.register_buffer("calibration", torch.tensor([[1.0, 0.0]] * len(spec.tasks)))
        if spec.values:
            self.register_buffer("largest", torch.full((len(spec.values),), UNBOUNDED))
            self.register_buffer("most", torch.full((width,), UNBOUNDED))

    def forward(self, batch: JaggedBatch) -> Tensor:
        """(M, outputs) of the batch's impressions: a logit per task, of a value task OUTPUTS numbers, in the order of the tasks.

        Raises DataError on a field or stream that the batch lacks.
        """
        codes, numbers, vectors, branches = self.meet(batch)
        if self.upstream is not None:
            theirs = self.upstream.meet(batch)
            vectors = vectors | {of_upstream(name): its for name, its in theirs.vectors.items()}
            branches = branches | {of_upstream(name): its for name, its in theirs.branches.items()}
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

    def copied(self) -> list[nn.Parameter]:
        """The weights that are another model's in the beginning: of its experts and, as the spec has it, of its tables."""
        if self.upstream is None or self.spec.upstream is None:
            return []
        own = set() if self.spec.upstream.tables == COPIED else {id(parameter) for parameter in self.upstream.tables.parameters()}
        return [parameter for parameter in self.upstream.parameters() if id(parameter) not in own]

    def frozen(self) -> list[nn.Parameter]:
        """The weights that no training changes."""
        return self.copied() if self.spec.upstream and self.spec.upstream.train == FROZEN else []

    def parameter_groups(self) -> list[ParameterGroup]:
        """`tables`: sparse rows, which do not decay; `network`: all else; without what is frozen."""
        tables = [*self.tables.parameters(), *(self.upstream.tables.parameters() if self.upstream is not None else ())]
        if self.linear is not None:
            tables.append(self.linear.rows.weight)
        frozen, sparse = ({id(parameter) for parameter in given} for given in (self.frozen(), tables))
        learning = [parameter for parameter in self.parameters() if id(parameter) not in frozen]
        return [
            ParameterGroup("tables", [one for one in tables if id(one) not in frozen], decays=False, optimizer=torch.optim.SparseAdam),
            ParameterGroup("network", [one for one in learning if id(one) not in sparse]),
        ]

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
