"""How the ranking model is trained: its encodings are fitted on the training split, then the one loop, then calibration.

Enters: batches of users with their impressions, a `RankingSpec` whose encodings are not fitted yet, a vocabulary. Leaves: the network with
the weights of its best epoch, calibrated on the validation split, which no step has learnt from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from ..batches.epochs import Batches
from ..batches.vocabulary import Vocabulary
from ..config import ALTERNATING, RankingConfig
from ..config.section import as_dict
from ..errors import DataError
from ..ranking.encodings import NumeralSystems
from ..ranking.encodings.given import Given, Moments
from ..ranking.encodings.standardized import Standardized
from ..ranking.interactions import value_of
from ..ranking.losses import LOSSES, ZeroInflatedLognormal, value_loss
from ..ranking.network import RankingNetwork
from ..ranking.spec import GIVEN, STANDARDIZED, RankingSpec
from ..ranking.upstream import with_rows
from .evaluation import Evaluation
from .loop import EpochBatches, Observer, fit
from .plan import Plan, warmup_cosine
from .ranking_repeats import ReweighedRepeats
from .ranking_split import Alternating, TrainingSplit, split_of
from .values import ValueEvaluation, ValueMoments, require_values

FITTED: dict[str, Callable[..., NumeralSystems | Standardized]] = {
    "numeral_systems": NumeralSystems.fitted,
    STANDARDIZED: Standardized.fitted,
}
# Of the deviation of the logs of all values, what that of one impression is at most: their mean square is not above it.
WIDEST = 1.5
MOST_SCENARIOS = 100  # that may have towers of their own


@dataclass
class TrainedRanking:
    """A ranking model with the weights of its best epoch, calibrated."""

    network: RankingNetwork
    best_epoch: int
    steps: int
    curves: list[dict[str, float]]  # one per epoch: train.<task>, validation.<task>, gradient.<task>.negatives
    validation: Evaluation  # of the best epoch's weights

    def metrics(self) -> dict[str, float | None]:
        """Of the calibrated probabilities and expected values of the validation split."""
        found: dict[str, float | None] = {f"loss.{task}": loss for task, loss in self.validation.losses.items()}
        found |= self.validation.metrics(probabilities(self.network, self.validation))
        for task, its in self.validation.values.items():
            found |= {f"{task}.{name}": value for name, value in its.metrics(self.factor(task)).items()}
        return found

    def factor(self, task: str) -> float:
        """By what the expected values of a value task were multiplied after training."""
        return float(self.network.calibration[self.network.spec.tasks.index(task), 0])


def fitted_spec(spec: RankingSpec, loader: Batches, vocabulary: Vocabulary) -> RankingSpec:
    """The spec with every encoding fitted on the training split: rows of ids, ranges and steps of numbers, means of embeddings.

    loader: batches as this spec and vocabulary read them. Reads the training split once, 8 bytes per number. Raises DataError, naming the
    field, on a number that is constant or always missing.
    """
    numeric = [name for name, one in spec.fields.items() if one.encoding in FITTED]
    given = {name: Moments() for name, one in spec.fields.items() if one.encoding in ("hash_id", GIVEN)}
    values: dict[str, list[np.ndarray]] = {name: [] for name in numeric}
    for batch in TrainingSplit(loader).in_order() if numeric or given else ():
        for name in numeric:
            values[name].append(value_of(spec, batch, name).double().numpy())
        for name, moments in given.items():
            moments.add(value_of(spec, batch, name))
    for name, moments in given.items():
        if not moments.count:
            raise DataError(
                f"ranking.fields.{name}: no impression of the training split has an embedding that was known before it: leave the field "
                "out, or run the chain over earlier days first"
            )
    fields = dict(spec.fields)
    for name, one in spec.fields.items():
        if one.encoding == "id":
            fields[name] = replace(one, settings={"size": vocabulary.size(spec.space_of(name))})
        elif one.encoding == GIVEN:
            fields[name] = replace(one, settings=Given.fitted(given[name], one.width, one.adapter).settings())
        elif name in values:
            try:
                fitted = FITTED[one.encoding](np.concatenate(values[name]), **one.settings)
            except DataError as error:
                raise DataError(f"ranking.fields.{name}: {error}") from None
            fields[name] = replace(one, settings=as_dict(fitted))
    made = with_rows(replace(spec, fields=fields), vocabulary)
    if made.scenarios > MOST_SCENARIOS:
        raise DataError(
            f"ranking.scenario: the field '{spec.scenario}' has {made.scenarios:,} ids in the training split; allowed: at most "
            f"{MOST_SCENARIOS}, each with towers of its own: raise ranking.min_count, or choose a field with fewer"
        )
    return made


def new_network(spec: RankingSpec, loader: Batches, seed: int) -> RankingNetwork:
    """A network before training that predicts each task's base rate, and of a value task the mean and deviation of its logs.

    Raises as start_at_base_rates does.
    """
    network = drawn_network(spec, seed)
    start_at_base_rates(network, loader, spec.tasks)
    return network


def start_at_base_rates(network: RankingNetwork, loader: Batches, tasks: Sequence[str]) -> None:
    """Let the network predict of these tasks the base rates in the training split, and the mean and deviation of the logs of values.

    Raises DataError on a task with one class there, and on labels of a value task that are below 0 or all 0.
    """
    positive, whole = np.zeros(len(tasks)), 0.0
    values = {task: ValueMoments(task) for task in network.spec.values if task in tasks}
    for batch in TrainingSplit(loader).in_order():
        shown = batch.impressions
        assert shown is not None
        weight = shown.weight.double()
        positive += (shown.labels_of(tasks).double() * weight[:, None]).sum(0).numpy()
        whole += float(weight.sum())
        for task, moments in values.items():
            moments.add(shown.labels[task], shown.weight)
    rates, logs = dict[str, float](), dict[str, tuple[float, float]]()
    for task, count in zip(tasks, positive, strict=True):
        if task in values:
            rates[task], mean, deviation = values[task].start()
            logs[task] = mean, deviation
            continue
        if not 0 < count < whole:
            what = "no response" if count <= 0 else "a response to every impression"
            raise DataError(f"the task '{task}' has {what} in the training split: leave it out of ranking.tasks, or give more data")
        rates[task] = float(count / whole)
    network.start_at(rates, logs)
    largest = {task: moments.largest for task, moments in values.items()}
    network.bound(largest, {task: WIDEST * deviation for task, (_, deviation) in logs.items()})


def drawn_network(spec: RankingSpec, seed: int) -> RankingNetwork:
    """The network with the weights that spec and seed alone decide: where a training begins, but for the base rates."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return RankingNetwork(spec)


