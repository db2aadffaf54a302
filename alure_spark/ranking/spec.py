"""What a ranking model is made for: everything that fixes the shapes of its weights, as plain values that JSON can hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from ..batches.layout import Layout
from ..batches.vocabulary import ITEM
from ..config import COPIED, EVERYBODY, FROZEN, KIND_OF, OF_SAME, ExpertConfig, SequenceConfig, Since, as_dict, build
from ..config.towers import AUXILIARY_LEARNING, check_scenario, check_scheme, check_towers, check_values, served_tasks, tasks_of_towers
from ..errors import ConfigError, nearest
from .encodings import ENCODINGS, Encoding
from .encodings.given import Given
from .encodings.standardized import Standardized
from .experts import EXPERTS, Fields
from .schemes import SCHEMES, Plan
from .schemes.plan import side_by_side
from .values import OUTPUTS

GIVEN, STANDARDIZED = "numbers", "standardized"
DENSE = (GIVEN, STANDARDIZED)  # encodings that are numbers: an embedding as it is given, and one number by its mean and deviation
SAVED_UNTIL = "2026-11-29"  # what came later (Since) is not saved at its default, so that models of before keep their digests
WIDTHS = {"text": "words", "embedding": "numbers"}  # kind of value -> the setting that says how many numbers it has


@dataclass(frozen=True)
class FieldSpec:
    """What is known of an impression: of its user, its ad, or the moment."""

    encoding: str  # one of ENCODINGS or of DENSE
    settings: Mapping[str, Any] = field(default_factory=dict)  # of the encoding; of a given embedding: numbers
    group: str = "user"  # GwPFM learns a weight for each pair of groups
    part: str = "user"  # and a vector of each field for each part; all fields of a group are in one
    interacts: bool = True  # else its vectors stand beside what the experts make of the others (a similarity; Pan et al., section 3.3)
    history: str = ""  # STREAM.COUNT, where it is counted from the batch's histories (history_counts.py)
    days: float = 0.0  # of these, the last so many; 0: all; of decayed_same the half-life
    space: str = ""  # of the vocabulary, where that is not called as the field

    def made(self) -> Encoding:
        """Raises ConfigError where the settings are not those of the encoding."""
        return build(ENCODINGS[self.encoding], self.settings)

    @property
    def standard(self) -> Standardized | Given:
        """How a dense field's numbers are read. Raises ConfigError where the settings are not those of its encoding."""
        if self.encoding == STANDARDIZED:
            return build(Standardized, self.settings)
        return build(Given, self.settings)

    @property
    def adapter(self) -> str:
        """How a dense field becomes vectors (adapters.py)."""
        return str(self.settings.get("adapter", "linear"))

    @property
    def width(self) -> int:
        """How many numbers a dense field has."""
        return 1 if self.encoding == STANDARDIZED else int(self.settings["numbers"])


