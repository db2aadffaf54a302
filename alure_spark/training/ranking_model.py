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
from ..config import RankingConfig
from ..config.section import as_dict
from ..errors import DataError
from ..ranking.encodings import NumeralSystems
from ..ranking.encodings.given import Given, Moments
from ..ranking.encodings.standardized import Standardized
from ..ranking.losses import LOSSES
from ..ranking.network import RankingNetwork, value_of
from ..ranking.spec import GIVEN, STANDARDIZED, RankingSpec
from .evaluation import Evaluation
from .loop import Observer, fit
from .plan import Plan, warmup_cosine
from .ranking_repeats import ReweighedRepeats
from .ranking_split import TrainingSplit, split_of

FITTED: dict[str, Callable[..., NumeralSystems | Standardized]] = {
    "numeral_systems": NumeralSystems.fitted,
    STANDARDIZED: Standardized.fitted,
}


@dataclass
class TrainedRanking:
    """A ranking model with the weights of its best epoch, calibrated."""

    network: RankingNetwork
    best_epoch: int
    steps: int
    curves: list[dict[str, float]]  # one per epoch: train.<task>, validation.<task>, gradient.<task>.negatives
    validation: Evaluation  # of the best epoch's weights

    def metrics(self) -> dict[str, float | None]:
        """Of the calibrated probabilities of the validation split."""
        losses: dict[str, float | None] = {f"loss.{task}": loss for task, loss in self.validation.losses.items()}
        return losses | self.validation.metrics(probabilities(self.network, self.validation))


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
    return replace(spec, fields=fields)


def new_network(spec: RankingSpec, loader: Batches, seed: int) -> RankingNetwork:
    """A network before training that predicts each task's base rate. Raises DataError on a task with one class in the training split."""
    network = drawn_network(spec, seed)
    start_at_base_rates(network, loader, spec.tasks)
    return network


def start_at_base_rates(network: RankingNetwork, loader: Batches, tasks: Sequence[str]) -> None:
    """Let the network predict the base rates of these tasks in the training split. Raises DataError on a task with one class there."""
    positive, whole = np.zeros(len(tasks)), 0.0
    for batch in TrainingSplit(loader).in_order():
        assert batch.impressions is not None
        weight = batch.impressions.weight.double()
        positive += (batch.impressions.labels_of(tasks).double() * weight[:, None]).sum(0).numpy()
        whole += float(weight.sum())
    for task, count in zip(tasks, positive, strict=True):
        if not 0 < count < whole:
            what = "no response" if count <= 0 else "a response to every impression"
            raise DataError(f"the task '{task}' has {what} in the training split: leave it out of ranking.tasks, or give more data")
    network.start_at({task: float(count / whole) for task, count in zip(tasks, positive, strict=True)})


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
    split = TrainingSplit(loader)
    if config.repeats.count:
        split = ReweighedRepeats.fitted(network.spec, loader, config.repeats)
    weights = {task: config.auxiliary_weight for task in network.spec.tasks if task not in served}
    plan = replace(plan_of(config, loader.steps), loss_weights=weights)
    fitted = fit(network, split, plan, end_epoch, checkpoint, observe, measure=lambda: network.gradients)
    evaluation = evaluate(network, loader)
    for column, pair in evaluation.calibrations().items():
        network.calibration[column] = torch.tensor(pair)
    return TrainedRanking(network.eval(), fitted.best_epoch, fitted.steps, fitted.curves, evaluation)


@torch.no_grad()
def evaluate(network: RankingNetwork, loader: Batches) -> Evaluation:
    """Logits and losses of the validation split. Raises DataError where it has no impression."""
    network.eval()
    tasks, parts = network.spec.tasks, []
    for whole in loader.in_order():
        batch = split_of(whole, validation=True)
        shown = batch.impressions
        assert shown is not None
        if not len(shown.time_ms):
            continue
        users = np.array(batch.user_ids, object)[shown.users().numpy()]
        labels, weights = shown.labels_of(tasks).double().numpy(), shown.weight.double().numpy()
        parts.append((network(batch).double().numpy(), labels, weights, users, np.full(len(users), batch.segment, object)))
    if not parts or not sum(part[2].sum() for part in parts):
        raise DataError("the validation split has no impression: raise labels.validation_days")
    logits, labels, weights, users, segments = (np.concatenate(part) for part in zip(*parts, strict=True))
    evaluation = Evaluation({}, tasks, logits, labels, weights, users, segments)
    evaluation.losses.update({task: evaluation.cross_entropy(column) for column, task in enumerate(tasks)})
    return evaluation


def probabilities(network: RankingNetwork, evaluation: Evaluation) -> np.ndarray:
    """(M, tasks) float64 calibrated probabilities of what was evaluated."""
    result: np.ndarray = network.probabilities(torch.from_numpy(evaluation.logits)).numpy()
    return result
