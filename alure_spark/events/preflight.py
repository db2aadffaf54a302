"""What a load of events looks like, and what is off about it against the last one: asked before anything is written.

Enters: validated events (clean.py). Leaves: one `SourceProfile` per stream, as plain numbers that a run can carry, and sentences.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from ..clock import format_time
from ..config import IngestConfig
from ..tables import DERIVED_EVENT_COLUMNS, EVENTS, REQUIRED_INPUT_COLUMNS
from .dwell import MAY_BE_IMPOSSIBLE

OPTIONAL = tuple(
    column.name for column in EVENTS.columns if column.name not in (*REQUIRED_INPUT_COLUMNS, *DERIVED_EVENT_COLUMNS, "event_id", "country")
)
COUNTRIES = 5  # the largest ones of a stream that its profile names


@dataclass(frozen=True)
class SourceProfile:
    """One stream of one load."""

    rows: int
    refused: int
    dwell_outliers: int  # dwell_ms outside the bounds of `ingest`, therefore null
    first_ms: int | None  # known_at of the accepted rows, epoch ms; None without one
    last_ms: int | None
    nulls: Mapping[str, float]  # optional column -> share of the rows without a value
    countries: Mapping[str, int]  # rows of the largest countries
    nulled: Mapping[str, int] = field(default_factory=dict)  # column -> values that could not be true, therefore null

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


def profile(validated: DataFrame) -> dict[str, SourceProfile]:
    """Stream ('?' where a row names none) -> its profile. One pass over the rows."""
    source = F.coalesce("source", F.lit("?")).alias("source")
    counts = {"rows": F.lit(True), "refused": F.col("reason").isNotNull(), "dwell_outliers": F.col("_dwell_outlier")}
    counts |= {f"null_{name}": F.col(name).isNull() for name in OPTIONAL}
    known = F.when(F.col("reason").isNull(), F.col("known_at"))  # a refused row may say any year
    counts |= {f"nulled_{name}": F.array_contains("_nulled", name) for name in MAY_BE_IMPOSSIBLE}
    per_country = validated.groupBy(source, "country").agg(
        *(F.count_if(condition).alias(name) for name, condition in counts.items()),
        F.min(known).alias("first"),
        F.max(known).alias("last"),
    )
    largest = F.slice(F.sort_array(F.collect_list(F.struct("rows", "country")), asc=False), 1, COUNTRIES)
    found = per_country.groupBy("source").agg(
        *(F.sum(name).alias(name) for name in counts),
        F.unix_millis(F.min("first")).alias("first_ms"),
        F.unix_millis(F.max("last")).alias("last_ms"),
        largest.alias("largest"),
    )
    return {
        row["source"]: SourceProfile(
            row["rows"], row["refused"], row["dwell_outliers"], row["first_ms"], row["last_ms"],
            {name: row[f"null_{name}"] / row["rows"] for name in OPTIONAL if row[f"null_{name}"]},
            {pair["country"]: pair["rows"] for pair in row["largest"]},
            {name: row[f"nulled_{name}"] for name in MAY_BE_IMPOSSIBLE if row[f"nulled_{name}"]},
        )
        for row in found.collect()
    }  # fmt: skip


def heavy_hitters(validated: DataFrame, keys: tuple[str, ...] = ("user_id", "item_id", "account_id")) -> list[str]:
    """Per key a sentence on the value that most events have: what would make one task wait for one key."""
    total = validated.count()
    found = []
    for key in keys:
        top = validated.where(F.col(key).isNotNull()).groupBy(key).count().orderBy(F.desc("count"), key).first()
        if top is not None:
            found.append(f"heaviest {key}: {top[key]} with {top['count']:,} events ({top['count'] / total:.1%})")
    return found


@dataclass(frozen=True)
class TableCounts:
    """What was read of one mapped table."""

    name: str
    where: str
    batch_where: str  # with the times of the batch; '' for a whole load
    read: int  # rows that batch_where left
    taken: int  # of these, rows that `where` takes
    unknown: int  # of these, rows for which `where` is null: SQL leaves them out
    known: int | None  # of the taken, rows known in the batch; None for a whole load, for ads and follows

    @property
    def empty(self) -> str:
        """A sentence where nothing is left of the table though it was meant to have rows; '' otherwise."""
        if not self.read:
            return f"table {self.name}: " + (f"batch_where {self.batch_where!r} left no row" if self.batch_where else "it has no row")
        if not self.taken:
            return f"table {self.name}: where {self.where!r} left none of {self.read:,} rows"
        if self.known == 0 and self.batch_where:
            hint = "a day column of type text is compared as text, for which {from_date} and {to_date} are there"
            return f"table {self.name}: none of the {self.taken:,} rows that batch_where {self.batch_where!r} left is of the batch ({hint})"
        return ""

    @property
    def remarks(self) -> list[str]:
        """Sentences on what is worth a look though a load may be meant so."""
        found = []
        if self.unknown:
            found.append(f"table {self.name}: where {self.where!r} is null for {self.unknown:,} of {self.read:,} rows, which are left out")
        if self.taken and self.known == 0 and not self.batch_where:
            found.append(f"table {self.name}: none of its {self.taken:,} rows is of the batch")
        return found


def count_tables(tables: DataFrame | None) -> list[TableCounts]:
    """The counts of the mapped tables, in the conf's order; none for another source."""
    return [] if tables is None else [TableCounts(**row.asDict()) for row in tables.collect()]


