"""Section `training`: how the user model is trained, and for what."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Annotated, Any

from .labels import DEFAULT_TASKS
from .rules import Largest, NonNegativeFloat, NonNegativeInt, OneOf, PositiveFloat, PositiveInt, ShareBelowOne, require
from .section import Section, Since


@dataclass(frozen=True)
class ObjectiveConfig(Section, prefix="training.objectives."):
    """Weights of the training objectives; 0 leaves one out."""

    click: NonNegativeFloat = 1.0
    conversion: NonNegativeFloat = 1.0
    neighbour: NonNegativeFloat = 1.0  # contrastive across users: similar users must foretell a user's next engagements
    # Contrastive over items: the state must foretell the next item (sampled softmax, logQ corrected).
    next_item: NonNegativeFloat = 0.2
    # Task of labels.tasks -> weight of its head; 1 where it is not named, click and conversion as above.
    tasks: Annotated[Mapping[str, NonNegativeFloat], Since("2026-11-29")] = field(default_factory=dict)

    def weight(self, name: str) -> float:
        """Of an objective: a task's head, neighbour or next_item."""
        return float(self.tasks.get(name, self._own().get(name, 1.0)))

    def labels_only(self) -> ObjectiveConfig:
        """The tasks alone."""
        others: dict[str, Any] = {name: 0.0 for name in self._own() if name not in DEFAULT_TASKS}
        return replace(self, **others)

    def _own(self) -> dict[str, float]:
        """The weights that are settings of their own."""
        return {item.name: getattr(self, item.name) for item in fields(self) if item.name != "tasks"}

    def weights(self, tasks: Iterable[str]) -> dict[str, float]:
        """Objective -> weight, of a model with heads for these tasks."""
        return {name: self.weight(name) for name in (*tasks, *(name for name in self._own() if name not in DEFAULT_TASKS))}

    def without(self, tasks: Iterable[str]) -> ObjectiveConfig:
        """The contrastive objectives alone, of a model with heads for these tasks."""
        return replace(self, click=0.0, conversion=0.0, tasks=dict.fromkeys(tasks, 0.0))


@dataclass(frozen=True)
class TrainingConfig(Section, prefix="training."):
    """How the user model is trained."""

    reader: Annotated[str, OneOf(("petastorm", "pyarrow"))] = "petastorm"  # both give the same batches
    export_rows: PositiveInt = 512  # users per row group of the packed rows: what a reader holds at once
    batch_users: PositiveInt = 256
    epochs: PositiveInt = 4
    patience: PositiveInt = 2  # epochs without a better validation loss before training stops
    learning_rate: PositiveFloat = 1e-3
    item_learning_rate_share: NonNegativeFloat = 0.0  # item tables learn at this share of the rate; free item vectors overfit
    pooling_learning_rate_share: NonNegativeFloat = 10.0  # the few numbers that weigh events and directions learn faster
    weight_decay: NonNegativeFloat = 0.01
    clip_norm: PositiveFloat = 1.0
    refit: bool = True  # train once more on everything before as_of, for as many epochs as validation found best
    warm_start: bool = False  # go on from the champion with the impressions that are new to it, instead of from the start
    holdout_users: ShareBelowOne = 0.1  # with warm_start: share of the users whose new impressions validate, others each time
    checkpoint_steps: PositiveInt = 20  # steps between checkpoints, from which an interrupted training goes on
    processes: Annotated[PositiveInt, Largest(4096)] = 1  # that train together, each on its users of every batch
    # Where they run. On executors each is a task; all machines must reach lake.scratch, and as many tasks as processes run at once.
    run_on: Annotated[str, OneOf(("driver", "executors")), Since("2026-11-30")] = "driver"
    threads: Annotated[NonNegativeInt, Largest(4096)] = 0  # of torch; 0 means all cores. Equal threads give equal weights
    gate: NonNegativeFloat = 0.01  # the champion moves unless the new validation loss is worse by more than this share
    calibration_range: tuple[float, ...] = (0.5, 2.0)  # with warm_start: nor when expected over observed positives leave this range
    objectives: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    seed: PositiveInt = 7

    def check_together(self) -> None:
        ordered = len(self.calibration_range) == 2 and 0 <= self.calibration_range[0] <= 1 <= self.calibration_range[1]
        require(ordered, "training.calibration_range", self.calibration_range, "two numbers around 1")
