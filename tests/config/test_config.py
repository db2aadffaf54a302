from __future__ import annotations

import pytest

from alure_spark.clock import format_time, parse_time
from alure_spark.config import Config, FeaturePolicy, StreamConfig, build, load
from alure_spark.errors import ConfigError

MINIMAL = "streams: {purchase: {attributes: {category_id: categorical}}}\n"


def write(tmp_path, text):
    path = tmp_path / "conf.yml"
    path.write_text(text)
    return path


def test_an_unknown_key_is_an_error_that_names_the_nearest_known_one(tmp_path):
    with pytest.raises(ConfigError, match=r"unknown configuration key 'graph.k_2'; did you mean 'k2'"):
        load(write(tmp_path, MINIMAL + "graph: {k_2: 3}"))
    with pytest.raises(ConfigError, match="did you mean 'streams'"):
        load(write(tmp_path, "stream: {}"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("graph: {k2: 0}", "graph.k2 is 0; allowed: an integer of at least 1"),
        ("graph: {k2: many}", "graph.k2 is 'many'; allowed: int"),
        ("graph: {k2: true}", "graph.k2 is True; allowed: int"),
        ("graph: {search: fast}", "graph.search is 'fast'; allowed: auto, exact, probed"),
        ("time: {as_of: yesterday}", "time.as_of is 'yesterday'; allowed: ISO 8601"),
        ("embedding: {sources: [purchases]}", "did you mean 'purchase'"),
        ("lake: {root: lake}", "lake.root is 'lake'; allowed: a folder"),
        ("feature_policy: {all: {drop_attributes: {purchase: [categry_id]}}}", "did you mean 'category_id'"),
        ("feature_policy: {all: {sources: [purchas]}}", "did you mean 'purchase'"),
        ("model: {read_layers: [2]}", r"model.read_layers is \(2,\); allowed: different numbers from 0"),
        ("model: {embedding_dimensions: {category_id: 3}}", "model.embedding_dimensions names 'category_id'"),
        ("model: {semantic_ids: [media]}", "model.semantic_ids names 'media', whose length"),
        ("model: {compression: dot}", "model.compression is 'dot'; allowed: linear, dot_product, attention"),
        ("model: {rotary_encoding: true, dimension: 16}", "model.dimension is 16; allowed: with rotary_encoding at least 8 numbers a head"),
        ("graph: [1]", r"graph is \[1\]; allowed: a mapping"),
    ],
)
def test_a_wrong_value_says_where_what_and_what_is_allowed(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        load(write(tmp_path, MINIMAL + text))


def test_an_attribute_that_is_a_column_of_events_has_its_kind(tmp_path):
    streams = "streams: {view: {attributes: {media_embedding: embedding, dwell_ms: numeric}}}"
    assert load(write(tmp_path, streams)).attribute_kinds() == {"media_embedding": "embedding", "dwell_ms": "numeric"}
    for wrong in ("media_embedding: categorical", "dwell_ms: embedding", "category_id: numeric", "event_time: numeric"):
        with pytest.raises(ConfigError, match="but its type is"):
            load(write(tmp_path, f"streams: {{view: {{attributes: {{{wrong}}}}}}}"))


def test_overrides_reach_any_depth_and_create_sections(tmp_path):
    config = load(
        write(tmp_path, MINIMAL), ["graph.k2=3", "source.options.users=5", "time.as_of=2020-01-01", "streams.purchase.max_events=9"]
    )
    assert (config.graph.k2, config.source.options["users"], config.streams["purchase"].max_events) == (3, 5, 9)
    assert config.time.as_of_ms == 1577836800000
    with pytest.raises(ConfigError, match="the form is a.b=value"):
        load(write(tmp_path, MINIMAL), ["graph.k2"])


def test_the_digest_follows_what_is_computed_and_not_where(tmp_path):
    path = write(tmp_path, MINIMAL)
    digest = load(path).digest()
    assert load(path, ["lake.root=/elsewhere", "spark.master=local[7]", "tracking.uri=x"]).digest() == digest
    assert load(path, ["graph.k2=3"]).digest() != digest


def test_a_policy_drops_sources_attributes_and_events():
    streams = {"a": StreamConfig({"x": "categorical", "y": "numeric"}, 10), "b": StreamConfig()}
    policy = FeaturePolicy(sources=("a",), drop_attributes={"a": ("x",)}, max_events={"a": 3})
    assert policy.select(streams) == {"a": StreamConfig({"y": "numeric"}, 3)}
    assert FeaturePolicy().select(streams) == streams


def test_times_round_trip_to_the_millisecond():
    for moment in (0, 1, 1509494400123, -1):
        assert parse_time(format_time(moment)) == moment
    assert parse_time("2017-11-01T01:00:00+01:00") == parse_time("2017-11-01")


@pytest.mark.parametrize("name", ["demo", "test", "local", "online_retail", "databricks"])
def test_every_shipped_conf_loads(name):
    assert isinstance(load(f"conf/{name}.yml"), Config)


def test_config_show_prints_defaults_and_errors_exit_with_2(capsys, monkeypatch):
    from jobs import config as job

    monkeypatch.setattr("sys.argv", ["config", "show", "--conf", "conf/demo.yml", "--set", "graph.k2=4"])
    job.main()
    shown = capsys.readouterr().out
    assert "k2: 4" in shown
    assert "k1_probed: 50" in shown
    monkeypatch.setattr("sys.argv", ["config", "show", "--conf", "conf/none.yml"])
    with pytest.raises(SystemExit) as stop:
        job.main()
    assert stop.value.code == 2
    assert "there is no configuration file conf/none.yml; found there:" in capsys.readouterr().err


def test_fractions_of_hours_and_days_are_rounded_to_the_nearest_millisecond():
    streams = {"view": {}}
    labels = {"click_window_hours": 0.29, "conversion_window_hours": 0.1}  # 0.29 x 3,600,000 is 1,043,999.9999999999
    config = build(Config, {"streams": streams, "labels": labels, "time": {"as_of": "1970-01-01", "horizon_days": 0.35}})
    assert config.labels.window_ms == 1_044_000
    assert config.time.horizon_end_ms == 30_240_000
