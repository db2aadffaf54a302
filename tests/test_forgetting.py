"""Erasure as a person asks for it: lists of ids, ids that name nobody, another key, an MLflow that does not answer."""

from __future__ import annotations

import logging
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml

from alure_spark.config import Config, build
from alure_spark.errors import ConfigError
from alure_spark.privacy import identity
from alure_spark.running import open_context
from alure_spark.tables import TABLES
from jobs import forget_users, ingest_events, replay_quarantine
from tests import scan
from tests.conftest import ROOT

pytestmark = pytest.mark.slow  # minutes of Spark

KEY, OTHER = "a key of the tests, long enough", "another key that is long enough"
USERS = ["u0001", "u0002", "u0003", "U0001", "0007", "7", "pad ", "pad", "kept"]


def log(folder: Path, users: list[str]) -> None:
    """Two views of each user, and one row that is refused."""
    rows = [(user, f"i{number}", f"2025-05-0{number + 1} 08:00:00") for user in users for number in range(2)] + [("u0003", "i9", "no time")]
    (folder / "log").mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows, columns=["who", "what", "at"]).to_parquet(folder / "log" / "part.parquet")


def conf(folder: Path, **more) -> dict:
    columns = {"user_id": "who", "item_id": "what", "event_time": "at"}
    events = [{"path": "log", "format": "parquet", "source": "view", "columns": columns}]
    return {
        "lake": {"root": f"{folder}/lake", "scratch": f"{folder}/scratch"},
        "tracking": {"uri": f"sqlite:///{folder}/m.db", "artifact_root": f"{folder}/artifacts", "offline_root": f"{folder}/untracked"},
        "source": {"kind": "tables", "options": {"root": str(folder), "events": events}},
        "time": {"as_of": "2025-05-10"},
        "streams": {"view": {}},
    } | more


def do(folder: Path, job, **more):
    """The job published, without its MLflow run; its Context."""
    context = open_context(build(Config, conf(folder, **more)))
    with context.lake.run(job.name, context.config, "true") as run:
        job.body(context, run)
    context.lake.refresh()
    return context


def forget(folder: Path, *arguments: str, **more) -> int:
    """The exit code of the command line."""
    (folder / "conf.yml").write_text(yaml.safe_dump(conf(folder, **more)))
    try:
        forget_users.main(["--conf", str(folder / "conf.yml"), *arguments])
    except SystemExit as stop:
        return stop.code
    return 0


def users_of(context) -> list[str]:
    context.lake.refresh()
    return sorted(row[0] for row in context.lake.read("events").select("user_id").distinct().collect())


@pytest.fixture(scope="module")
def made(spark, tmp_path_factory):
    """A lake with the events of USERS, as they are written."""
    folder = tmp_path_factory.mktemp("made")
    log(folder, USERS)
    return do(folder, ingest_events.JOB)


@pytest.fixture
def loaded(made, tmp_path, monkeypatch):
    monkeypatch.setenv(identity.KEY_VARIABLE, KEY)
    shutil.copytree(made.lake.root, tmp_path / "lake")
    log(tmp_path, USERS)
    return open_context(build(Config, conf(tmp_path)))


LOADS = [(ingest_events.JOB, {}), (ingest_events.JOB, {"batch_days": 30})]
USING_THE_KEY = [*LOADS, (replay_quarantine.JOB, {}), (forget_users.job(["kept"]), {})]


def refused(folder: Path, message: str, jobs, **ingest) -> None:
    """Each of the jobs ends with that sentence, and publishes nothing."""
    context = open_context(build(Config, conf(folder)))
    before = context.lake.published_versions()
    for job, batch in jobs:
        with pytest.raises(ConfigError, match=message):
            do(folder, job, ingest=ingest | batch)
    context.lake.refresh()
    assert context.lake.published_versions() == before


def test_a_list_of_an_editor_forgets_whom_it_names_and_says_whom_it_does_not(loaded, tmp_path, capsys, monkeypatch):
    (tmp_path / "ids.txt").write_bytes("\ufeffu0001\r\nu0002 \r\n\r\nu0002\r\tu0003\u00a0\npad \n07\nnobody\n".encode())
    assert forget(tmp_path, "--users", str(tmp_path / "ids.txt"), "--user", " 7 ", "--strict") == 3
    said = capsys.readouterr()
    assert "forgotten: 5 users; rows deleted: events 10, quarantine 1\n2 of 8 ids matched no row of any table" in said.out
    assert "error: 2 of 8 ids matched no row of any table: '07', 'nobody'." in said.err
    assert users_of(loaded) == ["0007", "U0001", "kept", "pad"], "the id with a blank is another one than the id without"
    assert scan.places("nobody", tmp_path / "artifacts") == set(), "MLflow keeps counts, not ids"
    assert loaded.lake.read("tombstones").select("key_check").distinct().collect() == [(identity.key_check(KEY.encode(), False),)]
    log(tmp_path, [*USERS, "nobody", "new"])
    do(tmp_path, ingest_events.JOB)
    assert users_of(loaded) == ["0007", "U0001", "kept", "new", "pad"], "whom no row named is kept out, too"
    unmatched: list[str] = []
    do(tmp_path, forget_users.job(["u0001", "new"], unmatched))
    assert unmatched == ["u0001"]
    assert users_of(loaded) == ["0007", "U0001", "kept", "pad"]

    monkeypatch.setenv(identity.KEY_VARIABLE, OTHER)
    refused(tmp_path, "forgotten under another key than the one in ALURE_USER_KEY: they would come back", USING_THE_KEY)
    monkeypatch.setenv(identity.KEY_VARIABLE, KEY)
    refused(tmp_path, "user ids of this lake are raw, but ingest.hash_user_ids is true", USING_THE_KEY[:1], hash_user_ids=True)


