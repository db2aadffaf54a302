from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import mlflow
import pytest
import yaml

from alure_spark import masking
from alure_spark.config import Config, LakeConfig, SourceConfig, SparkConfig, StreamConfig, TrackingConfig, as_dict, build, load
from alure_spark.errors import ConfigError, DataError
from alure_spark.lake import Lake
from alure_spark.masking import masked, masked_text, public, resolve, resolved
from alure_spark.running import Context, Job, Report, guarded
from alure_spark.session import get_session
from alure_spark.sources import mapping
from tests.conftest import ROOT
from tests.tracking.stores import tracker

SECRET = "hunter2-Straße/5%"
HOLDERS = {  # what a conf may hold -> what stands there that is no secret
    "password": SECRET,
    "dbPassword": SECRET,
    "fs.s3a.secret.key": SECRET,
    "fs.s3a.access.key": SECRET,
    "fs.azure.account.key.mine.dfs.core.windows.net": SECRET,
    "fs.azure.sas.container.mine": SECRET,
    "awsSecretAccessKey": SECRET,
    "sasToken": SECRET,
    "api_key": SECRET,
    "Credential": {"nested": [SECRET]},
    "connectionString": f"Endpoint=sb://x/;SharedAccessKey={SECRET}",
    "kafka.sasl.jaas.config": f'x.PlainLoginModule required username="a" password="{SECRET}";',
    "url": f"jdbc:postgresql://reader:{SECRET}@db:5432/logs",
    "uri": f"jdbc:sqlserver://db;user=sa;password={SECRET};encrypt=true",
    "place": f"https://mine.blob.core.windows.net/c?sv=1&sig={SECRET}&se=2",
    "link": f"jdbc:mysql://db/logs?user=a&password={SECRET}",
    "more": [f"s3a://AKIAABCDEFGHIJKLMNOP:{SECRET}@bucket/x"],
    "query": f"SELECT * FROM remote(user => 'a', password => '{SECRET}')",
    "dbpass": SECRET,
    "db.pw": SECRET,
    "creds": SECRET,
    "header": "Bearer eyJhbGciOiJI.eyJzdWIiOiIx.c2ln",
}


def conf(**sections):
    return build(Config, {"streams": {"view": {}}, **sections})


@pytest.mark.parametrize("key", HOLDERS)
def test_no_kind_of_secret_is_shown(key):
    found = json.dumps(masked({key: HOLDERS[key]}), ensure_ascii=False)
    assert "***" in found
    for part in (SECRET, "eyJhbGci", "c2ln", "AKIAABCD"):
        assert part not in found


def test_an_error_of_another_library_shows_no_secret_of_a_url():
    for text in (
        f"Max retries exceeded with url: /x?token={SECRET}/api/2.0&max=1 (Caused by x)",
        f"API request to http://me:{SECRET}@host:5000/api failed",
        f'{{"password": "{SECRET}", "n": 1}}',
        f"option 'password'='{SECRET}' is unknown",
    ):
        assert SECRET not in masked_text(text)


AWKWARD = [
    "pass'word",
    'pass"word',
    """pa'ss"word""",
    "pass\\word",
    "paßwörd😀",
    "pass\nword",
    "pass\tword'",
    "pass/word?",
    "pass\udcffword",
]
SPELLED = {
    "raw": str,
    "repr": repr,
    "ascii": ascii,
    "repr of a text with both quotes": lambda secret: repr(f"option '{secret}' of \"x\""),
    "ascii of a text with both quotes": lambda secret: ascii(f"option '{secret}' of \"x\""),
    "repr of a mapping": lambda secret: repr({"value": [secret]}),
    "JSON": json.dumps,
    "JSON with letters": lambda secret: json.dumps({"value": secret}, ensure_ascii=False),
}


@pytest.mark.parametrize("spelled", SPELLED)
@pytest.mark.parametrize("secret", AWKWARD)
def test_a_known_secret_is_hidden_however_a_text_spells_it(monkeypatch, secret, spelled):
    monkeypatch.setattr(masking, "_seen", set())
    text = f"the server said {SPELLED[spelled](secret)} and no more"
    masking.remember({"password": secret})
    shown = masked_text(text)
    assert "rd" not in shown
    assert "***" in shown
    assert shown.startswith("the server said ")
    assert shown.endswith(" and no more")


@pytest.mark.parametrize(
    "text",
    [
        r'{"password": "one\"hidden", "n": 1}',
        r"{'password': 'one\'hidden', 'n': 1}",
        r'"{\"password\": \"hidden\", \"n\": 1}"',
        r"password='C:\hidden\'",
    ],
)
def test_a_quoted_value_of_a_secret_ends_where_its_quotes_end(text):
    assert "hidden" not in masked_text(text)
    assert ("n" in masked_text(text)) or "C:" in text


