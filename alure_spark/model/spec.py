"""What a user model is made for: everything that fixes the shapes of its weights, as plain values that JSON can hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..config import ModelConfig


@dataclass(frozen=True)
class ModelSpec:
    """Saved beside the weights; `build(ModelSpec, json)` brings it back."""

    sources: Mapping[str, Mapping[str, str]]  # source -> attribute -> kind; categorical and numeric ones are used
    item_sources: tuple[str, ...]  # sources whose items are pooled into the embedding
    spaces: Mapping[str, int]  # space of the vocabularies -> embedding rows, row 0 (unknown) included
    impression_attributes: Mapping[str, str] = field(default_factory=dict)  # attribute of an impression -> kind
    max_events: Mapping[str, int] = field(default_factory=dict)  # source -> events that a serving row of it holds at most
    max_days_ms: Mapping[str, int] = field(default_factory=dict)  # source -> how far a serving row of it reaches back, where limited
    item_dimension: int = 64  # numbers per view
    config: ModelConfig = field(default_factory=ModelConfig)

    @property
    def views(self) -> int:
        """E: item vectors of so many factorisations, each pooled to one unit vector."""
        return len(self.config.views)

    def of_kind(self, source: str, kind: str) -> list[str]:
        """The source's attributes of that kind, in order of name."""
        return sorted(name for name, its_kind in self.sources[source].items() if its_kind == kind)

    def of_impressions(self, kind: str) -> list[str]:
        """The impressions' attributes of that kind, in order of name."""
        return sorted(name for name, its_kind in self.impression_attributes.items() if its_kind == kind)

    def reach(self, source: str) -> int:
        """Events of the source that a read-out may see: never more than the row that serving holds (house rule 4)."""
        return min(self.config.max_events, self.max_events.get(source, self.config.max_events))

    def attention_window(self, source: str) -> int:
        """Tokens that one layer looks back, itself included.

        All layers together reach back layers * (window - 1) tokens, and the oldest one's gap one more: never past reach(source),
        so that a read-out in a long training row equals the one in the row that serving holds.
        """
        return max(1, min(self.config.window, (self.reach(source) - 2) // self.config.layers + 1))