@dataclass(frozen=True)
class RankingSpec:
    """Saved beside the weights; `build(RankingSpec, json)` brings it back."""

    fields: Mapping[str, FieldSpec]
    tables: Mapping[str, int]  # table -> numbers of its rows
    experts: Mapping[str, ExpertConfig]
    tasks: tuple[str, ...]  # a tower and a gate each
    sequences: Mapping[str, SequenceConfig] = field(default_factory=dict)
    hidden: int = 64  # numbers that the layer after an expert makes
    tower: tuple[int, ...] = (32,)
    deviation: float = 0.01  # of the rows of tables before training
    linear: bool = False  # add to each logit a weight of each row, and of each number
    dropout: float = 0.0  # share of what an expert's layer makes that a step leaves out
    scheme: Annotated[str, Since("2026-11-30")] = "ame"  # one of SCHEMES
    main_task: Annotated[str, Since("2026-11-30")] = ""  # of stem_al
    towers: Annotated[Mapping[str, tuple[str, ...]], Since("2026-11-30")] = field(default_factory=dict)  # tower -> its tasks
    auxiliary: Annotated[tuple[str, ...], Since("2026-11-30")] = ()  # towers that were left out after training; their tables are there
    scenario: Annotated[str, Since("2026-11-30")] = ""  # a field whose ids have towers of their own (scenario_towers.py)
    values: Annotated[tuple[str, ...], Since("2026-11-30")] = ()  # of the tasks: those whose label is a number (values.py)
    upstream: Annotated[UpstreamSpec | None, Since("2026-11-30")] = None  # whose experts stand beside the others (upstream.py)

    def __post_init__(self) -> None:
        known = [*ENCODINGS, *DENSE]
        for name, one in self.fields.items():
            _require(one.encoding, known, f"ranking.fields.{name}.encoding", "the encoding")
        for name, expert in self.experts.items():
            _require(expert.kind, EXPERTS, f"ranking.experts.{name}.kind", "the expert")
            _require(expert.table, self.tables, f"ranking.experts.{name}.table", "the table")
        for name, sequence in self.sequences.items():
            _require(sequence.target, self.coded, f"ranking.sequences.{name}.target", "the field")
        for what, given in (("fields", self.interacting), ("experts", self.experts or self.upstream), ("tasks", self.tasks)):
            if not given:
                raise ConfigError(f"ranking.{what} is empty; allowed: at least one")
        if unused := sorted(set(self.tables) - {expert.table for expert in self.experts.values()}):
            raise ConfigError(f"ranking.tables has '{unused[0]}', which no expert reads")
        check_scheme("ranking.scheme", self.scheme)
        check_towers(self.scheme, self.main_task, self.towers, self.tasks, self.auxiliary)
        check_values("ranking.values", self.values, self.tasks)
        check_scenario(self.scenario, {name: one.encoding for name, one in self.fields.items()})
        self.plan()

    def saved(self) -> dict[str, Any]:
        """Plain values that JSON can hold, from which `build` makes the spec again."""
        return as_dict(self, SAVED_UNTIL)

    def tasks_of_towers(self) -> dict[str, tuple[str, ...]]:
        """Tower -> its tasks, both in the order of the tasks."""
        return tasks_of_towers(self.towers, self.tasks)

    @property
    def binary(self) -> tuple[str, ...]:
        """The tasks whose label is 0 or 1, in their order."""
        return tuple(task for task in self.tasks if task not in self.values)

    @property
    def scenarios(self) -> int:
        """How many ids of the field `scenario` have towers of their own; of a spec whose encodings are fitted."""
        return int(self.fields[self.scenario].settings["size"]) - 1 if self.scenario else 0

    def outputs(self, tasks: Sequence[str] = ()) -> dict[str, slice]:
        """Task -> its columns of what towers say of tasks (all of them, in their order): a logit, or OUTPUTS numbers of a value."""
        found, end = {}, 0
        for task in tasks or self.tasks:
            begin, end = end, end + (OUTPUTS if task in self.values else 1)
            found[task] = slice(begin, end)
        return found

    def plan(self) -> Plan:
        """Tables, experts, and which of them each tower reads. Raises ConfigError where the scheme cannot have such tables."""
        towers = self.tasks_of_towers()
        main = next((tower for tower, its in towers.items() if self.main_task in its), "")
        whole = SCHEMES[self.scheme](self.tables, self.experts, (*towers, *self.auxiliary), main)
        plan = replace(whole, towers={tower: whole.towers[tower] for tower in towers})
        return self.upstream.joined(plan, self.scheme, main) if self.upstream else plan

    def served(self) -> RankingSpec:
        """Of the model that is used after training: without the towers of auxiliary tasks, whose tables and experts the main task reads."""
        tasks = served_tasks(self.scheme, self.main_task, self.towers, self.tasks)
        if tasks == self.tasks:
            return self
        others = tuple(tower for tower, its in self.tasks_of_towers().items() if self.main_task not in its)
        towers = {tower: its for tower, its in self.towers.items() if self.main_task in its}
        values = tuple(task for task in self.values if task in tasks)
        return replace(self, tasks=tasks, towers=towers, auxiliary=others, values=values)

    def layout(self, impressions: bool = True, segment: str = EVERYBODY) -> Layout:
        """The arrays that the model reads of users, as training has them with impressions. It treats all segments alike."""
        sources: dict[str, dict[str, str]] = {}
        for stream, attribute, kind in (*self._of_sequences(), *self._of_histories()):
            sources.setdefault(stream, {})
            if attribute and attribute != ITEM:
                sources[stream][attribute] = kind
        given = {name: KIND_OF[one.encoding] for name, one in self.fields.items() if not one.history}
        widths = {name: int(self.fields[name].settings[WIDTHS[kind]]) for name, kind in given.items() if kind in WIDTHS}
        spaces = {name: one.space for name, one in self.fields.items() if one.space}
        return Layout(sources, given if impressions else {}, widths, tasks=self.tasks, spaces=spaces, values=self.values)

    def _of_sequences(self) -> list[tuple[str, str, str]]:
        return [(one.source, one.category, "categorical") for one in self.sequences.values()]

    def _of_histories(self) -> list[tuple[str, str, str]]:
        """(stream, attribute that is counted or '', its kind) of each field that is counted."""
        found = []
        for one in self.fields.values():
            if one.history:
                stream, what, *of = one.history.split(".", 2)
                name = self.space_of(of[0]) if what in OF_SAME else of[0] if of else ""
                found.append((stream, name, "categorical" if what in OF_SAME else "numeric"))
        return found

    def space_of(self, name: str) -> str:
        """Whose ids the field has in the vocabulary."""
        return self.fields[name].space or name

    @property
    def coded(self) -> list[str]:
        """Fields that are rows of tables, in their order."""
        return [name for name, one in self.fields.items() if one.encoding not in DENSE]

    @property
    def dense(self) -> list[str]:
        """Fields that are numbers, in their order."""
        return [name for name, one in self.fields.items() if one.encoding in DENSE]

    @property
    def projected(self) -> list[str]:
        """Dense fields that become vectors of the tables, in their order (adapters.py)."""
        return [name for name in self.dense if self.fields[name].adapter != "raw"]

    @property
    def gating(self) -> list[str]:
        """Dense fields that say how much the others' vectors count."""
        return [name for name in self.dense if self.fields[name].adapter == "gate"]

    @property
    def raw(self) -> list[str]:
        """Dense fields that stand beside what the experts make of the others, as they are."""
        return [name for name in self.dense if self.fields[name].adapter == "raw"]

    @property
    def raw_width(self) -> int:
        """Numbers of the raw fields, each with one that says whether it is missing."""
        return sum(self.fields[name].width + 1 for name in self.raw)

    @property
    def order(self) -> list[str]:
        """The fields that have vectors, as these stand in a table."""
        return [*self.coded, *self.projected]

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