def test_logins_of_headers_and_passwords_in_braces_are_hidden_whole():
    for text in ("Authorization: Basic aGlkZGVu", "headers: {'Authorization': 'Basic aGlkZGVu'}", "Driver=x;password={hid;aGlkZGVu};x=1"):
        assert "aGlkZGVu" not in masked_text(text)
    assert masked_text("password={p;w};x=1").endswith(";x=1")


def test_an_interrupt_while_an_error_is_handled_shows_no_secret(capsys):
    masking.remember({"password": "hidden-word"})

    def action(options):
        try:
            raise RuntimeError("cannot log in with hidden-word")
        finally:
            raise KeyboardInterrupt

    with pytest.raises(SystemExit) as ended:
        guarded(action, None)
    assert ended.value.code == 130
    assert "hidden-word" not in capsys.readouterr().err


@pytest.mark.slow
def test_what_a_job_reports_and_plans_shows_no_secret_on_the_terminal_and_in_mlflow(spark, tmp_path, capsys):
    secret = """pa'ss"hidden-ß"""
    options = {"password": secret}
    said = f"read with {options}, {json.dumps(options)} and {secret}; and https://me:other@host/x"
    masking.remember(options)
    job = Job(
        "build_graph", "a job", (), ("user_edges",), lambda config: f"path = '{secret}'",
        lambda context, run: Report(texts={"a/b.txt": said}), memory=lambda context: said, plan=lambda context: said,
    )  # fmt: skip
    context = Context(load(ROOT / "conf" / "test.yml"), spark, Lake(spark, LakeConfig(f"{tmp_path}/lake")), tracker(tmp_path))
    with context.tracker.run("job", context.config) as run:
        job.execute(context)
        run.log_text(said, "c.txt")
    job.explain(context)
    job.explain_memory(context)
    out, err = capsys.readouterr()
    stored = [path.read_text() for path in (tmp_path / "artifacts").rglob("*.txt")]
    assert len(stored) == 2
    for text in (out, err, *stored):
        assert "hidden" not in text
        assert "other@" not in text
    assert out.count("read with") == 3


def test_what_git_says_of_its_origin_shows_no_token_in_mlflow(tmp_path, monkeypatch):
    tags = {"mlflow.source.git.repoURL": "https://me:ghp_hidden@github.com/a/b.git"}
    monkeypatch.setattr("mlflow.tracking.context.registry.resolve_tags", lambda mine: {**tags, **mine})
    with tracker(tmp_path).run("job", Config(streams={"view": StreamConfig()})) as run:
        run_id = run.run_id
    found = mlflow.get_run(run_id).data.tags
    assert found["mlflow.source.git.repoURL"] == "https://***@github.com/a/b.git"
    assert found["alure.job"] == "job"


def test_what_is_no_secret_is_shown_as_it_is():
    plain = {
        "path": "abfss://events@lake.dfs.core.windows.net/day=1", "root": "/data/a b/#1", "table": "main.logs.views", "header": "true",
        "where": "country = 'DE' AND ts > 5", "columns": {"user_id": "concat('u:', uid)", "item_id": "sku"}, "url": "http://host:5000",
        "uri": "sqlite:///mlflow.db", "n": 3, "flags": [True, None], "password": "secret:DB_PASSWORD", "token": "",
    }  # fmt: skip
    assert masked(plain) == plain
    assert masked_text("run abc: no key: build it with --conf x.yml") == "run abc: no key: build it with --conf x.yml"


def test_the_hash_of_a_conf_is_that_of_the_conf_as_written(monkeypatch):
    options = {"events": [{"path": "x", "read_options": {"password": "secret:DB_PASSWORD"}}]}
    monkeypatch.setenv("DB_PASSWORD", SECRET)
    first = conf(source={"kind": "tables", "options": options}).digest()
    monkeypatch.setenv("DB_PASSWORD", "another")
    assert conf(source={"kind": "tables", "options": options}).digest() == first


def test_a_reference_is_looked_up_when_it_is_used_and_a_missing_variable_is_a_sentence(monkeypatch):
    monkeypatch.setenv("DB_PASSWORD", SECRET)
    assert resolved({"a": ["secret:DB_PASSWORD", "x"], "n": 1}, "o") == {"a": [SECRET, "x"], "n": 1}
    assert SECRET not in masked_text(f"access denied for {SECRET}")
    monkeypatch.delenv("DB_PASSWORD")
    with pytest.raises(ConfigError, match=r"o\.a\[0\] is 'secret:DB_PASSWORD'.*DB_PASSWORD is not set: export it"):
        resolved({"a": ["secret:DB_PASSWORD"]}, "o")
    for wrong in ("secret:", "secret:A-B", f"secret: {SECRET}"):
        with pytest.raises(ConfigError, match="reference to no environment variable") as refusal:
            resolve(wrong, "tracking.uri")
        assert SECRET not in str(refusal.value)


