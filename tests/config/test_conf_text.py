"""What YAML reads otherwise than its writer meant it, what is too large, and what is no text: one sentence that says where."""

from __future__ import annotations

import math
import os

import pytest

from alure_spark.clock import parse_time
from alure_spark.config import Config, as_dict, build, load
from alure_spark.errors import AlureError, ConfigError
from alure_spark.sources.table_options import Options
from tests import fuzz_confs
from tests.conftest import ROOT

MINIMAL = "streams: {purchase: {attributes: {category_id: categorical}}}\n"
# Of commit 8508608: (digest, sequence_digest, vocabulary_digest). Lakes and models carry them.
DIGESTS = {
    "databricks": ("849751b31e23410d", "a15523a8ed7cef36", "7281afa27d7c809d"),
    "demo": ("6f91c4e9d86f0e13", "4f4664d74fd362ef", "2545874ea214c503"),
    "dynamix": ("c6ec39fa07f0a420", "2b25c0b7c9506641", "ced679a3619b9a1b"),
    "local": ("028871eecf782f00", "80767a5a8e8fd322", "d4d0dfc02ea1223a"),
    "online_retail": ("814b8069bd7f78b2", "c0923c8ab5727f87", "fcb04fcddceead48"),
    "test": ("2ec71b1c334f245b", "4fd08f82d57a17b6", "a43ff07b3e0d160a"),
}


def conf(tmp_path, text):
    path = tmp_path / "conf.yml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def refusal(tmp_path, text, *overrides):
    with pytest.raises(ConfigError) as error:
        load(conf(tmp_path, text), overrides)
    sentence = str(error.value)
    assert "\n" not in sentence
    assert len(sentence) < 700
    return sentence


@pytest.mark.parametrize("name", DIGESTS)
def test_the_digests_of_the_shipped_confs_stay_what_they_were(name):
    config = load(ROOT / "conf" / f"{name}.yml", ["ranking={}"])  # which came later, and counts where it says something
    assert (config.digest(), config.sequence_digest(), config.vocabulary_digest()) == DIGESTS[name]


@pytest.mark.parametrize(
    ("key", "read_as"),
    [
        ("NO", "the boolean False"), ("no", "the boolean False"), ("Off", "the boolean False"), ("ON", "the boolean True"),
        ("YES", "the boolean True"), ("true", "the boolean True"), ("null", "nothing (null)"), ("~", "nothing (null)"),
        ("1", "the number 1"),
        ("1.5", "the number 1.5"), ("2025-01-01", "the date 2025-01-01"), ("1_000", "the number 1000"), ("0x10", "the number 16"),
        ("1:30", "the number 90"), ("010", "the number 8"), (".inf", "the number inf"),
    ],
)  # fmt: skip
def test_a_key_that_yaml_does_not_read_as_text_is_refused_with_what_it_was_read_as(tmp_path, key, read_as):
    said = refusal(tmp_path, MINIMAL + f"ingest:\n  utc_offset_minutes: {{SE: 60, {key}: 60}}")
    assert f"line 3: the key {key} of ingest.utc_offset_minutes is read by YAML as {read_as}" in said
    assert f"write '{key}' in quotes" in said


