"""Section `ranking`: what the ranking model reads of an impression, how it is encoded, and how the model is made and trained."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from ..errors import ConfigError, shown
from ..tables import IMPRESSION_EXAMPLES
from .exploration import ExplorationConfig
from .labels import check_task
from .online import OnlineConfig
from .ranking_loss import LossConfig, RepeatConfig
from .rules import (
    OFF_OR_MORE,
    Largest,
    NonNegativeFloat,
    NonNegativeInt,
    OneOf,
    PositiveFloat,
    PositiveInt,
    Range,
    check_size,
    require,
    require_known,
)
from .section import Section, Since
from .streams import StreamConfig
from .towers import AUXILIARY_LEARNING, check_scenario, check_scheme, check_score, check_towers, check_values, served_tasks
from .upstream import ALTERNATING, UpstreamConfig
from .users import OF_JOBS

# Kind of a value (as in streams.NAME.attributes) -> the encodings that read it.
ENCODINGS_OF = {
    "categorical": ("id",),
    "numeric": ("numeral_systems", "standardized"),
    "text": ("words",),
    "embedding": ("hash_id", "numbers"),
}
TRANSFERRED = ("user.cross", "ad.cross", "ad.representation")  # what jobs/extract_representations.py makes
KIND_OF = {encoding: kind for kind, encodings in ENCODINGS_OF.items() for encoding in encodings}
# Where a field may come from -> what may follow the dot; None: what other sections declare.
ORIGINS: Mapping[str, Mapping[str, str] | None] = {
    "impression": None,
    "ad": {
        "account_id": "categorical", "category_id": "categorical", "bid": "numeric", "value": "numeric", "title": "text",
        "media_embedding": "embedding", "representation": "embedding", "cross": "embedding",
    },
    "context": {"country": "categorical", "hour": "numeric", "weekday": "numeric"},
    "history": None,
    "user": None,
    "example": None,
}  # fmt: skip
DECAYED = "decayed_same"
OF_SAME = ("same", "days_since_same", DECAYED)  # what may be read of those events of a stream that have the id of a field
COUNTS = ("count", "days_since", "sum", *OF_SAME)  # what may be read of the history of a stream


def check_field(path: str, name: str) -> None:
    """A field's name becomes the column impression__<name> and part of metrics' names."""
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name) or len(name) > 64 or name in ("item_id", "account_id"):
        raise ConfigError(
            f"{path} names {shown(name)}; allowed: at most 64 small letters, digits and single '_', a letter first, "
            "not item_id or account_id"
        )


def check_reads(path: str, value: str) -> None:
    """ORIGIN.NAME, with a name that this origin has."""
    origin, dot, name = value.partition(".")
    if not dot or not name:
        raise ConfigError(f"{path} is {shown(value)}; allowed: ORIGIN.NAME, with an origin of {', '.join(ORIGINS)}")
    require_known(path, origin, ORIGINS, "origin")
    names = ORIGINS[origin]
    if names is not None:
        require_known(path, name, names)
    if origin == "history":
        stream, _, count = name.partition(".")
        what, _, of = count.partition(".")
        if not stream or what not in COUNTS or bool(of) != (what in ("sum", *OF_SAME)):
            raise ConfigError(
                f"{path} is {shown(value)}; allowed: history.STREAM.count, .days_since, .sum.ATTRIBUTE, or of FIELD .same, "
                ".days_since_same or .decayed_same, each with .FIELD"
            )


def check_option(path: str, value: Any) -> None:
    """A text, a flag, a number that can be counted with, or a list of these."""
    for place, one in enumerate(value) if isinstance(value, list | tuple) else ():
        check_option(f"{path}[{place}]", one)
    if isinstance(value, int | float) and not isinstance(value, bool):
        check_size(path, value, None)


def check_worth(path: str, value: str) -> None:
    """bid, value, or a number as text."""
    number = re.fullmatch(r"\d{1,12}(\.\d{1,12})?", value)
    require(value in ("bid", "value") or number is not None, path, value, "bid, value, or a number of at least 0 in quotes")


Option = Annotated[Any, check_option]


@dataclass(frozen=True)
class FieldConfig(Section, prefix="ranking.fields "):
    """One thing that is known of an impression before it is shown."""

    reads: Annotated[str, check_reads]  # ORIGIN.NAME, e.g. ad.category_id
    encoding: Annotated[str, OneOf(tuple(KIND_OF))]  # how its values become rows of the tables
    options: Mapping[str, Option] = field(default_factory=dict)  # of the encoding
    group: str = ""  # whose fields meet others in the same way (GwPFM); empty: the origin
    part: str = ""  # a field has a vector for each part (GwPFM); empty: that of its group, else ad for impression and ad, user for others
    space: str = ""  # whose ids it has, where another field or a sequence has the same ones; empty: its own
    interacts: bool = True  # else its vectors stand beside what the experts make of the others
    # Of history: events known in so many days before the impression; 0: all that are there. Of decayed_same: an event counts half after
    # so many days, a quarter after twice as many.
    days: Annotated[float, OFF_OR_MORE] = 0.0

    @property
    def origin(self) -> str:
        return self.reads.partition(".")[0]

    @property
    def name(self) -> str:
        """What is read of the origin."""
        return self.reads.partition(".")[2]

    @property
    def kind(self) -> str:
        """Kind of its values, as of a stream's attributes."""
        return KIND_OF[self.encoding]

    def check_together(self) -> None:
        names = ORIGINS[self.origin]
        of_user = OF_JOBS.get(self.name, self.kind) if self.origin == "user" else self.kind
        kind = names[self.name] if names is not None else "numeric" if self.origin == "history" else of_user
        require(self.kind == kind, "ranking.fields encoding", self.encoding, f"for {self.reads}, {' or '.join(ENCODINGS_OF[kind])}")
        require(not self.days or self.origin == "history", "ranking.fields days", self.days, "0 but for history fields")
        decays = self.origin == "history" and self.name.split(".")[1] == DECAYED
        require(not decays or self.days > 0, "ranking.fields days", self.days, f"above 0 for history.STREAM.{DECAYED}.FIELD")