def what_is_empty(tables: Sequence[TableCounts], now: Mapping[str, SourceProfile], batch: tuple[int, int] | None) -> list[str]:
    """Sentences on mapped tables, and on a batch [from, to) (epoch ms of known_at), of which nothing is left."""
    found = [table.empty for table in tables if table.empty]
    if batch is not None and all(one.first_ms is None for one in now.values()):
        refused = sum(one.refused for one in now.values())
        why = f"all {refused:,} rows are refused" if refused else "0 rows"
        found.append(f"the batch from {format_time(batch[0])} to {format_time(batch[1])} has no event: {why}")
    return found


def what_is_off(now: Mapping[str, SourceProfile], last: Mapping[str, Mapping[str, object]], ingest: IngestConfig) -> list[str]:
    """Sentences on what passes the thresholds of `ingest`; empty when the load is like the last one (or there was none).

    last: the profiles of the last load, as `as_dict` gave them.
    """
    found = []
    for source, found_now in now.items():
        if ingest.max_refused_share and found_now.refused > ingest.max_refused_share * found_now.rows:
            found.append(f"{source}: {found_now.refused:,} of {found_now.rows:,} rows are refused")
    for source, before in last.items():
        rows, was = now[source].rows if source in now else 0, int(str(before["rows"]))
        if ingest.max_row_change and was and abs(rows - was) > ingest.max_row_change * was:
            found.append(f"{source}: {rows:,} rows, {was:,} the last time")
        nulls = before["nulls"]
        assert isinstance(nulls, Mapping)
        for name, share in now[source].nulls.items() if source in now else ():
            if ingest.max_null_rise and share - float(nulls.get(name, 0.0)) > ingest.max_null_rise:
                found.append(f"{source}: {name} is missing in {share:.1%} of the rows, {float(nulls.get(name, 0.0)):.1%} the last time")
    return found


def describe(profiles: Mapping[str, SourceProfile], streams: Iterable[str] = ()) -> list[str]:
    """One sentence per stream, also for those of `streams` that have no row."""
    lines = [f"{source}: 0 rows" for source in streams if source not in profiles]
    for source, one in sorted(profiles.items()):
        when = (
            f"{format_time(one.first_ms)} to {format_time(one.last_ms)}"
            if one.first_ms is not None and one.last_ms is not None
            else "at no time"
        )
        nulls = ", ".join(f"{name} {share:.0%}" for name, share in sorted(one.nulls.items(), key=lambda pair: -pair[1]) if share < 1)
        countries = ", ".join(f"{country} {count:,}" for country, count in one.countries.items())
        nulled = "".join(f"; {count:,} impossible {name} made null" for name, count in sorted(one.nulled.items()))
        lines.append(
            f"{source}: {one.rows:,} rows, {one.refused:,} refused; known {when}; {countries}; missing: {nulls or 'nothing'}{nulled}"
        )
    return lines