def test_mlflow_keeps_no_secret_of_the_conf(tmp_path, monkeypatch):
    monkeypatch.setenv("ALURE_TEST_PW", SECRET)
    options = {"root": "secret:ALURE_TEST_PW", "users": 3, "read_options": HOLDERS}
    config = Config(
        streams={"view": StreamConfig()},
        source=SourceConfig("tables", options),
        spark=SparkConfig(settings={"spark.hadoop.fs.s3a.secret.key": SECRET, "spark.hadoop.plain": "set-there"}),
        tracking=TrackingConfig(f"sqlite:///{tmp_path}/m.db?token={SECRET}"),
    )
    to = tracker(tmp_path)
    with to.run("job", config) as run:
        run_id = run.run_id
    logged = mlflow.get_run(run_id).data
    stored = (tmp_path / "artifacts" / run_id / "artifacts" / "config.json").read_text()
    for text in (json.dumps([logged.params, logged.tags], ensure_ascii=False), stored, json.dumps(json.loads(stored), ensure_ascii=False)):
        for part in (SECRET, "set-there", "AKIAABCD", "eyJhbGci"):
            assert part not in text
    assert {"spark", "tracking"} & set(json.loads(stored)) == set()
    assert logged.params["source.options.users"] == "3"
    assert logged.params["source.options.root"] == "secret:ALURE_TEST_PW"


@pytest.mark.parametrize(
    "overrides",
    [
        [f"spark.settings.fs.s3a.secret.key={SECRET}"],
        [f"spark.settings={{fs.s3a.secret.key: [{SECRET}]}}"],
        [f"tracking=[{{password: {SECRET}}}]"],
        [f"source.options={{events: [{{read_options: {{password: [{SECRET}]}}}}]}}"],
        [f"spark.settings.my.password=a: {SECRET}: c"],
        [f"spark.settings.password.x='{SECRET}"],
    ],
)
def test_a_sentence_about_the_conf_quotes_no_secret(overrides):
    with pytest.raises(ConfigError) as refusal:
        config = load(ROOT / "conf" / "test.yml", overrides)
        build(mapping.Options, config.source.options, "source.options")
    assert SECRET not in str(refusal.value)


def test_jobs_config_shows_no_secret(tmp_path):
    content = {"streams": {"view": {}}, "spark": {"settings": {"fs.s3a.secret.key": SECRET}}, "tracking": {"uri": f"http://a:{SECRET}@h"}}
    content["source"] = {"kind": "tables", "options": {"events": [{"path": "x", "read_options": {**HOLDERS}}]}}
    (tmp_path / "c.yml").write_text(yaml.safe_dump(content))
    command = [sys.executable, "-m", "jobs.config", "show", "--conf", str(tmp_path / "c.yml")]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert SECRET not in shown
    assert "http://***@h" in shown
    assert "config hash" in shown


def test_settings_of_spark_and_read_options_may_be_references(spark, tmp_path, monkeypatch):
    config = SparkConfig(settings={"spark.hadoop.fs.s3a.secret.key": "secret:ALURE_TEST_PW"})
    monkeypatch.delenv("ALURE_TEST_PW", raising=False)
    with monkeypatch.context() as away, pytest.raises(ConfigError, match=r"fs.s3a.secret.key is 'secret:ALURE_TEST_PW'"):
        away.setattr("pyspark.sql.SparkSession.getActiveSession", lambda: None)
        get_session(config)
    (tmp_path / "log.csv").write_text("who|what\nu1|1\n")
    columns = {"user_id": "who", "item_id": "what"}
    item = mapping.TableMapping(
        columns, path="log.csv", format="csv", source="view", read_options={"header": "true", "sep": "secret:ALURE_SEP"}
    )
    with pytest.raises(ConfigError, match="read_options.sep is 'secret:ALURE_SEP'"):
        mapping.canonical(spark, mapping.Options((item,), root=str(tmp_path)))
    monkeypatch.setenv("ALURE_SEP", "|")
    events, *_ = mapping.canonical(spark, mapping.Options((item,), root=str(tmp_path)))
    assert events.first()["user_id"] == "u1"
    wrong = replace(item, format="jdbc", path="t", read_options={"url": f"jdbc:none://a:{SECRET}@h/x?password={SECRET}", "dbtable": "t"})
    with pytest.raises(DataError) as refusal:
        mapping.canonical(spark, mapping.Options((wrong,)))
    assert SECRET not in str(refusal.value)


def test_a_conf_for_mlflow_keeps_everything_else():
    config = as_dict(conf(graph={"k2": 7}))
    assert public(config) == {key: value for key, value in config.items() if key not in ("spark", "tracking")}


def test_mlflow_keeps_no_ids_of_users():
    kept = public(as_dict(conf(graph={"excluded_users": ["u-4711", "u-4712"]})))
    assert kept["graph"]["excluded_users"] == "2 users"
    assert "u-4711" not in json.dumps(kept)
