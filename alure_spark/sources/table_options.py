"""Section `source.options` of source.kind tables: which tables are read, and what their columns mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..config import one_spelling
from ..errors import ConfigError, shown
from ..tables import ADS, EVENTS, FOLLOWS, USERS
from .batch_where import PLACEHOLDERS, filled


@dataclass(frozen=True)
class TableMapping:
    """One input table: where it is, which rows count, and the expression of every canonical column."""

    columns: Mapping[str, str]  # canonical name -> SQL expression over the table's columns
    path: str = ""  # a file or folder, relative to options.root; or
    table: str = ""  # a catalog table
    format: str = "delta"
    where: str = ""  # SQL predicate; rows outside it are no events of this stream (not refused: not meant)
    batch_where: str = ""  # the same for ingest.batch_days, to read less; it may hold the PLACEHOLDERS
    source: str = ""  # name of the stream, unless columns has an expression for `source`
    read_options: Mapping[str, str] = field(default_factory=dict)  # e.g. header: "true"

    def __post_init__(self) -> None:
        if bool(self.path) == bool(self.table):
            raise ConfigError(f"a table mapping has path {self.path!r} and table {self.table!r}: give one of the two")
        name = self.table or self.path
        filled(self.batch_where, name, (0, 1))
        if found := next((one for one in PLACEHOLDERS if f"{{{one}}}" in self.where), None):
            raise ConfigError(f"table {name}: where is {self.where!r}, but {{{found}}} is a time of a batch: it belongs in batch_where")


@dataclass(frozen=True)
class Options:
    events: tuple[TableMapping, ...] = ()
    ads: tuple[TableMapping, ...] = ()
    follows: tuple[TableMapping, ...] = ()
    users: tuple[TableMapping, ...] = ()  # what is declared of users, with the time from which it was known: users.attributes
    examples: tuple[TableMapping, ...] = ()  # labelled impressions as they are, for jobs/ingest_examples.py
    root: str = ""  # prefix of every relative path

    def __post_init__(self) -> None:
        if not self.events and not self.examples:
            raise ConfigError("source.options.events is empty: map at least one table")
        whole = {"ads": self.ads, "follows": self.follows, "users": self.users}
        for where, mappings, of in (
            ("events", self.events, EVENTS), ("ads", self.ads, ADS), ("follows", self.follows, FOLLOWS), ("users", self.users, USERS),
        ):  # fmt: skip
            spelled = {name: name for name in of.column_names}
            for number, mapping in enumerate(mappings):
                for name in mapping.columns:
                    one_spelling(name, spelled, f"source.options.{where}[{number}].columns")
        for where, mappings in (whole | {"examples": self.examples}).items():
            if limited := next((mapping for mapping in mappings if mapping.batch_where), None):
                raise ConfigError(
                    f"source.options.{where}: {limited.path or limited.table} has batch_where {shown(limited.batch_where)}, but every load "
                    f"replaces {where} whole, so that those of other batches would be gone: leave it out, or say `where`"
                )
        for mapping in self.events:
            if bool(mapping.source) == ("source" in mapping.columns):
                raise ConfigError(
                    f"source.options.events: {mapping.path or mapping.table} needs a stream: `source: NAME` or columns.source"
                )