def test_norway_in_quotes_is_a_country_and_so_is_a_y(tmp_path):
    config = load(conf(tmp_path, MINIMAL + "ingest: {utc_offset_minutes: {SE: 60, 'NO': 60, y: 0}}"), ["ingest.utc_offset_minutes.NO=61"])
    assert config.ingest.utc_offset_minutes == {"SE": 60, "NO": 61, "y": 0}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("retrieval: {excluded_accounts: [NO]}", "excluded_accounts[0] is False; allowed: str (without quotes YAML reads yes, no"),
        ("retrieval: {excluded_ads: [17]}", "without quotes YAML reads it as a number: put the text in quotes"),
        ("retrieval: {excluded_ads: [1:30]}", "retrieval.excluded_ads[0] is 1:30, which YAML reads as 90"),
        ("graph: {k2: 1e1}", "YAML reads 1e1 as text: write 10)"),
        ("ingest: {dwell_min_ms: 10, dwell_max_ms: 5}", "ingest.dwell_min_ms is 10; allowed: at most ingest.dwell_max_ms"),
        ("training: {learning_rate: 1e-3}", "YAML reads 1e-3 as text: write 0.001"),
        ("training: {epochs: 3.0}", "training.epochs is 3.0; allowed: int"),
        ("graph: {}\ngraph: {k2: 3}", "line 3: the key 'graph' is there twice"),
        ("graph: {k2: 3, k2: 4}", "line 2: the key 'graph.k2' is there twice"),
        ("graph: false", "graph is False; allowed: a mapping"),
        ("graph: {'': 1}", "line 2: a key of graph is ''; allowed: text"),
        ("graph: {[a]: 1}", "a key of graph is ['a']; allowed: text"),
        ("graph: {? {a: b} : 1}", "a key of graph is {'a': 'b'}; allowed: text"),
        ("name: !!python/name:os.system ''", "name has the tag '!!python/name:os.system'; allowed: plain texts, numbers"),
        ("source: {options: {users: !!binary aGk=}}", "source.options.users has the tag '!!binary'"),
        ("name: !mine x", "name has the tag '!mine'"),
        ("labels: {click_window_hours: 024}", "labels.click_window_hours is 024, which YAML reads as 20: write 20, or put it in quotes"),
        ("lake: {wait_minutes: 1:30}", "lake.wait_minutes is 1:30, which YAML reads as 90: write 90"),
        ("graph: {k2: !!int abc}", "graph.k2 is 'abc', which YAML cannot read as int"),
        ("source: {options: &a {users: *a}}", "source.options.users holds itself"),
        ("---\ngraph: {}", "is not valid YAML"),
        ("\tgraph: {}", "is not valid YAML"),
        ("name: 'open", "is not valid YAML"),
        ('name: "\\ud800"', "name is '\\ud800', which holds half a character"),
        (f"name: {'x' * 100_000}", "name is 'xxx"),
        (f"source: {{options: {fuzz_confs.LAUGHS}}}", "holds more than 100,000 values once its aliases (*name) are spelled out"),
        (f"source: {{options: {fuzz_confs.MERGES}}}", "holds more than 100,000 values once its aliases (*name) are spelled out"),
        (f"source: {{options: {'[' * 5000}{']' * 5000}}}", "nested too deeply"),
    ],
)  # fmt: skip
def test_what_yaml_makes_of_it_is_said_in_one_sentence(tmp_path, text, said):
    assert said in refusal(tmp_path, MINIMAL + text)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ((MINIMAL + "name: größe").encode("latin-1"), "is not UTF-8 text (byte 0xf6 in line 2): save it as UTF-8"),
        (MINIMAL.encode("utf-16"), "is not UTF-8 text (byte 0xff in line 1)"),
        (MINIMAL.encode("utf-16-le"), "is not valid YAML: special characters are not allowed"),
        (MINIMAL.encode() + b"\0", "is not valid YAML: special characters are not allowed"),
        (b"", "streams is empty"),
        (b"- a", "holds ['a']; allowed: a mapping of sections"),
        (b"0", "holds 0; allowed: a mapping of sections"),
    ],
)
def test_a_file_that_is_no_text_or_no_mapping_is_refused(tmp_path, content, said):
    assert said in refusal(tmp_path, content)


def test_a_byte_order_mark_and_carriage_returns_change_nothing(tmp_path):
    config = load(conf(tmp_path, b"\xef\xbb\xbf" + (MINIMAL + "name: gr\u00f6\u00dfe\n").replace("\n", "\r\n").encode()))
    assert config.name == "größe"


def test_what_is_no_readable_file_is_said(tmp_path):
    conf(tmp_path, MINIMAL)
    for path, said in [
        (tmp_path, "is a folder, no configuration file"),
        (tmp_path / "none.yml", "found there: conf.yml"),
        (tmp_path / ("x" * 300), "cannot be read: File name too long"),
        (tmp_path / "a\0b", "there is no configuration file"),
        ("", "is a folder"),
    ]:
        with pytest.raises(ConfigError) as error:
            load(path)
        assert said in str(error.value)
    if os.geteuid():  # root reads everything
        (tmp_path / "conf.yml").chmod(0)
        assert "cannot be read: Permission denied" in refusal(tmp_path, MINIMAL)


@pytest.mark.parametrize("override", ["", "=", "==1", "a", ".a=1", "a.=1", "graph..k2=1", " =1"])
def test_a_malformed_override_is_refused_with_the_form(tmp_path, override):
    assert "the form is a.b=value" in refusal(tmp_path, MINIMAL, override)


def test_overrides_take_text_as_it_is_typed(tmp_path):
    path = conf(tmp_path, MINIMAL + "source:\n")
    config = load(path, ["lake.root=/data/My Project #2/lake", "name=#1", "source.options.users=5", "tracking.uri=sqlite:///a=b #c.db"])
    assert (config.lake.root, config.name, config.tracking.uri) == ("/data/My Project #2/lake", "#1", "sqlite:///a=b #c.db")
    assert config.source.options == {"users": 5}
    assert "streams.purchase.attributes is ''; allowed: a mapping" in refusal(tmp_path, MINIMAL, "streams.purchase.attributes=null")
    assert "'k2' holds a value, not a section" in refusal(tmp_path, MINIMAL + "graph: {k2: 3}", "graph.k2.x=1")


