"""What happens to bad data, as one table: why a row is refused, what becomes null, what is left out, which load is refused whole.

`quarantine.reason` holds the texts of REASONS; clean.py and batches.py take them from here. docs/bad-data.md is written from it:

    python -m alure_spark.events.reasons docs/bad-data.md
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Reason:
    """Why a row is in quarantine."""

    text: str  # as quarantine holds it; what stands in braces is filled in
    tables: tuple[str, ...]
    when: str
    remedy: str

    def of(self, **values: object) -> str:
        """The text with its braces filled in."""
        return self.text.format(**values)

    def fits(self, text: str) -> bool:
        """Whether a text of quarantine is this reason."""
        return re.fullmatch(re.sub(r"\\\{\w+\\\}", "(.+)", re.escape(self.text)), text, re.DOTALL) is not None


EVENTS, ADS, FOLLOWS, USERS, EXAMPLES = ("events",), ("ads",), ("follows",), ("users",), ("examples",)
ALL, NUMBERED = (*EVENTS, *ADS, *FOLLOWS, *USERS, *EXAMPLES), (*EVENTS, *ADS, *USERS, *EXAMPLES)

MALFORMED = Reason(
    "the line is no JSON", ALL,
    "a line of a JSON table cannot be read, whatever `where` says; quarantine has its file, length and SHA-256, not its text, which may "
    "name a user",
    "Look for lines that were cut short; for a file that is one object or array of several lines set read_options.multiLine. With "
    "read_options.mode Spark decides.",
)  # fmt: skip
EMPTY = Reason(
    "{column} is null or empty", NUMBERED,
    "user_id, source, item_id, ad_id or account_id of an ad is null, '' or nothing but white space",
    "Map the column that holds the id; leave rows that have none out with `where`.",
)  # fmt: skip
USER_EMPTY = Reason("a user id is null or empty", FOLLOWS, "src_user_id or dst_user_id is missing", "Leave such rows out with `where`.")
NO_TIME = Reason(
    "{column} is missing or unparsable", ALL,
    "event_time, active_from or known_at is null, or no time (2025-02-30, 10:00 without a day, a year that Spark cannot hold)",
    "Map the time as a timestamp, a date or an ISO 8601 text; read another form with to_timestamp(x, 'dd.MM.yyyy').",
)  # fmt: skip
UNPARSABLE = Reason(
    "{column} is unparsable", (*EVENTS, *ADS),
    "arrival_time or active_to holds something that is no time; null is allowed there",
    "As for event_time. An open end of a flight is null or a far day such as 9999-12-31.",
)  # fmt: skip
NOT_UTF8 = Reason(
    "{column} is not valid UTF-8", ALL,
    "a column that names something (user, item, account, country, ...) has bytes that are no text, the character 0, or U+FFFD, "
    "which readers put in the place of such bytes",
    "Say the encoding where the table is read (CSV: read_options.encoding), or map hex(x) for binary ids.",
)  # fmt: skip
TOO_LARGE = Reason(
    "{column} is beyond its type {type}", EVENTS,
    "a whole number is given as something larger, or as infinity: dwell_ms 1e30, position 3000000000",
    "Look for a unit (nanoseconds?) or a sentinel; make the sentinel null with nullif(x, ...).",
)  # fmt: skip
TOO_EARLY = Reason(
    "{column} is before {time}", EVENTS, "the time is before `time.not_before`",
    "Look for epoch numbers in another unit; or set `time.not_before`.",
)  # fmt: skip
FUTURE = Reason(
    "event_time or arrival_time is in the future", EVENTS, "a time is at or after `time.not_after` (the clock of the job)",
    "Look for local times read as UTC and for sentinels; or set `time.not_after`.",
)  # fmt: skip
FOLLOW_FUTURE = Reason(
    "event_time is in the future", FOLLOWS, "the follow began at or after `time.not_after` (the clock of the job)", "As for events."
)  # fmt: skip
USER_FUTURE = Reason(
    "known_at is in the future", USERS, "what is declared of a user becomes known at or after `time.not_after` (the clock of the job)",
    "As for events; a later load, which replaces the table, takes it once that time has come.",
)  # fmt: skip
LATE = Reason(
    "arrived more than {days} days late", EVENTS, "arrival_time is more than `ingest.late_days` after event_time",
    "Raise `ingest.late_days` and run jobs.replay_quarantine.",
)  # fmt: skip
UNDECLARED = Reason(
    "source is not declared in streams", EVENTS, "the stream's name is no key of `streams`", "Declare it and run jobs.replay_quarantine."
)  # fmt: skip
NEGATIVE_DWELL = Reason("dwell_ms is negative", EVENTS, "dwell_ms is below 0", "Map a sentinel such as -1 to null: nullif(x, -1).")
BROKEN_EMBEDDING = Reason(
    "{column} has NaN or null", NUMBERED, "an embedding has a number that is missing",
    "Make the whole embedding null, or repair its maker."
)  # fmt: skip
ABSURD_EMBEDDING = Reason(
    "{column} has infinity or a number beyond 1e12", NUMBERED, "an embedding has a number whose square training could not hold",
    "Make the whole embedding null, or repair its maker.",
)  # fmt: skip
EMBEDDING_LENGTH = Reason(
    "{column} has not the {width} numbers of model.embedding_dimensions", EVENTS,
    "an embedding is longer or shorter than the conf says; one without any number counts as missing",
    "Mend the conf, or map embeddings of another model as an attribute of their own.",
)  # fmt: skip
NOT_FINITE = Reason(
    "{column} is not finite",
    NUMBERED,
    "a number (value, bid, numeric attribute) is NaN or infinity",
    "nullif, nanvl or try_divide.",
)
BEYOND_FLOAT = Reason(
    "{column} is beyond 3.4e38", NUMBERED, "a number does not fit the 32 bits of training: 1.8e308 of a client without a value",
    "Make the sentinel null: nullif(x, 1.7976931348623157e308D).",
)  # fmt: skip
OTHER_CONTENT = Reason(
    "event_id has other content already", EVENTS,
    "an event of the same stream and event_id was known first, and says something else",
    "Map an id that is one event's own, or leave event_id out: it is then a hash of the content.",
)  # fmt: skip
OTHER_STREAM = Reason(
    "event_id has other content already, in the stream {stream}", EVENTS,
    "an event of another stream has this event_id: each table numbers its own rows",
    "Put the stream before the id in the mapping, e.g. event_id: concat('click/', click_id).",
)  # fmt: skip
OTHER_FLIGHT = Reason(
    "ad_id and active_from have other content already", ADS, "two flights of an ad begin at the same time and differ",
    "Leave one of them out with `where`."
)  # fmt: skip
OTHER_DECLARATION = Reason(
    "user_id and known_at have other content already", USERS, "two rows of a user become known at one time and differ",
    "Leave one of them out with `where`, or join them in a view: a row says all that is declared of the user.",
)  # fmt: skip
ENDS_FIRST = Reason("active_to is not after active_from", ADS, "a flight ends before or when it begins", "Repair it; an open end is null.")
OUT_OF_YEARS = Reason(
    "{column} is outside the years {years}", (*ADS, *FOLLOWS, *USERS),
    "active_from is after 2200, where no flight begins, or a time has no year from 1 to 9999",
    "Look for another unit. Make a sentinel null: a follow of 1970-01-01 may be true, so it is taken, before a later one of the pair. "
    "What is known of a user from 1970-01-01 on is taken, too.",
)  # fmt: skip
ITSELF = Reason("a user follows itself", FOLLOWS, "both ends of a follow are one user", "Nothing: such a follow says nothing.")

NO_LABEL = Reason(
    "{column} is neither 0 nor 1", EXAMPLES, "a task's label is null, or another number",
    "Map the label as a condition (y > 0), which is 0 or 1; leave impressions without a label out with `where`.",
)  # fmt: skip
NO_VALUE = Reason(
    "{column} is no number of at least 0", EXAMPLES, "the label of a task of `ranking.values` is null, negative, NaN, or above 1e25",
    "Map what was earned, 0 where nothing was (coalesce(y, 0)); leave refunds out, or set them off against what they refund.",
)  # fmt: skip
NO_WEIGHT = Reason(
    "weight is below 0 or not finite", EXAMPLES, "a sample weight cannot be multiplied with", "Leave the column out: it is 1."
)
NO_SPLIT = Reason(
    "split is none of train, validation, test", EXAMPLES, "the split says something else",
    "Map it by CASE WHEN; null leaves the choice to the time (labels.validation_days).",
)  # fmt: skip

REASONS = (
    MALFORMED, EMPTY, USER_EMPTY, NO_TIME, NOT_UTF8, UNPARSABLE, TOO_LARGE, TOO_EARLY, FUTURE, FOLLOW_FUTURE, USER_FUTURE, LATE,
    UNDECLARED, NEGATIVE_DWELL, BROKEN_EMBEDDING, ABSURD_EMBEDDING, EMBEDDING_LENGTH, NOT_FINITE, BEYOND_FLOAT, OTHER_CONTENT,
    OTHER_STREAM, OTHER_FLIGHT, OTHER_DECLARATION, ENDS_FIRST, OUT_OF_YEARS, ITSELF, NO_LABEL, NO_VALUE, NO_WEIGHT, NO_SPLIT,
)  # fmt: skip

# (column, when, what comes of it)
NULLED = (
    ("dwell_ms", "outside `ingest.dwell_min_ms` and `dwell_max_ms`", "null; `ingest_events.dwell_outliers`"),
    ("dwell_ms", "longer than 366 days", "null; counted in the profile as nulled"),
    ("arrival_time", "before `time.not_before`", "null: the event is known when it happened; counted in the profile as nulled"),
    ("position", "negative", "null; counted in the profile as nulled"),
    (
        "utc_offset_minutes",
        "more than 14 hours",
        "null, or the country's offset of `ingest.utc_offset_minutes`; counted in the profile as nulled",
    ),
    ("dwell_ms, position, utc_offset_minutes", "NaN", "null, as a gap in a column of whole numbers that pandas wrote"),
    (
        "event_id, country, account_id, category_id, surface, impression_id, media_type, categorical attributes",
        "'' or nothing but white space",
        "missing: event_id becomes a hash of the content, country 'unknown', the others null",
    ),
    ("an embedding", "without any number", "null"),
    ("other texts", "bytes that are not UTF-8", "U+FFFD in their place"),
)

# (rows, why)
DROPPED = (
    ("equal copies of an event", "the same event_id and content: a log that delivers at least once; the first that was known stays"),
    ("equal copies of a flight, or of what is declared of a user", "the same content"),
    ("later copies of a follow", "the earliest of a pair of users stays"),
    ("rows outside `where` or `batch_where`", "they are not meant: no events of this stream"),
    ("rows of forgotten users", "their tombstones say so"),
)

# (what is wrong, what the sentence names)
WHOLE = (
    ("a required column or a declared attribute is missing", "the column, and the nearest one that is there"),
    (
        "a column has a type that its contract does not take (an id as DOUBLE, a time as a number)",
        "table, column, type and what is allowed",
    ),
    ("an expression of the conf fails on a row (CAST of 'n/a', division by zero)", "table, canonical column and the kind of error"),
    ("a file cannot be read (cut short, malformed)", "the table, and the file where Spark names it"),
    ("no event is accepted", "the three most frequent reasons"),
    ("the load differs too much from the last one (`ingest.max_*`)", "each stream and number; `--force` takes it"),
)


def reason_of(text: str) -> Reason | None:
    """The reason of a text in quarantine; None where no reason has it."""
    exact = [reason for reason in REASONS if reason.text == text]
    return next((reason for reason in (*exact, *REASONS) if reason.fits(text)), None)


def page() -> str:
    """docs/bad-data.md."""
    rows = [(f"`{one.text}`", ", ".join(one.tables), one.when, one.remedy) for one in REASONS]
    return "\n".join(
        (
            "# What happens to bad data",
            "",
            "<!-- Written by: python -m alure_spark.events.reasons docs/bad-data.md -->",
            "Every row of your tables is accepted, is an exact copy of an accepted one, or is refused with a reason.",
            "",
            "## Which rows are refused",
            "",
            "A refused row goes to the table `quarantine`: where it came from, the reason, and the row as JSON.",
            "What stands in braces is filled in.",
            "",
            *_table(("reason", "tables", "when", "what to do"), rows),
            "",
            "## Which values become null",
            "",
            "The row stays, because the rest of it is to be believed.",
            "",
            *_table(("column", "when", "what comes of it"), NULLED),
            "",
            "## Which rows are left out without a reason",
            "",
            *_table(("rows", "why"), DROPPED),
            "",
            "## Which loads are refused whole",
            "",
            "The job ends with exit code 2 and one sentence; nothing is written.",
            "",
            *_table(("what is wrong", "what the sentence names"), WHOLE),
            "",
        )
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines: list[Sequence[str]] = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page())
