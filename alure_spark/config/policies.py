"""Sections `feature_policy` and `experiments`: what is read of the users of a segment (DynamiX, section 3.2)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from ..errors import ConfigError, nearest, shown
from .rules import Range, require_known
from .section import Section
from .streams import StreamConfig

EVERYBODY = "all"  # the segment of all users, where no policy differs between them
LastEvents = Annotated[int, Range("an integer of at least 2: an event, and one before it for its gap", least=2)]


@dataclass(frozen=True)
class FeaturePolicy(Section, prefix="feature_policy "):
    """What is read of a segment's users: sources, attributes and events (DynamiX, section 3.2). None and {} mean all."""

    sources: tuple[str, ...] | None = None
    drop_attributes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # source -> attributes left out
    max_events: Mapping[str, LastEvents] = field(default_factory=dict)  # source -> the last N events read

    def select(self, streams: Mapping[str, StreamConfig]) -> dict[str, StreamConfig]:
        """The streams as this policy leaves them. Raises ConfigError on a source or attribute that conf does not declare."""
        for name in (*(self.sources or ()), *self.drop_attributes, *self.max_events):
            require_known("feature_policy", name, streams, "source")
        selected = {}
        for name, stream in streams.items():
            if self.sources is not None and name not in self.sources:
                continue
            dropped = self.drop_attributes.get(name, ())
            for attribute in dropped:
                if attribute not in stream.attributes:
                    raise ConfigError(f"feature_policy drops {shown(f'{name}.{attribute}')}{nearest(attribute, stream.attributes)}")
            kept = {key: kind for key, kind in stream.attributes.items() if key not in dropped}
            last = min(self.max_events.get(name, stream.max_events), stream.max_events)
            selected[name] = dataclasses.replace(stream, attributes=kept, max_events=last)
        return selected


@dataclass(frozen=True)
class ExperimentConfig(Section):
    """One way to spend on segments that jobs/compare_policies.py tries."""

    against: str = ""  # the experiment that it is compared with; '' for one that is only compared with
    policy: Mapping[str, FeaturePolicy] = field(default_factory=dict)  # segment -> policy, as feature_policy