@dataclass(frozen=True)
class UpstreamSpec:
    """Another ranking model whose experts are part of this one: with its encodings as they were fitted, and rows for this one's ids."""

    model_id: str
    model: RankingSpec
    train: str = FROZEN  # as in ranking.upstream
    tables: str = COPIED

    def joined(self, plan: Plan, scheme: str, main: str) -> Plan:
        """The plan of a scheme whose towers read these experts too, and whose gates these tables.

        main: the tower of a main task. The others read without a gradient then, so that no auxiliary loss reaches what it reads.
        """
        theirs = self.model.plan()
        tables = {of_upstream(name): size for name, size in theirs.tables.items()}
        experts = tuple(of_upstream(name) for name in theirs.experts)
        towers = {
            name: replace(
                tower,
                reads=(*tower.reads, *experts),
                gate=() if scheme == "shared_bottom" else (*tower.gate, *side_by_side(tables)),
                detached=tower.detached | set(experts) if scheme == AUXILIARY_LEARNING and name != main else tower.detached,
            )
            for name, tower in plan.towers.items()
        }
        return replace(plan, towers=towers, upstream_tables=tables)


def of_upstream(name: str) -> str:
    """What a table or an expert of the other model is called here. No name in a conf has a ':', so that no two can be the same."""
    return f"upstream:{name}"


def _require(name: str, known: Mapping[str, Any] | list[str], path: str, kind: str) -> None:
    if name not in known:
        raise ConfigError(f"{path} names {kind} '{name}'{nearest(name, known)}")
