"""Which days of cross_sums have to be read again, after runs in any order."""

from __future__ import annotations

import pytest

from alure_spark.clock import DAY_MS, NEVER_MS, format_time
from alure_spark.inference.transfer_tables import FINAL_UNTIL, SUMMED, outdated
from alure_spark.lake import as_of_scope

ALL = (1, 2, 3, 4, 5, 6)  # days, by when they end


def at(day):
    return format_time(round(day * DAY_MS))


def ran(job, day=0, read=None, wrote=None, known_from=None, **facts):
    row = {"job": job, "scope": as_of_scope(day * DAY_MS), "read": read, "wrote": wrote}
    return row | {"known_from": known_from and at(known_from), SUMMED: None, FINAL_UNTIL: None} | facts


def built(day, version):
    return ran("build_sequences", day, read=version)


def summed(*days, as_of=None, final=None):
    """By the run of as_of, by default of the last of the days."""
    last = as_of or max(days)
    facts = {SUMMED: ", ".join(map(at, days)), FINAL_UNTIL: at(last if final is None else final)}
    return ran("extract_representations", last, **facts)


def loaded(version, known_from=None):
    return ran("ingest_events", wrote=version, known_from=known_from)


@pytest.mark.parametrize(("labels_day", "days"), [(8, ()), (5, ALL), (6, ())])
def test_an_earlier_day_is_not_made_of_sums_that_labels_of_a_later_day_have_thinned_out(labels_day, days):
    again = outdated([built(6, 3), summed(*ALL)], [day * DAY_MS for day in ALL], labels_day * DAY_MS)
    assert tuple(sorted(end // DAY_MS for end in again)) == days
    assert all("by labels of later" in one for one in again.values())


FORGOTTEN = ran("forget_users")


@pytest.mark.parametrize(
    ("runs", "days", "why"),
    [
        ([summed(*ALL)], (), ""),
        ([loaded(3, 0.5), summed(*ALL), loaded(4, 6.0)], (), ""),
        ([summed(*ALL), loaded(None)], (), ""),
        ([summed(*ALL), loaded(4, 4.5)], (5, 6), "events known from 1970-01-05 12:00:00.000 on came in since"),
        ([summed(*ALL), loaded(4)], ALL, "the whole log came in since"),
        ([loaded(4, 4.5), summed(*ALL)], (5, 6), "events known from 1970-01-05 12:00:00.000 on came in since"),
        ([summed(*ALL), loaded(4, 3.5), built(5, 4), summed(1, 2, 3, 4, 5)], (6,), "came in since"),
        ([summed(*ALL), FORGOTTEN], ALL, "users were forgotten since"),
        ([summed(*ALL), FORGOTTEN, summed(1, 2, 3, 4)], (5, 6), "users were forgotten since"),
        ([summed(*ALL, final=4)], (5, 6), "impressions were held back"),
        ([summed(*ALL, final=4), summed(5, 6, as_of=8, final=6)], (), ""),
        ([summed(1, 2, 3, 4)], (5, 6), "it is not known what they were summed of"),
    ],
    ids=[
        "nothing", "later events", "no new event", "late events", "a whole load", "between sequences and sums",
        "an earlier day is run again", "forgotten", "forgotten, and an earlier day is run again",
        "held back", "held back no more", "by a run that did not say",
    ],
)  # fmt: skip
def test_a_day_is_read_again_where_its_sums_are_not_of_what_is_known_now(runs, days, why):
    again = outdated([built(6, 3), *runs], [day * DAY_MS for day in ALL], NEVER_MS)
    assert tuple(sorted(end // DAY_MS for end in again)) == days
    assert all(why in one for one in again.values())
