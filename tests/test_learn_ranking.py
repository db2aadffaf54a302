"""The job that learns through the day, on the small world: replay and stream give one model, and mistakes are one sentence."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from alure_spark.clock import DAY_MS, HOUR_MS, format_time, parse_time
from alure_spark.config import FieldConfig, load
from alure_spark.errors import ConfigError, TrackingError
from alure_spark.inference.registered import publish_learnt, ranking_version
from alure_spark.lake import workspace
from alure_spark.ranking.artifact import RankingArtifact
from alure_spark.running import open_context, run_jobs
from alure_spark.running.stream import Following
from alure_spark.training import online_state, ranking_challenger
from alure_spark.training.online import BEGAN_AS
from jobs import build_sequences, ingest_events, learn_ranking, train_ranking
from tests.conftest import ROOT, overrides

CONF = ROOT / "conf" / "test.yml"
BEGIN_MS = parse_time("2025-01-12")
END_MS = BEGIN_MS + 2 * DAY_MS
SETTINGS = (
    "source.options.users=80", "source.options.days=9", "labels.conversion_window_hours=48", "lake.wait_minutes=2",
    "ranking.exploration.features=0", "ranking.epochs=1", "ranking.learning_rate=0.0001",
    "ranking.online.every_minutes=120", "ranking.online.history_days=3", "ranking.online.waits_hours=[0.0,24.0]",
    "ranking.online.least_responses=5", "ranking.online.late_minutes=600", "ranking.online.report_hours=12",
)  # fmt: skip


def context_at(folder, moment_ms, *more):
    return open_context(load(CONF, overrides(folder, *SETTINGS, f"time.as_of={format_time(moment_ms)}", *more)))


def ingested(folder, moment_ms, days=1):
    """The load of the days before the moment."""
    run_jobs(context_at(folder, moment_ms, f"ingest.batch_days={days}"), [ingest_events.JOB], "load")


def begun(folder):
    """A lake with all events known before BEGIN_MS, and a ranking model of then."""
    ingested(folder, BEGIN_MS, days=8)
    context = context_at(folder, BEGIN_MS)
    run_jobs(context, [build_sequences.JOB, train_ranking.JOB], "begun")
    return context


def learnt(context, moment_ms):
    context.config = replace(context.config, time=replace(context.config.time, as_of=format_time(moment_ms)))
    context.lake.refresh()
    run_jobs(context, [learn_ranking.JOB], "learn")


def state_of(context):
    path = Path(workspace(context.config.lake)) / f"{context.config.name}-ranking.online"
    return online_state.load(path)


@pytest.fixture(scope="module")
def beginning(spark, tmp_path_factory):
    folder = tmp_path_factory.mktemp("beginning")
    begun(folder)
    return folder


def copied(beginning, folder):
    """Another lake that stands where the first one does."""
    shutil.copytree(beginning / "lake", folder / "lake")
    shutil.copy(beginning / "mlflow.db", folder)
    return context_at(folder, BEGIN_MS)


@pytest.fixture(scope="module")
def replayed(beginning, tmp_path_factory):
    """A replay of two days in one call."""
    folder = tmp_path_factory.mktemp("replayed")
    context = copied(beginning, folder)
    ingested(folder, END_MS, days=2)
    learnt(context, END_MS)
    return context


def test_a_replay_learns_every_window_and_registers_what_predicted_no_worse(replayed):
    state, _, _ = state_of(replayed)
    assert state.learnt_until_ms == END_MS - 2 * HOUR_MS, "the newest event is in the last window, which may go on"
    assert state.counts["windows"] == 23
    assert state.counts["samples"] > 300
    sums = state.totals().sum(axis=0)
    assert (sums[:, 0] > 200).all()
    _, champion = ranking_version(replayed.config, replayed.tracker)
    better = (sums[:, 2] / sums[:, 0]).sum() <= (sums[:, 3] / sums[:, 0]).sum()
    assert (BEGAN_AS in champion.facts) == better
    assert champion.as_of_ms == (state.learnt_until_ms if better else BEGIN_MS)
    assert replayed.tracker.metrics["learn_ranking.click.impressions"] == sums[0, 0]


def same(one, other):
    (state, weights, _), (its_state, its_weights, _) = state_of(one), state_of(other)
    assert all(torch.equal(value, its_weights[name]) for name, value in weights.items())
    for name in ("base", "learnt_until_ms", "waits", "counts", "usual", "predicted", "judged"):
        assert str(getattr(state, name)) == str(getattr(its_state, name)), name


@pytest.fixture(scope="module")
def streamed(beginning, tmp_path_factory):
    """The same by a stream, which a day's load wakes, and which is stopped and started in between."""
    folder = tmp_path_factory.mktemp("streamed")
    context = copied(beginning, folder)
    for moment_ms in (BEGIN_MS + DAY_MS, END_MS):
        follow = Following(context, learn_ranking.JOB, "events")
        follow.query.processAllAvailable()
        ingested(folder, moment_ms)
        follow.query.processAllAvailable()
        follow.query.stop()
        assert not follow.failure
    return context


