"""A model that learns through the day: the same by replay and step by step, after a kill, and never from what was not known yet."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from alure_spark import metrics
from alure_spark.clock import DAY_MS, HOUR_MS, NEVER_MS
from alure_spark.config import OnlineConfig
from alure_spark.errors import ConfigError, TrainingError
from alure_spark.ranking.artifact import RankingArtifact
from alure_spark.ranking.network import RankingNetwork
from alure_spark.training import online, online_report, online_state
from alure_spark.training.delayed_feedback import Shown, waits
from alure_spark.training.online import OnlineLearner
from alure_spark.training.online_state import COUNT, FROZEN, LEARNING, POSITIVE
from tests.training.online_world import (
    ACCOUNTS,
    BEGIN_MS,
    CONFIG,
    ONLINE,
    SPEC,
    TASKS,
    VOCABULARY,
    WHOLE,
    WINDOW_MS,
    base,
    batch_of,
    learner,
    read,
    same_weights,
    world,
)

END_MS = 10 * DAY_MS


@pytest.fixture(scope="module")
def log():
    return world()


@pytest.fixture(scope="module")
def artifact(log):
    return base(log)


@pytest.fixture(scope="module")
def replayed(log, artifact):
    """(learner, what each window was made of) of a replay in one call."""
    one = learner(artifact)
    return one, list(one.learn(read(log, one, END_MS), END_MS))


def stepwise(log, one, moments):
    for until_ms in moments:
        for _ in one.learn(read(log, one, until_ms), until_ms):
            pass
    return one


def same_state(one, other):
    return all(
        str(getattr(one.state, name)) == str(getattr(other.state, name))
        for name in ("learnt_until_ms", "waits", "counts", "usual", "predicted", "judged")
    )


@pytest.mark.parametrize("every_hours", [1, 5, 24], ids=["a stream", "five windows at once", "a day at once"])
def test_a_replay_in_many_calls_gives_the_same_bits_as_one_call(log, artifact, replayed, every_hours):
    moments = [*range(BEGIN_MS + every_hours * HOUR_MS, END_MS, every_hours * HOUR_MS), END_MS]
    many = stepwise(log, learner(artifact), moments)
    assert same_weights(many, replayed[0])
    assert same_state(many, replayed[0])
    assert not same_weights(many, learner(artifact)), "it has learnt"


def by_hand(log, state, window_ms):
    """Event -> task -> (weight, positive) of one window, by walking over every impression with what was known before its end."""
    begin, end = window_ms
    found = {}
    horizon = CONFIG.online.horizon_ms(WINDOW_MS)
    for place, (event, time, known) in enumerate(zip(log.event, log.time_ms, log.known_ms, strict=True)):
        if time < BEGIN_MS - horizon:
            continue
        chosen = max((midnight for midnight in state.waits if midnight <= time), default=min(state.waits))
        for column, task in enumerate(TASKS):
            answered = log.answered_ms[task][place]
            wait = state.waits[chosen][task].get(int(log.ad[place]) % ACCOUNTS, 0)
            out = max(time + wait, known)
            row = found.setdefault(event, np.zeros((2, len(TASKS))))
            if begin <= out < end:
                row[:, column] += (1, answered <= out)
            if answered != NEVER_MS and out < answered and begin <= answered < end:
                row[:, column] += (0, 1)
    return {event: row for event, row in found.items() if row.any()}


def test_every_window_is_made_of_the_samples_that_go_out_in_it(log, artifact):
    one, windows = learner(artifact), 0
    for learnt in one.learn(read(log, one, END_MS), END_MS):
        if windows % 12 == 0:  # the walk is slow
            expected = by_hand(log, one.state, (learnt.begin_ms, learnt.end_ms))
            made = {event: np.stack(its) for event, *its in zip(learnt.event, learnt.weight, learnt.positive, strict=True)}
            assert made.keys() >= expected.keys()
            for event, row in made.items():
                np.testing.assert_array_equal(row, expected.get(event, np.zeros((2, len(TASKS)))))
        windows += 1
    assert windows == one.state.counts["windows"] == 96


def test_in_the_end_each_impression_counts_once_as_what_it_was(log, artifact, replayed):
    one, windows = replayed
    late = CONFIG.online.horizon_ms(WINDOW_MS)
    whole = {event: np.zeros((2, len(TASKS))) for event in log.event.tolist()}
    for learnt in windows:
        for event, *its in zip(learnt.event.tolist(), learnt.weight, learnt.positive, strict=True):
            whole[event] += np.stack(its)
    settled = np.flatnonzero((log.time_ms >= BEGIN_MS) & (log.time_ms + late < END_MS))
    assert len(settled) > 300
    for place in settled.tolist():
        labels = [log.answered_ms[task][place] != NEVER_MS for task in TASKS]
        np.testing.assert_array_equal(whole[log.event[place]], [[1, 1], labels])
    assert one.state.counts["taken_back"] > 20
    assert sum(learnt.weight.sum() for learnt in windows) == one.state.counts["samples"]


def test_nothing_is_used_before_it_is_known(log, artifact):
    """A log whose later part is another one gives the same model up to there, to the bit."""
    cut = BEGIN_MS + 30 * HOUR_MS
    other = world(seed=5)
    later = {task: np.where(its >= cut, np.where(other.answered_ms[task] >= cut, other.answered_ms[task], NEVER_MS), its)
             for task, its in log.answered_ms.items()}  # fmt: skip
    later = {task: np.where(its == NEVER_MS, its, np.maximum(its, log.known_ms)) for task, its in later.items()}
    changed = replace(log, answered_ms=later, ad=np.where(log.time_ms >= cut, log.ad % 12 + 1, log.ad))
    assert any((later[task] != log.answered_ms[task]).sum() > 50 for task in TASKS)
    found = []
    for of in (log, changed):
        one = learner(artifact)
        for learnt in one.learn(read(of, one, END_MS), END_MS):
            if learnt.end_ms == cut:
                found.append({name: value.clone() for name, value in one.network.state_dict().items()})
        found.append(one)
    before, whole, same, another = found
    assert all(torch.equal(value, same[name]) for name, value in before.items())
    assert not same_weights(whole, another)


def test_waits_are_those_of_what_was_known_at_each_midnight(log, replayed):
    state = replayed[0].state
    assert sorted(state.waits) == [BEGIN_MS + day * DAY_MS for day in (1, 2, 3)], "those of the first day are needed no more"
    for midnight, of_tasks in state.waits.items():
        known = log.known_ms < midnight
        for task in TASKS:
            answers = np.where(log.answered_ms[task] < midnight, log.answered_ms[task], NEVER_MS)
            shown = Shown(log.time_ms[known], (log.ad % ACCOUNTS)[known], answers[known], log.known_ms[known])
            expected = waits(shown, ACCOUNTS, midnight, ONLINE.waits_ms, ONLINE.history_days, DAY_MS, ONLINE.most_unrest)
            assert of_tasks[task] == {number: ms for number, ms in enumerate(expected.tolist()) if ms}
    assert any(state.waits[midnight][task] for midnight in state.waits for task in TASKS), "somebody is waited for"


class Killed(Exception):
    pass


@pytest.mark.parametrize("kill_at", [1, 20, 21, 39])
@pytest.mark.parametrize("where", ["after a window", "within a window", "while the state is written", "after it is written"])
def test_a_killed_run_goes_on_without_losing_or_doubling_a_sample(log, artifact, replayed, tmp_path, monkeypatch, kill_at, where):
    path, counted = tmp_path / "it.online", {"windows": 0, "saved": 0}
    one = learner(artifact)

    def killing(function, what, before):
        def wrapped(*given, **named):
            if before and counted[what] == (kill_at if what == "windows" else 1):
                raise Killed
            result = function(*given, **named)
            counted[what] += 1
            if not before and counted[what] == (kill_at if what == "windows" else 1):
                raise Killed
            return result

        return wrapped

    one.save(path)
    counted["saved"] = 0
    with monkeypatch.context() as patch:
        if where.endswith("window"):
            patch.setattr(OnlineLearner, "_judge", killing(OnlineLearner._judge, "windows", where.startswith("within")))
        elif where == "while the state is written":
            patch.setattr(online_state.os, "replace", killing(online_state.os.replace, "saved", True))
        else:
            patch.setattr(OnlineLearner, "save", killing(OnlineLearner.save, "saved", False))
        with pytest.raises(Killed):
            while True:
                one.advance(read(log, one, END_MS), END_MS, {}, path)
    again = OnlineLearner.at(path, ("1", artifact), lambda version: ("1", artifact), WHOLE)
    again.advance(read(log, again, END_MS), END_MS, {}, path)
    assert same_weights(again, replayed[0])
    assert same_state(again, replayed[0])


def test_what_both_models_said_before_is_judged_by_all_samples(log, artifact, replayed):
    """The sums are the cross entropy of predictions that were made window by window, with the labels known in the end."""
    one = learner(artifact)
    said_of = dict[int, np.ndarray]()
    for learnt in one.learn(read(log, one, END_MS), END_MS):
        for event, *said in zip(*(its.tolist() for its in one.state.predicted.get(learnt.begin_ms, (torch.zeros(0),) * 3)), strict=True):
            said_of[event] = np.array(said)
    sums = one.state.totals().sum(axis=0)
    expected, samples_of = np.zeros((len(TASKS), 4)), {}
    for learnt in replayed[1]:
        for event, *its in zip(learnt.event.tolist(), learnt.weight, learnt.positive, strict=True):
            samples_of[event] = samples_of.get(event, 0) + np.stack(its)
    for event, (weight, positive) in samples_of.items():
        if event in said_of:
            nats = weight * np.log1p(np.exp(said_of[event])) - positive * said_of[event]
            expected += np.stack([weight, positive, *nats], axis=1)
    np.testing.assert_allclose(sums, expected, rtol=1e-5)
    assert sums[0, COUNT] > 500
    place = int(np.flatnonzero(log.known_ms // HOUR_MS > log.time_ms // HOUR_MS)[-1])
    assert int(log.event[place]) not in said_of, "known too late to be judged"


def test_the_report_says_how_much_better_it_predicted(replayed):
    state = replayed[0].state
    found, text = online_report.metrics_and_text(state, TASKS, "title")
    count, positive, learning, frozen = state.totals()[:, 0].sum(axis=0)
    labels = np.r_[np.ones(round(positive)), np.zeros(round(count - positive))]
    least = learning / count / found["click.ne"]
    known_rate = np.full(len(labels), positive / count)
    assert metrics.normalized_entropy(labels, known_rate) == pytest.approx(1)
    assert found["click.frozen_ne"] == pytest.approx(frozen / count / least)
    assert found["click.gain"] == pytest.approx((frozen - learning) / count)
    assert found["click.gain_low"] < found["click.gain"] < found["click.gain_high"]
    assert text.startswith("title")
    assert "learn_ranking/loss.png" in online_report.figures(state, TASKS)
    assert (LEARNING, FROZEN, POSITIVE) == (2, 3, 1)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_where_tastes_change_it_predicts_better_than_the_model_it_began_as_and_learns_nothing_where_there_is_nothing(seed):
    """Tastes change a day after it began; in the null twin all ads are alike. The interval is over windows of an hour."""
    found, config = {}, replace(CONFIG, online=replace(ONLINE, learning_rate=2e-3))
    for kind, more in (("changed", {"changes_at": 7}), ("null", {"null": True})):
        log = world(seed, a_day=1200, users=200, **more)
        one = learner(base(log, trained=True), config)
        for _ in one.learn(read(log, one, 11 * DAY_MS), 11 * DAY_MS):
            pass
        found[kind], _ = online_report.metrics_and_text(one.state, TASKS, "")
        if kind == "changed":
            assert online_report.verdict(one.state).passed
    for task in TASKS:
        changed, null = (found[kind] for kind in ("changed", "null"))
        assert changed[f"{task}.gain_low"] > 0.003
        assert changed[f"{task}.ne"] < changed[f"{task}.frozen_ne"] - 0.02
        assert abs(null[f"{task}.gain"]) < changed[f"{task}.gain"] / 4
        assert 0.99 < null[f"{task}.ne"] < 1.02


def test_the_gate_lets_no_model_pass_that_predicted_worse_than_the_one_it_began_as(log, artifact):
    one = learner(artifact)
    refused = online_report.verdict(one.state)
    assert not refused.passed
    assert refused.reason.startswith("not champion: no impression")
    sums = torch.tensor([[100.0, 20.0, 51.0, 50.0], [100.0, 10.0, 29.0, 30.0]], dtype=torch.float64)
    one.state.judged = {BEGIN_MS: sums}
    assert online_report.verdict(one.state).passed, "both tasks together"
    one.state.judged = {BEGIN_MS: sums + torch.tensor([0.0, 0.0, 0.1, 0.0])}
    worse = online_report.verdict(one.state)
    assert not worse.passed
    assert artifact.model_id in worse.reason


def test_a_version_is_due_once_a_border_of_hours_is_passed(artifact, tmp_path):
    one = learner(artifact)
    assert not one.is_due()
    one.state.learnt_until_ms = BEGIN_MS + DAY_MS - 1
    assert not one.is_due()
    one.state.learnt_until_ms = BEGIN_MS + DAY_MS
    assert one.is_due()
    one.note_published(tmp_path / "it.online")
    assert not one.is_due()


def at(path, model, begun=None):
    return OnlineLearner.at(path, ("2", model), lambda version: (version, begun), WHOLE)


def test_it_goes_on_from_its_state_while_the_champion_is_its_own_and_begins_anew_as_another(log, artifact, replayed, tmp_path):
    path = tmp_path / "it.online"
    assert at(path, artifact).state.learnt_until_ms == BEGIN_MS, "there is none yet"
    replayed[0].save(path)
    assert at(path, artifact).state.learnt_until_ms == END_MS
    own = replayed[0].artifact()
    assert own.facts[online.BEGAN_AS] == artifact.model_id
    assert own.as_of_ms == END_MS
    again = at(path, own, artifact)
    assert same_weights(again, replayed[0])
    assert again.base.model_id == artifact.model_id
    other = at(path, base(log, seed=8))
    assert other.state.learnt_until_ms == BEGIN_MS
    assert other.state.version == "2"
    (tmp_path / "it.online").write_bytes(b"no state")
    with pytest.raises(TrainingError, match="it.online, where learning stood, is damaged .*: delete it"):
        at(path, artifact)


def test_a_rate_that_breaks_it_is_one_sentence(log, artifact):
    one = learner(artifact, replace(CONFIG, online=replace(ONLINE, learning_rate=1e30)))
    with pytest.raises(TrainingError, match=r"ranking\.online\.learning_rate"):
        list(one.learn(read(log, one, END_MS), END_MS))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"every_minutes": 0}, "ranking.online.every_minutes is 0; allowed: an integer of at least 1"),
        ({"every_minutes": -15}, "ranking.online.every_minutes is -15"),
        ({"every_minutes": 7}, "ranking.online.every_minutes is 7; allowed: a divisor of 1440"),
        ({"waits_hours": ()}, "ranking.online.waits_hours is .*; allowed: one or more, ascending"),
        ({"waits_hours": (24.0, 0.0)}, "ranking.online.waits_hours is .*; allowed: one or more, ascending"),
        ({"most_unrest": 0.0}, "ranking.online.most_unrest is 0"),
        ({"publish_hours": 0}, "ranking.online.publish_hours is 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, says):
    with pytest.raises(ConfigError, match=says):
        OnlineConfig(**settings)


def test_a_part_of_a_log_is_the_same_whatever_else_is_in_it(log):
    short, long = (
        online.LearningLog.of(batch_of(log, 0, until), ("event", "known", "account", *TASKS), TASKS) for until in (7 * DAY_MS, END_MS)
    )
    wanted = np.random.default_rng(0).choice(short.event[short.time_ms < 7 * DAY_MS - HOUR_MS], 40, replace=False)
    parts = [of.part(np.flatnonzero(np.isin(of.event, wanted)), 6 * DAY_MS + 23 * HOUR_MS) for of in (short, long)]
    for one, other in zip(*(part.impressions.rows.values() for part in parts), strict=True):
        assert torch.equal(one, other)
    assert parts[0].user_ids == parts[1].user_ids
    assert torch.equal(parts[0].impressions.integers["event"], parts[1].impressions.integers["event"])
    assert sorted(parts[0].impressions.integers["event"].tolist()) == sorted(wanted.tolist())
    assert torch.equal(parts[0].sources["click"].known_at_ms, parts[1].sources["click"].known_at_ms)
    assert (parts[0].sources["click"].known_at_ms < 6 * DAY_MS + 23 * HOUR_MS).all()
    whole = {user: log.answered_ms["click"][log.user == int(user[1:])] for user in parts[0].user_ids}
    counts = [int((known < 6 * DAY_MS + 23 * HOUR_MS).sum()) for known in whole.values()]
    assert parts[0].sources["click"].lengths.tolist() == counts


def test_a_model_of_values_is_refused():
    spec = replace(SPEC, tasks=("click", "spend"), values=("spend",))
    base = RankingArtifact.of(RankingNetwork(spec), VOCABULARY, {})
    with pytest.raises(ConfigError, match=r"predicts values too \(spend\): leave them out of ranking.tasks"):
        OnlineLearner(base, CONFIG, None, WINDOW_MS)