def test_an_override_of_one_place_does_not_reach_its_alias(tmp_path):
    text = MINIMAL + "experiments: {a: {policy: {passive: &p {sources: [purchase]}}}, b: {policy: {passive: *p}}}"
    config = load(conf(tmp_path, text), ["experiments.a.policy.passive.max_events={purchase: 3}"])
    assert config.experiments["a"].policy["passive"].max_events == {"purchase": 3}
    assert config.experiments["b"].policy["passive"].max_events == {}


def test_merges_give_what_they_gave(tmp_path):
    text = MINIMAL + "graph: {<<: [{k2: 3, seed: 4}, {k2: 5, k1: 6}], seed: 7}"
    graph = load(conf(tmp_path, text)).graph
    assert (graph.k2, graph.k1, graph.seed) == (3, 6, 7)


def test_no_number_of_any_section_is_infinite_or_nan_or_too_large_to_count_with(tmp_path):
    values = as_dict(load(ROOT / "conf" / "test.yml"))
    numbers = [path for path, odds in fuzz_confs.typed(values) if odds is fuzz_confs.NUMBERS and path[0] != "source"]
    assert len(numbers) > 120
    for path in numbers:
        for value in (math.inf, -math.inf, math.nan, 10**400, 1e300, -1e300, 2**63):
            with pytest.raises(ConfigError) as error:
                build(Config, fuzz_confs.put(values, path, value))
            assert [key for key in path if isinstance(key, str)][-1] in str(error.value)
    assert "graph.k2 is inf; allowed: int" in refusal(tmp_path, MINIMAL, "graph.k2=.inf")
    assert "'1000000" in refusal(tmp_path, MINIMAL, f"training.learning_rate=1{'0' * 400}")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("graph.k2=2147483648", "at most 1,000,000"),
        ("streams.comment.max_events=2147483648", "at most 1,000,000,000"),
        ("time.horizon_days=500001", "at most 500,000"),
        ("lake.lease_hours=12000001", "at most 12,000,000"),
        ("ingest.dwell_max_ms=43200000000001", "at most 43,200,000,000,000"),
        ("time.as_of=1399-12-31", "a time in the years 1400 to 8000"),
        ("time.as_of=9000-01-01", "a time in the years 1400 to 8000"),
        ("time.not_before=0001-01-01T00:00:00+14:00", "a time in the years 1 to 9999"),
        ("labels.days=010", "is 010, which YAML reads as 8: write 8"),
        ("model.embedding_dimensions." + "k" * 3000 + "=0", "... is 0; allowed: an integer of at least 1"),
        ("model.embedding_dimensions." + "k" * 3000 + "=0x_", "... line 1: the value is '0x_'"),
        ("streams.view.attributes." + "k" * 3000 + "=[7, 7]", "... is [7, 7]; allowed: str"),
        ("streams.view.attributes." + "k" * 129 + "=numeric", "allowed: at most 128 letters"),
        ("time.as_of=2025-02-30", "time.as_of is '2025-02-30'; allowed: ISO 8601"),
        ("time.as_of=2016-12-31T23:59:60Z", "allowed: ISO 8601"),
        ("spark.shuffle_partitions=0", "an integer of at least 1"),
        ("spark.driver_memory=lots", "a size such as 4g"),
        ("source.options.days=.inf", "source.options.days is inf; allowed: finite numbers"),
        ("lake.root=main.my-schema", "odd names in backticks"),
        ("lake.scratch=' '", "lake.scratch is ' '; allowed: a path"),
        ('lake.root="./a\\nb"', "allowed: a path"),
        ("lake.root=/" + "x" * 300, "of parts of at most 255 bytes"),
        ("lake.scratch=/at/10:30 [x]", "a path without ':' beside"),
        ("labels.negative_rate=1.0e-320", "0.000001 to 1"),
        ("name=a/b", "allowed: up to 100 characters"),
        ("name=it's", "allowed: up to 100 characters"),
    ],
)  # fmt: skip
def test_what_spark_torch_or_the_file_system_would_die_of_is_refused(tmp_path, override, said):
    assert said in refusal(tmp_path, (ROOT / "conf" / "test.yml").read_text(), override)


def test_long_durations_that_stand_for_all_time_are_still_taken(tmp_path):
    path = conf(tmp_path, (ROOT / "conf" / "test.yml").read_text())
    config = load(
        path, ["lake.vacuum_hours=876000", "lake.keep_days={events: 36500}", "time.not_before=0001-01-01", "graph.seed=20250101120000"]
    )
    assert (config.lake.vacuum_hours, config.graph.seed) == (876000, 20250101120000)
    assert parse_time(config.time.not_before) == -62_135_596_800_000


