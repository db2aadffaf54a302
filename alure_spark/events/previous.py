"""The as_of that the sequences of a later one go on from, and why there is none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from pyspark.sql import functions as F

from ..clock import format_time, parse_time
from ..lake import Lake, as_of_scope, timestamp
from ..lake.arrivals import BRING_EVENTS, came_in


class Previous(NamedTuple):
    """The as_of to go on from, epoch ms, or None; why so; and what its run left to know."""

    since: int | None
    why: str
    facts: Mapping[str, str]


def previous_sequences(lake: Lake, last_ms: int, digest: str) -> Previous:
    """The newest as_of of `user_sequences` at or before the last one, if its rows can be gone on from.

    digest: Config.sequence_digest of today. Rows of other streams, rows that apply_retention let go of, and rows older than events that
    came in since cannot.
    """
    if "user_sequences" not in lake.published_versions():
        return Previous(None, "all of them: there are no earlier sequences", {})
    earlier = lake.read("user_sequences").where(F.col("as_of") <= timestamp(last_ms)).agg(F.unix_millis(F.max("as_of"))).collect()[0][0]
    if earlier is None:
        return Previous(None, "all of them: there are no earlier sequences", {})
    published = lake.runs().where("status = 'published'").orderBy(F.desc("finished"))
    built = published.where((F.col("job") == "build_sequences") & (F.col("scope") == as_of_scope(earlier))).first()
    if built is None or (built["facts"] or {}).get("sequence_digest") != digest:
        return Previous(None, f"all of them: the streams of the conf are others than at {format_time(earlier)}", {})
    for later in published.where((F.col("job") == "apply_retention") & F.col("outputs")["user_sequences"].isNotNull()).collect():
        kept_from = (later["facts"] or {}).get("user_sequences_kept_from")
        if kept_from is None or earlier < parse_time(kept_from):
            return Previous(None, f"all of them: apply_retention let rows of {format_time(earlier)} go", {})
    adds = F.col("job").isin(*BRING_EVENTS) & (F.col("outputs")["events"] > built["inputs"]["events"])
    for addition in published.where(adds).collect():
        if what := came_in((addition["facts"] or {}).get("known_from"), earlier):
            return Previous(None, f"all of them: {what} came in after the sequences of {format_time(earlier)} were built", {})
    return Previous(earlier, f"those with events since {format_time(earlier)}", built["facts"])
