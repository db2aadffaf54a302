"""Which jobs a part of the chain is. No Spark."""

from __future__ import annotations

import pytest

from alure_spark.errors import ConfigError
from jobs.pipeline import OPTIONAL, ORDER, STAGES, stages


def names(*chosen, **more):
    return [job.name for job in stages(*chosen, **more)]


def test_the_chain_is_run_from_its_first_to_its_last_stage_by_the_jobs_of_these_names():
    assert names(ranked=True, transferred=True, standalone=True) == list(ORDER) == list(STAGES)
    assert names() == [name for name in ORDER if name not in OPTIONAL]
    assert names(transferred=True) == [name for name in ORDER if OPTIONAL.get(name, "transferred") == "transferred"]
    assert names("embed_users", "build_graph", transferred=True, standalone=True) == [
        "embed_users", "extract_representations", "train_retrieval", "build_graph",
    ]  # fmt: skip
    assert names("embed_users", "retrieve_ads") == ["embed_users", "build_graph", "retrieve_ads"]
    assert names("", "build_sequences") == ["ingest_events", "build_sequences"]


def test_segments_are_made_before_the_sequences_that_are_cut_by_them():
    assert names("", "build_sequences", True) == ["ingest_events", "correlate_dwell", "build_sequences"]
    assert names("train_model", "", True) == names("train_model")


def test_an_unknown_or_reversed_pair_of_stages_is_named():
    with pytest.raises(ConfigError, match="there is no stage 'embed_user'; did you mean 'embed_users'"):
        stages("embed_user")
    with pytest.raises(ConfigError, match="--from evaluate comes after --to ingest_events; the order is ingest_events, build_sequences"):
        stages("evaluate", "ingest_events")
