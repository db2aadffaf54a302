"""What a user model is made for: everything that fixes the shapes of its weights, as plain values that JSON can hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from ..batches.layout import Layout
from ..config import DEFAULT_TASKS, EVERYBODY, FeaturePolicy, ModelConfig, Since
from ..errors import ConfigError

COUNTED_EVENTS = 64  # the frequency encoding counts no further back
WIDEST = 2**16  # numbers of one text or embedding


@dataclass(frozen=True)
class ModelSpec:
    """Saved beside the weights; `build(ModelSpec, json)` brings it back."""

    sources: Mapping[str, Mapping[str, str]]  # source -> attribute -> kind
    item_sources: tuple[str, ...]  # sources whose items are pooled into the embedding
    spaces: Mapping[str, int]  # space of the vocabularies -> embedding rows, row 0 (unknown) included
    impression_attributes: Mapping[str, str] = field(default_factory=dict)  # attribute of an impression -> kind
    max_events: Mapping[str, int] = field(default_factory=dict)  # source -> events that a serving row of it holds at most
    max_days_ms: Mapping[str, int] = field(default_factory=dict)  # source -> how far a serving row of it reaches back, where limited
    item_dimension: int = 64  # numbers per view
    # Text -> words that are read; embedding -> its dimension; others are not read.
    widths: Annotated[Mapping[str, int], Since("2026-11-24")] = field(default_factory=dict)
    # Embedding that is read as codes -> levels, codes and hidden.
    quantizers: Annotated[Mapping[str, Mapping[str, int]], Since("2026-11-24")] = field(default_factory=dict)
    config: ModelConfig = field(default_factory=ModelConfig)
    # Segment -> what is read of its users; not named: everything.
    policies: Annotated[Mapping[str, FeaturePolicy], Since("2026-11-26")] = field(default_factory=dict)
    tasks: Annotated[tuple[str, ...], Since("2026-11-29")] = DEFAULT_TASKS  # what the heads of the read-out predict, in their order

    def __post_init__(self) -> None:
        for name, width in self.widths.items():
            if not 1 <= width <= WIDEST:
                raise ConfigError(f"the width of '{name}' is {width}; allowed: 1 to {WIDEST}")

    @property
    def views(self) -> int:
        """E: item vectors of so many factorisations, each pooled to one unit vector."""
        return len(self.config.views)

    @property
    def read_layers(self) -> tuple[int, ...]:
        """Layers whose states are read, ascending: 0 are the tokens."""
        return tuple(sorted(self.config.read_layers)) or (self.config.layers,)

    @property
    def state_width(self) -> int:
        """Numbers of a state: those of the read layers side by side."""
        return len(self.read_layers) * self.config.dimension

    def layout(self, impressions: bool = False, segment: str = EVERYBODY) -> Layout:
        """The arrays that the model reads of a segment's users: for embedding, or with the impressions too."""
        whole = Layout(self.sources, self.impression_attributes if impressions else {}, self.widths, tasks=self.tasks)
        return whole.under(self.policies.get(segment, FeaturePolicy()))

    def of_kind(self, source: str, kind: str) -> list[str]:
        """The source's attributes of that kind which are read, in order of name."""
        narrow = kind in ("categorical", "numeric")
        return sorted(name for name, its in self.sources[source].items() if its == kind and (narrow or name in self.widths))

    def code_spaces(self, source: str) -> dict[str, int]:
        """Row spaces of the source's semantic ids, one per attribute and level -> rows; row 0 is no code."""
        quantized = [name for name in self.of_kind(source, "embedding") if name in self.quantizers]
        return {
            f"{name}__{level}": self.quantizers[name]["codes"] + 1 for name in quantized for level in range(self.quantizers[name]["levels"])
        }

    def of_impressions(self, kind: str) -> list[str]:
        """The impressions' attributes of that kind, in order of name."""
        return sorted(name for name, its_kind in self.impression_attributes.items() if its_kind == kind)

    def reach(self, source: str, limit: int | None = None) -> int:
        """Events of the source that a read-out may see: never more than the row that serving holds (house rule 4).

        limit: SourceTokens.limit, here and below.
        """
        held = min(self.config.max_events, self.max_events.get(source, self.config.max_events))
        return held if limit is None else min(held, limit)

    def token_lookback(self, source: str, limit: int | None = None) -> int:
        """Earlier events of the source that the encodings of one token may look at: one for its gap, more to count."""
        reach = self.reach(source, limit)
        counted = min(COUNTED_EVENTS, reach // 4) if self.config.frequency_encoding else 0
        return max(0, min(max(counted, 1), reach - 1))

    def read_back(self, source: str, limit: int | None = None) -> int:
        """The last states of the source that a read-out may look at, at least one."""
        wanted = max(self.config.read_positions, self.config.ad_attention)
        return min(wanted, max(1, (self.reach(source, limit) - self.token_lookback(source, limit)) // 2))

    def attention_window(self, source: str, limit: int | None = None) -> int:
        """Tokens that one layer looks back, itself included.

        The oldest of the states that are read, all layers from there, and the encodings of the oldest token reach back
        read_back - 1 + layers * (window - 1) + token_lookback tokens: never past reach(source), so that a read-out in a long
        training row equals the one in the row that serving holds.
        """
        rest = self.reach(source, limit) - self.token_lookback(source, limit) - self.read_back(source, limit)
        return max(1, min(self.config.window, rest // self.config.layers + 1))