def test_a_list_that_cannot_be_read_ends_with_exit_code_2_and_nothing_is_changed(loaded, tmp_path, capsys):
    (tmp_path / "utf16.txt").write_bytes("u0001\n".encode("utf-16"))
    for arguments in (
        ("--users", str(tmp_path / "utf16.txt")),
        ("--users", str(tmp_path)),
        ("--users", "/no/such/file"),
        ("--user", ""),
        (),
    ):
        assert forget(tmp_path, *arguments) == 2
        assert capsys.readouterr().err.startswith("error: ")
    loaded.lake.refresh()
    assert loaded.lake.published_versions().keys() == {"events", "ads", "follows", "quarantine"}


def test_hashed_ids_are_of_one_key_and_raw_ids_do_not_come_beside_them(spark, tmp_path, monkeypatch, caplog):
    log(tmp_path, USERS)
    monkeypatch.setenv(identity.KEY_VARIABLE, KEY)
    context = do(tmp_path, ingest_events.JOB, ingest={"hash_user_ids": True})
    assert identity.hashed("u0001", KEY.encode()) in users_of(context)
    monkeypatch.setenv(identity.KEY_VARIABLE, OTHER)
    refused(tmp_path, "were hashed under another key than the one in ALURE_USER_KEY", USING_THE_KEY, hash_user_ids=True)
    monkeypatch.setenv(identity.KEY_VARIABLE, KEY)
    refused(tmp_path, "user ids of this lake are hashed, but ingest.hash_user_ids is false", USING_THE_KEY[1:])
    do(tmp_path, forget_users.job(["u0001 ", "U0002"]), ingest={"hash_user_ids": True})
    do(tmp_path, ingest_events.JOB, ingest={"hash_user_ids": True, "batch_days": 30})
    assert identity.hashed("u0001", KEY.encode()) not in users_of(context)
    assert len(users_of(context)) == len(USERS) - 1
    assert "cannot be known" not in caplog.text


def test_tables_of_an_earlier_release_are_accepted_with_a_warning(spark, caplog):
    caplog.set_level(logging.WARNING)
    runs = spark.createDataFrame([("published", None)], "status string, facts map<string,string>")
    plain, hashes = (spark.createDataFrame([(user,)], "user_id string") for user in ("u1", "0" * 64))
    key = KEY.encode()
    identity.require_same_ids(runs, None, True, key)
    identity.require_same_ids(runs, plain, False, key)
    assert not caplog.records
    with pytest.raises(ConfigError, match="are raw, but ingest.hash_user_ids is true"):
        identity.require_same_ids(runs, plain, True, key)
    identity.require_same_ids(runs, hashes, True, key)
    assert "cannot be known. The next load keeps it" in caplog.text
    caplog.clear()
    of_then, now = (spark.createDataFrame([(check,)], "key_check string") for check in (None, identity.key_check(key, False)))
    identity.require_same_key(of_then, False, key)
    assert "cannot be known. forget_users keeps one as soon as it finds a tombstone under that key" in caplog.text
    caplog.clear()
    identity.require_same_key(of_then.union(now), False, key)
    assert not caplog.records
    with pytest.raises(ConfigError, match="under another key"):
        identity.require_same_key(of_then.union(now), False, OTHER.encode())
    with pytest.raises(ConfigError, match="forgotten under the other setting, but ingest.hash_user_ids is true"):
        identity.require_same_key(of_then.union(now), True, key)


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "sqlite:////proc/no_such_folder/m.db"])
def test_users_are_forgotten_while_mlflow_is_down_and_what_is_left_to_do_is_said(loaded, tmp_path, capsys, uri, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    tracking = conf(tmp_path)["tracking"] | {"uri": uri}
    ranking = {"fields": {"country": {"reads": "context.country", "encoding": "id"}}}
    assert forget(tmp_path, "--user", "u0001", tracking=tracking, ranking=ranking) == 0
    said = capsys.readouterr().out
    assert "forgotten: 1 users; rows deleted: events 2" in said
    named = re.findall(r"warning: which model versions of (alure_user_model_\w+) may have been trained with them", said)
    assert named == [named[0], f"{named[0]}_ranking"]
    assert "lives on in models that go on from them (training.warm_start, ranking.warm_start)" in said
    assert "or have their interactions (ranking.upstream)" in said
    assert "left to do: once MLflow answers" in said
    assert "u0001" not in users_of(loaded)
    assert loaded.lake.read("tombstones").count() == 1


def test_the_key_may_hold_any_bytes_and_its_check_tells_nothing_of_it():
    key = identity.user_key({identity.KEY_VARIABLE: "sixteen or more \udcff"})
    assert key.endswith(b"\xff")
    checks = {identity.key_check(one, hashed) for one in (key, KEY.encode()) for hashed in (True, False)}
    assert len(checks) == 4
    assert all(len(check) == 16 for check in checks)
    assert "key_check" in TABLES["tombstones"].column_names


def test_a_vacuum_forgets_nobody(capsys):
    with pytest.raises(SystemExit) as ended:
        forget_users.main(["--conf", str(ROOT / "conf" / "test.yml"), "--vacuum", "--user", "1"])
    assert ended.value.code == 2
    assert "--vacuum forgets nobody" in capsys.readouterr().err