@pytest.mark.slow
def test_a_stream_gives_the_model_of_the_replay(replayed, streamed):
    same(replayed, streamed)


@pytest.mark.slow
def test_a_model_that_learnt_through_the_day_is_gone_on_from_and_gives_way_to_one_that_is_trained_anew(streamed):
    config, tracker = streamed.config, streamed.tracker
    state, weights, _ = state_of(streamed)
    _, base = ranking_version(config, tracker, state.version)
    network, vocabulary = base.network()
    network.load_state_dict(weights)
    own = RankingArtifact.of(network, vocabulary, {**base.facts, "as_of_ms": END_MS, BEGAN_AS: state.base})
    with tracker.run("register", config):
        said = publish_learnt(config, tracker, own, True, "champion: by the test")
    _, champion = ranking_version(config, tracker)
    assert champion.model_id == own.model_id
    assert own.model_id in said
    before = str(state)
    learnt(streamed, END_MS)
    assert str(state_of(streamed)[0]) == before, "it goes on from its own state"
    verdict = ranking_challenger.decide(champion, None, None, config)
    assert verdict.passed
    assert "has learnt from the impressions that validate" in verdict.reason


def test_to_learn_again_changes_nothing(replayed):
    before = state_of(replayed)
    learnt(replayed, END_MS)
    assert str(state_of(replayed)) == str(before)


def test_what_cannot_be_learnt_from_is_one_sentence(beginning, replayed, tmp_path):
    shutil.copytree(replayed.lake.root, tmp_path / "lake")
    context = context_at(tmp_path, END_MS)
    with pytest.raises(TrackingError, match="has no champion of alure_user_model_test_ranking: run jobs/train_ranking.py first"):
        learnt(context, END_MS)
    shutil.copy(beginning / "mlflow.db", tmp_path)
    context = context_at(tmp_path, END_MS)
    ranking = context.config.ranking
    fields = {name: one for name, one in ranking.fields.items() if name != "hour"}
    for says, other in (
        ("ranking.exploration.features is 64; allowed: 0 for a model that learns through the day",
         replace(ranking, exploration=replace(ranking.exploration, features=64))),
        ("reads the field 'hour', which ranking.fields lacks", replace(ranking, fields=fields)),
        ("reads the field 'hour' by the encoding numeral_systems",
         replace(ranking, fields=fields | {"hour": FieldConfig("context.hour", "standardized")})),
    ):  # fmt: skip
        context.config = replace(context.config, ranking=other)
        with pytest.raises(ConfigError, match=says):
            learnt(context, END_MS)
    with pytest.raises(ConfigError, match="ranking.online.account names the attribute of impressions 'advertiser'"):
        context_at(tmp_path, END_MS, "ranking.online.account=advertiser")
