"""Which arrays a batch is made of: what a reader has to bring, and what a feature policy leaves of it.

Enters: attributes and their kinds, as a spec of a model has them (`GivesLayout`). Leaves: names, kinds and widths of array columns, as in
`user_sequences` and `training_examples`. No torch here: executors pack rows by a layout.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from ..config import DEFAULT_TASKS, EVERYBODY, FeaturePolicy
from .vocabulary import ITEM

TIMES = ("known_at_ms", "event_time_ms")
# Columns of the impressions -> kind. A task's column of labels is called as the task, an attribute's impression__<name>.
SHOWN = {"time_ms": "integer", "ad_id": "categorical", "account_id": "categorical"}
EXAMPLES = {"label_age_ms": "integer", "weight": "weight", "split": "flag"}


@dataclass(frozen=True)
class Layout:
    """Which arrays a batch is made of. Attributes are name -> kind; texts and embeddings without a width are not decoded."""

    sources: Mapping[str, Mapping[str, str]]  # source -> its attributes
    impression_attributes: Mapping[str, str]
    widths: Mapping[str, int] = field(default_factory=dict)  # text -> words that are read; embedding -> its dimension
    withheld: tuple[str, ...] = ()  # sources that a policy withholds: a batch has them without tokens
    last_events: Mapping[str, int] = field(default_factory=dict)  # source -> events that a policy leaves of it
    tasks: tuple[str, ...] = DEFAULT_TASKS
    spaces: Mapping[str, str] = field(default_factory=dict)  # categorical attribute -> the space of its ids, where that is called otherwise
    values: tuple[str, ...] = ()  # of the tasks: those whose label is a number
    integers: tuple[str, ...] = ()  # further arrays of the impressions that no model reads, int64

    def under(self, policy: FeaturePolicy) -> Layout:
        """What the policy leaves of it."""
        kept = [source for source in self.sources if policy.sources is None or source in policy.sources]
        dropped = {source: policy.drop_attributes.get(source, ()) for source in kept}
        return replace(
            self,
            sources={source: {name: kind for name, kind in self.sources[source].items() if name not in dropped[source]} for source in kept},
            withheld=tuple(source for source in self.sources if source not in kept),
            last_events={source: last for source, last in policy.max_events.items() if source in kept},
        )

    def columns(self) -> dict[str, str]:
        """Array columns of the sources -> kind: integer and categorical are int64, numeric floating; texts and embeddings have a width."""
        fixed = dict.fromkeys(TIMES, "integer") | {ITEM: "categorical"}
        return {f"{source}__{name}": kind for source in self.sources for name, kind in (fixed | self.attributes(source)).items()}

    def impression_columns(self) -> dict[str, str]:
        """Array columns of the impressions -> kind; a flag is 0 or 1, a weight a number that is never missing."""
        attributes = {f"impression__{name}": kind for name, kind in self._decoded(self.impression_attributes).items()}
        labels = {task: "weight" if task in self.values else "flag" for task in self.tasks}
        return SHOWN | labels | EXAMPLES | attributes | dict.fromkeys(self.integers, "integer")

    def attributes(self, source: str) -> dict[str, str]:
        """The attributes of a source that are decoded -> kind."""
        return self._decoded(self.sources[source])

    def column_widths(self) -> dict[str, int]:
        """Columns of more than one number per event -> how many."""
        names = [(source, name) for source in self.sources for name in self.attributes(source)]
        names += [("impression", name) for name in self._decoded(self.impression_attributes)]
        return {f"{source}__{name}": self.widths[name] for source, name in names if name in self.widths}

    def _decoded(self, attributes: Mapping[str, str]) -> dict[str, str]:
        return {name: kind for name, kind in attributes.items() if kind in ("categorical", "numeric") or name in self.widths}


class GivesLayout(Protocol):
    """What a reader has to know of a model: the spec of the user model is one."""

    def layout(self, impressions: bool = False, segment: str = EVERYBODY) -> Layout:
        """The arrays that the model reads of a segment's users: for embedding, or with the impressions too."""
