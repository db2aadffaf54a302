"""Section `labels`: which impressions are labeled, and by which responses."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated

from ..clock import DAY_MS, EARLIEST_MS, HOUR_MS
from ..errors import ConfigError, shown
from ..tables import RANKING_EXAMPLES, TRAINING_EXAMPLES
from .rules import ABOVE_ZERO, PositiveFloat, Range, require
from .section import Section, Since

DEFAULT_TASKS = ("click", "conversion")  # what a conf without tasks trains for, and every model of before 2026-11-29
# Other losses, columns of labelled impressions, and what stands in the metrics of build_sequences with an s.
TAKEN = ("neighbour", "next_item", "total", "event_hash", "early", "impression", "users_with_impression")


def check_task(path: str, name: str) -> None:
    """A task's name is a column of `training_examples` and part of the names of metrics."""
    taken = {*TRAINING_EXAMPLES.column_names, *RANKING_EXAMPLES.column_names, *TAKEN}
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name) or len(name) > 64 or name in taken:
        raise ConfigError(
            f"{path} names {shown(name)}; allowed: at most 64 small letters, digits and single '_', a letter first, and no column of "
            "training_examples"
        )


@dataclass(frozen=True)
class TaskConfig(Section, prefix="labels.tasks "):
    """What is to be predicted of an impression: whether responses followed it, or what they add up to."""

    source: str  # the stream of the responses
    window_hours: PositiveFloat = 24.0  # how long after the impression a response counts (both ends included)
    at_least: Mapping[str, float] = field(default_factory=dict)  # numeric column of a response -> the least for which it counts
    sum: str = ""  # a numeric column: the label is its sum over the responses, not whether there was one

    @property
    def numbers(self) -> tuple[str, ...]:
        """Numeric columns of the responses that decide the label."""
        return tuple(sorted({*self.at_least, *([self.sum] if self.sum else [])}))


TaskName = Annotated[str, check_task]


@dataclass(frozen=True)
class LabelConfig(Section, prefix="labels."):
    """Which streams make labeled impressions, and how long after one a response still counts (both ends included)."""

    impression_source: str = "ad_impression"
    click_source: str = "ad_click"
    conversion_source: str = "conversion"
    click_window_hours: PositiveFloat = 24.0
    conversion_window_hours: PositiveFloat = 168.0
    # Task -> its responses; instead of the four settings above, which then stay as they are.
    tasks: Annotated[Mapping[TaskName, TaskConfig], Since("2026-11-29")] = field(default_factory=dict)
    # A response that names its impression may be earlier than it by so much: it counts as at it.
    clock_skew_seconds: Annotated[float, Range("0 (off) to 3600", least=0, most=3600), Since("2026-11-28")] = 0.0
    days: float = 0.0  # examples of the impressions in the last days before as_of; 0: of all there ever were, which reads all events
    validation_days: PositiveFloat = 7.0  # impressions in the last days before as_of are the validation split
    max_impressions: Annotated[int, ABOVE_ZERO] = 1024  # the last impressions of a user that a training row keeps
    hold_back_immature: bool = False  # leave out impressions whose windows are still open at as_of (else label_age_ms says so)
    # Share of the training split's impressions without a response that stay; each weighs 1 / rate. It is drawn in millionths
    # (events/examples.py): of a smaller share nothing would be left, at a weight beyond counting.
    negative_rate: Annotated[float, Range("0.000001 to 1", least=1e-6, most=1)] = 1.0
    impression_attributes: tuple[str, ...] = ()  # attributes of the impression's stream that are known before the ad is shown

    def check_together(self) -> None:
        enough = self.days == 0 or self.days > self.validation_days
        require(enough, "labels.days", self.days, "0 (all), or more than labels.validation_days")
        if not self.tasks:
            return
        for name, declared in self.tasks.items():
            respond = declared.source != self.impression_source
            require(respond, f"labels.tasks.{name}.source", declared.source, "a stream of responses, not that of the impressions")
        for item in fields(self):
            if item.name.startswith(DEFAULT_TASKS) and getattr(self, item.name) != item.default:
                task, _, setting = item.name.partition("_")
                raise ConfigError(f"labels.{item.name} is set beside labels.tasks: write it as labels.tasks.{task}.{setting}")
        if not self.heads:
            raise ConfigError("labels.tasks has sums only: declare at least one task without `sum`, which the user model predicts")

    def first_ms(self, as_of_ms: int) -> int | None:
        """When the first impression of the examples of as_of may have happened, epoch ms; None without a limit."""
        return max(as_of_ms - round(self.days * DAY_MS), EARLIEST_MS) if self.days else None

    @property
    def declared(self) -> Mapping[str, TaskConfig]:
        """Task -> its responses, in the order in which models have their heads."""
        return self.tasks or {
            "click": TaskConfig(self.click_source, self.click_window_hours),
            "conversion": TaskConfig(self.conversion_source, self.conversion_window_hours),
        }

    @property
    def heads(self) -> tuple[str, ...]:
        """The tasks that the user model predicts: those whose label is 0 or 1."""
        return tuple(name for name, task in self.declared.items() if not task.sum)

    @property
    def sums(self) -> tuple[str, ...]:
        """The tasks whose label is a number, which the ranking model may predict."""
        return tuple(name for name, task in self.declared.items() if task.sum)

    @property
    def click_stream(self) -> str:
        """The stream of the responses of the task click; where there is no such task, of the first that is predicted."""
        return self.declared["click" if "click" in self.declared else self.heads[0]].source

    @property
    def response_sources(self) -> tuple[str, ...]:
        """The streams of the responses of all tasks."""
        return tuple(sorted({task.source for task in self.declared.values()}))

    @property
    def response_numbers(self) -> tuple[str, ...]:
        """Numeric columns of the responses that decide labels."""
        return tuple(sorted({name for task in self.declared.values() for name in task.numbers}))

    @property
    def clock_skew_ms(self) -> int:
        return round(self.clock_skew_seconds * 1000)

    @property
    def validation_ms(self) -> int:
        return round(self.validation_days * DAY_MS)

    @property
    def window_ms(self) -> int:
        """How old an impression must be for all of its labels to be final, but for responses that arrive late."""
        return round(max(task.window_hours for task in self.declared.values()) * HOUR_MS)
