"""What a ranking model is made for: everything that fixes the shapes of its weights, as plain values that JSON can hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..config import build
from ..errors import ConfigError, nearest
from .encodings import ENCODINGS, Encoding
from .experts import EXPERTS, Fields

DENSE = "numbers"  # the encoding of a given embedding that is read as it is


@dataclass(frozen=True)
class FieldSpec:
    """What is known of an impression: of its user, its ad, or the moment."""

    encoding: str  # one of ENCODINGS, or DENSE
    settings: Mapping[str, Any] = field(default_factory=dict)  # of the encoding; of DENSE: numbers
    group: str = "user"  # GwPFM learns a weight for each pair of groups
    part: str = "user"  # and a vector of each field for each part; all fields of a group are in one
    interacts: bool = True  # else its vectors stand beside what the experts make of the others (a similarity; Pan et al., section 3.3)

    def made(self) -> Encoding:
        """Raises ConfigError where the settings are not those of the encoding."""
        return build(ENCODINGS[self.encoding], self.settings)


@dataclass(frozen=True)
class SequenceSpec:
    """A history that is read for the impression's target (TIM)."""

    source: str  # the stream
    category: str  # space of the stream's rows
    target: str  # the field that says the same of the impression: its rows are those of the category
    events: int = 50
    position: bool = True
    interval: bool = True


@dataclass(frozen=True)
class ExpertSpec:
    """An interaction of all fields in one table."""

    kind: str  # one of EXPERTS
    table: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RankingSpec:
    """Saved beside the weights; `build(RankingSpec, json)` brings it back."""

    fields: Mapping[str, FieldSpec]
    tables: Mapping[str, int]  # table -> numbers of its rows
    experts: Mapping[str, ExpertSpec]
    tasks: tuple[str, ...]  # a tower and a gate each
    sequences: Mapping[str, SequenceSpec] = field(default_factory=dict)
    hidden: int = 64  # numbers that the layer after an expert makes
    tower: tuple[int, ...] = (32,)
    deviation: float = 0.01  # of the rows of tables before training

    def __post_init__(self) -> None:
        known = [*ENCODINGS, DENSE]
        for name, one in self.fields.items():
            _require(one.encoding, known, f"ranking.fields.{name}.encoding", "the encoding")
        for name, expert in self.experts.items():
            _require(expert.kind, EXPERTS, f"ranking.experts.{name}.kind", "the expert")
            _require(expert.table, self.tables, f"ranking.experts.{name}.table", "the table")
        for name, sequence in self.sequences.items():
            _require(sequence.target, self.coded, f"ranking.sequences.{name}.target", "the field")
        for what, given in (("fields", self.interacting), ("experts", self.experts), ("tasks", self.tasks)):
            if not given:
                raise ConfigError(f"ranking.{what} is empty; allowed: at least one")
        if unused := sorted(set(self.tables) - {expert.table for expert in self.experts.values()}):
            raise ConfigError(f"ranking.tables has '{unused[0]}', which no expert reads")

    @property
    def coded(self) -> list[str]:
        """Fields that are rows of tables, in their order."""
        return [name for name, one in self.fields.items() if one.encoding != DENSE]

    @property
    def dense(self) -> list[str]:
        """Fields that are numbers, in their order."""
        return [name for name, one in self.fields.items() if one.encoding == DENSE]

    @property
    def order(self) -> list[str]:
        """All fields, as their vectors stand in a table."""
        return [*self.coded, *self.dense]

    @property
    def interacting(self) -> list[str]:
        return [name for name in self.order if self.fields[name].interacts]

    @property
    def beside(self) -> list[str]:
        return [name for name in self.order if not self.fields[name].interacts]

    def meeting(self) -> Fields:
        """The fields as experts have them."""
        own = [self.fields[name] for name in self.interacting]
        return Fields(tuple(self.interacting), tuple(one.group for one in own), tuple(one.part for one in own))


def _require(name: str, known: Mapping[str, Any] | list[str], path: str, kind: str) -> None:
    if name not in known:
        raise ConfigError(f"{path} names {kind} '{name}'{nearest(name, known)}")
