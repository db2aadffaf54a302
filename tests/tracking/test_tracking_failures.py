"""What a tracking store can do to a job: refuse one figure, be dead from the start, die on the way, or have no room."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import mlflow
import numpy as np
import psutil
import pytest

from alure_spark import processes
from alure_spark.errors import ConfigError, TrackingError
from alure_spark.plots import histogram
from alure_spark.tracking import Tracker, git_commit, store
from tests.conftest import ROOT
from tests.tracking.stores import CONFIG
from tests.tracking.stores import tracker as new_tracker

COUNTRIES = ["Germany", "Korea, Republic of", "Côte d'Ivoire", "", "..", "../x", "/x", "🇰🇷", "x" * 300, "A,B", "A;B"]
ODD_FILES = ["Korea, Republic of", "", "..", "../x", "x" * 300]


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory):
    """A database of MLflow: making one takes seconds."""
    path = tmp_path_factory.mktemp("store") / "m.db"
    mlflow.MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def tracker(empty_store, tmp_path):
    """Makes a tracker, of a store of its own unless a uri is given."""

    def made(uri=None):
        if not uri and not (tmp_path / "m.db").exists():
            shutil.copy(empty_store, tmp_path / "m.db")
        return new_tracker(tmp_path, uri)

    return made


def runs_of(to):
    client = mlflow.MlflowClient(to.config.uri)
    experiment = client.get_experiment_by_name(to.config.experiment)
    return client.search_runs([experiment.experiment_id], order_by=["attributes.start_time"]) if experiment else []


def kept(to):
    return [json.loads(line) for line in (to.offline / "log.jsonl").read_text().splitlines()]


def log(to, metrics):
    with to.run("job", CONFIG) as run:
        run.log_metrics(metrics)
        return run.run_id


def test_metrics_parameters_tags_and_artifacts_are_logged_whatever_the_data_calls_itself(tracker, tmp_path, caplog):
    to = tracker()
    drawn = histogram(np.array([1, 2]), np.array([1, 2]), "x", "y")
    with to.run("job", CONFIG) as run:
        run.log_metrics({f"recall.{country}": float(at) for at, country in enumerate(COUNTRIES)})
        run.log_params({f"share.{country}": "x" * 10_000 for country in COUNTRIES} | {f"p{at}": at for at in range(120)})
        run.log_metrics({f"m{at}": at for at in range(1_100)})
        for country in ODD_FILES:
            run.set_tag(f"said of {country}", "y" * 20_000)
            run.log_figure(drawn, f"plots/{country}.png")
            run.log_text("z\ud800\x00", f"texts/{country}.txt")
        run_id = run.run_id
    found = mlflow.get_run(run_id)
    named = {key: value for key, value in found.data.metrics.items() if key.startswith("recall.")}
    assert sorted(named.values()) == list(range(len(COUNTRIES)))
    assert named["recall.Korea_ Republic of"] == 1
    assert len(found.data.metrics) == len(COUNTRIES) + 1_100
    assert sum(key.startswith("share.") for key in found.data.params) == len(COUNTRIES)
    assert sum(key.startswith("said of ") for key in found.data.tags) == len(ODD_FILES)
    files = [path for path in (tmp_path / "artifacts" / run_id).rglob("*") if path.is_file()]
    assert len(files) == 1 + 2 * len(ODD_FILES)
    assert (found.info.status, to.offline, caplog.text) == ("FINISHED", None, "")


def test_a_number_that_no_store_holds_is_named_in_a_tag_and_costs_the_run_nothing(tracker, tmp_path):
    to = tracker()
    run_id = log(to, {"a": 1.0, "nan": float("nan"), "inf": np.float32("inf"), "huge": 10**400, "word": "x", "none": None, "int": 10**30})
    found = mlflow.get_run(run_id)
    assert found.data.metrics == {"a": 1.0, "int": 1e30}
    assert found.data.tags["alure.absent_metrics"] == "huge (inf), inf (inf), nan (nan), none, word (nan)"
    assert found.info.status == "FINISHED"


def test_the_names_of_absent_metrics_of_every_job_of_a_run_are_kept(tracker, tmp_path):
    to = tracker()
    with to.run("pipeline", CONFIG) as run:
        run.log_metrics({"first": None})
        run.log_metrics({"second": None})
        run_id = run.run_id
    assert mlflow.get_run(run_id).data.tags["alure.absent_metrics"] == "first, second"


def test_a_call_that_fails_costs_its_figure_and_is_said_once_with_what_is_published(tracker, tmp_path, caplog):
    to = tracker()
    with to.run("job", CONFIG) as run:
        run.log_params({"twice": 1})
        run.published["user_edges"] = 3
        for _ in range(5):
            run.log_params({"twice": 2})  # MLflow refuses to change one
        run.log_metrics({"after": 1.0})
        run_id = run.run_id
    found = mlflow.get_run(run_id)
    assert (found.info.status, found.data.metrics) == ("FINISHED", {"after": 1.0})
    assert kept(to) == [{"params": {"twice": "2"}}] * 5
    (record,) = caplog.records
    assert "MLflow could not log parameters (5)" in record.message
    assert str(to.offline) in record.message
    assert "Published: user_edges v3" in record.message


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_however_the_block_ends_the_run_and_those_below_it_end_and_the_next_day_has_its_own(tracker, tmp_path, error):
    to = tracker()
    with pytest.raises(error), to.run("job", CONFIG) as run, run.child("part", CONFIG):
        raise error("planted")
    assert to.run_id == ""
    second = log(to, {"a": 1.0})
    ends = {run.info.run_id: run.info.status for run in runs_of(to)}
    assert ends.pop(second) == "FINISHED"
    assert list(ends.values()) == ["FAILED", "FAILED"]


def test_a_run_that_the_user_has_open_is_left_as_it_is(tracker, tmp_path):
    to = tracker()
    mlflow.set_tracking_uri(to.config.uri)
    mlflow.set_experiment("mine")
    with mlflow.start_run() as mine:
        run_id = log(to, {"a": 1.0})
        mlflow.log_metric("b", 2.0)
        assert mlflow.active_run().info.run_id == mine.info.run_id
    assert mlflow.get_run(mine.info.run_id).data.metrics == {"b": 2.0}
    assert mlflow.get_run(run_id).data.metrics == {"a": 1.0}
    assert mlflow.get_run(run_id).info.status == "FINISHED"


def test_a_child_run_has_its_own_figures_below_its_parent(tracker, tmp_path):
    to = tracker()
    with to.run("job", CONFIG) as run:
        with run.child("part, one", CONFIG) as child:
            child.log_metrics({"loss": 1.0})
            child_id = child.run_id
        run.log_metrics({"loss": 2.0})
        run_id = run.run_id
    assert mlflow.get_run(child_id).data.tags["mlflow.parentRunId"] == run_id
    assert [mlflow.get_run(found).data.metrics["loss"] for found in (child_id, run_id)] == [1.0, 2.0]
    assert to.metrics == {"loss": 2.0}


def test_experiments_and_runs_of_odd_names_are_made(tracker, tmp_path):
    to = tracker()
    for name in ("x" * 250, "a/b, c", "été"):
        to.config = replace(to.config, experiment=name)
        with to.run("job", replace(CONFIG, name="Köln, 🇰🇷 " * 10)) as run:
            assert run.live_run_id
        assert to.offline is None


class Answer(BaseHTTPRequestHandler):
    code, asked = 500, 0

    def do_GET(self):
        type(self).asked += 1
        self.send_response(self.code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_POST = do_GET

    def log_message(self, *arguments):
        """Nothing on the terminal."""


@contextmanager
def server(kind):
    """An address of 127.0.0.1 that behaves like that, and how often it was asked so far."""
    if kind == "name":
        yield "http://no-such-host.invalid:5000", lambda: 0
    elif kind.isdigit():
        answer = type("Answering", (Answer,), {"code": int(kind)})
        http = ThreadingHTTPServer(("127.0.0.1", 0), answer)
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}", lambda: answer.asked
        http.shutdown()
        http.server_close()
    else:
        with socket.socket() as bound:
            bound.bind(("127.0.0.1", 0))
            if kind == "hangs":
                bound.listen(16)
            bound.setblocking(False)
            yield f"http://127.0.0.1:{bound.getsockname()[1]}", lambda: waiting(bound) if kind == "hangs" else 0


def waiting(bound):
    """How many connections were opened that nobody answered."""
    for count in itertools.count():
        try:
            bound.accept()[0].close()
        except BlockingIOError:
            return count


@pytest.mark.parametrize("kind", ["refuses", "hangs", "500", "401", "name"])
def test_a_dead_server_is_given_up_after_few_attempts_and_the_figures_go_to_files(tracker, monkeypatch, caplog, kind):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with server(kind) as (uri, asked):
        to = tracker(uri)
        run_id = log(to, {"a": 1.5})
        assert asked() <= 1 + int(store.QUICK["MLFLOW_HTTP_REQUEST_MAX_RETRIES"])
    assert os.environ.pop("MLFLOW_HTTP_REQUEST_TIMEOUT") == "1", "what the user has set counts"
    assert run_id.startswith("offline-")
    assert {"metrics": {"a": 1.5}} in kept(to)
    assert "MLflow could not start a run" in caplog.text
    assert "No table is published" in caplog.text
    assert not [key for key in store.QUICK if key in os.environ], "the limits are set while MLflow is asked, not for good"


def test_a_server_that_is_back_has_the_next_run_of_the_same_process(tracker, tmp_path):
    to, path = tracker(), tmp_path / "m.db"
    path.rename(tmp_path / "away")
    path.mkdir()
    assert log(to, {"a": 1.0}).startswith("offline-")
    path.rmdir()
    (tmp_path / "away").rename(path)
    run_id = log(to, {"a": 2.0})
    assert mlflow.get_run(run_id).data.metrics == {"a": 2.0}
    assert to.offline is None


@pytest.mark.parametrize("damage", ["corrupt", "newer", "folder"])
def test_a_database_that_mlflow_cannot_use_costs_its_figures_only(tracker, tmp_path, caplog, damage):
    to, path = tracker(), tmp_path / "m.db"
    if damage == "corrupt":
        path.write_bytes(b"no database" * 1000)
    elif damage == "folder":
        path.unlink()
        path.mkdir()
    else:
        with sqlite3.connect(path) as database:
            database.execute("UPDATE alembic_version SET version_num = 'of tomorrow'")
    assert log(to, {"a": 1.0}).startswith("offline-")
    assert {"metrics": {"a": 1.0}} in kept(to)
    with pytest.raises(TrackingError, match="does not list model m"):
        to.model_versions("m")


def test_a_store_that_dies_on_the_way_is_given_up_and_the_run_is_ended_once_it_is_back(tracker, tmp_path, caplog):
    to, path = tracker(), tmp_path / "m.db"
    with to.run("job", CONFIG) as run:
        run.log_metrics({"before": 1.0})
        run_id = run.run_id
        path.rename(tmp_path / "away")
        path.mkdir()
        for step in range(20):
            run.log_metrics({"after": 1.0}, step)
    path.rmdir()
    (tmp_path / "away").rename(path)
    assert mlflow.get_run(run_id).info.status == "RUNNING", "nobody was there to be told"
    assert sum("metrics" in line for line in kept(to)) == 20
    log(to, {})
    assert mlflow.get_run(run_id).info.status == "FINISHED"
    assert not list((tmp_path / "untracked").rglob("unended.json"))


def test_the_run_of_a_killed_process_is_ended_by_the_next_one_and_that_of_a_living_one_is_not(tracker, tmp_path):
    to = tracker()
    code = (
        "import os; from tests.tracking.stores import CONFIG, tracker; from pathlib import Path\n"
        f"with tracker(Path({str(tmp_path)!r})).run('job', CONFIG) as run: print(run.run_id, flush=True); os.kill(os.getpid(), 9)"
    )
    killed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()[-1]
    assert mlflow.MlflowClient(to.config.uri).get_run(killed).info.status == "RUNNING"
    with to.run("job", CONFIG) as run:
        living = run.run_id
        log(tracker(), {})
        assert mlflow.get_run(living).info.status == "RUNNING"
    assert {mlflow.get_run(run_id).info.status for run_id in (killed, living)} == {"FAILED", "FINISHED"}
    assert not list((tmp_path / "untracked").glob("*"))


@pytest.mark.parametrize(
    "written",
    [
        {"process": "{host} {pid} 1", "identity": {}},  # the clock was set back since it began
        {"process": "{host} {pid} 1", "identity": {"pid_namespace": "pid:[1]"}},  # a container under the same host name
        {"host": "{host}", "pid": "{pid}", "since": "{began}"},  # of an earlier release
    ],
)
def test_a_run_is_not_taken_for_dead_where_its_process_lives_or_cannot_be_seen(tracker, tmp_path, written):
    mine = processes.identity()
    if "identity" in written and not mine:
        pytest.skip("there is no /proc")
    to = tracker()
    with to.run("job", CONFIG) as run:
        path = next((tmp_path / "untracked").rglob("unended.json"))
        facts = {"host": socket.gethostname(), "pid": str(os.getpid()), "began": f"{psutil.Process().create_time():.3f}"}
        said = {key: value.format(**facts) if isinstance(value, str) else mine | value for key, value in written.items()}
        path.write_text(json.dumps({"store": json.loads(path.read_text())["store"], "status": ""} | said))
        log(tracker(), {})
        assert mlflow.get_run(run.run_id).info.status == "RUNNING"


def test_artifacts_that_cannot_be_written_leave_the_metrics_where_they_are(tracker, tmp_path, caplog):
    (tmp_path / "artifacts").write_text("a file where a folder would be")
    to = tracker()
    with to.run("job", CONFIG) as run:
        for at in range(6):
            run.log_text("x", f"{at}.txt")
        run.log_metrics({"a": 1.0})
        run_id = run.run_id
    assert mlflow.get_run(run_id).data.metrics == {"a": 1.0}
    assert mlflow.get_run(run_id).info.status == "FINISHED"
    assert {"text": {"5.txt": "x"}} in kept(to)


@pytest.mark.parametrize("root", ["file", "/proc/no_such_folder"])
def test_a_run_goes_on_where_neither_mlflow_nor_offline_root_takes_anything(tracker, tmp_path, caplog, root):
    place = tmp_path / "file" if root == "file" else root
    (tmp_path / "file").write_text("a file where a folder would be")
    to = tracker(f"sqlite:///{tmp_path}/file/m.db")
    to.config = replace(to.config, offline_root=str(place))
    with to.run("job", CONFIG) as run:
        run.log_figure(histogram(np.array([1, 2]), np.array([1, 2]), "x", "y"), "plots/h.png")
        run.log_metrics({"a": 1.0})
    assert "tracking.offline_root cannot be written" in caplog.text


def test_the_commit_is_unknown_where_git_hangs_or_is_not_there(tmp_path, monkeypatch):
    git = tmp_path / "git"
    git.write_text("#!/bin/sh\nsleep 300\n")
    git.chmod(0o755)
    monkeypatch.setattr(store, "GIT_SECONDS", 1)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert git_commit() == "unknown"
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert git_commit() == "unknown"


def test_a_tracking_uri_by_reference_is_used_and_never_shown(tracker, tmp_path, monkeypatch, caplog):
    to = Tracker(replace(tracker().config, uri="secret:ALURE_TEST_STORE"))
    with pytest.raises(ConfigError, match=r"tracking.uri is 'secret:ALURE_TEST_STORE'.*ALURE_TEST_STORE is not set"):
        log(to, {})
    monkeypatch.setenv("ALURE_TEST_STORE", f"sqlite:///{tmp_path}/m.db")
    assert mlflow.get_run(log(to, {"a": 1.0})).data.metrics == {"a": 1.0}
    monkeypatch.setenv("ALURE_TEST_STORE", "http://me:hunter2@127.0.0.1:9/x?token=abcdef")
    log(to, {})
    with pytest.raises(TrackingError) as refusal:
        to.find_model("m")
    ours = "".join(record.getMessage() for record in caplog.records if record.name.startswith("alure_spark"))
    assert "MLflow could not start a run" in ours
    for text in (ours, str(refusal.value)):
        assert "hunter2" not in text
        assert "abcdef" not in text