def test_a_number_that_is_missing_of_a_mapped_table_is_named():
    with pytest.raises(ConfigError, match=r"source.options.events\[0\] lacks the key 'columns'"):
        build(Options, {"events": [{"path": "x"}]}, "source.options")


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"Dwell_ms": "dwell"}, "source.options.events[0].columns names 'Dwell_ms', but there is 'dwell_ms'"),
        ({"topic": "a", "Topic": "b"}, "source.options.events[0].columns names 'Topic', but there is 'topic'"),
    ],
)
def test_a_mapped_column_has_one_spelling(columns, said):
    table = {"path": "x", "source": "view", "columns": {"user_id": "u", **columns}}
    with pytest.raises(ConfigError) as error:
        build(Options, {"events": [table]}, "source.options")
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("streams", "said"),
    [
        ("{view: {attributes: {price usd: numeric}}}", "streams.view.attributes names 'price usd'; allowed: at most 128 letters"),
        ("{view: {attributes: {content.topic: numeric}}}", "streams.view.attributes names 'content.topic'"),
        ("{view: {attributes: {'`a`': numeric}}}", "streams.view.attributes names '`a`'"),
        ("{view: {attributes: {'a,b': numeric}}}", "streams.view.attributes names 'a,b'"),
        ("{view: {attributes: {' a': numeric}}}", "streams.view.attributes names ' a'"),
        ("{view: {attributes: {Dwell_ms: numeric}}}", "streams.view.attributes names 'Dwell_ms', but there is 'dwell_ms'"),
        ("{view: {attributes: {topic: categorical}}, click: {attributes: {Topic: categorical}}}", "names 'Topic', but there is 'topic'"),
        ("{view: {attributes: {GR\u00d6SSE: numeric, gr\u00f6sse: numeric}}}", "Spark does not tell them apart"),
        ("{view: {attributes: {known_at: numeric}}}", "which every event has already"),
        ("{view: {attributes: {item_id: categorical}}}", "which every event has already"),
        ("{view: {attributes: {reason: categorical}}}", "which every event has already"),
        ("{view: {attributes: {_content: categorical}}}", "a letter or digit first"),
        ("{view: {attributes: {topic__present: categorical}}}", "streams.view.attributes names 'topic__present'"),
        ("{view: {}, View: {}}", "streams names 'View', but there is 'view'"),
        ("{my view: {}}", "streams is 'my view'; allowed: a name of letters"),
        ("{view_: {}}", "streams is 'view_'"),
        ("{user_id: {}}", "streams is 'user_id'"),
    ],
)  # fmt: skip
def test_names_that_cannot_be_columns_are_refused_where_conf_is_read(tmp_path, streams, said):
    assert said in refusal(tmp_path, f"streams: {streams}")


def test_every_job_ends_such_a_conf_with_exit_code_2_and_its_sentence(tmp_path, capsys):
    from jobs import config as show
    from jobs import ingest_events, pipeline

    path = conf(tmp_path, MINIMAL + "ingest: {utc_offset_minutes: {NO: 60}}")
    for main in (ingest_events.JOB.main, pipeline.main):
        with pytest.raises(SystemExit) as stop:
            main(["--conf", str(path)])
        assert stop.value.code == 2
        assert "is read by YAML as the boolean False" in capsys.readouterr().err
    assert issubclass(ConfigError, AlureError)
    assert "k2: 15" in show.text(load(conf(tmp_path, MINIMAL)))


def fuzzed(tmp_path, confs):
    counts, traces = fuzz_confs.fuzz(confs, 7, tmp_path)
    assert traces == []
    assert counts.total() == confs
    assert min(counts["valid"], counts["refused by a sentence"]) > confs / 20, "both happen"


def test_odd_confs_end_as_a_conf_or_as_one_sentence(tmp_path):
    fuzzed(tmp_path, 150)


@pytest.mark.slow
def test_ten_thousand_odd_confs_end_as_a_conf_or_as_one_sentence(tmp_path):
    fuzzed(tmp_path, 10_000)


@pytest.mark.parametrize("value", ["0123456", "!Sup3rSecret", "*Sup3rSecret", "{<<: Sup3rSecret}", "!Sup3rSecret x"])
def test_what_yaml_says_of_a_secret_without_quotes_does_not_show_it(tmp_path, value):
    path = tmp_path / "conf.yml"
    path.write_text(f"streams: {{view: {{}}}}\nspark:\n  settings:\n    spark.hadoop.fs.s3a.secret.key: {value}\n")
    with pytest.raises(ConfigError) as refusal:
        load(path)
    for part in ("123456", "42798", "Sup3r"):
        assert part not in str(refusal.value)