def plan_of(config: RankingConfig, steps: int) -> Plan:
    """The plan of a training of so many steps per epoch."""
    return Plan(
        epochs=config.epochs,
        learning_rate=config.learning_rate,
        seed=config.seed,
        weight_decay=config.weight_decay,
        learning_rate_shares={"tables": config.table_learning_rate_share},
        schedule=warmup_cosine(config.epochs * steps),
        clip_norm=config.clip_norm,
        patience=config.patience,
        rate_setting="ranking.learning_rate",
        clip_setting="ranking.clip_norm",
        needed="no user has an impression before the validation time (with ranking.warm_start: one that is new to the model)",
    )


def train(
    network: RankingNetwork, loader: Batches, config: RankingConfig, checkpoint: Path | None = None, observe: Observer | None = None
) -> TrainedRanking:
    """Train until the epochs are done or validation has not improved for `patience` of them, then calibrate on the validation split.

    Raises TrainingError on a loss or gradient that is not finite, DataError when a split has no impression.
    """

    served = network.spec.served().tasks

    def end_epoch() -> dict[str, float]:
        losses = evaluate(network, loader).losses
        return {task: losses[task] for task in served}  # the best epoch is not chosen by auxiliary tasks

    network.loss = LOSSES[config.loss.kind](config.loss.alpha, config.loss.pairs)
    network.value_loss = value_loss(config.loss.kind, config.loss.alpha, config.loss.pairs)
    split: EpochBatches = TrainingSplit(loader)
    if config.repeats.count:
        split = ReweighedRepeats.fitted(network.spec, loader, config.repeats)
    if network.spec.upstream and network.spec.upstream.train == ALTERNATING:
        split = Alternating(split, network)
    weights = {task: config.auxiliary_weight for task in network.spec.tasks if task not in served}
    plan = replace(plan_of(config, loader.steps), loss_weights=weights)
    fitted = fit(network, split, plan, end_epoch, checkpoint, observe, measure=lambda: network.gradients)
    evaluation = evaluate(network, loader)
    for column, pair in evaluation.calibrations().items():
        network.calibration[network.binary[column]] = torch.tensor(pair)
    for task, its in evaluation.values.items():
        network.calibration[network.spec.tasks.index(task), 0] = its.factor()
    return TrainedRanking(network.eval(), fitted.best_epoch, fitted.steps, fitted.curves, evaluation)


@torch.no_grad()
def evaluate(network: RankingNetwork, loader: Batches) -> Evaluation:
    """Logits, expected values and losses of the validation split. Raises DataError where it has no impression."""
    network.eval()
    tasks, parts = network.spec.tasks, []
    for whole in loader.in_order():
        batch = split_of(whole, validation=True)
        shown = batch.impressions
        assert shown is not None
        if not len(shown.time_ms):
            continue
        users = np.array(batch.user_ids, object)[shown.users().numpy()]
        for task in network.spec.values:
            require_values(task, shown.labels[task], "validation")
        labels, weights = shown.labels_of(tasks).double().numpy(), shown.weight.double().numpy()
        parts.append((network(batch).double().numpy(), labels, weights, users, np.full(len(users), batch.segment, object)))
    if not parts or not sum(part[2].sum() for part in parts):
        raise DataError("the validation split has no impression: raise labels.validation_days")
    given, labels, weights, users, segments = (np.concatenate(part) for part in zip(*parts, strict=True))
    outputs, binary = torch.from_numpy(given), network.binary
    values = {task: _value_evaluation(network, task, outputs, labels, weights) for task in network.spec.values}
    logits = network.logits(outputs).numpy()
    evaluation = Evaluation({}, network.spec.binary, logits[:, binary], labels[:, binary], weights, users, segments, values)
    found = {task: evaluation.cross_entropy(column) for column, task in enumerate(network.spec.binary)}
    found |= {task: its.loss for task, its in values.items()}
    evaluation.losses.update({task: found[task] for task in tasks})
    return evaluation


def _value_evaluation(
    network: RankingNetwork, task: str, outputs: torch.Tensor, labels: np.ndarray, weights: np.ndarray
) -> ValueEvaluation:
    label = labels[:, network.spec.tasks.index(task)]
    loss = ZeroInflatedLognormal()(outputs[:, network.outputs[task]], torch.from_numpy(label), torch.from_numpy(weights))
    return ValueEvaluation(float(loss), network.expected(outputs, task, calibrated=False).numpy(), label, weights)


def probabilities(network: RankingNetwork, evaluation: Evaluation) -> np.ndarray:
    """(M, binary tasks) float64 calibrated probabilities of what was evaluated."""
    result: np.ndarray = network.probabilities(torch.from_numpy(evaluation.logits)).numpy()
    return result
