"""Section `lake`: where the tables are, and how long they and their old versions stay."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from ..clock import LONGEST_DAYS
from ..paths import PATTERN_SIGNS
from ..tables import DATED_TABLES
from .names import FilePath
from .rules import NonNegativeFloat, Range, require, require_known
from .section import Section


def check_dated_table(path: str, name: str) -> None:
    """A table whose rows are of a day each."""
    require_known(path, name, DATED_TABLES, "table")


DatedTable = Annotated[str, check_dated_table]
DaysKept = Annotated[float, Range(f"a number above 0, at most {LONGEST_DAYS:,}", above=0, most=LONGEST_DAYS)]


@dataclass(frozen=True)
class LakeConfig(Section, prefix="lake."):
    root: FilePath = "./lake"  # a folder of Delta tables (contains '/' or ':'), or `catalog.schema`
    scratch: FilePath = "./out/scratch"  # what jobs share with their tasks while they run, e.g. packed rows; executors must reach it
    vacuum_hours: NonNegativeFloat = 168.0  # forget_users erases the files of versions older than this; 0 leaves no earlier version to read
    keep_days: Mapping[DatedTable, DaysKept] = field(default_factory=dict)  # days that apply_retention leaves; others are kept whole
    wait_minutes: NonNegativeFloat = 0.0  # how long a job waits for another one that is writing to the lake, before it gives up
    lease_hours: NonNegativeFloat = 24.0  # a writer on another machine that has said nothing for so long is taken for dead

    def check_together(self) -> None:
        schema = re.fullmatch(r"(\w+|`[^`]+`)\.(\w+|`[^`]+`)", self.root)
        require(
            self.is_folder or bool(schema), "lake.root", self.root, "a folder such as ./lake, or catalog.schema (odd names in backticks)"
        )
        blank = not self.scratch.lower().removeprefix("file:").strip("/ ")
        require(not blank, "lake.scratch", self.scratch, "a folder such as ./out/scratch")
        both = ":" in self.scratch.removeprefix("file:") and PATTERN_SIGNS.search(self.scratch)
        require(not both, "lake.scratch", self.scratch, "a path without ':' beside any of {}[]*?\\, which Spark cannot list")

    @property
    def is_folder(self) -> bool:
        """Whether root is a folder of Delta tables; else it is a catalog.schema."""
        return "/" in self.root or ":" in self.root