@dataclass(frozen=True)
class SequenceConfig(Section, prefix="ranking.sequences "):
    """A history that is read for the impression's target (TIM)."""

    source: str  # the stream
    category: str  # item_id or a categorical attribute of the stream
    target: str  # the field that says the same of the impression: they share their ids
    events: PositiveInt = 50  # the last so many before the impression
    position: bool = True  # encode how many events ago
    interval: bool = True  # encode how long ago


@dataclass(frozen=True)
class ExpertConfig(Section, prefix="ranking.experts "):
    """An interaction of all fields in one table."""

    kind: str  # gwpfm, ipnn, dcn_v2, flat_dnn, fm or fwfm
    table: str  # whose vectors meet
    options: Mapping[str, Option] = field(default_factory=dict)  # of the expert, e.g. layers


FieldName = Annotated[str, check_field]
Width = Annotated[PositiveInt, Largest(65_536)]


@dataclass(frozen=True)
class RankingConfig(Section, prefix="ranking."):
    """The ranking model (Pan et al., Ad Recommendation in a Collapsed and Entangled World)."""

    fields: Mapping[FieldName, FieldConfig] = field(default_factory=dict)  # empty: there is no ranking model
    sequences: Mapping[FieldName, SequenceConfig] = field(default_factory=dict)  # histories that are read for the target (TIM)
    tables: Mapping[FieldName, Width] = field(default_factory=lambda: {"wide": 16, "narrow": 8})  # embedding table -> its numbers per row
    # Interactions of the fields, each in one of the tables.
    experts: Mapping[FieldName, ExpertConfig] = field(
        default_factory=lambda: {"gwpfm": ExpertConfig("gwpfm", "wide"), "dcn": ExpertConfig("dcn_v2", "narrow")}
    )
    min_count: PositiveInt = 1  # an id has a row of its own once the training split has named it so often
    hash_buckets: NonNegativeInt = 0  # rows of every space among which other ids are spread; 0: they share row 0
    tasks: tuple[str, ...] = ()  # that it predicts; empty: all of labels.tasks but sums
    # Of the tasks of a table that is mapped as it is: those whose label is a number of at least 0 (a value). Of streams, those with `sum`.
    values: Annotated[tuple[str, ...], Since("2026-11-30")] = ()
    # How several tasks share tables and experts: shared_bottom, mmoe, ple, stem, ame or stem_al (docs/explanation/ranking-tasks.md).
    scheme: Annotated[str, check_scheme, Since("2026-11-30")] = "ame"
    main_task: Annotated[str, Since("2026-11-30")] = ""  # of stem_al: the task that the others help, and that the trained model predicts
    # Of stem_al: weight of each auxiliary task's loss. Try 1 and 0.1, and take what validates better: the less it weighs, the more of its
    # tables is for the main task.
    auxiliary_weight: Annotated[NonNegativeFloat, Since("2026-11-30")] = 1.0
    # Tower -> its tasks, which share a gate and the hidden layers of `tower`; a task that none names has a tower to itself.
    towers: Annotated[Mapping[FieldName, tuple[str, ...]], Since("2026-11-30")] = field(default_factory=dict)
    # A field with the encoding id, e.g. of surfaces or countries: each id that the training split names has gates and towers of its own.
    scenario: Annotated[str, Since("2026-11-30")] = ""
    hidden: Width = 64  # numbers that the layer after an expert makes
    tower: tuple[Width, ...] = (32,)  # layers above the experts, one tower per task
    deviation: PositiveFloat = 0.01  # of the rows of tables before training
    linear: bool = False  # add to each logit a weight of each row, and of each number: what few examples teach first
    dropout: Annotated[float, Range("0 to below 1", least=0, below=1)] = 0.0  # share of what an expert's layer makes that a step leaves out
    epochs: PositiveInt = 16  # at most
    patience: PositiveInt = 4  # epochs without a better validation loss before training stops
    batch_users: PositiveInt = 256  # users per step, with all of their impressions
    learning_rate: PositiveFloat = 5e-3  # of Adam; it rises over the first twentieth of the steps and then falls to a tenth
    table_learning_rate_share: NonNegativeFloat = 3.0  # rows of tables are met seldom, so that they learn faster
    weight_decay: NonNegativeFloat = 0.01  # of all but the tables
    clip_norm: PositiveFloat = 10.0  # of the gradient of all parameters together
    loss: Annotated[LossConfig, Since("2026-11-30")] = field(default_factory=LossConfig)
    repeats: Annotated[RepeatConfig, Since("2026-11-30")] = field(default_factory=RepeatConfig)
    # Go on from the newest earlier model that passed its gate, with the impressions that are new to it; tables grow by the rows of new ids.
    warm_start: Annotated[bool, Since("2026-11-30")] = False
    upstream: Annotated[UpstreamConfig, Since("2026-11-30")] = field(default_factory=UpstreamConfig)
    gate: NonNegativeFloat = 0.01  # the champion moves unless the new validation loss is worse by more than this share
    # Task -> what one such response is worth in the score: bid or value of the ad (0 where it has none), or a number, by which the
    # expected value of a value task is multiplied; empty: the first task's probability, or expected value, is the score.
    score: Mapping[str, Annotated[str, check_worth]] = field(default_factory=dict)
    cap: Annotated[PositiveInt, Largest(10_000_000)] = 200  # candidates per user that stay, the best first
    # Attribute of the impression that a candidate does not have yet -> the value it is scored with.
    serving: Mapping[str, Option] = field(default_factory=dict)
    seed: PositiveInt = 7  # of the first weights, and of the order of users
    exploration: Annotated[ExplorationConfig, Since("2026-11-30")] = field(default_factory=ExplorationConfig)
    online: Annotated[OnlineConfig, Since("2026-11-30")] = field(default_factory=OnlineConfig)

    @property
    def ready_made(self) -> bool:
        """Whether the model is trained on a table of impressions that is mapped as it is (source.options.examples)."""
        return any(one.origin == "example" for one in self.fields.values())

    def check_together(self) -> None:
        if self.ready_made:
            self._check_ready_made()
        for name, sequence in self.sequences.items():
            path = f"ranking.sequences.{name}.target"
            require_known(path, sequence.target, self.fields, "field")
            require(self.fields[sequence.target].encoding == "id", path, sequence.target, "a field with the encoding id")
        check_scenario(self.scenario, {name: one.encoding for name, one in self.fields.items()})
        if self.scenario and self.exploration.on:
            raise ConfigError(
                f"ranking.exploration is on beside ranking.scenario='{self.scenario}', whose towers have no posterior: leave one out"
            )
        self._check_upstream()
        for setting, of_repeats in (("count", self.repeats.count), ("days_since", self.repeats.days_since)):
            if of_repeats:
                require_known(f"ranking.repeats.{setting}", of_repeats, self.fields, "field")
                kind = self.fields[of_repeats].kind
                require(kind == "numeric", f"ranking.repeats.{setting}", of_repeats, "a field that is a number")
        for name, one in self.fields.items():
            if one.origin == "history" and (of := one.name.split(".", 2)[2:]) and one.name.split(".")[1] in OF_SAME:
                path = f"ranking.fields.{name}.reads"
                require_known(path, of[0], self.fields, "field")
                require(self.fields[of[0]].encoding == "id", path, one.reads, "the name of a field with the encoding id")

    def _check_upstream(self) -> None:
        require(not (self.upstream.model and self.warm_start), "ranking.warm_start", self.warm_start, "false beside ranking.upstream.model")
        if self.upstream.train == ALTERNATING:
            require(self.epochs > 1, "ranking.epochs", self.epochs, "at least 2 where ranking.upstream.train is alternating")

    def _check_ready_made(self) -> None:
        for name, one in self.fields.items():
            path = f"ranking.fields.{name}.reads"
            require(one.origin == "example", path, one.reads, "example.COLUMN, as other fields of the ranking model")
            taken = {*IMPRESSION_EXAMPLES.column_names, *self.tasks}
            require(one.name not in taken, path, one.reads, f"another name than {', '.join(sorted(taken))}, which a row has already")
            check_field(path, one.name)
        for setting, value in (("sequences", self.sequences), ("serving", self.serving)):
            require(not value, f"ranking.{setting}", dict(value), "none where fields read example.COLUMN")
        require(bool(self.tasks), "ranking.tasks", self.tasks, "at least one label column where fields read example.COLUMN")
        for task in self.tasks:
            check_task("ranking.tasks", task)
        self._check_tasks(self.tasks, self.values)

    def check_declared(
        self,
        streams: Mapping[str, StreamConfig],
        impression_attributes: Mapping[str, str],
        user_attributes: Mapping[str, str],
        heads: Sequence[str],
        sums: Sequence[str] = (),
    ) -> None:
        """Whether what the model reads is declared: streams, attributes of impressions and users (name -> kind), tasks.

        heads, sums: the tasks whose label is 0 or 1, and those whose label is a number. Raises ConfigError.
        """
        if self.ready_made:
            return
        require(not self.values, "ranking.values", self.values, "none: of streams, the tasks with `sum` in labels.tasks are values")
        attributes = {stream: {"item_id": "categorical"} | dict(one.attributes) for stream, one in streams.items()}
        of_impression = {"ad_id": "categorical", "account_id": "categorical"} | dict(impression_attributes)
        declared = {
            "impression": ("labels.impression_attributes", of_impression),
            "user": ("users.attributes", OF_JOBS | dict(user_attributes)),
        }
        for name, one in self.fields.items():
            path = f"ranking.fields.{name}.reads"
            if one.origin in declared:
                where, known = declared[one.origin]
                require_known(path, one.name, known, f"attribute of {where}")
                kind = known[one.name]
                require(one.kind == kind, f"ranking.fields.{name}.encoding", one.encoding, " or ".join(ENCODINGS_OF[kind]))
            elif one.origin == "history":
                stream, what, *of = one.name.split(".", 2)
                require_known(path, stream, streams, "source")
                if of:
                    counted, kind = (self.space_of(of[0]), "categorical") if what in OF_SAME else (of[0], "numeric")
                    require_known(path, counted, _of_kind(attributes[stream], kind), f"{kind} attribute of {stream}")
        for name, sequence in self.sequences.items():
            path = f"ranking.sequences.{name}"
            require_known(f"{path}.source", sequence.source, streams, "source")
            require_known(f"{path}.category", sequence.category, _of_kind(attributes[sequence.source], "categorical"))
        for task in self.tasks:
            require_known("ranking.tasks", task, [*heads, *sums], "task")
        accounts = ["account_id", "ad_id", *_of_kind(impression_attributes, "categorical")]
        require_known("ranking.online.account", self.online.account, accounts, "attribute of impressions")
        for name in self.serving:
            require_known("ranking.serving", name, impression_attributes, "attribute of labels.impression_attributes")
        self._check_tasks(self.tasks or heads, [task for task in self.tasks if task in sums])

    def _check_tasks(self, tasks: Sequence[str], values: Sequence[str]) -> None:
        check_towers(self.scheme, self.main_task, self.towers, tasks)
        if self.scheme != AUXILIARY_LEARNING:
            require(
                self.auxiliary_weight == 1, "ranking.auxiliary_weight", self.auxiliary_weight, f"1 but with the scheme {AUXILIARY_LEARNING}"
            )
        check_values("ranking.values", values, tasks)
        check_score(self.score, served_tasks(self.scheme, self.main_task, self.towers, tasks), tasks, values)
        if self.exploration.on and not set(tasks) - set(values):
            raise ConfigError(
                "ranking.exploration is of tasks whose label is 0 or 1, but ranking.tasks has values only: set its features to 0"
            )

    def space_of(self, name: str) -> str:
        """Whose ids the field has."""
        own = self.fields[name]
        shared = [sequence.category for sequence in self.sequences.values() if sequence.target == name]
        return own.space or (shared[0] if shared else name)


def _of_kind(attributes: Mapping[str, str], kind: str) -> list[str]:
    return [name for name, its in attributes.items() if its == kind]
