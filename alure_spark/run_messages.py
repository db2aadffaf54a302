"""What `runs` says of a failed run: the class of the error and its sentence without what it quotes of somebody's data.

Spark and Python quote values in their errors ("The value 'u123' of the type STRING cannot be cast"), rows as JSON, and whole tracebacks
of workers. `runs` outlives the users that such a text names, so it keeps words only; the terminal shows the full text.
"""

from __future__ import annotations

import re
import time

from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from .errors import AlureError
from .masking import masked_text
from .tables import TABLES

LONGEST = 500
ATTEMPTS = 10
READ = 20_000  # characters of an error that are looked at
GONE = "…"
KNOWN = {*TABLES, *(column for of in TABLES.values() for column in of.column_names)}
_CLASS = re.compile(r"(?<![\w.])(?:[a-z][a-z0-9_]*\.)*[A-Z][A-Za-z]{2,40}(?:Exception|Error|Interrupt|Exit)\b")
_CONDITION = re.compile(r"\[([A-Z][A-Z0-9]*(?:[_.][A-Z0-9]+)+)\]")
_QUOTED = re.compile(r"(?<!\w)(['\"`“])(.*?)(?:['\"`”](?!\w)|$)")
_BRACKETS = re.compile(r"\{.*\}|\{.*$|\[.*\]|\[.*$|\([^()]*[=,][^()]*\)")
# Words after which people put a value without quotes; not when a verb or preposition follows.
_NAMED = re.compile(r"(?i)\b(users?|user_id|ids?|rows?|values?|keys?|named?|got|accounts?|items?)(\s*[:=]\s*|\s+)([^\s,;:]+)")
_PLAIN = {
    "is", "are", "was", "were", "has", "have", "had", "of", "in", "for", "with", "at", "to", "from", "by", "on", "or", "and", "not", "no",
    "the", "a", "an", "that", "which", "cannot", "must", "do", "does", "before", "after", "than", "matched", "could",
}  # fmt: skip
_OWN_NUMBER = re.compile(
    r"(?:[a-z_]+(?:\.[a-z_]+)*=)?(?:\d{4}-\d\d-\d\d(?:T\d\d:\d\d(?::\d\d(?:\.\d+)?)?)?(?:Z|[+-]\d\d:\d\d)?|\d\d:\d\d(?::\d\d(?:\.\d+)?)?|[+-]?(?:\d{1,3}(?:,\d{3})+|\d{1,4})(?:\.\d+)?%?|[vV]\d{1,4})"
)
_WORD = re.compile(r"[A-Za-z][a-z]{0,15}(?:'[a-z]{1,2})?|[A-Z]{2,12}")


def stored_message(error: BaseException) -> str:
    """'Type: [CONDITION] sentence', at most 500 characters: quoted values, ids, tokens and rows are '…'.

    A sentence of ours keeps its numbers, times and the names of tables and columns; of others only plain words stay, for nobody knows
    what their numbers are.
    """
    ours = isinstance(error, AlureError)
    text = masked_text(str(error)[:READ]).strip()
    if ours and error.__cause__ is not None:  # what it cites of another's error
        for line in filter(None, str(error.__cause__).splitlines()):
            text = text.replace(masked_text(line), GONE)
    lines = text.splitlines() or [""]
    sentence = scrubbed(lines[0][:4000], ours)
    inner = dict.fromkeys(found for line in lines[1:] for found in _CLASS.findall(line))
    more = f" ({', '.join(list(inner)[:3])})" if inner else ""
    condition = condition_of(error)
    return f"{type(error).__name__}: {f'[{condition}] ' if condition else ''}{sentence}"[: LONGEST - len(more)].strip() + more


def condition_of(error: BaseException | None) -> str:
    """Spark's error condition, such as CAST_INVALID_INPUT, of the error or of what caused it; '' where there is none."""
    while error is not None:
        if isinstance(error, PySparkException) or type(error).__module__.startswith(("pyspark", "py4j")):
            known = error.getCondition() if isinstance(error, PySparkException) else None
            found = _CONDITION.search(str(error))
            if known or found:
                return str(known or (found[1] if found else ""))
        error = error.__cause__
    return ""


def scrubbed(text: str, ours: bool = False) -> str:
    """One line in which only words stay; ours: also numbers, times, and names of the lake's tables and columns."""
    text = _CONDITION.sub("", text)
    text = _QUOTED.sub(lambda found: found[0] if ours and found[2] in KNOWN else GONE, text)
    text = _BRACKETS.sub(GONE, text)
    if not ours:
        text = _NAMED.sub(lambda found: found[0] if found[3].lower() in _PLAIN else f"{found[1]}{found[2]}{GONE}", text)
    words = (_word(word, ours) for word in re.split(r"\s+", text.strip()))
    return re.sub(rf"{GONE}(?:\s*{GONE})+", GONE, " ".join(words)).strip()


def _word(word: str, ours: bool) -> str:
    bare = word.strip(".,:;!?()'\"`")
    keeps = not bare or bare == GONE or _WORD.fullmatch(bare) or _CLASS.fullmatch(bare)
    if not keeps and ours:
        keeps = _OWN_NUMBER.fullmatch(bare) or bare in KNOWN or re.fullmatch(r"[a-z_]+(?:[./=-][a-z_]+)*", bare)
    return word if keeps or GONE in word else word.replace(bare, GONE)


def forget(spark: SparkSession, runs: DataFrame, location: str, users: DataFrame) -> int:
    """Take the sentence out of the message of every failed run that names one of the users; returns of how many runs.

    Runs of earlier releases kept what an error quoted. runs: the table as it is; location: as SQL names it; users: column user_id.
    The update is nobody's turn to write: only rows of runs that have ended are touched, and no run's id stands in its commit.
    """
    failed = runs.where("status IN ('failed', 'ended') AND message IS NOT NULL").select("run_id", "message")
    naming = failed.join(F.broadcast(users.select("user_id")), F.col("message").contains(F.col("user_id")), "left_semi")
    # By run and not by user: the history of a Delta table keeps what an UPDATE asked for.
    found = [row["run_id"] for row in naming.select("run_id").distinct().collect()]
    if found:
        listed = ", ".join(f"'{run_id}'" for run_id in found)
        kind = "regexp_extract(message, '^[A-Za-z0-9_]*(Error|Exception|Interrupt|Exit)(?=:)', 0)"
        these = f"status IN ('failed', 'ended') AND message IS NOT NULL AND run_id IN ({listed})"
        for attempt in range(ATTEMPTS):
            try:
                spark.sql(f"UPDATE {location} SET message = concat({kind}, ': {GONE}') WHERE {these}")
                break
            except Exception as error:  # a job that says `started` meanwhile conflicts with it
                if attempt == ATTEMPTS - 1 or not re.search(r"DELTA_CONCURRENT|Concurrent\w+Exception", str(error)):
                    raise
                time.sleep(1)
        detail = spark.sql(f"DESCRIBE DETAIL {location}").first()
        if detail and detail["properties"].get("delta.enableDeletionVectors") == "true":  # the update left the text where it was
            spark.sql(f"REORG TABLE {location} APPLY (PURGE)")
    return len(found)
