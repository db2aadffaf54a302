"""Section `spark`: how to get a session."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from .rules import Largest, PositiveInt, require
from .section import Section


def check_memory(path: str, value: str) -> None:
    """A size of memory as the JVM reads it."""
    require(bool(re.fullmatch(r"(?i)[1-9][0-9]{0,8}[bkmgt]?b?", value)), path, value, "a size such as 4g or 512m")


@dataclass(frozen=True)
class SparkConfig(Section, prefix="spark."):
    """How to get a session. An active session (Databricks, spark-submit's own) always wins."""

    master: str = "local[2]"
    remote: str = ""  # a Spark Connect address such as sc://host:15002, instead of master
    driver_memory: Annotated[str, check_memory] = "4g"
    shuffle_partitions: Annotated[PositiveInt, Largest(1_000_000)] = 8
    settings: Mapping[str, str] = field(default_factory=dict)  # any further spark.* setting
